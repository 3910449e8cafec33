"""System calls on paths that are longer than the kernel takes."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

#: Source: limits.h; it counts the closing NUL.
PATH_MAX = 4096
#: Long paths are walked in pieces of this many bytes at most; each piece is walked again for all that lies below it.
_PIECE_BYTES = 1024
#: Directories at the ends of pieces that are kept open.
_KEPT = 64

T = TypeVar("T")


class LongPaths:
    """Calls functions with paths of any length. Safe to use from several threads.

    A long path is walked a piece at a time. Directories at the ends of pieces are kept open, for each is on the path of
    all that lies below it: walking each path from the root would be quadratic.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, int] = OrderedDict()  # path -> descriptor, under _lock
        self._lock = threading.Lock()

    def call(self, function: Callable[..., T], path: bytes, *args: Any) -> T:
        """`function(path, *args)` for os.open, os.lstat or os.readlink. Errors: OSError."""
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
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        for end in (each for each in ends if each > walked):
            try:
                deeper = os.open(path[walked:end].lstrip(b"/"), flags, dir_fd=fd)
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
        return os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), 0

    def _keep(self, path: bytes, fd: int) -> None:
        with self._lock:
            if path not in self._kept:
                self._kept[path] = os.dup(fd)
            if len(self._kept) > _KEPT:
                os.close(self._kept.popitem(last=False)[1])

    def close(self) -> None:
        """Let go of all directories."""
        with self._lock:
            while self._kept:
                os.close(self._kept.popitem()[1])


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
