"""The setuid program fusermount3, which mounts and unmounts for ordinary users.

It is asked, never judged by how it looks: where several are installed, one that refuses gives way to the next, and the
most telling refusal is reported. Source: `fuse_mount_fusermount` in libfuse's `lib/mount.c`, `util/fusermount.c`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from symfuse import mountinfo
from symfuse.errors import FuseUnavailable, SymfuseError
from symfuse.fuse import refusals
from symfuse.fuse.options import MountOptions

#: libfuse 2's helper, by the old name, speaks the same protocol.
NAMES = ("fusermount3", "fusermount")
#: Looked through after PATH, which services and containers keep short. NixOS has setuid programs in the first.
USUAL_DIRECTORIES = (
    *("/run/wrappers/bin", "/usr/bin", "/bin", "/usr/local/bin"),
    *("/usr/sbin", "/sbin", "/usr/local/sbin"),
)
#: One takes 3 ms. A wrapper may do anything, and ask for a password too.
TIMEOUT_S = 60.0

#: What says nothing of the helper, and would be the same with the next.
_EXHAUSTED = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

T = TypeVar("T")

# How telling a refusal is: less is more.
_KNOWN, _CLOSED, _UNKNOWN, _POWERLESS, _BROKEN = range(5)


class Refused(Exception):
    """One helper's answer, after which the next is asked. `rank` says how much it tells."""

    def __init__(self, rank: int, error: SymfuseError | OSError) -> None:
        super().__init__(str(error))
        self.rank = rank
        self.error = error


class Said(NamedTuple):
    """How a helper ended."""

    status: int
    words: str


def mount(options: MountOptions) -> int:
    """Mount, and return the descriptor of the connection.

    Errors: FuseUnavailable, MountpointError: the most telling refusal.
    """
    return _first(lambda path: _mount_with(path, options))


def unmount(mountpoint: bytes, *, lazy: bool = False) -> None:
    """Unmount what is mounted at this real path.

    Errors: OSError EBUSY while it is in use, EINVAL when nothing of ours is mounted there; FuseUnavailable.
    """
    _first(lambda path: _unmount_with(path, mountpoint, lazy=lazy))


def candidates() -> Iterator[str]:
    """Every helper on this machine, the preferred first. Each is run by the name that it was found by."""
    seen = set()
    for name in NAMES:
        for directory in (*os.get_exec_path(), *USUAL_DIRECTORIES):
            path = os.path.join(directory, name)
            real = os.path.realpath(path)
            if os.path.isabs(directory) and real not in seen and os.path.isfile(real):
                seen.add(real)
                yield path


def _first(ask: Callable[[str], T]) -> T:
    """The first answer that is no refusal. Errors: the most telling refusal."""
    refused: list[Refused] = []
    for path in candidates():
        try:
            return ask(path)
        except Refused as refusal:
            refused.append(refusal)
    if not refused:
        raise FuseUnavailable(
            "fusermount3 is not installed, and only root can mount without it", refusals.CURE_NO_HELPER
        )
    raise min(refused, key=lambda refusal: refusal.rank).error from None


def _mount_with(path: str, options: MountOptions) -> int:
    wanted = [
        b"ro",
        b"nosuid",
        b"nodev",
        b"default_permissions",
        b"subtype=symfuse",
        b"fsname=" + escape(options.fsname),
    ]
    if options.allow_other:
        wanted.append(b"allow_other")
    if options.noexec:
        wanted.append(b"noexec")
    before = mountinfo.at(options.mountpoint)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        said = _run(path, "-o", b",".join(wanted), "--", options.mountpoint, connection=theirs)
        theirs.close()
        fd = _received(ours)
    now = mountinfo.at(options.mountpoint)
    if fd is not None and now != before:
        return fd
    # A wrapper kept the connection from us, or mounted outside of a container that nothing comes into.
    if fd is not None:
        os.close(fd)
    if fd is not None or (now is not None and now.is_symfuse and now != before):
        with contextlib.suppress(Refused):
            _unmount_with(path, options.mountpoint, lazy=True)
    raise _refused(path, said.words or ("its mount is not seen here" if fd is not None else "no connection came back"))


def _received(connection: socket.socket) -> int | None:
    """The descriptor that was sent; whoever was to send it has ended."""
    connection.setblocking(False)  # a wrapper may have left a process behind that keeps the other end
    try:
        _byte, fds, _flags, _address = socket.recv_fds(connection, 1, 1)
    except BlockingIOError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)  # a child that kept it would keep a dead connection open
    return fds[0] if fds else None


def _unmount_with(path: str, mountpoint: bytes, *, lazy: bool) -> None:
    before = mountinfo.at(mountpoint)
    said = _run(path, "-u", *(["-z"] if lazy else []), "--", mountpoint)
    if said.status == 0 and (before is None or mountinfo.at(mountpoint) != before):
        return
    if "resource busy" in said.words:
        raise Refused(_KNOWN, OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint))
    if re.search(r"Invalid argument|not mounted|entry for .* not found", said.words):
        raise Refused(_KNOWN, OSError(errno.EINVAL, os.strerror(errno.EINVAL), mountpoint))
    raise _refused(path, said.words, deed="unmount")


def _refused(path: str, words: str, *, deed: str = "mount") -> Refused:
    error = refusals.explained(words, path, deed=deed)
    if re.search(refusals.POWERLESS, words):
        return Refused(_KNOWN if refusals.is_setuid(path) else _POWERLESS, error)
    return Refused(_KNOWN if refusals.is_known(words) else _UNKNOWN, error)


def _run(path: str, *arguments: str | bytes, connection: socket.socket | None = None) -> Said:
    """Run a helper to its end. Errors: Refused when it cannot be run, or does not end."""
    environment = {"LC_ALL": "C"}
    if not refusals.is_setuid(path):
        environment = os.environ | environment  # a wrapper may need it; a program of root's gets nothing from us
    fds = []
    if connection is not None:
        fds = [connection.fileno()]
        environment["_FUSE_COMMFD"] = str(fds[0])
    try:
        done = subprocess.run(
            [path, *arguments],
            env=environment,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        error = FuseUnavailable(f"{path} has not ended within {TIMEOUT_S:.0f} s", refusals.CURE_WRAPPER)
        raise Refused(_UNKNOWN, error) from None
    except PermissionError:
        raise Refused(_CLOSED if refusals.is_setuid(path) else _BROKEN, closed(path)) from None
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise FuseUnavailable(f"{path} cannot be run ({error.strerror})", refusals.CURE_EXHAUSTED) from error
        cure = "ask root to reinstall it: apt-get install --reinstall fuse3"
        raise Refused(_BROKEN, FuseUnavailable(f"{path} cannot be run ({error.strerror})", cure)) from None
    return Said(done.returncode, done.stderr.decode("utf-8", "replace").strip())


def closed(path: str) -> FuseUnavailable:
    """The error for a helper that this user may not execute: some systems have only the members of a group mount."""
    cure = f"ask root to let you: by the group that {path} belongs to, or with 'chmod o+x {path}'"
    return FuseUnavailable(f"you have no permission to execute {path}", cure)


def escape(value: bytes) -> bytes:
    r"""A value for a list of mount options, which is split at commas; `\` takes the next character as it is.

    Source: `process_opt_sep_arg` in libfuse's `lib/fuse_opt.c`, `get_string_opt` in `util/fusermount.c`.
    """
    return value.replace(b"\\", b"\\\\").replace(b",", b"\\,")
