"""Real mounts through the real command, and the proof that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.oracle import fingerprint, walk

REPOSITORY = Path(__file__).resolve().parents[2]

#: Longer than anything here takes; a command that reaches it hangs.
TIMEOUT_S = 60

_SUSPICIOUS = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|^Traceback", re.MULTILINE)

Run = subprocess.CompletedProcess[str]

#: In a mount namespace of one's own: let go of the mounts that other tests have at this moment, and could not end.
LET_GO = "umount -alt fuse.symfuse || true"

#: The ways to the kernel that the mounted tests know, in the words of `symfuse mount` and of `symfuse.mounted`.
WAYS = {"kernel": ("--backend", "kernel"), "fusepy": ("--backend", "fusepy"), "stacked": ("--stack",)}
KEYWORDS: dict[str, dict[str, Any]] = {
    "kernel": {"backend": "kernel"},
    "fusepy": {"backend": "fusepy"},
    "stacked": {"stack": True},
}


@dataclass(frozen=True)
class User:
    """Who runs a command: ourselves (uid None), or an unprivileged user made for the test."""

    uid: int | None = None
    gid: int | None = None
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    home: Path = Path("/")
    groups: tuple[int, ...] = ()

    def run(self, *command: str | bytes | Path, check: bool = True, timeout: float = TIMEOUT_S) -> Run:
        """Run a command as this user, from a directory that everybody may enter; text is captured, bytes survive."""
        done = subprocess.run(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            cwd="/",
            env={**os.environ, **self.environment},
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else list(self.groups),
        )
        if check:
            assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def symfuse(self, *arguments: str | bytes | Path, check: bool = True, timeout: float = TIMEOUT_S) -> Run:
        """Run the symfuse command as this user."""
        return self.run(self.python, "-m", "symfuse", *arguments, check=check, timeout=timeout)

    def owns(self, path: Path) -> Path:
        """Make a tree this user's."""
        if self.uid is not None and self.gid is not None:
            for each in [os.fsencode(path), *walk(path)]:
                os.chown(each, self.uid, self.gid, follow_symlinks=False)
        return path

    def script(self, source: str, *arguments: str | bytes | Path, check: bool = True) -> Run:
        """Run a few lines of Python as this user."""
        return self.run(self.python, "-c", source, *arguments, check=check)


#: The user who runs the tests. The package is found although nothing is installed.
MYSELF = User(
    environment={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(":")}
)


@dataclass
class Mount:
    """One mount made by the command line."""

    path: Path
    dataset: Path
    backend: str
    user: User
    before: dict[bytes, tuple[object, ...]]
    pid: int = 0
    log: Path | None = None
    place: Path | None = None
    expected_log: list[str] = field(default_factory=list)
    dataset_changes: bool = False

    @property
    def bytes(self) -> bytes:
        """The mountpoint as the bytes it is."""
        return os.fsencode(self.path)

    def status(self) -> dict[str, Any]:
        """What `symfuse status --json` says of this mount."""
        said = json.loads(self.user.symfuse("status", "--json", "--", self.path).stdout)
        assert isinstance(said, dict)
        return said

    def wait_until_frozen(self) -> None:
        """Until the background freeze is through."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.status()["frozen"]["complete"]:
            assert time.monotonic() < deadline, "the background freeze does not end"

    def requests(self) -> dict[str, int]:
        """Requests by opcode so far, without those that asking costs itself (an ioctl, and what opening it takes)."""
        return dict(self.status()["requests"])

    def expect_in_log(self, pattern: str) -> None:
        """The server's log will hold a WARNING or ERROR that matches; without this, any fails the test."""
        self.expected_log.append(pattern)

    def dataset_may_change(self) -> None:
        """The test itself changes the dataset from here on."""
        self.dataset_changes = True

    def is_mounted(self) -> bool:
        """Whether the kernel has a mount here, with a living server or a dead one."""
        return self.bytes in mounts()

    def kill_server(self) -> None:
        """Kill the server; returns when its guardian has done its work."""
        self.expect_in_log("ended without unmounting")
        guardians = psutil.Process(self.pid).children()
        os.kill(self.pid, signal.SIGKILL)
        assert all(has_ended(pid) for pid in (self.pid, *(each.pid for each in guardians)))

    def umount(self) -> None:
        """Unmount through the command; returns when the server has ended."""
        self.user.symfuse("umount", "--", self.path)

    def check_nothing_left(self) -> None:
        """Unmount if that was not done yet, and prove that mount, process, dataset and log are as they should be."""
        if self.is_mounted():
            self.umount()
        assert not self.is_mounted(), f"{self.path} is still mounted"
        assert has_ended(self.pid), f"the server of {self.path} (process {self.pid}) still runs"
        assert self.place is None or not self.place.exists(), f"{self.place} was left behind"
        if not self.dataset_changes:
            assert fingerprint(self.dataset) == self.before, "the dataset was changed"
        self._check_log()

    def _check_log(self) -> None:
        text = self.log.read_text(errors="surrogateescape") if self.log is not None and self.log.exists() else ""
        for pattern in self.expected_log:
            assert re.search(pattern, text), f"the log lacks {pattern!r}:\n{text}"
        strange = [
            line
            for line in text.splitlines()
            if _SUSPICIOUS.search(line) and not any(re.search(pattern, line) for pattern in self.expected_log)
        ]
        assert not strange, "the server's log holds:\n" + "\n".join(strange)


def mount(dataset: Path, mountpoint: Path, *options: str, backend: str, user: User = MYSELF) -> Mount:
    """`symfuse mount`; the command's return is the mount's readiness."""
    made = Mount(path=mountpoint, dataset=dataset, backend=backend, user=user, before=fingerprint(dataset))
    user.symfuse("mount", *WAYS[backend], *options, "--", dataset, mountpoint)
    assert made.is_mounted(), "the command returned, but nothing is mounted"
    status = made.status()
    made.pid = int(status["pid"])
    made.log = Path(status["log"]) if status["log"] else None
    made.place = place_of(made.pid) if backend == "stacked" else None
    assert status["backend"] == ("kernel" if backend == "stacked" else backend)
    assert status["stacked"] == (backend == "stacked")
    return made


def mounts() -> dict[bytes, bytes]:
    """Where a view is mounted, stacked or not, and from what. Source: proc_pid_mountinfo(5)."""
    found = {}
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            head, _, tail = line.partition(b" - ")
            if tail.startswith(b"fuse.symfuse ") or (tail.startswith(b"overlay ") and b"/symfuse-stack-" in tail):
                found[_unescape(head.split(b" ")[4])] = _unescape(tail.split(b" ")[1])
    return found


def flags(path: Path) -> set[str]:
    """The options of the mount at this path, of the mountpoint as of the file system. Source: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as lines:
        (line,) = (line.split() for line in lines if _unescape(line.split(b" ")[4]) == os.fsencode(path))
    return set(b",".join([line[5], line[-1]]).decode().split(","))


def _unescape(text: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), text)


def place_of(pid: int) -> Path | None:
    """The directory that a stacked mount's server holds locked."""
    held = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    return next((Path(path) for path in held if "/symfuse-stack-" in path), None)


def has_ended(pid: int, *, within_s: float = 5.0) -> bool:
    """Whether a process that is not our child ends in time. A zombie has ended; its parent is slow to notice."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def children() -> set[int]:
    """This process's children, zombies too. Some are not ours: TensorFlow starts one and keeps it."""
    return {child.pid for child in psutil.Process().children()}


def open_files() -> dict[int, str]:
    """This process's descriptors on files, directories and devices (pipes and sockets come and go with pytest)."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.startswith("/") and not target.startswith(("/dev/pts/", "/proc/", "/dev/null", "/dev/urandom")):
            found[int(name)] = target
    return found


@contextlib.contextmanager
def public_directory(purpose: str) -> Iterator[Path]:
    """A directory that everybody can reach, which those of pytest are not; what is left at its `mnt` is cleared."""
    if os.geteuid() != 0:
        pytest.skip("there are no other users")
    with tempfile.TemporaryDirectory(prefix=f"symfuse-{purpose}-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        clear([os.fsencode(name) + b"/mnt"])


def clear(paths: Sequence[bytes]) -> None:
    """Take leftover mounts away, whatever their state: a failed test must not spoil the next."""
    for path in paths:
        subprocess.run(["umount", "-l", "--", os.fsdecode(path)], capture_output=True, check=False)
