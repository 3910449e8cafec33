"""Storage that fails for a moment, hangs, or says what does not fit: one entry must not cost others their place."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symfuse import dataset as dataset_module
from symfuse.dataset import Dataset, Entry, Name
from symfuse.policy import Kind, NameRule, Policy
from symfuse.view import ROOT_NODEID, View
from tests.support.invariants import check
from tests.support.trees import link, tree

#: All directories and nothing else.
RULES = (NameRule(True, b"*"), NameRule(False, b"*/"))
YEAR_2446_NS = 15_024_700_800 * 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "dataset",
        {
            "store": {"a": b"A", "b": b"B", "d": {"inside": b"I"}},
            "x": {"a": link("../store/a"), "d": link("../store/d")},
        },
    )


@pytest.fixture
def view(root: Path) -> Iterator[View]:
    view = View(Dataset(os.fsencode(root), Policy()))
    yield view
    check(view)
    view.close()


class Flaky:
    """Makes looks at some names fail, as often as wanted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.failures: dict[bytes, int] = {}
        self._number = number
        for name in ("stat", "lstat", "open"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))
        monkeypatch.setattr(dataset_module, "_WAITS_S", (0.0, 0.0))

    def _failing(self, function: Any) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            name = os.path.basename(os.fsencode(path)) if isinstance(path, (str, bytes)) else b""
            if self.failures.get(name, 0) > 0:
                self.failures[name] -= 1
                raise OSError(self._number, os.strerror(self._number), path)
            return function(path, *args, **kwargs)

        return call


@pytest.fixture(params=[errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN], ids=errno.errorcode.get)
def flaky(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    return Flaky(monkeypatch, request.param)


def shown(view: View, *path: bytes) -> list[bytes]:
    nodeid = ROOT_NODEID
    for name in path:
        node = view.lookup(nodeid, name)
        assert node is not None, name
        nodeid = node.nodeid
    return [name for name, _node, _place in view.listing(nodeid)]


def test_what_fails_once_is_shown(view: View, flaky: Flaky) -> None:
    flaky.failures = {b"a": 2, b"d": 1}
    progress = view.freeze_all()
    assert progress.hidden == {}
    assert shown(view, b"x") == [b"a", b"d"]


def test_a_directory_that_cannot_be_listed_once_is_listed(view: View, flaky: Flaky) -> None:
    flaky.failures = {b"x": 1}
    assert shown(view, b"x") == [b"a", b"d"]


def test_what_failed_in_the_background_is_looked_at_again_when_somebody_asks(view: View, flaky: Flaky) -> None:
    flaky.failures = {b"a": 1000, b"d": 1000}
    progress = view.freeze_all()
    assert progress.hidden[Kind.UNREADABLE] == 4
    flaky.failures = {}
    assert shown(view, b"x") == [b"a", b"d"]
    assert shown(view, b"x", b"d") == [b"inside"]
    assert shown(view, b"store") == [b"a", b"b", b"d"]
    progress = view.freeze_all()
    assert progress.hidden == {}
    assert (progress.files, progress.directories) == (5, 4)


def test_what_somebody_was_told_does_not_change_any_more(view: View, flaky: Flaky) -> None:
    flaky.failures = {b"a": 1000}
    view.freeze_all()
    assert shown(view, b"x") == [b"d"]
    flaky.failures = {}
    assert shown(view, b"x") == [b"d"]
    assert view.lookup(ROOT_NODEID, b"x") is not None


@pytest.mark.parametrize(("rules", "expected"), [((NameRule(True, b"d/"),), [b"a"]), (RULES, [b"d"])])
def test_a_glob_of_directories_asks_again_what_failed(
    root: Path, flaky: Flaky, rules: tuple[NameRule, ...], expected: list[bytes]
) -> None:
    """Whether it is a directory is not known by then: to show or to hide it would be a guess."""
    view = View(Dataset(os.fsencode(root), Policy(name_rules=rules)))
    flaky.failures = {b"a": 1, b"d": 1}
    assert shown(view, b"x") == expected
    view.close()
    view = View(Dataset(os.fsencode(root), Policy(name_rules=rules)))
    flaky.failures = {b"a": 1000, b"d": 1000}
    view.freeze_all()
    flaky.failures = {}
    assert shown(view, b"x") == expected
    check(view)
    view.close()


def test_what_is_not_there_is_not_looked_for_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "x" / "gone").symlink_to("nowhere")
    view = View(Dataset(os.fsencode(root), Policy()))
    monkeypatch.setattr(time, "sleep", lambda _s: pytest.fail("nothing is waited for"))
    assert view.freeze_all().hidden == {Kind.DANGLING: 1}
    view.close()


def test_a_lookup_does_not_wait_for_a_neighbour_whose_storage_hangs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (root / "x" / f"{number}.png").symlink_to("../store/b")
    (root / "slow").write_bytes(b"")
    (root / "x" / "hangs").symlink_to("../slow")
    hanging, answer = threading.Event(), threading.Event()

    def hang_at_slow(function: Any) -> Any:
        def call(path: Any, **kwargs: Any) -> Any:
            if isinstance(path, bytes) and os.path.basename(path) == b"slow":
                hanging.set()
                answer.wait()
            return function(path, **kwargs)

        return call

    view = View(Dataset(os.fsencode(root), Policy()))
    directory = view.lookup(ROOT_NODEID, b"x")
    assert directory is not None
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, hang_at_slow(getattr(os, name)))
    freezer = threading.Thread(target=lambda: list(view.listing(directory.nodeid)))
    freezer.start()
    assert hanging.wait(10)
    try:
        for number in range(20):
            node = view.lookup(directory.nodeid, b"%d.png" % number)
            assert node is not None
            assert view.read(node.nodeid, 0, 10) == b"B"
        assert shown(view, b"store") == [b"a", b"b", b"d"], "another directory can be listed"
    finally:
        answer.set()
        freezer.join(10)
    assert len(shown(view, b"x")) == 23
    check(view)
    view.close()


def test_a_fault_of_ours_in_one_directory_leaves_the_others(
    view: View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Dataset.entries

    def entries(self: Dataset, path: bytes, names: list[Name], **where: Any) -> Iterator[Entry]:
        if path.endswith(b"/store"):
            raise ValueError("a bug")
        return real(self, path, names, **where)

    monkeypatch.setattr(Dataset, "entries", entries)
    progress = view.freeze_all()
    assert progress.hidden == {Kind.UNREADABLE: 1}
    assert progress.examples[Kind.UNREADABLE] == ["store"]
    assert "a bug" in caplog.text
    assert shown(view, b"x") == [b"a", b"d"]


@pytest.mark.parametrize("which", ["atime", "mtime"])
def test_times_after_2262_are_shown_as_they_are(root: Path, which: str) -> None:
    times = {"atime": (YEAR_2446_NS, 5), "mtime": (5, YEAR_2446_NS)}[which]
    os.utime(root / "store" / "a", ns=times)
    status = os.stat(root / "store" / "a")
    if YEAR_2446_NS not in (status.st_atime_ns, status.st_mtime_ns):
        pytest.fail("this file system cannot hold such a time: run the tests on ext4, XFS or btrfs")
    view = View(Dataset(os.fsencode(root), Policy()))
    assert view.freeze_all().hidden == {}
    for directory in (b"store", b"x"):
        parent = view.lookup(ROOT_NODEID, directory)
        assert parent is not None
        node = view.lookup(parent.nodeid, b"a")
        assert node is not None
        assert (node.atime_ns, node.mtime_ns) == times
        assert view.read(node.nodeid, 0, 10) == b"A"
    check(view)
    view.close()
