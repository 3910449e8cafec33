"""Who is measured, how each is started and ended, and what can be asked of a running one.

Every peer gets the caching options that made it fastest where we tried (docs/benchmarks.md), all are read-only.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field

from scripts.benchmark.dataset import Tree
from scripts.benchmark.interrupts import INTERRUPTS
from symfuse.control import Message
from symfuse.errors import SymfuseError
from symfuse.mounts import live
from symfuse.mounts import unmount as unmounting

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: A mount that is not there by then never will be.
READY_TIMEOUT_S = 60
END_TIMEOUT_S = 20

#: A long time, for caches of peers.
LONG_S = 86_400


class Failure(Exception):
    """A contender cannot do what is measured; the reason is one line."""


@dataclass(frozen=True)
class Served:
    """Something that a client can read: a directory, and where it is a mount, what the server can be asked."""

    path: str
    ready_s: float | None = None
    pid: int | None = None
    ask: Callable[[], Mapping[str, int]] | None = None

    def memory_bytes(self) -> int | None:
        """Resident memory of the server. Source: proc_pid_status(5)."""
        if self.pid is None:
            return None
        with open(f"/proc/{self.pid}/status", encoding="utf-8", errors="replace") as status:
            found = re.search(r"^VmRSS:\s+(\d+) kB", status.read(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None

    def cpu_s(self) -> float | None:
        """Processor time that the server has used, all its threads. Source: clock_getcpuclockid(3)."""
        return None if self.pid is None else time.clock_gettime((~self.pid << 3) | 2)

    def requests(self) -> Mapping[str, int] | None:
        """Requests by opcode so far, where the server counts them."""
        return None if self.ask is None else self.ask()


@dataclass(frozen=True)
class Contender:
    """One way to read a dataset."""

    name: str
    #: The command's words with {source} and {mountpoint} in them; none where the directory is read directly.
    command: tuple[str, ...] = ()
    is_symfuse: bool = False
    reads_copy: bool = False
    needs_root: bool = False
    needs_library: str | None = None

    def missing(self) -> str | None:
        """Why it cannot be measured on this machine."""
        if self.needs_root and os.geteuid() != 0:
            return "needs root"
        if self.command and not self.is_symfuse and shutil.which(self.command[0]) is None:
            return f"{self.command[0]} is not installed"
        if self.needs_library and find_library(self.needs_library) is None:
            return f"lib{self.needs_library} is not installed"
        return None

    def version(self) -> str | None:
        """What the program calls itself."""
        if not self.command or self.is_symfuse:
            return None
        said = subprocess.run([self.command[0], "--version"], capture_output=True, text=True, check=False)
        lines = (said.stdout + said.stderr).splitlines()
        return lines[0] if lines else None


def _symfuse(name: str, *options: str, needs_root: bool = False, needs_library: str | None = None) -> Contender:
    return Contender(
        name,
        ("mount", *options, "--", "{source}", "{mountpoint}"),
        is_symfuse=True,
        needs_root=needs_root,
        needs_library=needs_library,
    )


def _rclone(mode: str) -> Contender:
    caching = ("--dir-cache-time", "24h", "--attr-timeout", "24h", "--poll-interval", "0")
    cache = ("--vfs-cache-mode", mode, "--cache-dir", "{scratch}", "--config", os.devnull)
    words = ("rclone", "mount", "--copy-links", "--read-only", *caching, *cache, "{source}", "{mountpoint}")
    return Contender(f"rclone-{mode}", words)


_KERNEL_CACHES = f"kernel_cache,attr_timeout={LONG_S},entry_timeout={LONG_S}"
_MERGERFS = ",".join(
    [
        "ro,follow-symlinks=all,cache.files=auto-full,cache.readdir=true,xattr=nosys",
        *(f"cache.{what}={LONG_S}" for what in ("open", "statfs", "attr", "entry", "negative_entry")),
    ]
)

LINKS = "links"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(LINKS),
        Contender("copy", reads_copy=True),
        _symfuse("symfuse-auto"),
        _symfuse("symfuse-cached", "--io", "cached"),
        _symfuse("symfuse-passthrough", "--io", "passthrough", needs_root=True),
        _symfuse("symfuse-stack", "--stack", needs_root=True),
        _symfuse("symfuse-fusepy", "--backend", "fusepy", needs_library="fuse"),
        Contender(
            "bindfs", ("bindfs", "-f", "-o", f"ro,{_KERNEL_CACHES}", "--resolve-symlinks", "{source}", "{mountpoint}")
        ),
        Contender("mergerfs", ("mergerfs", "-f", "-o", _MERGERFS, "{source}", "{mountpoint}")),
        _rclone("off"),
        _rclone("full"),
    )
}
#: `auto` is one of the other two ways, whichever the dataset makes it.
DEFAULT = tuple(name for name in CONTENDERS if name != "symfuse-auto")
#: Slow peers would take minutes for a million files.
SCALE_DEFAULT = (LINKS, "symfuse-cached")


@contextlib.contextmanager
def serve(contender: Contender, tree: Tree, scratch: str) -> Iterator[Served]:
    """Mount a dataset for the length of a block, afresh. Errors: Failure."""
    if not contender.command:
        yield Served(tree.copy if contender.reads_copy else tree.dataset)
        return
    place = os.path.join(scratch, contender.name)
    mountpoint, log = os.path.join(place, "mnt"), os.path.join(place, "log")
    words = {"source": tree.dataset, "mountpoint": mountpoint, "scratch": os.path.join(place, "cache")}
    command = [word.format_map(words) for word in contender.command]
    server = (_Symfuse if contender.is_symfuse else _Peer)(command, mountpoint, log)
    os.makedirs(mountpoint)
    try:
        started = time.monotonic()
        server.start()
        _list(mountpoint)
        ready_s = time.monotonic() - started
        yield server.served(ready_s)
    finally:
        with INTERRUPTS.held():
            server.end()
            shutil.rmtree(place)


def _list(mountpoint: str) -> None:
    """The mount answers: its root can be listed. In a process of its own, which may hang in our place."""
    try:
        subprocess.run(
            ["ls", mountpoint],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=READY_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Failure("the mount does not answer") from None
    except subprocess.CalledProcessError as error:
        raise Failure(f"the mount cannot be listed: {_last_line(error.stderr)}") from None


def mounted(mountpoint: str) -> bool:
    """Whether something is mounted there. Source: proc_pid_mountinfo(5)."""
    wanted = os.fsencode(mountpoint).replace(b"\\", rb"\134").replace(b" ", rb"\040")
    with open("/proc/self/mountinfo", "rb") as lines:
        return any(line.split(b" ")[4] == wanted for line in lines)


def _last_line(text: bytes | str) -> str:
    lines = (text.decode(errors="replace") if isinstance(text, bytes) else text).strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@dataclass
class _Peer:
    """A server that stays our child, in a session of its own: Ctrl-C is for us, and we end it in order."""

    command: list[str]
    mountpoint: str
    log: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "wb") as log, INTERRUPTS.held():
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        # The kernel wakes whoever polls the table of mounts when it changes.
        with open("/proc/self/mountinfo", "rb") as table:
            changes = select.poll()
            changes.register(table, select.POLLERR | select.POLLPRI)
            while not mounted(self.mountpoint):
                if self.process.poll() is not None:
                    with open(self.log, "rb") as said:
                        raise Failure(f"{self.command[0]} ended: {_last_line(said.read())}")
                if time.monotonic() > deadline:
                    raise Failure(f"{self.command[0]} did not mount within {READY_TIMEOUT_S} s")
                changes.poll(20)  # only so that its end is seen, too

    def served(self, ready_s: float) -> Served:
        assert self.process is not None
        return Served(self.mountpoint, ready_s, self.process.pid)

    def end(self) -> None:
        unmount(self.mountpoint)
        if self.process is None:
            return
        try:
            self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@dataclass
class _Symfuse:
    """symfuse's own command, as users have it: it returns when the mount is ready."""

    command: list[str]
    mountpoint: str
    log: str
    _cost: Counter[str] = field(default_factory=Counter)
    _asked: int = 0

    def start(self) -> None:
        with INTERRUPTS.held():
            done = self._run(*self.command)
        if done.returncode != 0:
            raise Failure(_last_line(done.stderr))

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [sys.executable, "-m", "symfuse", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                cwd=REPOSITORY,
                timeout=READY_TIMEOUT_S,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"symfuse {arguments[0]} did not return within {READY_TIMEOUT_S} s") from None

    def served(self, ready_s: float) -> Served:
        return Served(self.mountpoint, ready_s, self._status()["pid"], self._ask)

    def _status(self) -> Message:
        """What `symfuse status` would print: asked from here, because starting a command takes longer than a walk."""
        try:
            status = live.status(unmounting.find(os.fsencode(self.mountpoint)))
        except SymfuseError as error:
            raise Failure(f"status: {error}") from error
        if "pid" not in status:
            raise Failure(f"status: the mount is {status['state']}")
        return status

    def _ask(self) -> Mapping[str, int]:
        """The requests so far, without those that asking costs itself: what a second question finds of the first."""
        if not self._cost:
            before: Counter[str] = Counter(self._status()["requests"])
            self._cost = Counter(self._status()["requests"])
            self._cost.subtract(before)
            self._asked = 2
        self._asked += 1
        said = self._status()["requests"]
        return {opcode: number - self._asked * self._cost[opcode] for opcode, number in said.items()}

    def end(self) -> None:
        if mounted(self.mountpoint):
            with contextlib.suppress(Failure):
                self._run("umount", "--", self.mountpoint)
        unmount(self.mountpoint)


def unmount(mountpoint: str) -> None:
    """Take a mount away, busy or dead; nothing if there is none."""
    tool = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    for options in ([], ["-l" if os.geteuid() == 0 else "-z"]):
        if not mounted(mountpoint):
            return
        subprocess.run([*tool, *options, "--", mountpoint], capture_output=True, check=False)
