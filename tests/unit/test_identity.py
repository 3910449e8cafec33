"""What shows that a source is no longer what was frozen, and what does not."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from symfuse.source.identity import Guarded, Identity

S = 1_000_000_000
FROZEN = Identity(
    dev=1, ino=2, size=3, mtime_ns=5 * S + 123_456_789, ctime_ns=7 * S + 987_654_321,
    mode=stat.S_IFREG | 0o644, uid=4, gid=5, nlink=1,
)  # fmt: skip
#: What a file system without change times shows: whole seconds, the modification time for the change time.
COARSE = FROZEN._replace(mtime_ns=5 * S, ctime_ns=5 * S)
LATER = FROZEN.ctime_ns + 1

SAME: dict[str, tuple[Identity, dict[str, Any]]] = {
    "nothing moved": (FROZEN, {}),
    "mounted again: another device": (FROZEN, {"dev": 9}),
    "forgotten by FUSE: another inode number": (FROZEN, {"ino": 9}),
    "both": (FROZEN, {"dev": 9, "ino": 9}),
    "a hard link was made": (FROZEN, {"nlink": 2, "ctime_ns": LATER}),
    "chmod": (FROZEN, {"mode": stat.S_IFREG | 0o444, "ctime_ns": LATER}),
    "chmod, and mounted again": (FROZEN, {"mode": stat.S_IFREG | 0o444, "ctime_ns": LATER, "dev": 9}),
    "read again from small inodes: whole seconds": (FROZEN, {"mtime_ns": 5 * S, "ctime_ns": 7 * S}),
    "the same in units of 2 s, as FAT": (FROZEN, {"mtime_ns": 4 * S, "ctime_ns": 6 * S}),
    "the same in units of 100 ns, as SMB": (FROZEN, {"mtime_ns": 5 * S + 123_456_700, "ctime_ns": 7 * S + 987_654_300}),
    "no change time is stored: the modification time was forgotten": (
        FROZEN._replace(mtime_ns=5 * S),
        {"ctime_ns": 5 * S, "ino": 9},
    ),
    "SFTP: nothing but size and whole seconds, and numbers that move": (COARSE, {"dev": 9, "ino": 9}),
}

CHANGED: dict[str, tuple[Identity, dict[str, Any], str]] = {
    "longer": (FROZEN, {"size": 4}, "size"),
    "written to": (FROZEN, {"mtime_ns": FROZEN.mtime_ns + 1, "ctime_ns": LATER}, "modification time"),
    "an older file, whose time looks as if it lost its digits": (
        FROZEN,
        {"mtime_ns": 4 * S, "ctime_ns": LATER},
        "change time",
    ),
    "written to, its time put back": (FROZEN, {"ctime_ns": LATER}, "change time"),
    "another file of the same size and time": (FROZEN, {"ino": 9, "ctime_ns": LATER}, "change time"),
    "the same, older than what was frozen": (FROZEN, {"ino": 9, "ctime_ns": 6 * S + 1}, "change time"),
    "somebody else's file of the same size and time, in the freed inode": (
        FROZEN,
        {"uid": 0, "mode": stat.S_IFREG | 0o600, "ctime_ns": LATER},
        "change time",
    ),
    "a secret that was written once: its change time is its modification time": (
        FROZEN,
        {"uid": 0, "ino": 9, "mode": stat.S_IFREG | 0o600, "ctime_ns": FROZEN.mtime_ns},
        "change time",
    ),
    "a directory now": (FROZEN, {"mode": stat.S_IFDIR | 0o755}, "file type"),
    "coarse times, another second": (COARSE, {"mtime_ns": 6 * S, "ctime_ns": 6 * S}, "modification time"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_change_a_file(what: str) -> None:
    frozen, moved = SAME[what]
    assert frozen.change(frozen._replace(**moved)) == ""


@pytest.mark.parametrize("what", CHANGED)
def test_what_does(what: str) -> None:
    frozen, moved, shown = CHANGED[what]
    assert frozen.change(frozen._replace(**moved)) == shown


def test_a_directory_is_the_same_with_other_entries_or_with_other_numbers_but_not_with_both() -> None:
    listed = FROZEN._replace(mode=stat.S_IFDIR | 0o755)
    changed = {"mtime_ns": 9 * S + 1, "ctime_ns": 9 * S + 1, "size": 4096}
    assert listed.is_directory(listed._replace(**changed))
    assert listed.is_directory(listed._replace(dev=9, ino=9))
    assert not listed.is_directory(listed._replace(dev=9, ino=9, **changed))


@pytest.mark.parametrize(("ctime_ns", "is_coarse"), [(7 * S, True), (7 * S + 5_000_000, True), (7 * S + 1, False)])
def test_times_of_whole_milliseconds_are_coarse(ctime_ns: int, is_coarse: bool) -> None:
    assert FROZEN._replace(ctime_ns=ctime_ns).is_coarse is is_coarse


@pytest.mark.parametrize("change", [{"mode": stat.S_IFREG | 0o600}, {"uid": 7}, {"gid": 7}])
def test_where_others_may_look_a_file_of_equal_times_and_size_is_another_if_its_permissions_are(
    change: dict[str, int],
) -> None:
    """Two files that are changed within one tick of the clock have one change time; whoever may rename swaps them."""
    frozen = Identity(1, 2, 3, 4, 5, stat.S_IFREG | 0o644, 0, 0, 1)
    found = frozen._replace(**change)
    assert not Guarded(*frozen).change(frozen)
    assert Guarded(*frozen).change(found) == "owner or mode"
    assert not Guarded(*frozen).is_directory(found)
    assert not frozen.change(found)
