"""How a mount is asked: through its root, or, where an overlay lies over it and passes no ioctl on, a socket.

The socket is in the place that the overlay's line in mountinfo names (`stack.py`). One packet is one question, the
next its answer: a number (the command, or an errno), and what `control.py` makes of it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import threading

from symfuse import control
from symfuse.control import Control, Message
from symfuse.errors import NotMounted
from symfuse.mounts import table
from symfuse.mounts.table import MountEntry

_NUMBER = struct.Struct("<I")
_PACKET_BYTES = _NUMBER.size + control.BUFFER_BYTES
#: `struct ucred`: pid, uid, gid. Source: unix(7).
_CREDENTIALS = struct.Struct("<3i")

log = logging.getLogger(__name__)


def ask(mount: MountEntry, command: int, *, timeout_s: float = table.ANSWER_TIMEOUT_S, **question: str) -> Message:
    """One question to a mount, answered by its server; `timeout_s` is the limit of each round.

    Errors: as `control.ask` and `exchange`.
    """
    return control.ask(lambda what, payload: exchange(mount, what, payload, timeout_s=timeout_s), command, **question)


def exchange(mount: MountEntry, command: int, payload: bytes, *, timeout_s: float) -> bytes:
    """One round with a mount's server.

    Errors: NotMounted when no server of ours answers there; PermissionError when the mount is another user's;
    TimeoutError.
    """
    carry = _through_root if mount.place is None else _through_socket
    try:
        return table.patiently(lambda: carry(mount, command, payload), timeout_s=timeout_s)
    except (PermissionError, TimeoutError):
        raise
    except OSError as error:
        name = os.fsdecode(mount.mountpoint)
        if mount.place is None:
            raise NotMounted(f"no symfuse server answers at {name} ({error.strerror})") from error
        raise NotMounted(f"the server of {name} cannot be asked from here", "ask where it was mounted") from error


def _through_root(mount: MountEntry, command: int, payload: bytes) -> bytes:
    """An ioctl on the mount's root directory. Errors: OSError."""
    buffer = bytearray(payload.ljust(control.BUFFER_BYTES, b"\0"))
    fd = os.open(mount.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, command, buffer)
    finally:
        os.close(fd)
    return bytes(buffer)


def _through_socket(mount: MountEntry, command: int, payload: bytes) -> bytes:
    """A packet to the socket of a stacked mount. Errors: OSError."""
    assert mount.place is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address(mount.place))
        connection.send(_NUMBER.pack(command) + payload)
        reply = connection.recv(_PACKET_BYTES)
    if len(reply) < _NUMBER.size:
        raise ConnectionResetError(errno.ECONNRESET, "the server ended")
    (number,) = _NUMBER.unpack_from(reply)
    if number:
        raise OSError(number, os.strerror(number))
    return reply[_NUMBER.size :]


def address(place: bytes) -> bytes:
    """Where the server of a stacked mount listens."""
    return os.path.join(place, b"control")


class Listener:
    """Answers what is asked through the socket, each question in a thread of its own: one may wait for the dataset."""

    def __init__(self, place: bytes, answerer: Control) -> None:
        self._control = answerer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(address(place))
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
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
                connection.send(self._answer(question, uid))
            except OSError as error:  # whoever asked is gone
                log.debug("a question was not answered: %s", error)

    def _answer(self, question: bytes, uid: int) -> bytes:
        try:
            if len(question) < _NUMBER.size:
                raise OSError(errno.EINVAL, "no question")
            (command,) = _NUMBER.unpack_from(question)
            return _NUMBER.pack(0) + self._control.answer(command, question[_NUMBER.size :], uid=uid)
        except OSError as error:
            return _NUMBER.pack(error.errno or errno.EIO)
        except Exception:
            log.exception("a question was not answered")
            return _NUMBER.pack(errno.EIO)
