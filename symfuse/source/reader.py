"""What was opened is read, and proved to be what was frozen."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict

from symfuse.source import fresh
from symfuse.source.identity import Identity
from symfuse.source.volumes import Volumes

#: Idle descriptors of sources kept open between reads.
MAX_IDLE_SOURCES = 64
#: Seconds after which one that nobody took is closed.
IDLE_S = 5.0


def found(fd: int, volumes: Volumes) -> Identity:
    """What a descriptor has open, as it is now.

    The kernel knows that of the file systems whose numbers count, and remembers what it was once told by the others.
    Errors: OSError.
    """
    status = os.fstat(fd)
    return Identity.of(status) if volumes.has_numbered(fd, status.st_dev) else fresh.identity(fd)


def verify(fd: int, identity: Identity, volumes: Volumes) -> None:
    """Errors: OSError ESTALE when `fd` is not, or no longer, the file that was frozen."""
    status = os.fstat(fd)
    if identity.is_of(status) and volumes.has_numbered(fd, status.st_dev):
        return
    changed = identity.change(found(fd, volumes))
    if changed:
        raise OSError(errno.ESTALE, f"source changed: {changed}")


def read(fd: int, size: int, offset: int, identity: Identity, volumes: Volumes) -> bytes:
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
        verify(fd, identity, volumes)  # what became a directory or a fifo cannot be read at all, and is stale, too
    if len(data) < size:
        raise OSError(errno.EIO, "source ends before its size")
    return data


class IdleSources:
    """Descriptors kept open between the reads of one large file, oldest closed first.

    A descriptor is taken out while it is used, so nobody can close it meanwhile; a second reader opens its own. What
    nobody takes for IDLE_S is closed, for an open file keeps its file system from being unmounted.
    """

    def __init__(self, limit: int = MAX_IDLE_SOURCES, idle_s: float = IDLE_S) -> None:
        self._limit = limit
        self._idle_s = idle_s
        self._fds: OrderedDict[int, tuple[int, float]] = OrderedDict()  # nodeid -> fd and since when, under _lock
        self._is_swept = False  # by a thread, under _lock
        self._lock = threading.Lock()

    def take(self, nodeid: int) -> int | None:
        """The idle descriptor of a node, which is then the caller's."""
        with self._lock:
            fd, _since_s = self._fds.pop(nodeid, (None, 0.0))
        return fd

    def give(self, nodeid: int, fd: int) -> None:
        """Hand a descriptor back; it may be closed at once."""
        with self._lock:
            surplus, _since_s = self._fds.pop(nodeid, (None, 0.0))
            self._fds[nodeid] = fd, time.monotonic()
            if surplus is None and len(self._fds) > self._limit:
                _nodeid, (surplus, _since_s) = self._fds.popitem(last=False)
            is_swept, self._is_swept = self._is_swept, True
        if surplus is not None:
            os.close(surplus)
        if not is_swept:
            self._start_sweeping()

    def _start_sweeping(self) -> None:
        try:
            threading.Thread(target=self._sweep, name="idle-sources", daemon=True).start()
        except RuntimeError:  # the machine has no more threads: then descriptors stay until others take their place
            with self._lock:
                self._is_swept = False

    def _sweep(self) -> None:
        """Close what is idle for too long, until there is nothing left."""
        while True:
            time.sleep(self._idle_s)
            too_old_s = time.monotonic() - self._idle_s
            with self._lock:
                old = [nodeid for nodeid, (_fd, since_s) in self._fds.items() if since_s <= too_old_s]
                fds = [self._fds.pop(nodeid)[0] for nodeid in old]
                self._is_swept = bool(self._fds)
                is_done = not self._fds
            for fd in fds:
                os.close(fd)
            if is_done:
                return

    def close(self) -> None:
        """Close them all. More may be handed back afterwards."""
        with self._lock:
            fds = [fd for fd, _since_s in self._fds.values()]
            self._fds.clear()
        for fd in fds:
            os.close(fd)
