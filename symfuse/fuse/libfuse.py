"""The view through fusepy and libfuse 2: for hosts where libfuse is the blessed way to mount.

fusepy 3.0.1 calls `operations(name, *arguments)` from libfuse's threads, with paths as text. Latin-1 as the encoding
keeps every name the bytes it is. libfuse asks by path and turns a LOOKUP into a getattr; what is counted here are its
calls, not the kernel's requests.

`open` and `flush` are answered ENOSYS, which the kernel remembers: a warm open, read and close then asks nothing.
Directories are still listed anew for each opendir, for libfuse 2 cannot let the kernel cache them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from symfuse import directories
from symfuse.control import BUFFER_BYTES, COMMANDS, Control
from symfuse.errors import FuseUnavailable, SymfuseError
from symfuse.fuse import helper, refusals
from symfuse.fuse.abi import NAME_MAX
from symfuse.nodes import Node
from symfuse.view import ROOT_NODEID, View

if TYPE_CHECKING:
    from symfuse.counters import Tally
    from symfuse.fuse.options import MountOptions

#: How long the kernel may trust what it was told: nothing of a frozen view ever changes.
FOREVER_S = 1 << 31
#: Directories whose nodeid is remembered by path.
MAX_REMEMBERED = 100_000
#: What programs that choose a buffer size see.
BLOCK_BYTES = 4096
#: FUSE_CAP_IOCTL_DIR. Source: fuse_common.h of libfuse 2.9.
CAP_IOCTL_DIR = 1 << 11

_ENCODING = "latin-1"
_MUTATING = frozenset(
    {
        *("chmod", "chown", "utimens", "truncate", "write", "setxattr", "removexattr"),
        *("create", "mknod", "mkdir", "symlink", "link", "rename", "unlink", "rmdir"),
    }
)
#: Never asked again once answered so. Source: `fc->no_open` and its like in `fs/fuse/*.c`.
_NOT_NEEDED = frozenset({"open", "flush", "fsync", "fsyncdir", "getxattr"})

log = logging.getLogger(__name__)

Attributes = dict[str, int]


class Operations:
    """The handlers that fusepy looks for by name. Errors leave as OSError, whose errno libfuse passes on."""

    #: fusepy: times are integer nanoseconds.
    use_ns = True

    def __init__(
        self, view: View, control: Control, *, on_init: Callable[[], None], caller: Callable[[], Caller]
    ) -> None:
        self._view = view
        self._control = control
        self._on_init = on_init
        self._caller = caller
        self._tallies: dict[int, Tally] = {}  # by thread; each thread writes its own item only
        self._directories = {"/": ROOT_NODEID}  # path -> nodeid

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """The operations that need no code: fusepy announces to libfuse whatever has an attribute here."""
        if name in _MUTATING:
            return _read_only
        if name in _NOT_NEEDED:
            return _not_needed
        raise AttributeError(name)

    def __call__(self, name: str, *arguments: Any) -> Any:
        """One call of libfuse's. Errors: OSError, and nothing else."""
        self._tally().requests[name] += 1
        try:
            self._refuse_own_threads()
            return getattr(self, name)(*arguments)
        except OSError as error:
            if not error.errno or error.errno < 0:
                log.exception("%s failed without an errno", name)
                raise OSError(errno.EIO, "internal error") from error
            raise
        except Exception as error:
            log.exception("%s failed", name)
            raise OSError(errno.EIO, "internal error") from error

    def _tally(self) -> Tally:
        # libfuse's threads are none of Python's: what threading.local holds for them ends with each call.
        ident = threading.get_ident()
        tally = self._tallies.get(ident)
        if tally is None:
            tally = self._tallies[ident] = self._control.counters.tally()
        return tally

    def _refuse_own_threads(self) -> None:
        """A thread of ours that comes here while it resolves a link would wait for itself, or for a lock it holds."""
        callers = self._view.dataset.callers
        if callers and self._caller().thread in callers:
            raise OSError(errno.EDEADLK, "the dataset leads into its own mount")

    # -- handlers -----------------------------------------------------------------------------------------------

    def init(self, _path: str) -> None:
        """Effect: the mount is announced as ready. The kernel holds other requests back until INIT is answered."""
        self._on_init()

    def getattr(self, path: str, _fh: int | None = None) -> Attributes:
        """Errors: ENOENT."""
        return _attributes(self._node(path))

    def readlink(self, _path: str) -> NoReturn:
        """Errors: EINVAL, for nothing here is a link."""
        raise OSError(errno.EINVAL, "not a link")

    def read(self, path: str, size: int, offset: int, _fh: int) -> bytes:
        """Errors: ENOENT, and those of `View.read`."""
        data = self._view.read(self._node(path).nodeid, offset, size)
        self._tally().bytes_read += len(data)
        return data

    def readdir(self, path: str, _fh: int) -> Iterator[tuple[str, Attributes, int]]:
        """Errors: ENOENT, ENOTDIR, and those of reading the directory: all before the first entry."""
        node = self._node(path)
        if not stat.S_ISDIR(node.mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return iter(list(self._entries(node)))

    def _entries(self, node: Node) -> Iterator[tuple[str, Attributes, int]]:
        # Offset 0 lets libfuse collect the whole listing at once and number it itself.
        parent = self._view.node(self._view.parent(node.nodeid))
        yield ".", {"st_ino": node.ino, "st_mode": node.mode}, 0
        yield "..", {"st_ino": parent.ino, "st_mode": parent.mode}, 0
        for name, child, _place in self._view.listing(node.nodeid):
            yield name.decode(_ENCODING), {"st_ino": child.ino, "st_mode": child.mode}, 0

    def listxattr(self, _path: str) -> list[str]:
        """None, which tar and rsync take better than "not supported"."""
        return []

    def statfs(self, _path: str) -> dict[str, int]:
        """The numbers of the dataset's file system when the view was made."""
        found = self._view.file_system
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def ioctl(self, _path: str, command: int, _argument: int, _fh: int, _flags: int, data: int | None) -> int:
        """Answers what `symfuse status` and `symfuse why` ask. Errors: ENOTTY for all else; see `Control.answer`."""
        if command not in COMMANDS or not data:
            raise OSError(errno.ENOTTY, "not a symfuse ioctl")
        reply = self._control.answer(command, ctypes.string_at(data, BUFFER_BYTES), uid=self._caller().uid)
        ctypes.memmove(data, reply.ljust(BUFFER_BYTES, b"\0"), BUFFER_BYTES)
        return 0

    # -- paths --------------------------------------------------------------------------------------------------

    def _node(self, path: str) -> Node:
        """The node at a path. Errors: ENOENT, ENAMETOOLONG, and those of reading a directory on the way."""
        if path == "/":
            return self._view.node(ROOT_NODEID)
        head, _, name = path.rpartition("/")
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        node = self._view.lookup(self._directory(head or "/"), name.encode(_ENCODING))
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node

    def _directory(self, path: str) -> int:
        """The nodeid of a directory. Errors: ENOENT, ENOTDIR."""
        nodeid = self._directories.get(path)
        if nodeid is None:
            node = self._node(path)
            if not stat.S_ISDIR(node.mode):
                raise OSError(errno.ENOTDIR, "not a directory")
            nodeid = node.nodeid
            if len(self._directories) >= MAX_REMEMBERED:
                self._directories = {"/": ROOT_NODEID}
            self._directories[path] = nodeid
        return nodeid


def _read_only(*_arguments: object) -> NoReturn:
    # The mount is read-only anyway, until root remounts it.
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _not_needed(*_arguments: object) -> NoReturn:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _attributes(node: Node) -> Attributes:
    return {
        "st_ino": node.ino,
        "st_mode": node.mode,
        "st_nlink": node.nlink,
        "st_uid": node.uid,
        "st_gid": node.gid,
        "st_size": node.size,
        "st_blocks": node.blocks,
        "st_blksize": BLOCK_BYTES,
        "st_atime": node.atime_ns,
        "st_mtime": node.mtime_ns,
        "st_ctime": node.ctime_ns,
    }


class Caller:
    """Who made the request that the current thread answers. `thread` is the caller's, as gettid(2) gives it."""

    __slots__ = ("thread", "uid")

    def __init__(self, context: tuple[int, int, int]) -> None:
        self.uid, _gid, self.thread = context


class LibfuseBackend:
    """One mount through fusepy."""

    def __init__(self, view: View, control: Control, *, options: MountOptions) -> None:
        self._view = view
        self._control = control
        self._options = options

    def run(self, on_ready: Callable[[], None]) -> None:
        """Mount, call `on_ready`, serve until unmounted by whomever.

        Errors: FuseUnavailable, MountpointError when it cannot mount; `on_ready` was then not called.
        """
        fuse = _import_fusepy()
        ready = False

        def on_init() -> None:
            nonlocal ready
            said.restore()
            ready = True
            on_ready()

        operations = Operations(
            self._view, self._control, on_init=on_init, caller=lambda: Caller(fuse.fuse_get_context())
        )
        with Stderr() as said:
            try:
                _adapted(fuse)(
                    operations,
                    self._options.mountpoint.decode(_ENCODING),
                    encoding=_ENCODING,
                    foreground=True,
                    **self._mount_options(),
                )
            except RuntimeError as error:
                if ready:
                    log.warning("libfuse ended with status %s", error)
                    return
                raise _refusal(said.text()) from None

    def _mount_options(self) -> dict[str, Any]:
        return {
            "fsname": helper.escape(self._options.fsname).decode(_ENCODING),
            "subtype": "symfuse",
            "ro": True,
            "nosuid": True,
            "nodev": True,
            "default_permissions": True,
            "allow_other": self._options.allow_other,
            "noexec": self._options.noexec,
            "use_ino": True,
            "kernel_cache": True,
            "entry_timeout": FOREVER_S,
            "attr_timeout": FOREVER_S,
            "negative_timeout": FOREVER_S,
        }


def _refusal(said: str) -> SymfuseError:
    """The error that libfuse's or fusermount's last words stand for.

    libfuse runs the fusermount of /bin, and if there is none, the first of PATH; their words begin with that name.
    """
    paths = (os.path.join(directory, "fusermount") for directory in ("/bin", *os.get_exec_path()))
    path = next(filter(os.path.isfile, paths), None)
    if path is not None and "failed to exec fusermount: Permission denied" in said:
        return helper.closed(path)
    return refusals.explained(said, path if "fusermount: " in said else None)


def _adapted(fuse: Any) -> Any:
    """Fusepy's FUSE, with an `init` that tells libfuse what we want: the original keeps the connection to itself."""

    def init(self: Any, connection: int) -> None:
        _want_ioctl_dir(connection)
        self.operations("init", "/")

    return type("Fuse", (fuse.FUSE,), {"init": init})


class ConnectionInfo(ctypes.Structure):
    """`struct fuse_conn_info` up to what is set here. Source: fuse_common.h of libfuse 2.9."""

    _fields_ = [
        *((name, ctypes.c_uint) for name in ("proto_major", "proto_minor", "async_read", "max_write")),
        *((name, ctypes.c_uint) for name in ("max_readahead", "capable", "want")),
    ]


def _want_ioctl_dir(connection: int) -> None:
    """Without asking for it, libfuse answers every ioctl on a directory itself, and ours are on the root."""
    info = ConnectionInfo.from_address(connection)
    info.want |= info.capable & CAP_IOCTL_DIR


def _import_fusepy() -> Any:
    try:
        import fuse  # noqa: PLC0415 - fusepy loads libfuse when imported, and not everybody has one
    except ImportError as error:
        raise FuseUnavailable("fusepy is not installed", "pip install fusepy") from error
    except OSError as error:
        raise FuseUnavailable(
            "libfuse 2 is not installed", "apt install libfuse2 (Ubuntu 24.04: libfuse2t64), or use --backend kernel"
        ) from error
    if not hasattr(fuse, "FUSE"):
        raise FuseUnavailable("the module `fuse` is not fusepy's", "pip uninstall fuse-python && pip install fusepy")
    return fuse


def _unnamed_file() -> BinaryIO:
    """In memory, where Python and the kernel can: a container may have nothing that can be written."""
    with contextlib.suppress(AttributeError, OSError):
        return os.fdopen(os.memfd_create("symfuse-stderr"), "w+b")
    return tempfile.TemporaryFile(dir=directories.temporary())


class Stderr(contextlib.AbstractContextManager["Stderr"]):
    """What is written to descriptor 2 until `restore`, which the end calls, too.

    libfuse and fusermount say why a mount failed only there. Other threads' output of that moment is not lost:
    `restore` writes everything to the real one, unless `text` took it for the error's message.
    """

    def __init__(self) -> None:
        self._file = _unnamed_file()
        self._real: int | None = None

    def __enter__(self) -> Stderr:
        self._real = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.restore()

    def text(self) -> str:
        """What was said so far; it is then not repeated."""
        self._file.seek(0)
        text = self._file.read()
        self._file.seek(0)
        self._file.truncate()
        return text.decode("utf-8", "replace")

    def restore(self) -> None:
        """Descriptor 2 is again what it was."""
        if self._real is None:
            return
        os.dup2(self._real, 2)
        os.close(self._real)
        self._real = None
        with self._file as said:
            said.seek(0)
            with contextlib.suppress(OSError):  # the real one may be closed at its other end, or full
                os.write(2, said.read())
