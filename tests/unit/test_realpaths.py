"""Real paths are opened, and no link on them is followed: by openat2(2), and without it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symfuse.source import realpaths
from symfuse.source.realpaths import (
    LOOK,
    LOOK_INTO,
    NOT_REAL,
    PATH_MAX,
    Opener,
    RealPaths,
    opener,
    reopened,
    step_by_step,
)
from tests.support.trees import fifo, link, tree

LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@pytest.fixture(params=["openat2", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Both ways to open; the first is the one of this machine."""
    if request.param == "openat2":
        assert opener() is not step_by_step, "this kernel and this Python have openat2"
        return opener()
    monkeypatch.setattr(realpaths, "opener", lambda: step_by_step)
    return step_by_step


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tree(
        tmp_path.resolve() / "top",
        {
            "directory": {"file": b"content", "sub": {"file": b"below"}},
            "to directory": link("directory"),
            "to file": link("directory/file"),
            "dangling": link("nowhere"),
            "loop": link("loop"),
        },
    )


@pytest.fixture
def closing() -> Iterator[Callable[[int], int]]:
    """Closes what it is given, when the test ends."""
    fds: list[int] = []

    def note(fd: int) -> int:
        fds.append(fd)
        return fd

    yield note
    for fd in fds:
        os.close(fd)


def names(fd: int) -> list[str]:
    return sorted(os.listdir(fd))


def test_a_real_path_is_opened(way: Opener, top: Path, closing: Callable[[int], int]) -> None:
    assert names(closing(way(os.fsencode(top / "directory"), LIST))) == ["file", "sub"]
    assert names(closing(way(b"/", LIST))) == names(closing(os.open("/", LIST)))


def test_so_is_a_name_in_a_directory(way: Opener, top: Path, closing: Callable[[int], int]) -> None:
    directory = closing(way(os.fsencode(top), LOOK_INTO))
    assert names(closing(way(b"directory", LIST, directory))) == ["file", "sub"]
    assert names(closing(way(b"directory/sub", LIST, directory))) == ["file"]


def test_no_descriptor_is_inherited_or_left(way: Opener, top: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    fd = way(os.fsencode(top / "directory/sub"), LIST)
    assert not os.get_inheritable(fd)
    os.close(fd)
    for path in ("to directory/sub", "directory/none", "directory/file/x"):
        with pytest.raises(OSError, match=r"Not a directory|No such file|Too many levels"):
            way(os.fsencode(top / path), LIST)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["to directory", "to directory/sub", "to directory/", "loop", "loop/x", "dangling/x"])
def test_a_link_on_the_way_is_refused(way: Opener, top: Path, path: str) -> None:
    with pytest.raises(OSError) as error:
        way(os.fsencode(top) + b"/" + os.fsencode(path), LIST)
    assert error.value.errno in NOT_REAL


def test_a_link_at_the_end_can_be_looked_at(way: Opener, top: Path, closing: Callable[[int], int]) -> None:
    found = closing(way(os.fsencode(top / "to file"), LOOK))
    assert os.readlink(b"", dir_fd=found) == b"directory/file"
    with pytest.raises(OSError, match="levels"):
        reopened(found)


@pytest.mark.parametrize(("path", "number"), [("none", errno.ENOENT), ("directory/file", errno.ENOTDIR)])
def test_errors_are_those_of_open(way: Opener, top: Path, path: str, number: int) -> None:
    with pytest.raises(OSError) as error:
        way(os.fsencode(top / path), LIST)
    assert (error.value.errno, error.value.filename) in [
        (number, os.fsencode(top / path)),
        (number, os.fsencode(path.rpartition("/")[2])),
    ]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_openat2_is_done_without(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: bytes, _flags: int, _dir_fd: int | None = None) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(realpaths, "_by_kernel", lambda: refused)
    assert opener.__wrapped__() is step_by_step


def test_so_is_a_python_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert opener.__wrapped__() is step_by_step


# -- RealPaths ---------------------------------------------------------------------------------------------------------


def deepened(top: Path) -> bytes:
    """A directory below `top` whose path is longer than the kernel takes; it holds `file` and `to file`."""
    path, fd = os.fsencode(top), os.open(top, LIST)
    while len(path) < PATH_MAX + 100:
        os.mkdir(b"d" * 200, dir_fd=fd)
        deeper = os.open(b"d" * 200, LIST, dir_fd=fd)
        os.close(fd)
        path, fd = path + b"/" + b"d" * 200, deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.symlink("file", "to file", dir_fd=fd)
    os.close(fd)
    return path


@pytest.fixture(params=[False, True], ids=["", "strict"])
def paths(request: pytest.FixtureRequest, way: Opener) -> Iterator[RealPaths]:
    assert way is realpaths.opener()
    paths = RealPaths(strict=request.param)
    yield paths
    paths.close()


@pytest.mark.parametrize("is_long", [False, True], ids=["short", "long"])
def test_files_and_links_are_looked_at(paths: RealPaths, top: Path, *, is_long: bool) -> None:
    directory = deepened(top) if is_long else os.fsencode(top / "directory")
    if not is_long:
        os.symlink("file", directory + b"/to file")
    assert paths.lstat(directory + b"/file").st_size == (0 if is_long else 7)
    assert paths.readlink(directory + b"/to file") == b"file"
    with pytest.raises(OSError) as error:
        paths.readlink(directory + b"/file")
    assert error.value.errno == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        paths.lstat(directory + b"/none")
    with pytest.raises(FileNotFoundError):
        paths.readlink(directory + b"/none")
    fd = paths.open(directory, LIST)
    assert "file" in names(fd)
    os.close(fd)


def test_a_long_path_is_walked_without_links(way: Opener, top: Path) -> None:
    path = deepened(top)
    (top / ("d" * 200)).rename(top / "aside")
    (top / ("d" * 200)).symlink_to("aside")
    paths = RealPaths(strict=True)
    for call in (paths.lstat, paths.readlink, lambda path: paths.open(path, LIST)):
        with pytest.raises(OSError) as error:
            call(path)
        assert error.value.errno in NOT_REAL
    paths.close()


def test_a_directory_that_cannot_be_kept_open_is_walked_again(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no descriptor to spare; none is lost by that."""

    def refused(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path, paths = deepened(top), RealPaths()
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", refused)
        for _ in range(2):
            assert paths.lstat(path + b"/file").st_size == 0
    assert os.listdir("/proc/self/fd") == before
    paths.close()


def test_strict_ones_see_nothing_through_a_link(way: Opener, top: Path) -> None:
    through = os.fsencode(top / "to directory/file")
    os.symlink("file", top / "directory/to file")
    lenient, strict = RealPaths(), RealPaths(strict=True)
    assert lenient.lstat(through).st_size == 7
    for call in (strict.lstat, strict.readlink, lenient.strict_lstat):
        with pytest.raises(OSError) as error:
            call(through)
        assert error.value.errno in NOT_REAL


@pytest.mark.parametrize("name", ["to directory", "to directory/sub"])
def test_a_directory_is_not_opened_through_a_link(
    way: Opener, top: Path, name: str, closing: Callable[[int], int]
) -> None:
    paths = RealPaths()
    for opening in (paths.open, paths.open_unnoticed):
        closing(opening(os.fsencode(top / "directory/sub"), os.O_RDONLY | os.O_DIRECTORY))
        with pytest.raises(OSError) as error:
            opening(os.fsencode(top / name), os.O_RDONLY | os.O_DIRECTORY)
        assert error.value.errno in NOT_REAL


# -- opening what was looked at ----------------------------------------------------------------------------------------


def test_what_was_found_is_opened_and_not_what_lies_there_now(
    way: Opener, top: Path, closing: Callable[[int], int]
) -> None:
    path = top / "directory/file"
    found = closing(way(os.fsencode(path), LOOK))
    path.unlink()
    tree(top / "directory", {"file": fifo()})
    assert os.read(closing(reopened(found)), 99) == b"content"


def test_looking_at_a_fifo_is_not_noticed(way: Opener, top: Path, closing: Callable[[int], int]) -> None:
    tree(top, {"pipe": fifo()})
    closing(way(os.fsencode(top / "pipe"), LOOK))
    with pytest.raises(OSError) as error:
        os.open(top / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    assert error.value.errno == errno.ENXIO, "nobody reads it"


#: Source: linux/fcntl.h
F_SETSIG, F_SETLEASE = 10, 1024


@pytest.mark.timeout(10)
def test_nobodys_lease_is_waited_for(top: Path, closing: Callable[[int], int]) -> None:
    """Whoever may write a file may have the kernel ask them before others open it, and take their time."""
    path = top / "directory/file"
    leased = closing(os.open(path, os.O_RDONLY))
    fcntl.fcntl(leased, F_SETSIG, signal.SIGURG)  # which is ignored
    fcntl.fcntl(leased, F_SETLEASE, fcntl.F_WRLCK)
    found = closing(opener()(os.fsencode(path), LOOK))
    with pytest.raises(BlockingIOError):
        reopened(found)
