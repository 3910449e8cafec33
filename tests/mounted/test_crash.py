"""Clause 10: a crash leaves a dead mount, never an empty directory; the next mount or umount clears it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, Mount, has_ended
from tests.support.trees import link, tree


@pytest.fixture
def dead(symfuse_mount: MountMaker, tmp_path: Path) -> Mount:
    """A mount whose server was killed."""
    mount = symfuse_mount(tree(tmp_path / "dataset", {"d": {"a": b"A"}, "l": link("d/a"), "unread": b"U"}))
    assert (mount.path / "l").read_bytes() == b"A"
    os.kill(mount.pid, signal.SIGKILL)
    assert has_ended(mount.pid)
    return mount


LOOKS: dict[str, Callable[[Path], object]] = {
    "list it": os.listdir,
    "open what was not open before": lambda path: (path / "unread").read_bytes(),
    "look for a new name": lambda path: os.stat(path / "new"),
    "ask for its size": os.statvfs,
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_dead_mount_says_so_and_is_no_empty_directory(dead: Mount, look: str) -> None:
    assert dead.is_mounted()
    with pytest.raises(OSError) as error:
        LOOKS[look](dead.path)
    assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_umount_clears_a_dead_mount(dead: Mount) -> None:
    dead.umount()
    assert not dead.is_mounted()
    assert os.listdir(dead.path) == []


def test_the_next_mount_clears_it(dead: Mount, symfuse_mount: MountMaker) -> None:
    again = symfuse_mount(dead.dataset, at=dead.path)
    assert (again.path / "l").read_bytes() == b"A"
    assert again.pid != dead.pid


def test_status_tells_that_it_is_dead(dead: Mount) -> None:
    said = MYSELF.symfuse("status", "--json", "--", dead.path, check=False)
    assert '"dead"' in said.stdout


def test_a_program_in_the_middle_of_it_gets_an_error_and_does_not_hang(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    # What is passed through needs no server any more.
    mount = symfuse_mount(tree(tmp_path / "dataset", {"a": os.urandom(4 << 20)}), "--io", "cached")
    fd = os.open(mount.path / "a", os.O_RDONLY)
    try:
        assert len(os.read(fd, 10)) == 10
        os.kill(mount.pid, signal.SIGKILL)
        assert has_ended(mount.pid)
        with pytest.raises(OSError) as error:
            os.pread(fd, 10, 3 << 20)
        assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        with contextlib.suppress(OSError):  # close(2) says it, too, and closes all the same
            os.close(fd)
