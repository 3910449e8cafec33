"""The structures and constants of `linux/fuse.h` that the server uses, and nothing else.

Source: `include/uapi/linux/fuse.h` of Linux 6.18 (protocol 7.45). Names are the header's without their FUSE_ prefix.
All integers are in host byte order; every host that Python and FUSE meet on is little endian, and `<` keeps `struct`
from adding padding of its own.
"""

from __future__ import annotations

import enum
import functools
import struct
from typing import NamedTuple

KERNEL_VERSION = 7
KERNEL_MINOR_VERSION = 45


class Opcode(enum.IntEnum):
    """`enum fuse_opcode`."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Notify(enum.IntEnum):
    """`enum fuse_notify_code`: what is written to the kernel in the place of a reply's error, with `unique` 0."""

    INVAL_INODE = 2
    INC_EPOCH = 8


class InitFlag(enum.IntFlag):
    """Bits of `fuse_init_in.flags` and `fuse_init_out.flags`; those from 32 on are in `flags2`."""

    ASYNC_READ = 1 << 0
    HAS_IOCTL_DIR = 1 << 11
    DO_READDIRPLUS = 1 << 13
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    NO_OPENDIR_SUPPORT = 1 << 24
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37


class OpenFlag(enum.IntFlag):
    """FOPEN_*: bits of `fuse_open_out.open_flags`."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    PASSTHROUGH = 1 << 7


#: `fuse_in_header`: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding.
IN_HEADER = struct.Struct("<IIQQIIIHH")


class Request(NamedTuple):
    """What one read of the device gives: the fields of `fuse_in_header`, and what follows them."""

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extensions: int
    padding: int
    body: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Request:
        """Errors: ValueError when there is no header."""
        if len(raw) < IN_HEADER.size:
            raise ValueError(f"a request of {len(raw)} bytes has no header")
        return cls._make((*IN_HEADER.unpack_from(raw), raw[IN_HEADER.size :]))


#: `fuse_out_header`: len, error (0 or -errno), unique.
OUT_HEADER = struct.Struct("<IiQ")
#: `fuse_init_in` as of 7.0, and what every kernel sends: major, minor, max_readahead, flags.
INIT_IN = struct.Struct("<IIII")
#: `fuse_init_in.flags2`, at this offset; of kernels that set INIT_EXT (5.17 and later).
INIT_IN_FLAGS2 = struct.Struct("<16xI")
#: `fuse_init_out`: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
#: max_pages, map_alignment, flags2, max_stack_depth, request_timeout, unused[11].
INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
#: `fuse_attr`: ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags.
_ATTR = "QQQqqqIIIIIIIIII"
#: `fuse_attr_out`: attr_valid, attr_valid_nsec, dummy, attr.
ATTR_OUT = struct.Struct("<QII" + _ATTR)
#: `fuse_entry_out`: nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr.
_ENTRY = "QQQQII" + _ATTR
ENTRY_OUT = struct.Struct("<" + _ENTRY)
#: `fuse_dirent` without its name: ino, off, namelen, type.
_DIRENT = "QQII"
DIRENT = struct.Struct("<" + _DIRENT)
#: `fuse_open_in`: flags as open(2) takes them, open_flags.
OPEN_IN = struct.Struct("<II")
#: `fuse_open_out`: fh, open_flags, backing_id.
OPEN_OUT = struct.Struct("<QIi")
#: `fuse_read_in`: fh, offset, size, read_flags, lock_owner, flags, padding.
READ_IN = struct.Struct("<QQIIQII")
#: `fuse_statfs_out`: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare[6].
STATFS_OUT = struct.Struct("<QQQQQIII28x")
#: `fuse_getxattr_in`: size, padding.
GETXATTR_IN = struct.Struct("<II")
#: `fuse_getxattr_out`: size, padding.
GETXATTR_OUT = struct.Struct("<II")
#: `fuse_interrupt_in`: unique of the request that is meant.
INTERRUPT_IN = struct.Struct("<Q")
#: `fuse_ioctl_in`: fh, flags, cmd, arg, in_size, out_size.
IOCTL_IN = struct.Struct("<QIIQII")
#: `fuse_ioctl_out`: result, flags, in_iovs, out_iovs.
IOCTL_OUT = struct.Struct("<iIII")
#: `fuse_notify_inval_inode_out`: ino, off, len. Without a length: all from the offset on.
NOTIFY_INVAL_INODE_OUT = struct.Struct("<Qqq")

#: `fuse_backing_map`: fd, flags, padding.
BACKING_MAP = struct.Struct("<iIQ")
#: The argument of DEV_IOC_BACKING_CLOSE.
BACKING_ID = struct.Struct("<I")
#: Ioctls of `/dev/fuse` itself: `_IOW(229, 1, struct fuse_backing_map)` and `_IOW(229, 2, uint32_t)`.
DEV_IOC_BACKING_OPEN = 1 << 30 | BACKING_MAP.size << 16 | 229 << 8 | 1
DEV_IOC_BACKING_CLOSE = 1 << 30 | BACKING_ID.size << 16 | 229 << 8 | 2

#: The least `max_write` that the kernel accepts; nothing is written here.
MIN_MAX_WRITE = 4096
#: Records in a directory reply begin at multiples of this.
DIRENT_ALIGN = 8
NAME_MAX = 255


@functools.lru_cache(maxsize=NAME_MAX)
def direntplus(name_bytes: int) -> struct.Struct:
    """`fuse_direntplus` for names of one length: an entry_out, a dirent, the name, padded."""
    return struct.Struct(f"<{_ENTRY}{_DIRENT}{name_bytes}s{-name_bytes % DIRENT_ALIGN}x")
