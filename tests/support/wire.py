"""The FUSE wire protocol as a kernel speaks it, written from `linux/fuse.h` and apart from `symfuse.fuse.abi`."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from symfuse.fuse.abi import Request
from symfuse.fuse.layers import Layers
from symfuse.fuse.server import Server

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")

#: Sizes of the structures of a reply, in bytes. Source: linux/fuse.h of protocol 7.45.
INIT_OUT, ENTRY_OUT, ATTR_OUT, STATFS_OUT, OPEN_OUT, IOCTL_OUT, DIRENT, DIRENTPLUS = 64, 128, 104, 80, 16, 16, 24, 152

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = range(8, 19)
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = range(20, 30)
ACCESS, CREATE, INTERRUPT, BMAP, DESTROY, IOCTL = 34, 35, 36, 37, 38, 39
BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 42, 43, 44, 45, 46, 47
TMPFILE, STATX, COPY_FILE_RANGE_64 = 51, 52, 53

#: All that a kernel of 6.18 offers in the first 32 bits, and the version that it speaks.
EVERY_FLAG = 0xFFFFFFFF
INIT_BODY = struct.pack("<IIII", 7, 45, 131072, EVERY_FLAG) + bytes(48)
#: All of the second 32 bits, too: passthrough is one of them.
INIT_BODY_WITH_FLAGS2 = struct.pack("<IIIII", 7, 45, 131072, EVERY_FLAG, EVERY_FLAG) + bytes(44)


class Reply(NamedTuple):
    """A reply whose header was checked."""

    error: int
    payload: bytes


class Attr(NamedTuple):
    """`struct fuse_attr`."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Dirent(NamedTuple):
    """`struct fuse_dirent`, and in front of it the nodeid of `struct fuse_direntplus`."""

    nodeid: int | None
    ino: int
    cookie: int
    type: int
    name: bytes
    attr: Attr | None


ATTR = struct.Struct("<QQQqqqIIIIIIIIII")
_UNIQUE = itertools.count(2, 2)


def raw_request(opcode: int, nodeid: int, body: bytes = b"", *, uid: int = 0, pid: int = 1, unique: int = 8) -> bytes:
    """One request as the kernel would write it."""
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, nodeid, uid, 0, pid, 0, 0) + body


def request(opcode: int, nodeid: int, body: bytes = b"", *, uid: int = 0, pid: int = 1, unique: int = 8) -> Request:
    """The same as a server gets it."""
    return Request.parse(raw_request(opcode, nodeid, body, uid=uid, pid=pid, unique=unique))


class Kernel:
    """Asks a server as the kernel does, and refuses replies that the kernel would refuse."""

    def __init__(self, server: Server | Layers) -> None:
        self.server = server

    def ask(self, opcode: int, nodeid: int, body: bytes = b"", *, uid: int = 0, pid: int = 1) -> Reply | None:
        """The reply, or None where there was none."""
        unique = next(_UNIQUE)
        return check(self.server.handle(request(opcode, nodeid, body, uid=uid, pid=pid, unique=unique)), unique)

    def errno(self, opcode: int, nodeid: int, body: bytes = b"") -> int:
        """The error of a request, 0 for success."""
        reply = self.ask(opcode, nodeid, body)
        assert reply is not None
        return reply.error

    def payload(self, opcode: int, nodeid: int, body: bytes = b"", *, uid: int = 0) -> bytes:
        """What a request that succeeds is answered."""
        reply = self.ask(opcode, nodeid, body, uid=uid)
        assert reply is not None
        assert reply.error == 0, reply
        return reply.payload

    def init(self, body: bytes = INIT_BODY) -> bytes:
        return self.payload(INIT, 0, body)

    def lookup(self, name: bytes, parent: int = 1) -> tuple[int, Attr]:
        """The nodeid (0: a cached absence) and the attributes of a name."""
        payload = self.payload(LOOKUP, parent, name + b"\0")
        assert len(payload) == ENTRY_OUT
        return struct.unpack_from("<Q", payload)[0], Attr._make(ATTR.unpack_from(payload, 40))

    def walk(self, path: bytes) -> int:
        """The nodeid at a path."""
        nodeid = 1
        for name in path.split(b"/"):
            nodeid, _ = self.lookup(name, nodeid)
            assert nodeid, path
        return nodeid

    def read(self, nodeid: int, offset: int, size: int) -> bytes:
        return self.payload(READ, nodeid, struct.pack("<QQIIQII", 0, offset, size, 0, 0, 0, 0))

    def list(self, nodeid: int, *, plus: bool, size: int = 4096) -> Iterator[Dirent]:
        """A whole directory, in as many requests as it takes."""
        offset = 0
        while True:
            body = struct.pack("<QQIIQII", 0, offset, size, 0, 0, 0, 0)
            payload = self.payload(READDIRPLUS if plus else READDIR, nodeid, body)
            assert len(payload) <= size
            entries = list(dirents(payload, plus=plus))
            if not entries:
                return
            yield from entries
            offset = entries[-1].cookie


def dirents(payload: bytes, *, plus: bool) -> Iterator[Dirent]:
    """The records of one reply. Source: parse_dirfile() and parse_dirplusfile() in fs/fuse/readdir.c."""
    at = 0
    while at < len(payload):
        nodeid = attr = None
        head = at
        if plus:
            (nodeid,) = struct.unpack_from("<Q", payload, at)
            attr = Attr._make(ATTR.unpack_from(payload, at + 40))
            head += ENTRY_OUT
        ino, cookie, length, kind = struct.unpack_from("<QQII", payload, head)
        name = payload[head + DIRENT : head + DIRENT + length]
        assert 1 <= length <= 255
        assert len(name) == length
        assert b"/" not in name
        yield Dirent(nodeid, ino, cookie, kind, name, attr)
        at = (head + DIRENT + length + 7) & ~7
    assert at == len(payload), "a record is cut short"


def check(parts: tuple[bytes, ...], unique: int) -> Reply | None:
    """What fuse_dev_do_write() in fs/fuse/dev.c demands of a reply."""
    raw = b"".join(parts)
    if not raw:
        return None
    assert len(raw) >= OUT_HEADER.size
    length, error, answered = OUT_HEADER.unpack_from(raw)
    assert length == len(raw)
    assert answered == unique
    assert -512 < error <= 0
    assert error == 0 or length == OUT_HEADER.size
    return Reply(-error, raw[OUT_HEADER.size :])
