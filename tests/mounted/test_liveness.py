"""How a mount is, in whatever state it and what lies below it are: nobody who asks hangs, or gets an exception."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from symfuse.errors import ExitStatus
from symfuse.mounts.bounded import ANSWER_TIMEOUT_S
from tests.conftest import MountMaker
from tests.filesystems.source import Source
from tests.support.mounting import MYSELF, TIMEOUT_S, User, has_ended
from tests.support.trees import tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount other file systems")

SYMFUSE = (sys.executable, "-m", "symfuse")

#: No command takes longer than two questions that are not answered, on a busy machine.
LIMIT_S = 2 * ANSWER_TIMEOUT_S + 10


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"d": {"a": b"A"}})


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing any more."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def source(fuse: None, tmp_path: Path) -> Iterator[Source]:
    tree(tmp_path / "stored", {"a": b"A", "b": b"B", "mnt": {}, "other": {}})
    (tmp_path / "source").mkdir()
    with Source(tmp_path / "stored", tmp_path / "source") as source:
        yield source


def states(*paths: Path) -> list[str]:
    """What `status` of all mounts says of these."""
    said: list[dict[str, Any]] = json.loads(MYSELF.symfuse("status", "--json").stdout)
    found = {status["mountpoint"]: status["state"] for status in said}
    return [found[str(path)] for path in paths]


@as_root
def test_status_shows_every_state_and_one_delays_no_other(symfuse_mount: MountMaker, dataset: Path) -> None:
    alive, slow, slower, dead, hidden = (symfuse_mount(dataset) for _ in range(5))
    dead.expect_in_log("ended without unmounting")
    os.kill(dead.pid, signal.SIGKILL)
    assert has_ended(dead.pid)
    subprocess.run(["mount", "-t", "tmpfs", "none", hidden.path], check=True)
    with stopped(slow.pid), stopped(slower.pid):
        before_s = time.monotonic()
        found = states(alive.path, slow.path, slower.path, dead.path, hidden.path)
        spent_s = time.monotonic() - before_s
        assert found == ["alive", "not-responding", "not-responding", "dead", "hidden"]
        assert spent_s < ANSWER_TIMEOUT_S + 10
        lines = MYSELF.symfuse("status").stdout
        for words in ("not-responding: its server does not", "dead: its server ended", "hidden: another mount lies"):
            assert words in lines
    subprocess.run(["umount", hidden.path], check=True)
    MYSELF.symfuse("umount", dead.path)


def test_of_a_stopped_server_everything_is_told_in_time(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    link = dataset.with_name("link")
    link.symlink_to(mount.path)
    with stopped(mount.pid):
        commands: list[tuple[list[str | Path], ExitStatus]] = [
            (["status", mount.path], ExitStatus.OK),
            (["status", link], ExitStatus.OK),
            (["umount", link], ExitStatus.BUSY),
            (["why", mount.path / "d/a"], ExitStatus.NOT_MOUNTED),
            (["umount", mount.path], ExitStatus.BUSY),
            (["mount", dataset, mount.path], ExitStatus.MOUNTPOINT),
            (["why", dataset / "d/a"], ExitStatus.OK),
        ]
        for command, status in commands:
            done = MYSELF.symfuse(*command, check=False, timeout=LIMIT_S)
            assert done.returncode == status, done.stderr
            assert done.stderr.count("\n") <= 1
    assert states(mount.path) == ["alive"], "it was never the worse for being asked"


def test_questions_that_were_given_up_end_with_the_answer(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    with stopped(mount.pid):
        MYSELF.symfuse("status", mount.path, timeout=LIMIT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while any("symfuse-probe" in _name(each) and str(mount.path) in _words(each) for each in psutil.process_iter()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _name(running: psutil.Process) -> str:
    try:
        return running.name()
    except psutil.Error:
        return ""


def _words(running: psutil.Process) -> list[str]:
    try:
        return running.cmdline()
    except psutil.Error:
        return []


# -- storage that hangs ------------------------------------------------------------------------------------------------


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who reads a file, and gets no answer."""
    with subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


@as_root
@pytest.mark.parametrize("how", ["taken", "stopped"])
def test_a_server_whose_storage_hangs_is_alive(symfuse_mount: MountMaker, source: Source, how: str) -> None:
    mount = symfuse_mount(source.mountpoint, "--eager")
    mount.dataset_may_change()  # its file system is gone before we look
    mount.expected_log.append("WARNING|^")  # what is said of the storage depends on when it answers
    if how == "taken":  # the server of the source has read the request, and does not answer it
        source.rules({"do": "block", "op": "READ"})
    else:
        os.kill(source.process.pid, signal.SIGSTOP)
    try:
        with reader(mount.path / "a") as cat:
            if how == "taken":
                source.wait_for_blocked(1)
            assert states(mount.path) == ["alive"]
            assert (
                json.loads(MYSELF.symfuse("status", "--json", mount.path, timeout=LIMIT_S).stdout)["pid"] == mount.pid
            )
            busy = MYSELF.symfuse("umount", mount.path, check=False, timeout=LIMIT_S)
            with subprocess.Popen([*SYMFUSE, "why", mount.path / "a"], stdout=subprocess.DEVNULL) as asking:
                time.sleep(0.5)  # it hangs by then, or soon
                asking.kill()
                assert asking.wait(5) == -signal.SIGKILL, "nobody who asks is kept from ending"
            assert busy.returncode == ExitStatus.BUSY
            assert f"used by cat (process {cat.pid}, open file)" in busy.stderr
            MYSELF.symfuse("umount", "--lazy", mount.path, timeout=LIMIT_S)
            assert not mount.is_mounted()
    finally:
        if how == "stopped":
            os.kill(source.process.pid, signal.SIGCONT)
        source.release()
    assert has_ended(mount.pid, within_s=TIMEOUT_S), "it ends when its storage answers"


@as_root
def test_a_server_that_cannot_end_for_its_storage_is_no_bug(symfuse_mount: MountMaker, source: Source) -> None:
    mount = symfuse_mount(source.mountpoint, "--eager")
    mount.dataset_may_change()  # its file system is gone before we look
    mount.expected_log.append("WARNING|^")  # what is said of the storage depends on when it answers
    source.rules({"do": "block", "op": "READ"})
    with reader(mount.path / "a") as cat:
        source.wait_for_blocked(1)
        cat.kill()
        cat.wait(TIMEOUT_S)
        done = MYSELF.symfuse("umount", mount.path, check=False)
        assert done.returncode in (ExitStatus.OK, ExitStatus.BUSY)
        if done.returncode == ExitStatus.BUSY:
            assert f"cannot end: it waits for the storage of {source.mountpoint}" in done.stderr
        assert not mount.is_mounted()
        source.release()
    assert has_ended(mount.pid, within_s=TIMEOUT_S)


# -- the way to the mountpoint -----------------------------------------------------------------------------------------


@as_root
def test_a_mount_below_one_that_hangs_is_unreachable(symfuse_mount: MountMaker, source: Source, dataset: Path) -> None:
    mount = symfuse_mount(dataset, at=source.mountpoint / "mnt")
    with stopped(source.process.pid):
        found = json.loads(MYSELF.symfuse("status", "--json", mount.path, timeout=LIMIT_S).stdout)
        assert (found["state"], found["reason"]) == ("unreachable", "a file system on the way to it hangs")
        commands: list[list[str | Path]] = [
            ["umount", mount.path],
            ["umount", "--lazy", mount.path],
            ["mount", dataset, mount.path],
            ["mount", dataset, source.mountpoint / "other"],
            ["umount", source.mountpoint / "other"],
        ]
        for command in commands:
            done = MYSELF.symfuse(*command, check=False, timeout=LIMIT_S)
            assert done.returncode == ExitStatus.MOUNTPOINT, (command, done.stderr)
            assert done.stderr.count("\n") == 1
    assert states(mount.path) == ["alive"]


@as_root
def test_a_mount_below_a_dead_one_is_unreachable_and_not_dead(
    symfuse_mount: MountMaker, source: Source, dataset: Path
) -> None:
    mount = symfuse_mount(dataset, at=source.mountpoint / "mnt")
    mount.expected_log.append("ERROR|^")  # its path cannot be walked
    source.process.kill()
    source.process.wait(TIMEOUT_S)
    assert states(mount.path) == ["unreachable"]
    os.kill(mount.pid, signal.SIGTERM)
    subprocess.run(["umount", "-l", source.mountpoint], check=True)  # takes with it what lies below
    assert has_ended(mount.pid)


def test_another_users_mount_in_a_closed_directory(
    symfuse_mount: MountMaker, dataset: Path, ordinary_user: User, tmp_path: Path
) -> None:
    if ordinary_user.uid is None:
        pytest.skip("needs two users: run the tests as root")
    (tmp_path / "closed").mkdir(mode=0o700)
    mount = symfuse_mount(dataset, at=tmp_path / "closed/mnt")
    said = json.loads(ordinary_user.symfuse("status", "--json").stdout)
    found = {status["mountpoint"]: status["state"] for status in said}
    assert found[str(mount.path)] in ("another-user", "unreachable")
