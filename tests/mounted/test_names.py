"""Names that nobody trains on, and --hide and --show, on a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import symfuse
from tests.conftest import MountMaker
from tests.support.mounting import KEYWORDS, MYSELF, WAYS, User
from tests.support.oracle import seen
from tests.support.trees import Entry, Name, link, tree

LEFT: dict[Name, Entry] = {
    "__MACOSX": {"cat": {"._1.png": b""}},
    "lost+found": {},
    "cat": {"1.png": b"1", "Thumbs.db": b"", "@eaDir": {"1.png": b"small"}, "raw": {"2.png": b"2"}},
    "dog": link("cat"),
    ".zarray": b"{}",
}


def names(root: Path) -> list[str]:
    """Every path below a directory."""
    return [os.fsdecode(name) for name in sorted(seen(root))]


def test_clutter_is_neither_listed_nor_found_and_counted(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(tree(tmp_path / "dataset", LEFT))
    assert names(mount.path) == [
        *("cat", "cat/1.png", "cat/raw", "cat/raw/2.png"),
        *("dog", "dog/1.png", "dog/raw", "dog/raw/2.png"),
    ]
    for name in ("__MACOSX", "lost+found", "cat/Thumbs.db", "dog/@eaDir"):
        assert not os.path.lexists(mount.path / name)
    mount.wait_until_frozen()
    assert mount.status()["frozen"]["hidden"] == {"clutter": 6, "dot-entry": 1}
    said = MYSELF.symfuse("why", mount.path / "cat/Thumbs.db", check=False)
    assert said.returncode == 9
    assert "not shown: a name that systems and tools leave behind (clutter)" in said.stdout
    assert "to show it: --show Thumbs.db" in said.stdout


def test_globs_hide_and_show_and_the_last_decides(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", LEFT)
    words = ("-o", "hide=*.png,show=.zarray", "--show", "cat/*", "--hide", "/cat/@eaDir/", "--hide", "raw/*")
    mount = symfuse_mount(root, *words)
    assert names(mount.path) == [
        *(".zarray", "cat", "cat/1.png", "cat/Thumbs.db", "cat/raw", "cat/raw/2.png"),
        *("dog", "dog/raw"),
    ]
    mount.wait_until_frozen()
    assert mount.status()["frozen"]["hidden"] == {"clutter": 4, "excluded": 3}
    said = MYSELF.symfuse("why", mount.path / "dog/1.png", check=False)
    assert "not shown: --hide '*.png' was given for it (excluded)" in said.stdout
    assert "--hide /cat/@eaDir/ was given" in MYSELF.symfuse("why", mount.path / "cat/@eaDir", check=False).stdout


def test_no_inode_number_is_another_whatever_is_hidden(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", LEFT)
    plain, asked = symfuse_mount(root), symfuse_mount(root, "--hide", "1.png", "--show", "*")
    some = symfuse_mount(root, "--hide", "cat/raw")
    for name in ("cat/raw/2.png", "dog/1.png"):
        assert (plain.path / name).stat().st_ino == (asked.path / name).stat().st_ino
    assert (some.path / "dog/raw/2.png").stat().st_ino == (plain.path / "dog/raw/2.png").stat().st_ino


def test_what_is_closed_and_clutter_or_excluded_is_no_problem(ordinary_user: User, backend: str) -> None:
    """`lost+found` is root's on every ext4 file system."""
    closed: dict[Name, Entry] = {"lost+found": {"1.png": b""}, "private": {"2.png": b""}, "cat": {"3.png": b""}}
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", closed))
    for name in ("lost+found", "private"):
        (dataset / name).chmod(0)
    try:
        words = ("run", *WAYS[backend], "--fail-on", "any")
        refused = ordinary_user.symfuse(*words, dataset, "--", "ls", "{}", check=False)
        assert refused.returncode == 125
        assert "1 unreadable (" in refused.stderr
        assert "lost+found" not in refused.stderr
        passed = ordinary_user.symfuse(*words, "--hide", "private/", dataset, "--", "ls", "{}")
        assert passed.stdout == "cat\n"
    finally:
        for name in ("lost+found", "private"):
            (dataset / name).chmod(0o700)


@pytest.mark.parametrize("kind", ["clutter", "excluded"])
def test_a_dataset_can_be_refused_for_what_is_hidden(fuse: None, backend: str, tmp_path: Path, kind: str) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"1.png": b"", "notes.txt": b"", "Thumbs.db": b""}})
    words = ("run", *WAYS[backend], "--hide", "*.txt", "--fail-on")
    refused = MYSELF.symfuse(*words, kind, dataset, "--", "true", check=False)
    assert refused.returncode == 125
    assert {"clutter": "cat/Thumbs.db", "excluded": "cat/notes.txt"}[kind] in refused.stderr
    MYSELF.symfuse(*words, "any", dataset, "--", "true")


def test_names_that_are_not_utf8_can_be_hidden_by_a_glob(fuse: None, backend: str, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"ü.png": b"", b"\xfc.png": b"", b"\xe9.png": b""}})
    words = ("run", *WAYS[backend], "--fail-on", "not-utf8")
    refused = MYSELF.symfuse(*words, dataset, "--", "true", check=False)
    assert refused.returncode == 125
    assert r"2 not-utf8 (cat/\xe9.png; cat/\xfc.png)" in refused.stderr
    warned = MYSELF.symfuse("run", *WAYS[backend], dataset, "--", "true")
    assert "--non-utf8 hide hides it" in warned.stderr
    glob = os.fsdecode(b"[\xe9\xfc].png")
    assert MYSELF.symfuse(*words, "--hide", glob, dataset, "--", "ls", "{}/cat").stdout == "ü.png\n"


def test_in_python_all_that_is_shown_comes_after_all_that_is_hidden(fuse: None, backend: str, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", LEFT)
    with symfuse.mounted(dataset, show=["cat", "@eaDir"], hide="*", **KEYWORDS[backend]) as path:
        assert names(Path(path)) == ["cat", "cat/@eaDir"]
        assert path.status()["frozen"]["hidden"]["excluded"] == 8
