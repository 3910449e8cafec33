"""Clause 9: of a mount whose server was killed nothing can be read, and the next mount or umount clears it.

What the kernel has cached of such a mount it would go on showing, so that a part could pass for the whole. Before each
kill here all directories were listed and all files but one read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from symfuse import libc
from symfuse.fuse.kernelmount import DEVICE
from symfuse.fuse.layers import VIEW_NODEID
from symfuse.mounts import guardian
from symfuse.view import ROOT_NODEID
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, TIMEOUT_S, Mount, User, has_ended
from tests.support.trees import Entry, Name, link, tree

CLASSES: dict[Name, Entry] = {name: {"1.png": b"1", "2.png": link("1.png")} for name in ("cat", "cow", "dog")}
IN_CHECKOUT = dict(MYSELF.environment)
GONE = (errno.ENOTCONN, errno.ECONNABORTED)


def read_all(path: Path) -> int:
    """List everything below a path, read all files that are not named `unread`; their number."""
    files = [each for each in path.rglob("*") if each.is_file()]
    return sum(len(file.read_bytes()) > 0 for file in files if file.name != "unread")


@pytest.fixture
def warm(symfuse_mount: MountMaker, tmp_path: Path) -> Mount:
    """A mount that the kernel could show all of without its server."""
    mount = symfuse_mount(tree(tmp_path / "dataset", {**CLASSES, "unread": b"U"}))
    assert read_all(mount.path) == 6
    return mount


@pytest.fixture
def dead(warm: Mount) -> Mount:
    """The same, and its server was killed."""
    warm.kill_server()
    return warm


def assert_shows_nothing(path: Path) -> None:
    """As whoever looks for a dataset's files does it: nothing is found, and whoever wants to know hears of it."""
    errors: list[OSError] = []
    assert list(os.walk(path, onerror=errors.append)) == []
    assert [error.errno in GONE for error in errors] == [True]
    with pytest.raises(OSError) as error:
        os.listdir(path)
    assert error.value.errno in GONE


LOOKS: dict[str, Callable[[Path], object]] = {
    "list it": os.listdir,
    "list a class": lambda path: os.listdir(path / "cat"),
    "open what was read": lambda path: (path / "cat/1.png").read_bytes(),
    "open what was not read": lambda path: (path / "unread").read_bytes(),
    "look at it": os.stat,
    "look at a class": lambda path: os.stat(path / "cat"),
    "look for a new name": lambda path: os.stat(path / "new"),
    "ask for its size": os.statvfs,
}


def test_a_dead_mount_shows_nothing_of_what_was_seen_before(dead: Mount) -> None:
    assert dead.is_mounted()
    assert_shows_nothing(dead.path)
    for look in LOOKS.values():
        with pytest.raises(OSError) as error:
            look(dead.path)
        assert error.value.errno in GONE


def test_a_loader_finds_no_class_of_a_dead_mount(warm: Mount) -> None:
    """Keras lists the classes and walks each of them without looking at errors; it began before the death."""
    classes = sorted(os.listdir(warm.path))
    warm.kill_server()
    found = [file for name in classes for _, _, files in os.walk(warm.path / name) for file in files]
    assert found == []


def test_who_works_in_a_dead_mount_finds_nothing_either(warm: Mount) -> None:
    """A working directory keeps the mount that it was entered in, whatever is put in its place."""
    script = (
        "import os, sys\n"
        "print(len(os.listdir('cat')), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(sum(len(files) for _, _, files in os.walk('.')))\n"
        "print(sum(len(files) for _, _, files in os.walk('cat')))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=warm.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "2\n"
        warm.kill_server()
        assert inside.communicate("\n", timeout=TIMEOUT_S)[0] == "0\n0\n"


def test_another_place_of_a_dead_mount_shows_nothing_either(warm: Mount, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to bind a mount")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", warm.path, other], check=True)
    try:
        assert read_all(other) == 6
        warm.kill_server()
        assert_shows_nothing(other)
    finally:
        subprocess.run(["umount", other], check=True)


def test_of_passed_through_files_nothing_is_shown_either(
    symfuse_mount: MountMaker, tmp_path: Path, backend: str
) -> None:
    if backend == "fusepy":
        pytest.skip("libfuse 2 passes nothing through")
    mount = symfuse_mount(tree(tmp_path / "dataset", CLASSES), "--io", "passthrough")
    assert read_all(mount.path) == 6
    mount.kill_server()
    assert_shows_nothing(mount.path)


def test_an_ordinary_users_dead_mount_shows_nothing(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", CLASSES))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mount", user=ordinary_user)
    script = (
        "import os, sys\n"
        "errors = []\n"
        "found = [file for _, _, files in os.walk(sys.argv[1], onerror=errors.append) for file in files]\n"
        "print(len(found), *(error.errno for error in errors))\n"
    )
    assert ordinary_user.script(script, mount.path).stdout == "6\n"
    mount.kill_server()
    assert ordinary_user.script(script, mount.path).stdout == f"0 {errno.ENOTCONN}\n"
    mount.umount()


def test_a_foreground_server_has_a_guardian_too(fuse: None, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    dataset = tree(tmp_path / "dataset", CLASSES)
    command: list[str | Path] = [sys.executable, "-m", "symfuse", "mount", "-f", dataset, mountpoint]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **MYSELF.environment}
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline()
        assert read_all(mountpoint) == 6
        server.kill()
        said = server.communicate(timeout=TIMEOUT_S)[1]  # the guardian has ended, too: it held stderr
    assert "ended without unmounting" in said
    assert_shows_nothing(mountpoint)
    MYSELF.symfuse("umount", mountpoint)


#: A guardian on a kernel that does not know how to forget all names: there is no notification of this number.
OLD_KERNEL = (
    "import sys\n"
    "from symfuse.mounts import guardian\n"
    "guardian.FORGET_NAMES = guardian.abi.OUT_HEADER.pack(guardian.abi.OUT_HEADER.size, 99, 0)\n"
    "sys.exit(guardian.main())\n"
)


def test_on_kernels_that_cannot_forget_names_nothing_can_be_listed(warm: Mount) -> None:
    """Linux before 6.16. Another guardian holds the connection here in the place of the mount's own."""
    if os.geteuid() != 0 or warm.backend == "fusepy":
        pytest.skip("needs root, to hold the connection of another process; libfuse has no listings remembered")
    ours, theirs = socket.socketpair()
    command: list[str | Path] = [sys.executable, "-c", OLD_KERNEL, warm.path]
    with theirs:
        old = subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE, env=os.environ | IN_CHECKOUT)
    with old:
        with ours, held_connection(warm) as connection:
            socket.send_fds(ours, [struct.pack("<2Q", VIEW_NODEID, ROOT_NODEID)], [connection])
            (watcher,) = psutil.Process(warm.pid).children()
            watcher.suspend()
            os.kill(warm.pid, signal.SIGKILL)
            assert has_ended(warm.pid)
            watcher.kill()
            assert has_ended(watcher.pid)
        assert b"ended without unmounting" in old.communicate(timeout=TIMEOUT_S)[1]
    assert_shows_nothing(warm.path)
    for name in CLASSES:
        assert list(os.walk(os.path.join(warm.bytes, os.fsencode(name)))) == []


@contextlib.contextmanager
def held_connection(mount: Mount) -> Iterator[int]:
    """A copy of a server's descriptor of its connection."""
    pidfd = os.pidfd_open(mount.pid)
    numbers = [int(fd) for fd in os.listdir(f"/proc/{mount.pid}/fd")]
    theirs = next(fd for fd in numbers if os.readlink(f"/proc/{mount.pid}/fd/{fd}") == DEVICE)
    connection = libc.call("syscall", PIDFD_GETFD, pidfd, theirs, 0)
    os.close(pidfd)
    try:
        yield connection
    finally:
        os.close(connection)


#: Source: asm-generic/unistd.h
PIDFD_GETFD = 438


# -- the guardian itself -----------------------------------------------------------------------------------------------


def guardian_of(mount: Mount) -> psutil.Process:
    (found,) = psutil.Process(mount.pid).children()
    return found


def test_a_regular_end_ends_the_guardian_at_once(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(tree(tmp_path / "dataset", CLASSES))
    watcher = guardian_of(mount)
    mount.umount()
    assert not psutil.pid_exists(watcher.pid)


def test_the_guardian_minds_no_signal_to_stop(warm: Mount) -> None:
    watcher = guardian_of(warm)
    for number in guardian.IGNORED_SIGNALS:
        watcher.send_signal(number)
    assert os.getsid(watcher.pid) == watcher.pid
    assert guardian_of(warm) == watcher
    warm.kill_server()
    assert_shows_nothing(warm.path)


def test_a_killed_guardian_is_replaced(warm: Mount) -> None:
    first = guardian_of(warm)
    first.kill()
    warm.expect_in_log("guardian of this server was killed")
    while psutil.Process(warm.pid).children() in ([], [first]):
        assert warm.status()["state"] == "alive"
    warm.kill_server()
    assert_shows_nothing(warm.path)


def test_a_guardian_holds_nothing_but_the_connection(warm: Mount) -> None:
    watcher = guardian_of(warm)
    held = [os.readlink(f"/proc/{watcher.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{watcher.pid}/fd")]
    assert sorted(path for path in held if not path.startswith("socket:")) == sorted(
        ["/dev/fuse", "/dev/null", str(warm.log)]
    )
    assert watcher.cwd() == "/"


def test_killed_together_they_leave_a_dead_mount_that_umount_clears(warm: Mount) -> None:
    """A control group is killed as a whole. What was listed can then still be listed, which semantics.md says."""
    watcher = guardian_of(warm)
    watcher.suspend()
    os.kill(warm.pid, signal.SIGKILL)
    watcher.kill()
    assert has_ended(warm.pid)
    assert has_ended(watcher.pid)
    with pytest.raises(OSError) as error:
        (warm.path / "unread").read_bytes()
    assert error.value.errno in GONE
    warm.umount()
    assert os.listdir(warm.path) == []


# -- clearing ----------------------------------------------------------------------------------------------------------


def test_umount_clears_a_dead_mount(dead: Mount) -> None:
    dead.umount()
    assert not dead.is_mounted()
    assert os.listdir(dead.path) == []


def test_the_next_mount_clears_it(dead: Mount, symfuse_mount: MountMaker) -> None:
    again = symfuse_mount(dead.dataset, at=dead.path)
    assert read_all(again.path) == 6
    assert again.pid != dead.pid
    again.expected_log += dead.expected_log  # there is one log for each mountpoint


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
        mount.kill_server()
        with pytest.raises(OSError) as error:
            os.pread(fd, 10, 3 << 20)
        assert error.value.errno in GONE
    finally:
        with contextlib.suppress(OSError):  # close(2) says it, too, and closes all the same
            os.close(fd)


def test_what_waits_for_an_answer_when_the_server_dies_does_not_hang(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    """The guardian holds the connection; a server that is stopped has requests that nobody has answered."""
    mount = symfuse_mount(tree(tmp_path / "dataset", CLASSES))
    os.kill(mount.pid, signal.SIGSTOP)
    with subprocess.Popen(["cat", mount.path / "cat/1.png"], stderr=subprocess.PIPE, text=True) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        mount.kill_server()
        _, said = waiting.communicate(timeout=TIMEOUT_S)
    assert waiting.returncode == 1
    assert any(os.strerror(number) in said for number in GONE)
