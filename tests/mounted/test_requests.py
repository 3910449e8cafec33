"""What each operation costs, in requests to the server. Exact, so that a slower program cannot pass as noise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.support.costs import cost, warm_cost
from tests.support.mounting import Mount
from tests.support.trees import Entry, Name, link, tree

FILES = 50
SIZE = 1000


@pytest.fixture
def mount(symfuse_mount: MountMaker, tmp_path: Path) -> Mount:
    store: dict[Name, Entry] = {f"{number:03}": bytes([number]) * SIZE for number in range(FILES)}
    links: dict[Name, Entry] = {f"{number:03}.png": link(f"../../store/{number:03}") for number in range(FILES)}
    return symfuse_mount(tree(tmp_path / "dataset", {"store": store, "train": {"cat": links}}), "--eager")


def walk(mount: Mount) -> None:
    for directory, _, names in os.walk(mount.path):
        for name in names:
            os.lstat(os.path.join(directory, name))


def images(mount: Mount) -> list[Path]:
    return [mount.path / "train/cat" / f"{number:03}.png" for number in range(FILES)]


def read_all(mount: Mount) -> None:
    for number, path in enumerate(images(mount)):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert os.read(fd, 4096) == bytes([number]) * SIZE
        finally:
            os.close(fd)


def open_as_python_does(mount: Mount) -> None:
    for path in images(mount):
        with open(path, "rb") as file:
            file.read()


kernel_only = pytest.mark.parametrize("backend", ["kernel"])
fusepy_only = pytest.mark.parametrize("backend", ["fusepy"])


@kernel_only
def test_a_warm_walk_with_all_attributes_costs_nothing(mount: Mount) -> None:
    walk(mount)
    assert warm_cost(mount, lambda: walk(mount)) == {}


@kernel_only
def test_a_first_walk_costs_one_listing_each_and_no_lookup_of_files(mount: Mount) -> None:
    spent = cost(mount, lambda: walk(mount))
    assert spent.keys() <= {"readdirplus", "lookup", "opendir", "getattr"}
    assert spent.get("lookup", 0) <= 3, "a directory each at most"
    assert spent["readdirplus"] <= 4 * 4


@kernel_only
def test_a_cold_small_file_costs_one_read(mount: Mount) -> None:
    walk(mount)
    (mount.path / "store/000").read_bytes()  # the first OPEN and FLUSH of a connection are answered ENOSYS
    assert cost(mount, lambda: read_all(mount)) == {"read": FILES}


@kernel_only
def test_a_warm_open_read_close_costs_nothing(mount: Mount) -> None:
    read_all(mount)
    assert warm_cost(mount, lambda: read_all(mount)) == {}


@kernel_only
def test_a_warm_open_in_python_costs_the_question_whether_it_is_a_terminal(mount: Mount) -> None:
    read_all(mount)
    expected = {"ioctl": FILES} if sys.version_info < (3, 14) else {}
    assert warm_cost(mount, lambda: open_as_python_does(mount)) == expected


@kernel_only
def test_names_that_are_absent_are_asked_for_once(mount: Mount) -> None:
    def look() -> None:
        for number in range(FILES):
            assert not os.path.lexists(mount.path / f"absent {number}")

    assert cost(mount, look) == {"lookup": FILES}
    assert cost(mount, look) == {}


@kernel_only
def test_bytes_read_are_counted(mount: Mount) -> None:
    before = mount.status()
    read_all(mount)
    after = mount.status()
    reads = after["requests"]["read"] - before["requests"].get("read", 0)
    assert after["bytes_read"] - before["bytes_read"] == reads * SIZE == FILES * SIZE


@kernel_only
def test_extended_attributes_are_asked_for_once_per_mount(mount: Mount) -> None:
    def ask() -> None:
        for path in images(mount):
            with pytest.raises(OSError, match="not supported"):
                os.getxattr(path, "user.a")

    walk(mount)
    assert cost(mount, ask) == {"getxattr": 1}
    assert cost(mount, ask) == {}


@kernel_only
def test_a_large_file_that_is_cached_is_read_in_large_pieces(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    """Of 1 MiB where root may say so; a window grows up to it."""
    mebibytes, in_one = 8, 1 if may_raise_readahead() else 8
    dataset = tree(tmp_path / "dataset", {"large": os.urandom(mebibytes << 20), "first": b""})
    mount = symfuse_mount(dataset, "--eager", "--io", "cached")
    (mount.path / "first").read_bytes()
    os.lstat(mount.path / "large")
    spent = cost(mount, lambda: os.system(f"cat '{mount.path}/large' > /dev/null"))
    assert spent.keys() == {"read"}
    assert spent["read"] <= mebibytes * in_one + 8


def may_raise_readahead() -> bool:
    """Only root may, and only where /sys can be written to."""
    return os.geteuid() == 0 and not os.statvfs("/sys").f_flag & os.ST_RDONLY


@fusepy_only
def test_through_fusepy_a_warm_open_read_close_costs_nothing_either(mount: Mount) -> None:
    read_all(mount)
    assert warm_cost(mount, lambda: read_all(mount)) == {}


@fusepy_only
def test_through_fusepy_a_cold_small_file_costs_a_lookup_and_a_read(mount: Mount) -> None:
    os.listdir(mount.path / "train/cat")
    (mount.path / "store/000").read_bytes()
    assert cost(mount, lambda: read_all(mount)) == {"getattr": FILES, "read": FILES}


@fusepy_only
def test_through_fusepy_a_warm_walk_costs_a_listing_for_each_directory(mount: Mount) -> None:
    walk(mount)
    spent = warm_cost(mount, lambda: walk(mount))
    assert spent.keys() == {"readdir"}
    assert spent["readdir"] <= 4 * 2
