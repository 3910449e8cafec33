"""System calls on real paths: they follow no link, whatever stands on the way by now, and take paths of any length.

A real path is absolute, tidy, and was free of links when it was found. Whoever may write to the dataset can put a link
in the place of a directory later; a path walk of the kernel's would then open whatever the link names.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

#: Source: limits.h; it counts the closing NUL.
PATH_MAX = 4096
#: To look at something without opening it: a FIFO or a device notices nothing. Source: O_PATH in open(2).
LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: The same for a directory, to begin further walks there.
LOOK_INTO = LOOK | os.O_DIRECTORY
#: To read what was looked at.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOATIME
#: What tells of a link where a directory was: of openat2(2), and of a walk step by step.
NOT_REAL = frozenset({errno.ELOOP, errno.ENOTDIR})

#: The same number everywhere but on Alpha and MIPS, where this one fails. Source: asm-generic/unistd.h
_OPENAT2 = 437
#: `struct open_how`: flags, mode, resolve; RESOLVE_NO_MAGICLINKS and RESOLVE_NO_SYMLINKS. Source: linux/openat2.h
_OPEN_HOW = struct.Struct("=QQQ")
_NO_LINKS = 0x02 | 0x04
_AT_FDCWD = -100
#: Long paths are walked in pieces of this many bytes at most; each piece is walked again for all that lies below it.
_PIECE_BYTES = 1024
#: Directories at the ends of pieces that are kept open.
_KEPT = 64

T = TypeVar("T")


class Opener(Protocol):
    """open(2) of a real path, or of a name in the directory `dir_fd`; `flags` must hold O_NOFOLLOW.

    A link is opened where it is the last name and `flags` hold O_PATH.

    Errors: OSError: ELOOP or ENOTDIR where a link stands on the way.
    """

    def __call__(self, path: bytes, flags: int, dir_fd: int | None = None) -> int: ...


@functools.cache
def opener() -> Opener:
    """How paths are opened here: by openat2(2), or step by step.

    Linux before 5.6 has no openat2, the seccomp profile of a container may refuse it, and Python may lack ctypes.
    """
    try:
        by_kernel = _by_kernel()
        os.close(by_kernel(b"/", LOOK_INTO))
    except (ImportError, AttributeError, OSError):
        return step_by_step
    return by_kernel


def _by_kernel() -> Opener:
    """openat2(2). It is on the path of every read, hence everything that can be prepared is: 0.5 µs beside os.open.

    Arguments of their C types spare ctypes a conversion, which `argtypes` would cost at each call. Errors: ImportError,
    AttributeError and OSError where this Python cannot call libc.
    """
    import ctypes  # noqa: PLC0415 - some Pythons lack it

    syscall, get_errno, c_long = ctypes.CDLL(None, use_errno=True).syscall, ctypes.get_errno, ctypes.c_long
    number, here, size = c_long(_OPENAT2), c_long(_AT_FDCWD), c_long(_OPEN_HOW.size)
    hows: dict[int, Any] = {}  # by flags

    def openat2(path: bytes, flags: int, dir_fd: int | None = None) -> int:
        how = hows.get(flags)
        if how is None:
            how = hows[flags] = ctypes.create_string_buffer(_OPEN_HOW.pack(flags, 0, _NO_LINKS), _OPEN_HOW.size)
        if b"\0" in path:
            raise ValueError("embedded null byte")  # as os.open does
        fd: int = -1
        while fd < 0:
            fd = syscall(number, here if dir_fd is None else c_long(dir_fd), path, how, size)
            if fd < 0 and (error := get_errno()) != errno.EINTR:
                raise OSError(error, os.strerror(error), path)
        return fd

    return openat2


def step_by_step(path: bytes, flags: int, dir_fd: int | None = None) -> int:
    """As `Opener` says, by one openat(2) for each name of the path."""
    *directories, name = path.split(b"/")
    fd = os.open(b"/" if path.startswith(b"/") else b".", LOOK_INTO, dir_fd=dir_fd)
    try:
        for each in filter(None, directories):
            deeper = os.open(each, LOOK_INTO, dir_fd=fd)
            os.close(fd)
            fd = deeper
        return os.open(name or b".", flags, dir_fd=fd)
    finally:
        os.close(fd)


class RealPaths:
    """Calls on real paths of any length. Safe to use from several threads.

    `open` never follows a link. `lstat` and `readlink` open nothing, so they walk through a link that stands on the way
    by now, which takes a third of the time; `strict` ones never do.

    A long path is walked a piece at a time. Directories at the ends of pieces are kept open, for each is on the path of
    all that lies below it: walking each path from the root would be quadratic. `strict` ones, which may have been moved
    since, are not kept.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._open = opener()
        self._kept: OrderedDict[bytes, int] = OrderedDict()  # path -> descriptor, under _lock
        self._lock = threading.Lock()

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor, the caller's, of a directory, or of anything with LOOK. Errors: as `Opener`."""
        flags |= os.O_NOFOLLOW
        return self._open(path, flags) if len(path) < PATH_MAX else self._call(self._open, path, flags)

    def open_unnoticed(self, path: bytes, flags: int) -> int:
        """The same, leaving no access time behind where the user may ask for that."""
        try:
            return self.open(path, flags | os.O_NOATIME)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            return self.open(path, flags)

    def lstat(self, path: bytes) -> os.stat_result:
        """What lies there, a link included. Errors: OSError; as `Opener` where `strict`."""
        return self.strict_lstat(path) if self._strict else self._call(os.lstat, path)

    def strict_lstat(self, path: bytes) -> os.stat_result:
        """What lies at the real path and nowhere else, a link included. Errors: as `Opener`."""
        fd = self.open(path, LOOK)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, path: bytes) -> bytes:
        """The text of a link. Errors: OSError: EINVAL for what is no link; as `Opener` where `strict`."""
        text: bytes
        if not self._strict:
            text = self._call(os.readlink, path)
            return text
        fd = self.open(path, LOOK)
        try:
            text = os.readlink(b"", dir_fd=fd)
            return text
        except FileNotFoundError as error:  # how the kernel says it of an empty path
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from error
        finally:
            os.close(fd)

    def _call(self, function: Callable[..., T], path: bytes, *args: Any) -> T:
        """`function(path, *args)` for one that takes a `dir_fd`. Errors: OSError."""
        if len(path) < PATH_MAX:
            return function(path, *args)
        fd, rest = self._walk(path)
        try:
            return function(rest, *args, dir_fd=fd)
        finally:
            os.close(fd)

    def _walk(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor, the caller's, of a directory on an absolute path, and the short rest of the path."""
        ends = _ends(path)
        fd, walked = self._deepest(path, ends)
        for end in (each for each in ends if each > walked):
            try:
                deeper = self._open(path[walked:end].lstrip(b"/"), LOOK_INTO, fd)
            finally:
                os.close(fd)
            fd, walked = deeper, end
            self._keep(path[:end], fd)
        return fd, path[walked + 1 :]

    def _deepest(self, path: bytes, ends: list[int]) -> tuple[int, int]:
        """A descriptor of the deepest directory that is kept, and where its path ends."""
        with self._lock:
            for end in reversed(ends):
                kept = self._kept.get(path[:end])
                if kept is not None:
                    self._kept.move_to_end(path[:end])
                    return os.dup(kept), end
        return os.open(b"/", LOOK_INTO), 0

    def _keep(self, path: bytes, fd: int) -> None:
        if self._strict:
            return
        with self._lock, contextlib.suppress(OSError):  # without a descriptor to spare it is walked again
            if path not in self._kept:
                self._kept[path] = os.dup(fd)
            if len(self._kept) > _KEPT:
                os.close(self._kept.popitem(last=False)[1])

    def close(self) -> None:
        """Let go of all directories."""
        with self._lock:
            while self._kept:
                os.close(self._kept.popitem()[1])


def reopened(fd: int) -> int:
    """What a descriptor of `LOOK` has found, opened for reading; the caller's to close. Waits for no FIFO or lease.

    By way of /proc, which nothing of symfuse's works without. Errors: OSError.
    """
    path = b"/proc/self/fd/%d" % fd
    try:
        return os.open(path, _READ)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(path, _READ & ~os.O_NOATIME)  # somebody else's file: O_NOATIME is for owners


def _ends(path: bytes) -> list[int]:
    """Where the pieces of a long path end; those of a path below it end at the same places. Errors: OSError."""
    ends, start = [], 0
    while len(path) - start >= _PIECE_BYTES:
        end = path.rfind(b"/", start + 1, start + _PIECE_BYTES)
        if end < 0:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        ends.append(end)
        start = end + 1
    return ends
