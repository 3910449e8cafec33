"""The helpers themselves: an oracle that cannot fail proves nothing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.mounting import MYSELF, Mount
from tests.support.oracle import expected_from, fingerprint, seen, walk
from tests.support.trees import attributes, fifo, hardlink, link, tree, unixsocket


def test_a_literal_becomes_a_tree(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset",
        {
            "a": b"content",
            b"\xff": b"not UTF-8",
            "b": link("a"),
            "c": hardlink("a"),
            "d": {"pipe": fifo(), "socket": unixsocket()},
            "e": attributes(b"", mode=0o604, mtime_ns=1_000_000_007),
        },
    )
    assert [os.path.relpath(path, os.fsencode(root)) for path in walk(root)] == [
        b"a", b"b", b"c", b"d", b"d/pipe", b"d/socket", b"e", b"\xff",
    ]  # fmt: skip
    assert (root / "c").samefile(root / "a")
    assert stat.S_ISSOCK((root / "d/socket").stat().st_mode)
    assert ((root / "e").stat().st_mode & 0o777, (root / "e").stat().st_mtime_ns) == (0o604, 1_000_000_007)


def test_the_oracle_follows_links_and_drops_what_cp_cannot_follow(tmp_path: Path) -> None:
    dataset = tree(
        tmp_path / "dataset",
        {"store": {"a": b"A", ".git": {"x": b""}}, "dir": link("store"), "bad": link("none"), "loop": link("loop")},
    )
    shown = expected_from(dataset, tmp_path / "copy")
    assert sorted(shown) == [b"dir", b"dir/a", b"store", b"store/a"]
    assert shown[b"dir/a"].size == 1
    assert seen(dataset)[b"dir"].type == stat.S_IFLNK


def test_the_fingerprint_sees_every_change(tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"a": attributes(b"A", mtime_ns=0), "b": link("a")})
    before = fingerprint(dataset)
    assert fingerprint(dataset) == before
    (dataset / "a").write_bytes(b"B")
    os.utime(dataset / "a", ns=(0, 0))
    assert fingerprint(dataset) != before


def mount_with_log(directory: Path, text: str) -> Mount:
    """A mount that has ended and left this in its server's log."""
    dataset = tree(directory / "dataset", {"a": b"A"})
    log = directory / "log"
    log.write_text(text)
    ended = subprocess.Popen(["true"])
    ended.wait()
    return Mount(directory / "mnt", dataset, "kernel", MYSELF, fingerprint(dataset), pid=ended.pid, log=log)


WARNING = "2026-01-01 00:00:00 WARNING symfuse.view: something is strange"


@pytest.mark.parametrize("line", [WARNING, WARNING.replace("WARNING", "ERROR"), "Traceback (most recent call last):"])
def test_a_log_that_warns_fails_the_test(tmp_path: Path, line: str) -> None:
    mount = mount_with_log(tmp_path, f"all is well\n{line}\n")
    with pytest.raises(AssertionError, match=re.escape(line)):
        mount.check_nothing_left()


def test_a_log_that_warns_of_what_is_expected_does_not(tmp_path: Path) -> None:
    mount = mount_with_log(tmp_path, f"all is well\n{WARNING}\n")
    mount.expect_in_log("something is strange")
    mount.check_nothing_left()


def test_a_log_that_lacks_what_is_expected_fails_the_test(tmp_path: Path) -> None:
    mount = mount_with_log(tmp_path, "WARNINGS are words, too\n")
    mount.check_nothing_left()
    mount.expect_in_log("something is strange")
    with pytest.raises(AssertionError, match="the log lacks"):
        mount.check_nothing_left()
