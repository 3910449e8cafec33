"""A source that hangs: who waits for it, and who does not. The source is a file system of the tests' own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symfuse.errors import SymfuseError
from symfuse.mounts import bounded, preflight
from symfuse.mounts.request import request
from tests.conftest import MountMaker
from tests.filesystems.source import Source
from tests.support.mounting import MYSELF, TIMEOUT_S, Mount, has_ended
from tests.support.trees import Entry, Name, link, tree

FILES = 110
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount the tests' own source")
pytestmark = [needs_root, pytest.mark.timeout(300, method="thread")]

kernel_and_stacked = pytest.mark.parametrize("backend", ["kernel", "stacked"])

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def source(fuse: None, tmp_path: Path) -> Iterator[Source]:
    """A file system with images that may hang, mounted; everything that waits for it ends with the test."""
    files: dict[Name, Entry] = {f"{number:03}": b"%d" % number for number in range(FILES)}
    tree(tmp_path / "behind", {"slow": files, "quick": {"a": b"A", "b": b"B"}, "later": {"c": {"d": b"D"}}})
    (tmp_path / "source").mkdir()
    with Source(tmp_path / "behind", tmp_path / "source", timeout_s=3600.0) as source:
        yield source


@pytest.fixture
def mount(source: Source, symfuse_mount: MountMaker, tmp_path: Path) -> Iterator[Mount]:
    """A mount of links to them, all frozen."""
    dataset = tree(tmp_path / "dataset", {"real": b"R", "store": link(str(source.mountpoint)), "healthy": b"H"})
    mount = symfuse_mount(dataset, "--eager", "--io", "cached")
    yield mount
    source.release()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [os.fspath(word) for word in command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
    for process in started:
        with process:
            process.wait(TIMEOUT_S)


def quickly(*command: str | Path) -> str:
    """What a command prints that must not wait for the source."""
    return MYSELF.run(*command, timeout=20).stdout


def readers(mount: Mount, number: int, start: Start) -> list[subprocess.Popen[bytes]]:
    return [start("cat", mount.path / f"store/slow/{index:03}") for index in range(number)]


def ends(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


@kernel_and_stacked
@pytest.mark.parametrize("hanging", [1, 16, 17, 40, 100])
def test_hanging_readers_hang_nobody_else_and_can_be_killed(
    mount: Mount, source: Source, start: Start, hanging: int
) -> None:
    source.rules({"do": "block", "op": "READ", "name": "[0-9]*"})
    waiting = readers(mount, hanging, start)
    source.wait_for_blocked(hanging)
    listed = quickly("ls", "-lR", mount.path)
    assert listed.count("\n-r") >= FILES
    quickly("df", mount.path)
    assert '"complete": true' in quickly(sys.executable, "-m", "symfuse", "status", "--json", mount.path)
    assert quickly("cat", mount.path / "store/quick/a", mount.path / "healthy") == "AH"
    assert all(process.poll() is None for process in waiting)
    for process in waiting:
        process.kill()
    assert all(ends(process, within_s=20) for process in waiting)
    assert quickly("cat", mount.path / "store/quick/b", mount.path / "real") == "BR"


LOOKING: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cat": ("READ", "*", ("cat", "store/slow/007")),
    "ls": ("READDIR", "c", ("ls", "store/later/c")),
    "stat": ("LOOKUP", "d", ("stat", "store/later/c/d")),
}


@kernel_and_stacked
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.parametrize("look", LOOKING)
def test_who_waits_can_be_killed(
    source: Source, symfuse_mount: MountMaker, start: Start, look: str, number: int
) -> None:
    operation, name, (program, path) = LOOKING[look]
    dataset = tree(source.directory.parent / "dataset", {"store": link(str(source.mountpoint))})
    source.rules({"do": "block", "op": operation, "name": name})
    mount = symfuse_mount(dataset, "--io", "cached")
    try:
        process = start(program, mount.path / path)
        source.wait_for_blocked(1)
        assert not ends(process, within_s=0.2)
        process.send_signal(number)
        assert ends(process, within_s=20)
        assert process.returncode == -number
    finally:
        source.release()


PYTHON = """
import os, signal, sys
signal.signal(signal.SIGCHLD, lambda *_: print("a child ended", file=sys.stderr))
try:
    print(open(sys.argv[1], "rb").read())
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
"""


@kernel_and_stacked
def test_a_signal_that_is_caught_ends_no_short_wait(mount: Mount, source: Source, start: Start) -> None:
    source.rules({"do": "block", "op": "READ", "name": "*"})
    process = start(sys.executable, "-c", PYTHON, mount.path / "store/slow/003")
    source.wait_for_blocked(1)
    process.send_signal(signal.SIGCHLD)
    assert not ends(process, within_s=1)
    source.release()
    assert ends(process, within_s=20)
    assert process.returncode == 0


@kernel_and_stacked
def test_ctrl_c_ends_a_wait_of_python_that_lasts(mount: Mount, source: Source, start: Start) -> None:
    """Python handles the signal itself, after the system call: the mount must let go of it."""
    source.rules({"do": "block", "op": "READ", "name": "*"})
    process = start(sys.executable, "-c", PYTHON, mount.path / "store/slow/004")
    source.wait_for_blocked(1)
    process.send_signal(signal.SIGINT)
    assert ends(process, within_s=30)
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1:] == [b"interrupted"]


@kernel_and_stacked
def test_kill_after_a_harmless_signal_ends_the_wait_too(mount: Mount, source: Source, start: Start) -> None:
    """The kernel tells a server of the first signal only."""
    source.rules({"do": "block", "op": "READ", "name": "*"})
    process = start(sys.executable, "-c", PYTHON, mount.path / "store/slow/005")
    source.wait_for_blocked(1)
    process.send_signal(signal.SIGCHLD)
    assert not ends(process, within_s=1)
    process.kill()
    assert ends(process, within_s=20)


@kernel_and_stacked
def test_a_directory_that_hangs_leaves_the_others_alone(
    source: Source, symfuse_mount: MountMaker, tmp_path: Path, start: Start
) -> None:
    """Nothing is frozen yet: the healthy directory must be read while the other one hangs."""
    hung: dict[Name, Entry] = {f"l{number}": link(f"{source.mountpoint}/slow/{number:03}") for number in range(3)}
    source.rules({"do": "block", "op": "LOOKUP", "name": "slow"})
    mount = symfuse_mount(tree(tmp_path / "dataset", {"a": hung, "b": {"x": b"X", "y": {"z": b"Z"}}}), "--io", "cached")
    try:
        process = start("ls", mount.path / "a")
        source.wait_for_blocked(1)
        assert quickly("ls", mount.path / "b") == "x\ny\n"
        assert quickly("cat", mount.path / "b/x", mount.path / "b/y/z") == "XZ"
        assert process.poll() is None
    finally:
        source.release()
    assert ends(process, within_s=20)


@kernel_and_stacked
def test_a_server_ends_although_a_thread_of_it_hangs(mount: Mount, source: Source, start: Start) -> None:
    source.rules({"do": "block", "op": "READ", "name": "*"})
    waiting = readers(mount, 3, start)
    source.wait_for_blocked(3)
    for process in waiting:
        process.kill()
    assert all(ends(process, within_s=20) for process in waiting)
    MYSELF.run("umount", mount.path)
    assert has_ended(mount.pid, within_s=20)
    source.stop()  # the kernel holds on to the thread until here
    source.start()


# -- before there is a mount -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["mount", "run"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_mounts_a_dataset_that_hangs_can_be_stopped(
    source: Source, start: Start, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    source.rules({"do": "block", "op": "OPENDIR", "name": ""})
    (tmp_path / "mount").mkdir()
    rest = ["--", "true"] if command == "run" else []
    at = ["--at", tmp_path / "mount"] if command == "run" else [tmp_path / "mount"]
    waiting = start(sys.executable, "-m", "symfuse", command, source.mountpoint, *at, *rest)
    source.wait_for_blocked(1)
    waiting.send_signal(number)
    try:
        assert ends(waiting, within_s=20)
    finally:
        source.release()
    assert waiting.returncode in (128 + number, -number)


@pytest.mark.parametrize(
    ("options", "rule"),
    [(["--eager"], {"op": "LOOKUP", "name": "003"}), (["--dedup", "bytes"], {"op": "READ", "name": "*"})],
)
def test_a_mount_in_the_foreground_can_be_stopped_while_it_reads_what_hangs(
    source: Source, start: Start, tmp_path: Path, options: list[str], rule: dict[str, str]
) -> None:
    source.rules({"do": "block"} | rule)
    (tmp_path / "mount").mkdir()
    foreground = ["mount", "--foreground", *options, source.mountpoint, tmp_path / "mount"]
    waiting = start(sys.executable, "-m", "symfuse", *foreground)
    source.wait_for_blocked(1)
    waiting.send_signal(signal.SIGTERM)
    try:
        assert has_ended(waiting.pid, within_s=20)
    finally:
        source.release()  # the kernel holds on to the thread until here
    assert ends(waiting, within_s=20)
    assert waiting.returncode == 130


@pytest.mark.parametrize("where", ["source", "mountpoint", "--allow-root"])
def test_a_directory_that_does_not_respond_is_named(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(bounded, "LIST_TIMEOUT_S", 1.0)
    source.rules({"do": "block", "op": "OPENDIR", "name": ""})
    paths = {"source": tmp_path / "a", "mountpoint": tmp_path / "b", "--allow-root": tmp_path / "c"}
    for path in paths.values():
        path.mkdir()
    paths[where] = source.mountpoint
    try:
        with pytest.raises(SymfuseError, match="does not respond"):
            wanted = request(paths["source"], paths["mountpoint"], allow_root=[paths["--allow-root"]])
            preflight.check(wanted, on_note=print)
    finally:
        source.release()
