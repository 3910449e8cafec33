"""What was opened is read, and proved to be what was frozen."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict

from symfuse.source.identity import Identity

#: Idle descriptors of sources kept open between reads.
MAX_IDLE_SOURCES = 64


def verify(fd: int, identity: Identity) -> None:
    """Errors: OSError ESTALE when `fd` is not, or no longer, the file that was frozen."""
    changed = identity.change(Identity.of(os.fstat(fd)))
    if changed:
        raise OSError(errno.ESTALE, f"source changed: {changed}")


def read(fd: int, size: int, offset: int, identity: Identity) -> bytes:
    """Exactly `size` bytes at `offset`, of the file that was frozen and of no other.

    Verified after reading, not before: so the check covers a change that happens meanwhile, too.

    Errors: OSError; ESTALE when the file changed, EIO when it ends early although it did not change.
    """
    try:
        data = os.pread(fd, size, offset)
        while len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
    finally:
        verify(fd, identity)  # what became a directory or a fifo cannot be read at all, and is stale, too
    if len(data) < size:
        raise OSError(errno.EIO, "source ends before its size")
    return data


class IdleSources:
    """Descriptors kept open between the reads of one large file, oldest closed first.

    A descriptor is taken out while it is used, so nobody can close it meanwhile; a second reader opens its own.
    """

    def __init__(self, limit: int = MAX_IDLE_SOURCES) -> None:
        self._limit = limit
        self._fds: OrderedDict[int, int] = OrderedDict()  # nodeid -> fd, guarded by _lock
        self._lock = threading.Lock()

    def take(self, nodeid: int) -> int | None:
        """The idle descriptor of a node, which is then the caller's."""
        with self._lock:
            return self._fds.pop(nodeid, None)

    def give(self, nodeid: int, fd: int) -> None:
        """Hand a descriptor back; it may be closed at once."""
        with self._lock:
            surplus = self._fds.pop(nodeid, None)
            self._fds[nodeid] = fd
            if surplus is None and len(self._fds) > self._limit:
                surplus = self._fds.popitem(last=False)[1]
        if surplus is not None:
            os.close(surplus)

    def close(self) -> None:
        """Close them all. More may be handed back afterwards."""
        with self._lock:
            fds = list(self._fds.values())
            self._fds.clear()
        for fd in fds:
            os.close(fd)
