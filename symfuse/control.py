"""What a live mount can be asked, and how the question travels: an ioctl on the mount's root directory.

An ioctl needs no socket, no state file and no name in the view; it works wherever the mount is visible (other
containers too) and ends with it. Requests and replies are one fixed-size buffer that begins with a JSON object and is
padded with NULs. Source: ioctl(2); `_IOC` in `asm-generic/ioctl.h`; restricted FUSE ioctls in `fs/fuse/ioctl.c`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from symfuse.errors import NotMounted, UsageError
from symfuse.explain import explain

if TYPE_CHECKING:
    from symfuse.counters import Counters
    from symfuse.view import View

#: The buffer's size: the most that a restricted ioctl can carry (`_IOC_SIZEBITS` is 14), rounded down to 8.
BUFFER_BYTES = (1 << 14) - 8


def _iowr(number: int) -> int:
    """`_IOWR('s', number, char[BUFFER_BYTES])`."""
    return (3 << 30) | (BUFFER_BYTES << 16) | (ord("s") << 8) | number


STATUS = _iowr(0x51)
WHY = _iowr(0x52)

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as JSON bytes. Names that are not UTF-8 travel as the bytes they are (surrogateescape)."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def decode(buffer: bytes | bytearray) -> Message:
    """The message in a NUL-padded buffer; an empty buffer is an empty message.

    Errors: ValueError for bytes that are no JSON object.
    """
    text = bytes(buffer).rstrip(b"\0").decode("utf-8", "surrogateescape")
    message = json.loads(text) if text else {}
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


class Control:
    """The server's side: answers the questions. Both FUSE adapters hold one."""

    def __init__(
        self,
        view: View,
        counters: Counters,
        *,
        backend: str,
        source: bytes,
        mountpoint: bytes,
        log: str | None = None,
    ) -> None:
        self.view = view
        self.counters = counters
        #: How content is read; a backend that knows another way puts its own answer here.
        self.io: Callable[[], str] = lambda: "cached"
        self._fixed: Message = {
            "source": os.fsdecode(source),
            "mountpoint": os.fsdecode(mountpoint),
            "backend": backend,
            "pid": os.getpid(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "uid": os.geteuid(),
            "log": log,
        }
        self._uid = os.geteuid()
        self._started_s = time.monotonic()

    def answer(self, command: int, payload: bytes, *, uid: int) -> bytes:
        """The reply to one ioctl, at most BUFFER_BYTES long.

        Errors: OSError ENOTTY for a command that is not ours, EACCES for a caller that is neither root nor the user
        who mounted (a reply names paths outside the view), EINVAL for a payload that is no message.
        """
        if command not in (STATUS, WHY):
            raise OSError(errno.ENOTTY, "not a symfuse ioctl")
        if uid not in (0, self._uid):
            raise OSError(errno.EACCES, "only root and the mount's owner may ask")
        if command == STATUS:
            return _fit_status(self.status())
        try:
            path = os.fsencode(decode(payload)["path"])
            if b"\0" in path:
                raise ValueError("no path holds a NUL")
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(errno.EINVAL, "malformed question") from error
        return _fit(explain(self.view, path).as_dict())

    def status(self) -> Message:
        """What `symfuse status` shows of a live mount."""
        return self._fixed | {
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "frozen": self.view.progress().as_dict(),
            "requests": self.counters.requests(),
            "io": self.io(),
            "bytes_read": self.counters.bytes_read(),
        }


def _fit_status(status: Message) -> bytes:
    """With as many examples of hidden entries as there is room for: paths may be long, the rest must get through."""
    examples: list[list[str]] = list(status["frozen"]["examples"].values())
    while any(examples) and len(encode(status)) > BUFFER_BYTES:
        max(examples, key=lambda paths: sum(map(len, paths))).pop()
    return _fit(status)


def _fit(message: Message) -> bytes:
    reply = encode(message)
    if len(reply) > BUFFER_BYTES:
        reply = encode({"error": "the answer does not fit into one ioctl"})
    return reply


def ask(mountpoint: bytes, command: int, **question: str) -> Message:
    """The client's side: one question to the mount at `mountpoint`, answered by its server.

    Errors: NotMounted when no symfuse server answers there (nothing mounted, another filesystem, a dead server);
    PermissionError when the mount is another user's; UsageError when the question is too long to be asked.
    """
    buffer = bytearray(encode(question))
    if len(buffer) > BUFFER_BYTES:
        raise UsageError("the path is too long for a mount to be asked about")
    buffer.extend(bytes(BUFFER_BYTES - len(buffer)))
    try:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, command, buffer)
        finally:
            os.close(fd)
    except PermissionError:
        raise
    except OSError as error:
        raise NotMounted(f"no symfuse server answers at {os.fsdecode(mountpoint)} ({error.strerror})") from error
    try:
        return decode(buffer)
    except ValueError as error:
        raise NotMounted(f"what answers at {os.fsdecode(mountpoint)} is no symfuse server") from error
