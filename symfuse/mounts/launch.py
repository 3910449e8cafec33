"""Start a server process, follow its progress, and know when its mount is ready."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO

from symfuse import child, directories
from symfuse.control import Message
from symfuse.errors import ExitStatus, FuseUnavailable, SymfuseError, raised_elsewhere
from symfuse.mounts import table, unmount
from symfuse.mounts.protocol import DETACH
from symfuse.mounts.request import MountRequest
from symfuse.mounts.table import MountEntry
from symfuse.mounts.unmount import END_TIMEOUT_S

#: A log that has grown beyond this starts anew with the next mount.
MAX_LOG_BYTES = 1 << 20
#: How much of the end of a dead server's log is looked at.
LOG_END_BYTES = 4096

#: How long a server that is not ready yet may take to give up.
ABORT_TIMEOUT_S = 2.0

OnProgress = Callable[[Message], None]


class Listener:
    """Hears what a server says after its mount is ready: that the whole dataset is frozen.

    Its thread takes no signals, which are meant for others, and ends with the server's pipe.
    """

    def __init__(self, messages: IO[bytes]) -> None:
        self._messages = messages
        self._frozen: Message | None = None
        self._on_frozen: OnProgress | None = None
        self._lock = threading.Lock()  # guards both of these
        self._heard = threading.Event()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=self._listen, name="symfuse-listener", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, timeout_s: float) -> Message | None:
        """What is frozen and hidden, all of it; None where that is not known in time."""
        self._heard.wait(timeout_s)
        return self._frozen

    def tell(self, on_frozen: OnProgress) -> None:
        """Call `on_frozen` as soon as all is frozen: now, or in the listening thread."""
        with self._lock:
            frozen = self._frozen
            if frozen is None:
                self._on_frozen = on_frozen
        if frozen is not None:
            on_frozen(frozen)

    def _listen(self) -> None:
        with self._messages as messages, contextlib.suppress(OSError, ValueError):
            for line in messages:
                message = json.loads(line)
                if message["event"] == "frozen":
                    with self._lock:
                        self._frozen = dict(message["frozen"])
                    if self._on_frozen is not None:
                        self._on_frozen(self._frozen)
                    break
        self._heard.set()


@dataclass
class ServerProcess:
    """The process behind a mount that is ready. It ends the mount when this process dies, or closes `stdin`."""

    process: subprocess.Popen[bytes]
    request: MountRequest
    ready: Message
    listener: Listener
    owner: int = field(default_factory=os.getpid)  # the process that started it, which a fork of it is not

    @property
    def frozen(self) -> Message:
        """What was frozen when the mount became ready (`Progress.as_dict`)."""
        return dict(self.ready["frozen"])

    def mount(self) -> MountEntry | None:
        """The mount as it is now; None when it is gone. Another one at its mountpoint is not meant."""
        if self.process.poll() == ExitStatus.OK:  # the kernel gives its numbers to the next mount
            return None
        known = (self.ready.get("mount_id"), self.ready.get("device"))
        ours = (mount for mount in table.symfuse_mounts() if mount.source == self.request.source)
        return next((mount for mount in ours if (mount.mount_id, mount.device) == known), None)

    def death(self) -> SymfuseError | None:
        """What is to be said of a server that did not end well; None while it lives, and in a fork of who started it.

        A server ends well when its mount is gone, whoever unmounted it.
        """
        if os.getpid() != self.owner or (status := self.process.poll()) in (None, ExitStatus.OK):
            return None
        cure = "run it again: what was read of the mount since may be a part of the dataset"
        return SymfuseError(_how_it_ended(self.request, status), cure)

    def detach(self) -> None:
        """Let the mount outlive this process. Errors: BrokenPipeError when the server has ended."""
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(DETACH)
        self.process.returncode = 0  # or Python warns that it still runs, which is what was asked for

    def stop(self, *, timeout_s: float = END_TIMEOUT_S) -> bool:
        """Have the server unmount (lazily if busy) and end; False when it still serves the mount's users."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # It may have to serve for hours yet; when it ends, somebody must take note.
            threading.Thread(target=self.process.wait, name="symfuse-reaper", daemon=True).start()
            return False
        return True


def launch(
    request: MountRequest,
    *,
    in_background: bool = False,
    on_progress: OnProgress = lambda _frozen: None,
    on_note: Callable[[str], None] = lambda _note: None,
) -> ServerProcess:
    """Start the server of a mount; returns when the mount answers. `on_progress` hears `Progress.as_dict()`.

    `in_background` sends the log to a file instead of our stderr, and the mount then outlives this process; `on_note`
    hears why the log is not where it belongs.

    Errors: SymfuseError of the kind the server met. Whatever is raised, KeyboardInterrupt too: no mount is left.
    """
    log: IO[bytes] | None = None
    if in_background:
        log, request = _open_log(request, on_note)
    with log or contextlib.nullcontext():
        process, messages = _start(request, log)
        try:
            ready = _wait_until_ready(process, messages, request, log, on_progress)
            server = ServerProcess(process, request, ready, Listener(messages))
            if in_background:
                try:
                    server.detach()
                except BrokenPipeError:
                    raise _ended_too_early(process, request, log) from None
        except BaseException:
            _abort(process, request.mountpoint)
            raise
    return server


def _start(request: MountRequest, log: IO[bytes] | None) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """The server's process, and what it says. Errors: FuseUnavailable."""
    try:
        with _pipe() as (messages, theirs):
            process = subprocess.Popen(
                [*child.command("symfuse.mounts.serve"), str(theirs), request.mountpoint],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # whatever Python is set up to run may print, before the server's code does
                stderr=log,
                cwd="/",
                env=child.environment(),
                pass_fds=[theirs],
                start_new_session=True,
            )
    except OSError as error:
        cure = "raise ulimit -n, -u or -v if it is low; in a program that runs Python as a library, use symfuse mount"
        raise FuseUnavailable(f"the server process cannot be started ({error})", cure) from error
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # dead already; its log says why
        process.stdin.write(request.to_json())
        process.stdin.flush()
    return process, messages


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], int]]:
    """Our end, which is closed if anything fails, and the end that a child is given."""
    readable, writable = os.pipe()
    messages = open(readable, "rb")  # noqa: SIM115 - the caller's, unless something fails
    try:
        with open(writable, "wb"), open(fcntl.fcntl(writable, fcntl.F_DUPFD_CLOEXEC, 3), "wb") as theirs:
            yield messages, theirs.fileno()  # not 0, 1 or 2, if ours are closed: a child's own come to lie there
    except BaseException:
        messages.close()
        raise


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    messages: IO[bytes],
    request: MountRequest,
    log: IO[bytes] | None,
    on_progress: OnProgress,
) -> Message:
    """The message of a mount that became ready; `messages` is closed otherwise. Errors: SymfuseError."""
    with contextlib.ExitStack() as unless_ready:
        unless_ready.enter_context(messages)
        for line in messages:
            message = json.loads(line)
            if message["event"] == "error":
                raise raised_elsewhere(message["status"], message["cause"], message["cure"])
            if message["event"] == "ready":
                unless_ready.pop_all()  # there is more to come
                return dict(message)
            on_progress(message["frozen"])
    raise _ended_too_early(process, request, log)


def _ended_too_early(process: subprocess.Popen[bytes], request: MountRequest, log: IO[bytes] | None) -> SymfuseError:
    return SymfuseError(_how_it_ended(request, process.wait()), _last_line(log))


def _how_it_ended(request: MountRequest, status: int) -> str:
    how = f"ended too early (status {status})"
    if status < 0:
        with contextlib.suppress(ValueError):  # a real-time signal has no name
            how = f"was killed ({signal.Signals(-status).name})"
    return f"the server of {os.fsdecode(request.mountpoint)} {how}"


def _abort(process: subprocess.Popen[bytes], mountpoint: bytes) -> None:
    """Leave nothing: the server unmounts what it mounted; a stuck one is killed, and a dead mount is cleared."""
    with contextlib.suppress(BrokenPipeError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(ABORT_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
    unmount.clear_dead(mountpoint)


def _open_log(request: MountRequest, on_note: Callable[[str], None]) -> tuple[IO[bytes], MountRequest]:
    """The file that the server's stderr goes to, and the request that names it.

    It is in the user's state directory, if that can be written and nobody else can change it, else among the temporary
    files, else in memory only. `on_note` hears of a directory that is not used because somebody else can change it.
    """
    refusals: list[directories.NotOurs] = []
    log, path = _log_file(request.mountpoint, refusals)
    if refusals:
        on_note(f"the log is {path or 'not kept'}: {refusals[0].strerror}")
    return log, replace(request, log=path)


def _log_file(mountpoint: bytes, refusals: list[directories.NotOurs]) -> tuple[IO[bytes], str | None]:
    for directory in directories.logs():
        try:
            fd, path = _own_log(directories.made(directory), mountpoint)
        except directories.NotOurs as refusal:
            refusals.append(refusal)
        except OSError:
            continue
        else:
            return os.fdopen(fd, "a+b"), path
    with contextlib.suppress(OSError):
        fd, path = tempfile.mkstemp(prefix="symfuse-", suffix=".log", dir=directories.temporary())
        return os.fdopen(fd, "a+b"), path
    with contextlib.suppress(AttributeError, OSError):  # Python or the kernel may not know memfd_create
        return os.fdopen(os.memfd_create("symfuse-log"), "a+b"), None
    return open(os.devnull, "r+b"), None


def _own_log(directory: str, mountpoint: bytes) -> tuple[int, str]:
    """One log for each mountpoint, so that what a dead server wrote is still there after the next mount."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", os.fsdecode(mountpoint)).strip("-.")[-80:]
    path = os.path.join(directory, f"{readable}-{hashlib.sha256(mountpoint).hexdigest()[:8]}.log")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or (status.st_uid, status.st_nlink) != (os.geteuid(), 1):  # planted here
        os.close(fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if status.st_size > MAX_LOG_BYTES:
        os.ftruncate(fd, 0)
    return fd, path


def _last_line(log: IO[bytes] | None) -> str:
    """What a server that died without a word said last: an exception, as a rule."""
    if log is None:
        return "see what it wrote above"
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - LOG_END_BYTES))
    lines = log.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
