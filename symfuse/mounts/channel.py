"""How a mount is asked: through its root, or, where an overlay lies over it and passes no ioctl on, a socket.

The socket is in the place that the overlay's line in mountinfo names (`stack.py`). One packet is one question, the
next its answer: a number (the command, or an errno), and what `control.py` makes of it. A child process asks
(`probe.py`), because a server may hang.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time

from symfuse import control, owners
from symfuse.control import Control, Message
from symfuse.errors import NotMounted
from symfuse.mounts import bounded, probe, table
from symfuse.mounts.bounded import ANSWER_TIMEOUT_S, Report
from symfuse.mounts.table import MountEntry, State

_PACKET_BYTES = probe.NUMBER.size + control.BUFFER_BYTES
#: The least time for each of the rounds that a long answer takes.
ROUND_S = 1.0
#: What the kernel says of a mount whose server has ended.
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)

log = logging.getLogger(__name__)


class NoAnswer(NotMounted):
    """A mount whose server could not be asked. `state` says why, `path_hangs` that not even its path can be walked."""

    def __init__(self, mount: MountEntry, state: State, reason: str = "", *, path_hangs: bool = False) -> None:
        name = os.fsdecode(mount.mountpoint)
        super().__init__(f"the mount {name} is {state}: {reason or state.meaning}", state.cure)
        self.state = state
        self.reason = reason
        self.path_hangs = path_hangs


def ask(mount: MountEntry, command: int, *, timeout_s: float = ANSWER_TIMEOUT_S, **question: str) -> Message:
    """One question to a mount, answered by its server in this time. Errors: as `exchange` and `control.ask`."""
    until_s = time.monotonic() + timeout_s

    def in_time(what: int, payload: bytes) -> bytes:
        left_s = until_s - time.monotonic()
        if left_s < 0:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), mount.mountpoint)
        return exchange(mount, what, payload, timeout_s=max(left_s, ROUND_S))

    return control.ask(in_time, command, **question)


def exchange(mount: MountEntry, command: int, payload: bytes, *, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
    """One round with a mount's server: its reply, perhaps padded with NULs. Never hangs.

    A server that is neither root's nor the caller's is never asked: it could say anything.

    Errors: TimeoutError when the server does not respond; PermissionError when it answers other users alone;
    NoAnswer when it is not asked: dead, hidden, unreachable, another's; any other OSError is the server's own answer.
    """
    if not table.is_trusted(mount):
        raise NoAnswer(mount, State.ANOTHER_USER, f"it is another user's (uid {table.owner(mount)})")
    listener = (mount.place, ",".join(map(str, owners.trusted_uids())).encode()) if mount.place else ()
    try:
        reports = bounded.ask(
            probe.EXCHANGE,
            *(mount.mountpoint, str(mount.mount_id), str(command), *listener),
            payload=payload,
            timeout_s=timeout_s,
        )
    except OSError as error:
        raise NoAnswer(mount, State.UNREACHABLE, f"no process can ask it ({error.strerror})") from error
    return _reply(mount, reports)


def _reply(mount: MountEntry, reports: list[Report]) -> bytes:
    """What the probe's reports mean. Errors: as `exchange`."""
    was_walked = any(report.kind == probe.WALKED for report in reports)
    last = reports[-1] if reports else None
    if last is None:
        raise NoAnswer(mount, State.UNREACHABLE, "a file system on the way to it hangs", path_hangs=True)
    if last.kind == probe.ANSWER:
        return last.text
    if last.kind == probe.WALKED:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), mount.mountpoint)
    if last.kind == probe.OTHER:
        raise NoAnswer(mount, State.HIDDEN)
    if last.kind == probe.NO_LISTENER:
        raise NoAnswer(mount, State.UNREACHABLE)
    if not was_walked:
        raise NoAnswer(mount, State.UNREACHABLE, f"its path cannot be walked ({last.error.strerror})")
    if last.error.errno in DEAD:
        raise NoAnswer(mount, State.DEAD)
    raise last.error


def listening_at(place: bytes) -> bytes:
    """The address of the socket of a stacked mount."""
    return os.path.join(place, probe.SOCKET)


class Listener:
    """Answers what is asked through the socket, each question in a thread of its own: one may wait for the dataset."""

    def __init__(self, place: bytes, answerer: Control) -> None:
        self._control = answerer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(listening_at(place))
        self._socket.listen()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def close(self) -> None:
        """Listen no longer."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), name="answer", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                question = connection.recv(_PACKET_BYTES)
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, probe.CREDENTIALS.size)
                _pid, uid, _gid = probe.CREDENTIALS.unpack(credentials)
                connection.send(self._answer(question, uid))
            except OSError as error:  # whoever asked is gone
                log.debug("a question was not answered: %s", error)

    def _answer(self, question: bytes, uid: int) -> bytes:
        try:
            if len(question) < probe.NUMBER.size:
                raise OSError(errno.EINVAL, "no question")
            (command,) = probe.NUMBER.unpack_from(question)
            return probe.NUMBER.pack(0) + self._control.answer(command, question[probe.NUMBER.size :], uid=uid)
        except OSError as error:
            return probe.NUMBER.pack(error.errno or errno.EIO)
        except Exception:
            log.exception("a question was not answered")
            return probe.NUMBER.pack(errno.EIO)
