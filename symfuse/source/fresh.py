"""Attributes as the file system has them now, where the kernel would answer from what it remembers.

The kernel keeps a FUSE file's attributes for a second or longer, so fstat(2) right after a read may describe the file
before it was changed, and the bytes come from after it. Source: statx(2), AT_STATX_FORCE_SYNC; `struct statx` in
linux/stat.h; fuse_update_get_attr() in fs/fuse/dir.c.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable

from symfuse.source.identity import Identity

_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_BASIC_STATS = 0x7FF
_STATX_BTIME = 0x800
_STATX_BYTES = 256
#: stx_mask: what the file system has filled in.
_MASK = struct.Struct("<I")
#: stx_nlink, uid, gid, mode; stx_ino, size; stx_ctime and stx_mtime (seconds, nanoseconds); stx_dev_major and _minor.
_FIELDS = struct.Struct("<16xIIIH2xQQ48xqI4xqI4x8xII")

#: statx(2) of libc: directory, path, flags, mask, buffer.
Statx = Callable[[int, bytes, int, int, object], int]


def identity(fd: int) -> Identity:
    """What a descriptor has open, asked of the file system itself. Errors: OSError."""
    statx = _statx()
    if statx is None:
        return Identity.of(os.fstat(fd))
    import ctypes  # noqa: PLC0415 - it is there, or _statx() would have found nothing

    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_BASIC_STATS, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    nlink, uid, gid, mode, ino, size, ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor = _FIELDS.unpack_from(buffer)
    return Identity(
        os.makedev(major, minor), ino, size, mtime_s * 1_000_000_000 + mtime_ns, ctime_s * 1_000_000_000 + ctime_ns,
        mode, uid, gid, nlink,
    )  # fmt: skip


def has_birth_time(fd: int) -> bool:
    """True when the file system says when an open file was made. Errors: OSError."""
    statx = _statx()
    if statx is None:
        return False
    import ctypes  # noqa: PLC0415 - as above

    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (mask,) = _MASK.unpack_from(buffer)
    return bool(mask & _STATX_BTIME)


@functools.cache
def _statx() -> Statx | None:
    """The system call, None where Python has no ctypes or libc is older than Linux 4.11."""
    try:
        import ctypes  # noqa: PLC0415 - some Pythons lack it

        function = ctypes.CDLL(None, use_errno=True).statx
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return function
