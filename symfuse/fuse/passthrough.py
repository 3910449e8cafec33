"""How files are opened: cached by the mount, or passed through to their sources by the kernel.

The source of a file that is passed through is handed to the kernel when the file is opened, under a backing id, and no
READ comes. Files that are cached need no OPEN at all: it is answered ENOSYS, once. Two rules of the kernel lie behind
what is done here. An open file has one backing id or none; a second id, or an open of the other way beside it, is EIO.
And after one ENOSYS not even the RELEASE of what was opened before is sent. Source: `fs/fuse/iomode.c`,
`fs/fuse/passthrough.c` (its backing.c since 6.18), `fuse_file_put` in `fs/fuse/file.c`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from dataclasses import dataclass

from symfuse.fuse import abi, kernelmount
from symfuse.policy import Io
from symfuse.view import View

#: Files of this mean size or more are passed through when nobody chose.
LARGE_BYTES = 1 << 20
#: The backing id of what is cached although other files are passed through.
CACHED = 0

#: No CAP_SYS_ADMIN on this machine, or a kernel that is too old: the same for every file.
_FOR_GOOD = frozenset({errno.EPERM, errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP})

log = logging.getLogger(__name__)


class Backing:
    """The backing ids of one connection, which end with it at the latest."""

    def __init__(self, connection: int) -> None:
        self._connection = connection

    def open(self, source: int) -> int:
        """An id for what this descriptor has open, which may then be closed.

        Errors: OSError: EPERM without CAP_SYS_ADMIN, ELOOP where the source's file system is stacked too deep.
        """
        request = bytearray(abi.BACKING_MAP.pack(source, 0, 0))  # of bytes, ioctl would return a copy
        backing_id: int = fcntl.ioctl(self._connection, abi.DEV_IOC_BACKING_OPEN, request)
        return backing_id

    def close(self, backing_id: int) -> None:
        """Give an id back; files that are open keep their source."""
        with contextlib.suppress(OSError):  # the connection is over
            fcntl.ioctl(self._connection, abi.DEV_IOC_BACKING_CLOSE, abi.BACKING_ID.pack(backing_id))


@dataclass(slots=True)
class _Opened:
    backing_id: int
    opens: int = 0


class Opens:
    """The open files of one connection, and the way that they are opened. Safe to use from several threads.

    `backing` is None for those whom the kernel gives no backing id. `max_stack_depth` is how deep in stacked file
    systems (an overlay is one) a source may lie; with 2, no overlay can be made of the mount.
    """

    def __init__(self, view: View, *, io: Io, backing: Backing | None = None, max_stack_depth: int = 1) -> None:
        self._view = view
        self._backing = backing
        self._max_stack_depth = max_stack_depth
        self._wanted = io
        self._io = io  # AUTO until it is decided; under _lock
        self._refusal = ""  # why nothing is passed through; under _lock
        self._too_deep: set[int] = set()  # devices whose files are not passed through; under _lock
        self._is_used = False  # something was passed through; under _lock
        self._opened: dict[int, _Opened] = {}  # by nodeid, under _lock
        self._lock = threading.Lock()

    def negotiate(self, *, offered: bool) -> int:
        """What INIT says of the depth of stacked file systems; 0 when the kernel is not asked to pass through."""
        with self._lock:
            if self._io is Io.CACHED:
                return 0
            if self._backing is None:
                self._refuse("only root can")
            elif not offered:
                self._refuse("this kernel cannot, Linux 6.9 can")
            return 0 if self._refusal else self._max_stack_depth

    @property
    def may_block(self) -> bool:
        """True when opening and releasing touch the dataset."""
        return self._io is not Io.CACHED

    def open(self, nodeid: int, *, flags: int = os.O_RDONLY) -> int | None:
        """Open a file once more: its backing id, CACHED, or None when no file needs to be opened.

        Each that is not None must be followed by `release`. Errors: as `View.open_source`; OSError EROFS where `flags`,
        those of open(2), ask for more than to read: the kernel would open the source with them.
        """
        if self._io is Io.AUTO:
            self._decide()
        if self._io is Io.CACHED:
            return None
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        source = _read_only(self._view.open_source(nodeid))
        try:
            device = os.fstat(source).st_dev
            with self._lock:  # nothing waits for the dataset in here
                opened = self._opened.get(nodeid)
                if opened is None:
                    backing_id = self._back(source, device)
                    if self._io is not Io.PASSTHROUGH:
                        return None
                    opened = self._opened[nodeid] = _Opened(backing_id)
                opened.opens += 1
                return opened.backing_id
        finally:
            os.close(source)

    def release(self, nodeid: int) -> None:
        """Undo one `open`; does nothing for a file that is not open."""
        with self._lock:
            opened = self._opened.get(nodeid)
            if opened is None:
                return
            opened.opens -= 1
            if opened.opens:
                return
            del self._opened[nodeid]
        # Who opens the file now gets another id: the kernel forgot this one before it sent the last RELEASE.
        if opened.backing_id != CACHED and self._backing is not None:
            self._backing.close(opened.backing_id)

    def way(self) -> str:
        """How files are read, for `symfuse status`."""
        with self._lock:
            if self._refusal:
                return f"cached (passthrough: {self._refusal})"
            if self._io is Io.AUTO:
                return "auto: not decided yet"
            if self._too_deep:
                return "passthrough, but cached where the source lies too deep in stacked file systems"
            return str(self._io)

    def _decide(self) -> None:
        """Choose by the first files of the view: what happens to be frozen, or is opened first, differs each time."""
        files, content_bytes = self._view.sample()
        with self._lock:
            if self._io is Io.AUTO:
                self._io = Io.PASSTHROUGH if content_bytes >= LARGE_BYTES * max(files, 1) else Io.CACHED

    def _back(self, source: int, device: int) -> int:
        """The backing id of a source on a device, or CACHED. Called with _lock held."""
        if self._backing is None or self._refusal or device in self._too_deep:
            return CACHED
        try:
            backing_id = self._backing.open(source)
        except OSError as error:
            self._note(error, device)
            return CACHED
        self._is_used = True
        return backing_id

    def _note(self, error: OSError, device: int) -> None:
        """Do not try again what was refused. Called with _lock held."""
        if error.errno in _FOR_GOOD:
            self._refuse(f"the kernel refused it ({error.strerror})")
        elif error.errno == errno.ELOOP:
            self._too_deep.add(device)
            where = f"{os.major(device)}:{os.minor(device)}"
            self._log("no passthrough from device %s, which lies too deep in stacked file systems", where)
        else:
            self._log("no passthrough for one file: %s", str(error))

    def _refuse(self, why: str) -> None:
        """Pass nothing through any more. Called with _lock held."""
        self._refusal = why
        self._log("files are cached, not passed through: %s", why)
        if not self._is_used:
            self._io = Io.CACHED

    def _log(self, message: str, detail: str) -> None:
        """Who did not ask for passthrough misses nothing."""
        log.log(logging.WARNING if self._wanted is Io.PASSTHROUGH else logging.DEBUG, message, detail)


def _read_only(source: int) -> int:
    """The same source, which the kernel can then only read, and without a trace; closes the one it got.

    Where that cannot be had, access times appear as they do without a mount.
    """
    try:
        reopened = kernelmount.reopened_read_only(source)
    except OSError:
        return source
    os.close(source)
    return reopened
