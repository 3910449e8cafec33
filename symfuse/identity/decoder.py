"""A worker process seen from the process that started it: feed it files, outlive it, replace it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from symfuse import child
from symfuse.errors import FuseUnavailable
from symfuse.identity.reason import Reason, is_finding, refusal
from symfuse.identity.verdict import Verdict, finding
from symfuse.identity.worker import EXAMINE, NUMBER_BYTES, READY, STARVED
from symfuse.policy import Judge

COMMAND = child.command("symfuse.identity.worker")
#: Files that a worker has been given ahead, so that it never waits for us.
WINDOW = 4
#: How long one file may take by the clock. CPU time ends before that, so it is storage that does not answer.
WALL_S = 180.0
#: How long a worker may take to start.
START_S = 60.0
#: How often a wait looks whether to stop.
TICK_S = 0.1
#: How long a killed worker may take to be gone before somebody else waits for it.
REAP_S = 1.0

#: Workers that one file may end. A second chance, because an earlier file may have spoiled the first one's memory.
MAX_DEATHS = 2

#: Ends of a worker that speak against the file: faults of a decoder, and our limit on its CPU time. Any other signal
#: comes from outside, or from storage (SIGBUS: a mapped file that cannot be read).
FAULTS = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL, -signal.SIGTRAP, -signal.SIGXCPU)

#: More than the longest message of a worker.
MESSAGE_BYTES = 1024
#: glibc and Pillow else hand memory back to the kernel after each image and fetch it again for the next. Measured, on
#: 25 KB JPEGs: 0.4 ms an image instead of 0.8.
MEMORY_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "PILLOW_BLOCKS_MAX": "1",
}

log = logging.getLogger(__name__)


class Decoder:
    """One worker at a time, replaced when it dies. For one thread; `with` ends the worker, whatever it is doing.

    Errors: FuseUnavailable when a worker cannot be started, as in `examine`.
    """

    def __init__(
        self, *, command: Sequence[str] = COMMAND, wall_s: float = WALL_S, judge: Judge = Judge.PILLOW
    ) -> None:
        self._command = command
        self._judge = judge
        self._wall_s = wall_s
        self._start()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._end()

    @property
    def pid(self) -> int:
        """Of the worker at present."""
        return self._process.pid

    def examine(self, fds: Iterable[int], is_stopped: Callable[[], bool]) -> Iterator[bytes]:
        """A finding for each open file, in order; ends early once `is_stopped`.

        A descriptor must stay open until its finding is there. A file that ends two workers is BROKEN; UNKNOWN if they
        were killed from outside (when the machine's memory ended, say) or had less memory or CPU time than ours may
        take, if it took too long by the clock, or if they said anything but a finding on it, which ends them, too.

        Errors: FuseUnavailable when a worker does not start.
        """
        rest = iter(fds)
        flying: deque[int] = deque()
        deaths = 0
        while not is_stopped():
            for fd in itertools.islice(rest, WINDOW - len(flying)):
                flying.append(fd)
                self._send(fd)
            if not flying:
                return
            message = self._receive(is_stopped)
            if message is None:
                return
            if not self._is_ready and message.startswith(READY):
                self._note_ready(message[len(READY) :])
                continue
            reply = self._finding(message)
            if reply is None:
                verdict = self._replace()
                deaths += 1
                if deaths < MAX_DEATHS:
                    self._send(*flying)
                    continue
                reply = refusal(verdict, Reason.DEADLY) if verdict is Verdict.BROKEN else finding(verdict)
                self._send(*itertools.islice(flying, 1, None))
            deaths = 0
            flying.popleft()
            yield reply

    def _send(self, *fds: int) -> None:
        with contextlib.suppress(ConnectionError):  # the worker has died, as the next receive will tell
            for fd in fds:
                number = os.urandom(NUMBER_BYTES)  # not to be guessed before it comes
                self._numbers.append(number)
                try:
                    socket.send_fds(self._socket, [EXAMINE + number], [fd])
                except ConnectionError:
                    raise
                except OSError:  # too many descriptors are under way; the worker answers that it got none
                    self._socket.send(EXAMINE + number)

    def _note_ready(self, said: bytes) -> None:
        self._is_ready = True
        self._is_starved = said.startswith(STARVED)
        _log_once(said[1:].decode("utf-8", "replace"), is_starved=self._is_starved)

    def _finding(self, message: bytes) -> bytes | None:
        """The finding on the first file that has none yet; None when the worker is dead, which other messages make it.

        What decodes hostile files may send anything. A reply that nobody asked for would count for the next file.
        """
        number, reply = message[:NUMBER_BYTES], message[NUMBER_BYTES:]
        is_asked_for = self._is_ready and number == self._numbers[0]
        if is_asked_for and is_finding(reply):
            self._numbers.popleft()
            return reply
        if message:
            log.debug("the worker that decodes images said what it must not")
            self._process.kill()
        return None

    def _receive(self, is_stopped: Callable[[], bool]) -> bytes | None:
        """The next message; empty when the worker has died, of its own or for being late; None once `is_stopped`."""
        deadline = time.monotonic() + (self._wall_s if self._is_ready else START_S)
        while not is_stopped():
            try:
                return self._socket.recv(MESSAGE_BYTES)
            except ConnectionError:
                continue  # it has died; the kernel says so once, ahead of what it had still sent
            except TimeoutError:
                if time.monotonic() > deadline:
                    self._process.kill()
                    return b""
        return None

    def _start(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise _does_not_start(error) from error
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno()), self._judge],
                    stdin=subprocess.PIPE,  # nothing is ever written: see worker._die_with_parent
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a Ctrl-C is for us
                )
            except OSError as error:
                ours.close()
                raise _does_not_start(error) from error
        self._socket = ours
        self._socket.settimeout(TICK_S)
        self._is_ready = self._is_starved = False
        self._numbers: deque[bytes] = deque()  # of requests without an answer

    def _replace(self) -> Verdict:
        """A new worker for a dead one; what that death says of the file. Errors: FuseUnavailable."""
        status = self._end()
        log.debug("the worker that decodes images ended with status %s", status)
        if not self._is_ready:
            raise _does_not_start(f"status {status}")
        is_the_files = status is not None and (status > 0 or status in FAULTS) and not self._is_starved
        self._start()
        return Verdict.BROKEN if is_the_files else Verdict.UNKNOWN

    def _end(self) -> int | None:
        """Wait for a worker that is about to end; its status, None if that takes too long."""
        assert self._process.stdin is not None
        self._socket.close()
        try:
            return self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:  # killed while it waits for storage that does not answer
            self._process.kill()
            threading.Thread(target=self._process.wait, name="symfuse-reaper", daemon=True).start()
            return None
        finally:
            self._process.stdin.close()


def _does_not_start(why: object) -> FuseUnavailable:
    return FuseUnavailable(
        f"the process that decodes images does not start ({why})",
        "see what it wrote to the log, and raise ulimit -n, -u or -v if it is low",
    )


@functools.cache
def _log_once(confinement: str, *, is_starved: bool) -> None:
    log.info("images are decoded by processes with %s", confinement)
    if is_starved:
        log.info("their memory or CPU time is limited from outside (ulimit -v, -d, -t): large images may stay unread")


def _environment() -> dict[str, str]:
    """A worker must find the same packages and libraries as we did, and is told nothing else."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | MEMORY_VARIABLES | child.needed_environment()
