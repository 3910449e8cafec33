"""One place, one mount: who comes second is told so, and what is unmounted is the mount itself, not its path."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from symfuse.errors import ExitStatus
from symfuse.mounts import table, unmount
from tests.conftest import MountMaker
from tests.filesystems.source import Source
from tests.mounted.test_commands import process, server_of
from tests.support.mounting import MYSELF, TIMEOUT_S, WAYS, Run, User, clear, has_ended, mounts
from tests.support.pythons import with_server_patched
from tests.support.trees import tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount other file systems")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"a": b"A"})


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "above/mnt"
    path.mkdir(parents=True)
    yield path
    clear([each for each in mounts() if os.fsencode(tmp_path) in each])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def at_once(number: int, user: User, *arguments: str | Path) -> list[Run]:
    """The same command so often, begun together."""
    barrier = threading.Barrier(number)
    done: list[Run] = []

    def run() -> None:
        barrier.wait()
        done.append(user.symfuse(*arguments, check=False))

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def mounts_at(mountpoint: Path) -> int:
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    return sum(line.split(b" ")[4] == os.fsencode(mountpoint) for line in lines if line)


def kill_server(user: User, mountpoint: Path) -> None:
    pid = json.loads(user.symfuse("status", "--json", mountpoint).stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


# -- several at once ---------------------------------------------------------------------------------------------------


def check_that_one_of_several_mounts(user: User, dataset: Path, mountpoint: Path, *options: str) -> None:
    """Ten rounds, two and four at once by turns, every other one over the dead mount of the round before."""
    for turn in range(10):
        number = 2 if turn % 2 else 4
        done = at_once(number, user, "mount", *options, dataset, mountpoint)
        assert sorted(each.returncode for each in done) == [0] + [ExitStatus.MOUNTPOINT] * (number - 1), done
        assert all("internal" not in each.stderr and each.stderr.count("\n") <= 2 for each in done), done
        assert mounts_at(mountpoint) == 1
        assert (mountpoint / "a").read_bytes() == b"A" if user.uid is None else True
        if turn % 2:
            user.symfuse("umount", mountpoint)
        else:
            kill_server(user, mountpoint)
    assert mounts_at(mountpoint) == 0


def test_of_several_at_once_one_mounts_and_the_others_are_told(
    fuse: None, dataset: Path, mountpoint: Path, backend: str
) -> None:
    check_that_one_of_several_mounts(MYSELF, dataset, mountpoint, *WAYS[backend])


def test_of_several_of_an_ordinary_user_one_mounts(fuse: None, ordinary_user: User) -> None:
    dataset = tree(ordinary_user.home / "dataset", {"a": b"A"})
    mountpoint = ordinary_user.home / "mnt"
    mountpoint.mkdir()
    ordinary_user.owns(ordinary_user.home)
    check_that_one_of_several_mounts(ordinary_user, dataset, mountpoint)


def test_where_directories_cannot_be_locked_the_kernel_decides(
    fuse: None, dataset: Path, mountpoint: Path, tmp_path: Path
) -> None:
    refused = 'fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks"))'
    user = with_server_patched(tmp_path, "import errno, fcntl", refused)
    for _ in range(5):
        done = at_once(3, user, "mount", dataset, mountpoint)
        assert sorted(each.returncode for each in done) == [0, ExitStatus.MOUNTPOINT, ExitStatus.MOUNTPOINT], done
        assert mounts_at(mountpoint) == 1
        MYSELF.symfuse("umount", mountpoint)


# -- a slow one and a quick one ----------------------------------------------------------------------------------------


class Slow:
    """`symfuse mount` of a source that does not let itself be listed before `finish`."""

    def __init__(self, source: Source, mountpoint: Path, *options: str) -> None:
        self._source, self._mountpoint = source, mountpoint
        source.rules({"do": "block", "op": "READDIR", "name": "d"})
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "symfuse",
            "mount",
            "--eager",
            *options,
            source.mountpoint,
            mountpoint,
        ]
        self.process = subprocess.Popen(
            command, cwd="/", stderr=subprocess.PIPE, encoding="utf-8", env=os.environ | MYSELF.environment
        )
        source.wait_for_blocked(1)

    def finish(self) -> tuple[int, str]:
        """The exit status, and what was said."""
        self._source.release()
        _, said = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, said


@pytest.fixture
def source(fuse: None, tmp_path: Path) -> Iterator[Source]:
    tree(tmp_path / "stored", {"d": {"a": b"A"}})
    (tmp_path / "source").mkdir()
    with Source(tmp_path / "stored", tmp_path / "source") as source:
        yield source


@as_root
def test_a_quick_one_does_not_overtake_a_slow_one(
    source: Source, dataset: Path, mountpoint: Path, backend: str
) -> None:
    slow = Slow(source, mountpoint, *WAYS[backend])
    quick = MYSELF.symfuse("mount", *WAYS[backend], dataset, mountpoint, check=False)
    assert quick.returncode == ExitStatus.MOUNTPOINT
    assert "is being mounted by another symfuse" in quick.stderr
    assert slow.finish()[0] == ExitStatus.OK
    assert (mountpoint / "d/a").read_bytes() == b"A"
    assert mounts_at(mountpoint) == 1
    MYSELF.symfuse("umount", mountpoint)


@as_root
def test_a_quick_one_does_not_overtake_a_slow_one_over_a_dead_mount(
    source: Source, dataset: Path, mountpoint: Path
) -> None:
    MYSELF.symfuse("mount", dataset, mountpoint)
    kill_server(MYSELF, mountpoint)
    slow = Slow(source, mountpoint)
    assert MYSELF.symfuse("mount", dataset, mountpoint, check=False).returncode == ExitStatus.MOUNTPOINT
    assert slow.finish()[0] == ExitStatus.OK
    MYSELF.symfuse("umount", mountpoint)


def replace_it(mountpoint: Path) -> None:
    mountpoint.rename(mountpoint.with_name("old"))
    mountpoint.mkdir()


def remove_it(mountpoint: Path) -> None:
    mountpoint.rmdir()


def fill_it(mountpoint: Path) -> None:
    (mountpoint / "file").touch()


def mount_tmpfs(mountpoint: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", mountpoint], check=True)
    (mountpoint / "precious").write_bytes(b"data")


def unmount_tmpfs(mountpoint: Path) -> None:
    assert (mountpoint / "precious").read_bytes() == b"data"
    subprocess.run(["umount", mountpoint], check=True)


@as_root
@pytest.mark.parametrize("change", [replace_it, remove_it, fill_it, mount_tmpfs])
def test_the_mountpoint_is_looked_at_again_when_it_is_used(
    source: Source, mountpoint: Path, backend: str, change: Callable[[Path], None]
) -> None:
    slow = Slow(source, mountpoint, *WAYS[backend])
    change(mountpoint)
    status, said = slow.finish()
    assert status == ExitStatus.MOUNTPOINT, said
    assert said.count("\n") == 1
    if change is mount_tmpfs:
        unmount_tmpfs(mountpoint)
    assert mounts_at(mountpoint) == 0


@as_root
@pytest.mark.parametrize("way", ["kernel", "stacked"])
@pytest.mark.parametrize("eager", [[], ["--eager"]])
def test_root_mounts_on_the_directory_that_it_has_looked_at(
    dataset: Path, mountpoint: Path, tmp_path: Path, way: str, eager: list[str]
) -> None:
    """Whoever owns a directory on the way cannot have root mount over any directory of theirs to choose."""
    (tmp_path / "precious/mnt").mkdir(parents=True)
    above = os.fspath(mountpoint.parent)
    user = with_server_patched(
        tmp_path,
        "import os",
        "from symfuse.fuse import kernelmount",
        "mount, bind = kernelmount.mount, kernelmount.bind",
        "def swap():",
        f"    if not os.path.islink({above!r}):",
        f"        os.rename({above!r}, {above + ' moved'!r})",
        f"        os.symlink('precious', {above!r})",
        *(
            ["def swapping(options):", "    swap()", "    return mount(options)", "kernelmount.mount = swapping"]
            if way == "kernel"
            else ["def swapping(*words):", "    swap()", "    return bind(*words)", "kernelmount.bind = swapping"]
        ),
    )
    done = user.symfuse("mount", *WAYS[way], *eager, dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.MOUNTPOINT, done.stderr
    assert done.stderr.count("\n") == 1
    assert not os.path.ismount(tmp_path / "precious/mnt")
    assert os.fsencode(dataset) not in mounts().values()


# -- what is unmounted -------------------------------------------------------------------------------------------------


@as_root
def test_a_signal_takes_nothing_away_that_was_mounted_over_it(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    mount.expect_in_log("cannot be unmounted yet: tmpfs is mounted over it")
    mount_tmpfs(mount.path)
    os.kill(mount.pid, signal.SIGTERM)
    assert mount.log is not None
    wait_until(lambda: mount.log is not None and mount.log.read_text() != "")
    assert not has_ended(mount.pid, within_s=0.1)
    unmount_tmpfs(mount.path)
    assert has_ended(mount.pid, within_s=TIMEOUT_S), "it unmounts as soon as it can"
    assert mounts_at(mount.path) == 0


@as_root
def test_a_second_signal_ends_the_server_all_the_same(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    mount.expect_in_log("cannot be unmounted yet")
    mount.expect_in_log("WARNING")
    mount.expect_in_log("ended without unmounting")
    mount_tmpfs(mount.path)
    os.kill(mount.pid, signal.SIGTERM)
    wait_until(lambda: mount.log is not None and mount.log.read_text() != "")
    os.kill(mount.pid, signal.SIGTERM)
    assert has_ended(mount.pid)
    unmount_tmpfs(mount.path)
    MYSELF.symfuse("umount", mount.path)


@as_root
@pytest.mark.parametrize("lazy", [False, True])
def test_root_unmounts_nothing_that_came_to_lie_at_the_path(
    symfuse_mount: MountMaker, dataset: Path, mountpoint: Path, tmp_path: Path, *, lazy: bool
) -> None:
    """Whoever owns a directory on the way cannot have root unmount another file system in its stead."""
    mount = symfuse_mount(dataset, at=mountpoint)
    precious = tmp_path / "precious" / mountpoint.name
    precious.mkdir(parents=True)
    mount_tmpfs(precious)
    entry = table.at(mount.bytes)
    assert entry is not None
    mountpoint.parent.rename(tmp_path / "moved")
    mountpoint.parent.symlink_to("precious")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory") as refused:
        unmount.take_away(entry, lazy=lazy)
    assert refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    mountpoint.parent.unlink()
    (tmp_path / "moved").rename(mountpoint.parent)
    unmount_tmpfs(precious)
    unmount.take_away(entry, lazy=lazy)
    assert mount.bytes not in mounts()


@as_root
def test_umount_names_what_hides_a_mount(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    mount_tmpfs(mount.path)
    for lazy in ([], ["--lazy"]):
        done = MYSELF.symfuse("umount", *lazy, mount.path, check=False)
        assert done.returncode == ExitStatus.NOT_MOUNTED
        assert "tmpfs is mounted over it" in done.stderr
    assert json.loads(MYSELF.symfuse("status", "--json", mount.path).stdout)["state"] == "hidden"
    unmount_tmpfs(mount.path)
    mount.umount()


def test_a_signal_to_a_detached_server_leaves_the_next_mount_alone(symfuse_mount: MountMaker, dataset: Path) -> None:
    old = symfuse_mount(dataset)
    with open(old.path / "a", "rb") as file:
        MYSELF.symfuse("umount", "--lazy", old.path)
        new = symfuse_mount(dataset, at=old.path)
        os.kill(old.pid, signal.SIGTERM)
        assert file.read() == b"A"
        assert not has_ended(old.pid, within_s=0.2)
        assert (new.path / "a").read_bytes() == b"A"
    assert has_ended(old.pid)
    assert new.is_mounted()


def test_a_signal_finds_a_mount_that_was_moved(
    fuse: None, dataset: Path, mountpoint: Path, backend: str, tmp_path: Path
) -> None:
    MYSELF.symfuse("mount", *WAYS[backend], dataset, mountpoint)
    server = server_of(mountpoint)
    mountpoint.parent.rename(tmp_path / "elsewhere")
    server.send_signal(signal.SIGTERM)
    assert has_ended(server.pid)
    assert mounts_at(tmp_path / "elsewhere/mnt") == 0


def test_umount_finds_a_mount_that_was_moved(
    fuse: None, dataset: Path, mountpoint: Path, backend: str, tmp_path: Path
) -> None:
    MYSELF.symfuse("mount", *WAYS[backend], dataset, mountpoint)
    server = server_of(mountpoint)
    mountpoint.parent.rename(tmp_path / "elsewhere")
    MYSELF.symfuse("umount", tmp_path / "elsewhere/mnt")
    assert has_ended(server.pid, within_s=0.1)


def test_run_leaves_nothing_where_its_mount_was_moved(
    fuse: None, dataset: Path, mountpoint: Path, backend: str, tmp_path: Path
) -> None:
    before = {each.pid for each in psutil.process_iter()}
    moved: list[str | Path] = ["mv", mountpoint.parent, tmp_path / "elsewhere"]
    done = MYSELF.symfuse("run", *WAYS[backend], "--at", mountpoint, dataset, "--", *moved)
    assert done.stderr == ""
    assert mounts_at(tmp_path / "elsewhere/mnt") == 0
    left = [each for each in psutil.process_iter() if each.pid not in before and str(mountpoint) in _words(each)]
    assert not left


def _words(running: psutil.Process) -> list[str]:
    try:
        return running.cmdline()
    except psutil.Error:
        return []


@as_root
def test_the_end_of_a_block_takes_nothing_away_that_was_mounted_over_it(
    fuse: None, dataset: Path, mountpoint: Path, backend: str
) -> None:
    script = (
        "import subprocess, symfuse, sys\n"
        "dataset, mountpoint, *options = sys.argv[1:]\n"
        "with symfuse.mounted(dataset, at=mountpoint, backend=options[-1]):\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'none', mountpoint], check=True)\n"
        "    open(mountpoint + '/precious', 'w').write('data')\n"
    )
    server = "fusepy" if backend == "fusepy" else "kernel"
    done = MYSELF.script(script, dataset, mountpoint, server)
    assert "tmpfs is mounted over it" in done.stderr
    unmount_tmpfs(mountpoint)
    wait_until(lambda: mounts_at(mountpoint) == 0)


# -- dead mounts -------------------------------------------------------------------------------------------------------


@as_root
def test_all_dead_mounts_are_cleared_at_once(symfuse_mount: MountMaker, dataset: Path) -> None:
    one, other, alive = (symfuse_mount(dataset) for _ in range(3))
    subprocess.run(["mount", "--bind", other.path, one.path], check=True)  # two at one place
    assert mounts_at(one.path) == 2
    for mount in (one, other):
        mount.kill_server()
    done = MYSELF.symfuse("umount", "--dead")
    assert done.stdout.count(f"cleared {one.path}, a dead mount of {dataset}\n") == 2
    assert done.stdout.count(f"cleared {other.path}, ") == 1
    assert str(alive.path) not in done.stdout
    assert mounts_at(one.path) == mounts_at(other.path) == 0
    assert (alive.path / "a").read_bytes() == b"A"


@as_root
def test_the_next_mount_clears_all_that_is_dead_at_its_place(symfuse_mount: MountMaker, dataset: Path) -> None:
    one, other = symfuse_mount(dataset), symfuse_mount(dataset)
    subprocess.run(["mount", "--bind", other.path, one.path], check=True)
    for mount in (one, other):
        mount.kill_server()
    again = symfuse_mount(dataset, at=one.path)
    again.expect_in_log("ended without unmounting")  # one log for each mountpoint
    assert mounts_at(again.path) == 1


def test_an_ordinary_user_clears_their_own(fuse: None, ordinary_user: User) -> None:
    dataset = tree(ordinary_user.home / "dataset", {"a": b"A"})
    mountpoint = ordinary_user.home / "mnt"
    mountpoint.mkdir()
    ordinary_user.owns(ordinary_user.home)
    ordinary_user.symfuse("mount", dataset, mountpoint)
    kill_server(ordinary_user, mountpoint)
    assert f"cleared {mountpoint}, " in ordinary_user.symfuse("umount", "--dead").stdout
    assert mounts_at(mountpoint) == 0
    assert "no mount of yours is dead" in ordinary_user.symfuse("umount", "--dead").stderr


@pytest.mark.parametrize("arguments", [[], ["--dead", "/mnt"]])
def test_umount_wants_one_of_two(arguments: list[str]) -> None:
    assert MYSELF.symfuse("umount", *arguments, check=False).returncode == ExitStatus.USAGE


def test_what_a_killed_run_left_behind_is_cleared_by_the_next_mount(
    symfuse_mount: MountMaker, dataset: Path, tmp_path: Path
) -> None:
    with process("run", dataset, "--", "sh", "-c", 'echo "$SYMFUSE_MOUNT"; exec sleep 60') as running:
        assert running.stdout is not None
        left = Path(running.stdout.readline().strip())
        server = server_of(left)
        (command,) = [child for child in psutil.Process(running.pid).children() if child.pid != server.pid]
        running.send_signal(signal.SIGSTOP)
        server.kill()
        assert has_ended(server.pid)
        first = symfuse_mount(dataset)
        assert mounts_at(left) == 1, "while it lives, somebody may read there"
        running.kill()
        running.wait(TIMEOUT_S)
        command.kill()
    assert mounts_at(left) == 1
    symfuse_mount(dataset)
    assert mounts_at(left) == 0
    assert not left.exists()
    assert (first.path / "a").read_bytes() == b"A"
