"""A kernel overlay over the mount: it answers itself what FUSE would ask the server each time (CPython's isatty).

The view is mounted in a place of our own, the overlay is made of it and shown at the mountpoint, and the place is
unmounted again. The overlay alone then holds the view: whatever ends the one ends the other, and nothing of either can
be left behind. What stays of the place while the server lives is the socket that it can be asked through
(`channel.py`), and a lock: a place that nobody has locked is a dead server's.
Source: `clone_private_mount` in `fs/namespace.c`, `Documentation/filesystems/overlayfs.rst`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable

from symfuse.control import Control
from symfuse.errors import FuseUnavailable, SymfuseError
from symfuse.fuse import kernelmount, layers
from symfuse.mounts import channel, probe

#: Where a place may be made. Fixed, for whoever clears up must look there; short and plain, for overlayfs reads them.
BASES = (b"/run", b"/tmp")
PREFIX = b"symfuse-stack-"


class Place:
    """A directory of one stacked mount: the mountpoints that it is made with, the socket, and the lock on it all.

    Errors: FuseUnavailable when there is nowhere to make it.
    """

    def __init__(self) -> None:
        self.path = _make()
        self._lock = _locked(self.path, fcntl.LOCK_EX)
        self.fuse = os.path.join(self.path, b"fuse")
        self._top = os.path.join(self.path, b"top")
        os.mkdir(self.fuse)
        os.mkdir(self._top)
        self._listener: channel.Listener | None = None

    def listen(self, control: Control) -> None:
        """Let the server be asked."""
        self._listener = channel.Listener(self.path, control)

    def show(
        self, source: bytes, mountpoint: bytes, *, via: bytes | None, noexec: bool, before: Callable[[int], None]
    ) -> None:
        """Put an overlay of what is mounted at `fuse` over the mountpoint; `before` hears its device number first.

        `via`: see `MountOptions`. Errors: FuseUnavailable, MountpointError, OSError.
        """
        view, empty = (os.path.join(self.fuse, layer) for layer in (layers.VIEW, layers.EMPTY))
        kernelmount.mount_overlay(source, self._top, [view, empty], noexec=noexec)
        before(os.stat(self._top).st_dev)
        kernelmount.bind(self._top, mountpoint, via)
        self.detach()

    def detach(self) -> None:
        """Unmount what is mounted here: what the overlay is made of stays in it."""
        for path in (self._top, self.fuse):
            with contextlib.suppress(OSError, SymfuseError):  # not there yet, or no more
                kernelmount.unmount(path, lazy=True)

    def remove(self) -> None:
        """Leave nothing here."""
        if self._listener is not None:
            self._listener.close()
        _remove(self.path)
        os.close(self._lock)


def clear_stale() -> None:
    """Remove the places of servers that were killed, and what they had mounted there and not yet shown."""
    if not _may_clear():
        return
    for base in BASES:
        with contextlib.suppress(OSError):
            for name in os.listdir(base):
                if name.startswith(PREFIX):
                    _clear(os.path.join(base, name))


def _may_clear() -> bool:
    return os.geteuid() == 0


def _clear(path: bytes) -> None:
    try:
        if not _is_ours(path):
            return
        lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a server lives, or it is no directory
        return
    try:
        if "top" in os.listdir(lock):  # without its mountpoints it is just being made
            _remove(path)
    finally:
        os.close(lock)


def _is_ours(path: bytes) -> bool:
    """Whether a directory is ours, and nothing is mounted there: to look at that would ask it. Errors: OSError."""
    base = probe.opened(os.path.dirname(path))
    try:
        fd = probe.opened(path)
        try:
            return probe.mount_of(fd) == probe.mount_of(base) and os.fstat(fd).st_uid == os.geteuid()
        finally:
            os.close(fd)
    finally:
        os.close(base)


def _make() -> bytes:
    for base in BASES:
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix=PREFIX, dir=base)
    raise FuseUnavailable("--stack finds no place: neither /run nor /tmp can be written", "make one of them writable")


def _locked(path: bytes, how: int) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove(path: bytes) -> None:
    for name in (b"fuse", b"top"):
        mountpoint = os.path.join(path, name)
        with contextlib.suppress(OSError, SymfuseError):
            kernelmount.unmount(mountpoint, lazy=True)
        with contextlib.suppress(OSError):
            os.rmdir(mountpoint)
    with contextlib.suppress(OSError):
        os.unlink(channel.listening_at(path))
    with contextlib.suppress(OSError):
        os.rmdir(path)
