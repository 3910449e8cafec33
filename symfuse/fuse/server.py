"""Request bytes in, reply bytes out, over a View: no device, no threads.

Everything is answered for ever: the view is frozen, so entries, attributes, the absence of names and listings may stay
in the kernel without end, and OPENDIR is answered ENOSYS, upon which the kernel asks no more. So is OPEN, where files
are cached (`passthrough.py`). What is then left of a warm walk and of a warm open, read and close is no request at all.

Handlers are named as the opcodes. Each takes the request, and returns the reply's payload, or None where the protocol
has no reply; errors are raised as OSError. Source: `linux/fuse.h`, `fs/fuse/`.
"""

from __future__ import annotations

import errno
import itertools
import logging
import struct
from collections.abc import Callable, Iterator

from symfuse import control
from symfuse.control import Control
from symfuse.fuse import abi
from symfuse.fuse.abi import InitFlag, Opcode, OpenFlag, Request
from symfuse.fuse.passthrough import CACHED, Opens
from symfuse.nodes import Node
from symfuse.policy import Io
from symfuse.view import View

#: Seconds; the kernel turns any larger number into "never".
FOREVER_S = 1 << 32
#: Bytes the kernel may ask for in one READ: 256 pages, `fs.fuse.max_pages_limit`.
MAX_PAGES = 256
#: Reads the kernel may have under way in the background (readahead); its own default is 12. As many may hang in the
#: source, and further ones would wait in the kernel for those.
MAX_BACKGROUND = 1024

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.HAS_IOCTL_DIR
    | InitFlag.DO_READDIRPLUS
    | InitFlag.NO_OPEN_SUPPORT
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.NO_OPENDIR_SUPPORT
)

#: What would change the view. The mount is read-only, but root can remount it; we stay so.
_MUTATING = frozenset(
    {
        Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME,
        Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.FALLOCATE,
        Opcode.RENAME2, Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64, Opcode.TMPFILE,
    }
)  # fmt: skip
_WITHOUT_REPLY = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
_NAMES = {int(opcode): opcode.name.lower() for opcode in Opcode}
_LISTING = frozenset({int(Opcode.LOOKUP), int(Opcode.READDIR), int(Opcode.READDIRPLUS)})
_NOTHING = b""

log = logging.getLogger(__name__)


Handler = Callable[[Request], bytes | None]
#: A reply's parts, to be written as one. Empty: there is none.
Reply = tuple[bytes, ...]


class Server:
    """Answers FUSE requests. Safe to use from several threads; each must bring every request to `handle` once.

    `opens` are those of the connection; without them, files are cached.
    """

    def __init__(self, view: View, control: Control, opens: Opens | None = None) -> None:
        self._opens = opens or Opens(view, io=Io.CACHED)
        control.io = self._opens.way
        self._view = view
        self._control = control
        self._counters = control.counters
        self._flags = InitFlag(0)
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.OPEN: self._open,
            Opcode.OPENDIR: self._opendir,
            Opcode.READ: self._read,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.READLINK: self._readlink,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.RELEASE: self._release,
            Opcode.RELEASEDIR: _acknowledge,
            Opcode.DESTROY: _acknowledge,
            Opcode.STATFS: self._statfs,
            Opcode.IOCTL: self._ioctl,
        }
        self._handlers |= dict.fromkeys(_MUTATING, _refuse_to_write)
        self._handlers |= dict.fromkeys(_WITHOUT_REPLY, _ignore)

    def may_block(self, request: Request) -> bool:
        """True when answering touches the dataset, which may be slow or never answer."""
        opcode = request.opcode
        if request.pid in self._view.dataset.callers:  # refused at once, see `_answer`
            return False
        if opcode in _LISTING:
            return not self._view.is_frozen(request.nodeid)
        if opcode == Opcode.IOCTL:
            return request.body[_COMMAND_AT] in _QUESTIONS
        if opcode in (Opcode.OPEN, Opcode.RELEASE):
            return self._opens.may_block
        return opcode == Opcode.READ

    def handle(self, request: Request) -> Reply:
        """Answer one request. Never raises: a failure is an errno, anything unforeseen EIO and one traceback."""
        self._counters.tally().requests[_NAMES.get(request.opcode, f"opcode-{request.opcode}")] += 1
        payload, error = self._answer(request)
        if error:
            return (abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -error, request.unique),)
        if payload is None:
            return ()
        return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(payload), 0, request.unique), payload

    def undelivered(self, request: Request, reply: Reply) -> None:
        """The kernel did not take the reply: what an OPEN opened is not open, and no RELEASE will come."""
        _length, error, _unique = abi.OUT_HEADER.unpack_from(reply[0])
        if request.opcode == Opcode.OPEN and not error:
            self._opens.release(request.nodeid)

    def _answer(self, request: Request) -> tuple[bytes | None, int]:
        """The payload of a reply, or None for no reply, and the errno: the one place that maps exceptions."""
        try:
            # A thread of ours that touches the dataset has come back into the view: refuse, for it waits for itself.
            if request.pid in self._view.dataset.callers and request.opcode not in _WITHOUT_REPLY:
                return None, errno.EDEADLK
            return self._handlers.get(request.opcode, _unknown)(request), 0
        except OSError as error:
            return None, error.errno or errno.EIO
        except KeyError:
            return None, errno.ESTALE  # a nodeid that we never gave out
        except Exception:
            log.exception("request %s failed", _NAMES.get(request.opcode, request.opcode))
            return None, errno.EIO

    # -- the connection -----------------------------------------------------------------------------------------

    def _init(self, request: Request) -> bytes:
        """Agree on a version and on flags. Errors: EPROTO for a kernel older than protocol 7."""
        major, minor, max_readahead, offered = _fields(abi.INIT_IN, request.body)
        if offered & InitFlag.INIT_EXT and len(request.body) >= abi.INIT_IN_FLAGS2.size:
            offered |= abi.INIT_IN_FLAGS2.unpack_from(request.body)[0] << 32
        if major < abi.KERNEL_VERSION:
            raise OSError(errno.EPROTO, f"kernel speaks protocol {major}")
        max_stack_depth = self._opens.negotiate(offered=bool(offered & InitFlag.PASSTHROUGH))
        wanted = _WANTED | InitFlag.INIT_EXT | InitFlag.PASSTHROUGH if max_stack_depth else _WANTED
        self._flags = wanted & InitFlag(offered)
        return abi.INIT_OUT.pack(
            abi.KERNEL_VERSION, min(minor, abi.KERNEL_MINOR_VERSION), max_readahead, self._flags & 0xFFFFFFFF,
            MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4, abi.MIN_MAX_WRITE, 1, MAX_PAGES, 0,
            self._flags >> 32, max_stack_depth, 0,
        )  # fmt: skip

    def _statfs(self, _request: Request) -> bytes:
        """The numbers of the dataset's file system when the view was made: no answer depends on the dataset."""
        found = self._view.file_system
        return abi.STATFS_OUT.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, abi.NAME_MAX, found.f_frsize,
        )  # fmt: skip

    def _ioctl(self, request: Request) -> bytes:
        """ENOTTY at once for all but our own questions: CPython before 3.14 asks each file if it is a terminal."""
        _fh, _flags, command, _arg, in_size, out_size = _fields(abi.IOCTL_IN, request.body)
        if command not in control.COMMANDS:
            raise OSError(errno.ENOTTY, "not a terminal")
        start = abi.IOCTL_IN.size
        reply = self._control.answer(command, request.body[start : start + in_size], uid=request.uid)
        return abi.IOCTL_OUT.pack(0, 0, 0, 0) + reply.ljust(control.BUFFER_BYTES, b"\0")[:out_size]

    # -- names and attributes -----------------------------------------------------------------------------------

    def _lookup(self, request: Request) -> bytes:
        """The node of a name. Raises the lookup count, which nobody keeps: nodeids are never reused.

        A name that is absent is answered with nodeid 0, which the kernel remembers, and not with ENOENT.
        Errors: ENAMETOOLONG.
        """
        name = request.body.partition(b"\0")[0]
        if len(name) > abi.NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "longer than any name here")  # the kernel itself stops only at 1024
        node = self._view.lookup(request.nodeid, name)
        if node is None:
            return abi.ENTRY_OUT.pack(0, 0, FOREVER_S, *(0,) * 19)
        return abi.ENTRY_OUT.pack(*entry(node))

    def _getattr(self, request: Request) -> bytes:
        return abi.ATTR_OUT.pack(FOREVER_S, 0, 0, *attr(self._view.node(request.nodeid)))

    def _readlink(self, _request: Request) -> bytes:
        raise OSError(errno.EINVAL, "nothing here is a link")

    def _listxattr(self, request: Request) -> bytes:
        """None, which tar and rsync take better than "not supported". What GETXATTR is answered, once, is ENOSYS."""
        size, _ = _fields(abi.GETXATTR_IN, request.body)
        return _NOTHING if size else abi.GETXATTR_OUT.pack(0, 0)

    # -- directories --------------------------------------------------------------------------------------------

    def _opendir(self, _request: Request) -> bytes:
        """ENOSYS: do not ask again, and cache every listing. Kernels before 5.1 are told the same for each."""
        if self._flags & InitFlag.NO_OPENDIR_SUPPORT:
            raise OSError(errno.ENOSYS, "directories need no opening")
        return abi.OPEN_OUT.pack(0, OpenFlag.KEEP_CACHE | OpenFlag.CACHE_DIR, 0)

    def _readdir(self, request: Request) -> bytes:
        """Entries as many as there is room for. Errors: as `View.listing`; OSError EINVAL when there is for none."""
        _fh, offset, size, *_ = _fields(abi.READ_IN, request.body)
        reply = bytearray()
        listing = self._view.listing(request.nodeid, max(offset - _DOTS, 0))
        entries = ((name, node, place + _DOTS + 1) for name, node, place in listing)
        for name, node, cookie in itertools.chain(self._dots(request.nodeid, offset), entries):
            record = abi.DIRENT.pack(node.ino, cookie, len(name), node.mode >> 12) + name
            if not _append(reply, record, size):
                return _require_one(bytes(reply))
        return bytes(reply)

    def _readdirplus(self, request: Request) -> bytes:
        """As `_readdir`, with attributes. Each entry but . and .. raises the lookup count, as in `_lookup`."""
        _fh, offset, room, *_ = _fields(abi.READ_IN, request.body)
        records: list[bytes] = []
        for name, node, cookie in self._dots(request.nodeid, offset):
            # No nodeid, so that the kernel does not take them for children.
            record = abi.direntplus(len(name)).pack(*(0,) * 22, node.ino, cookie, len(name), node.mode >> 12, name)
            room -= len(record)
            if room < 0:
                return _require_one(b"".join(records))
            records.append(record)
        # A million entries come this way: from the table's row to the record, with nothing in between.
        for place, name, nodeid, ino, trait, row in self._view.rows(request.nodeid, max(offset - _DOTS, 0)):
            _source_ino, size, atime, mtime, ctime, blocks, _trait = row
            atime_s, atime_ns = divmod(atime, 1_000_000_000)
            mtime_s, mtime_ns = divmod(mtime, 1_000_000_000)
            ctime_s, ctime_ns = divmod(ctime, 1_000_000_000)
            mode = trait.mode
            record = abi.direntplus(len(name)).pack(
                nodeid, 0, FOREVER_S, FOREVER_S, 0, 0,
                ino, size, blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
                mode, 1, trait.uid, trait.gid, 0, 0, 0,
                ino, place + _DOTS + 1, len(name), mode >> 12, name,
            )  # fmt: skip
            room -= len(record)
            if room < 0:
                return _require_one(b"".join(records))
            records.append(record)
        return b"".join(records)

    def _dots(self, nodeid: int, offset: int) -> Iterator[tuple[bytes, Node, int]]:
        """Name, node and the cookie of the next entry, of those of "." and ".." that are at `offset` or behind it.

        Cookies: 1 follows ".", 2 follows "..", place + 3 follows a place.
        """
        if offset < 1:
            yield b".", self._view.node(nodeid), 1
        if offset < _DOTS:
            yield b"..", self._view.node(self._view.parent(nodeid)), _DOTS

    # -- files --------------------------------------------------------------------------------------------------

    def _open(self, request: Request) -> bytes:
        """A backing id, or ENOSYS: do not ask again, and keep what was read. Errors: as `Opens.open`."""
        flags, _ = _fields(abi.OPEN_IN, request.body)
        backing_id = self._opens.open(request.nodeid, flags=flags)
        if backing_id is None and self._flags & InitFlag.NO_OPEN_SUPPORT:
            raise OSError(errno.ENOSYS, "files need no opening")
        if backing_id in (None, CACHED):
            return abi.OPEN_OUT.pack(0, OpenFlag.KEEP_CACHE, 0)
        return abi.OPEN_OUT.pack(0, OpenFlag.PASSTHROUGH, backing_id)

    def _release(self, request: Request) -> bytes:
        self._opens.release(request.nodeid)
        return _NOTHING

    def _read(self, request: Request) -> bytes:
        """Content by nodeid: without OPEN there is no fh. The source's errors surface here, unless they did there."""
        _fh, offset, size, *_ = _fields(abi.READ_IN, request.body)
        data = self._view.read(request.nodeid, offset, size)
        self._counters.tally().bytes_read += len(data)
        return data


_DOTS = 2
#: Of an IOCTL's body.
_COMMAND_AT = slice(12, 16)
#: Questions that touch the dataset. STATUS waits for a look at it, but no longer than `presence.PATIENCE_S`.
_QUESTIONS = frozenset(struct.pack("<I", command) for command in (control.WHY, control.HIDDEN))


def attr(node: Node) -> tuple[int, ...]:
    """The fields of `fuse_attr`."""
    atime_s, atime_ns = divmod(node.atime_ns, 1_000_000_000)
    mtime_s, mtime_ns = divmod(node.mtime_ns, 1_000_000_000)
    ctime_s, ctime_ns = divmod(node.ctime_ns, 1_000_000_000)
    return (
        node.ino, node.size, node.blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        node.mode, node.nlink, node.uid, node.gid, 0, 0, 0,
    )  # fmt: skip


def entry(node: Node) -> tuple[int, ...]:
    """The fields of `fuse_entry_out`."""
    return (node.nodeid, 0, FOREVER_S, FOREVER_S, 0, 0, *attr(node))


def _append(reply: bytearray, record: bytes, size: int) -> bool:
    """Add a directory record, padded; False when it does not fit into `size` any more."""
    padded = -len(record) % abi.DIRENT_ALIGN
    if len(reply) + len(record) + padded > size:
        return False
    reply += record
    reply += bytes(padded)
    return True


def _require_one(records: bytes) -> bytes:
    """What there was room for, though not for all. Errors: OSError EINVAL for nothing, which would mean the end."""
    if not records:
        raise OSError(errno.EINVAL, "no room for a single entry")
    return records


def _fields(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    """What a body begins with. Errors: OSError EINVAL when it is too short for its opcode."""
    if len(body) < layout.size:
        raise OSError(errno.EINVAL, "the request is too short")
    return layout.unpack_from(body)


def _refuse_to_write(_request: Request) -> bytes:
    raise OSError(errno.EROFS, "the view is read-only")


def _unknown(_request: Request) -> bytes:
    raise OSError(errno.ENOSYS, "not implemented")


def _acknowledge(_request: Request) -> bytes:
    return _NOTHING


def _ignore(_request: Request) -> None:
    return None
