"""What must hold before a mount is tried. Each refusal names the cause and the cure.

Nothing is changed, but that a dead mount is cleared out of the way. The server finds out the same things again, later
and in the kernel's words; these checks are for the user's sake.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from ctypes.util import find_library

from symfuse.dataset import real_root
from symfuse.errors import FuseUnavailable, MountpointError
from symfuse.fuse import kernelmount
from symfuse.fuse.kernelmount import CURE_NO_HELPER
from symfuse.mounts import table, unmount
from symfuse.mounts.request import MountRequest
from symfuse.policy import Backend

FUSE_CONF = "/etc/fuse.conf"


def check(request: MountRequest, *, on_note: Callable[[str], None]) -> None:
    """Refuse what cannot work; `on_note` hears what was done to make it work.

    Errors: SourceError, MountpointError, FuseUnavailable.
    """
    if unmount.clear_dead(request.mountpoint):
        on_note(f"cleared a dead mount at {os.fsdecode(request.mountpoint)}: its server had ended without unmounting")
    real_root(request.source)
    check_mountpoint(request.mountpoint, request.source)
    check_fuse(request.backend, allow_other=request.allow_other)
    if request.stack and os.geteuid() != 0:
        raise FuseUnavailable("only root can mount an overlay, which --stack needs", "mount without --stack")


def check_mountpoint(mountpoint: bytes, source: bytes) -> None:
    """Errors: MountpointError. `mountpoint` must be a real path."""
    name = os.fsdecode(mountpoint)
    _check_free(mountpoint)
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError:
        raise MountpointError(f"mountpoint {name} does not exist", "create the directory first") from None
    except OSError as error:
        raise MountpointError(f"mountpoint {name}: {error.strerror}", "use a directory that you may write") from None
    if not stat.S_ISDIR(status.st_mode):
        raise MountpointError(f"mountpoint {name} is not a directory", "use an empty directory")
    _check_apart(mountpoint, source)
    _check_owned(mountpoint, status)
    _check_empty(mountpoint)


def _check_free(mountpoint: bytes) -> None:
    """Only a symfuse mount is in the way: to mount over an empty directory of any other file system is fine."""
    mounted = table.at(mountpoint)
    if mounted is None or not mounted.is_symfuse:
        return
    name = os.fsdecode(mountpoint)
    raise MountpointError(
        f"{name} is already mounted, from {os.fsdecode(mounted.source)}", "run symfuse umount on it first"
    )


def _check_apart(mountpoint: bytes, source: bytes) -> None:
    """The view must not contain itself. Compared by device and inode too: bind mounts give one directory two paths."""
    name = os.fsdecode(mountpoint)
    cure = "use an empty directory outside the dataset"
    if _same(mountpoint, source):
        raise MountpointError(f"mountpoint {name} is the dataset itself", cure)
    if _is_inside(mountpoint, source):
        raise MountpointError(f"mountpoint {name} is inside the dataset", cure)
    if _is_inside(source, mountpoint):
        raise MountpointError(f"mountpoint {name} contains the dataset", cure)


def _is_inside(path: bytes, directory: bytes) -> bool:
    wanted = _identity(directory)
    path = os.path.realpath(path)
    while path != b"/":
        path = os.path.dirname(path)
        if _identity(path) == wanted:
            return True
    return False


def _same(one: bytes, other: bytes) -> bool:
    return _identity(one) == _identity(other)


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _check_owned(mountpoint: bytes, status: os.stat_result) -> None:
    """What fusermount3 asks of an ordinary user. Source: `check_perm` in libfuse's util/fusermount.c."""
    if os.geteuid() == 0:
        return
    name = os.fsdecode(mountpoint)
    cure = "use a directory that you own"
    if status.st_mode & stat.S_ISVTX and status.st_uid != os.getuid():
        raise MountpointError(f"mountpoint {name} belongs to somebody else", cure)
    if not os.access(mountpoint, os.W_OK):
        raise MountpointError(f"you may not write to mountpoint {name}", cure)


def _check_empty(mountpoint: bytes) -> None:
    name = os.fsdecode(mountpoint)
    try:
        with os.scandir(mountpoint) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise MountpointError(f"mountpoint {name}: {error.strerror}", "use an empty directory of your own") from None
    if not is_empty:
        raise MountpointError(f"mountpoint {name} is not empty", "use an empty directory")


def check_fuse(backend: Backend, *, allow_other: bool) -> None:
    """Errors: FuseUnavailable."""
    os.close(kernelmount.open_device())
    if backend is Backend.FUSEPY:
        _check_libfuse()
    if os.geteuid() != 0:
        _check_helper(backend)
        if allow_other and not _user_allow_other():
            raise FuseUnavailable(
                "ordinary users may not use --allow-other here",
                f"have root add the line user_allow_other to {FUSE_CONF}, or mount as root",
            )


def _check_helper(backend: Backend) -> None:
    """The setuid program that mounts for ordinary users; libfuse 2 knows it only by its old name."""
    path = shutil.which("fusermount") if backend is Backend.FUSEPY else kernelmount.helper()
    if path is None:
        name = "fusermount" if backend is Backend.FUSEPY else "fusermount3"
        raise FuseUnavailable(f"{name} is not installed, and only root can mount without it", CURE_NO_HELPER)
    status = os.stat(path)
    if not (status.st_uid == 0 and status.st_mode & stat.S_ISUID):
        raise FuseUnavailable(
            f"{path} is not setuid root", "ask root to reinstall it: apt-get install --reinstall fuse3"
        )


def _check_libfuse() -> None:
    """What `import fuse` will look for. Source: fusepy's fuse.py."""
    if os.environ.get("FUSE_LIBRARY_PATH") is None and find_library("fuse") is None:
        raise FuseUnavailable(
            "--backend fusepy needs libfuse 2, which is not installed",
            "install it (apt-get install libfuse2), or use --backend kernel",
        )


def _user_allow_other() -> bool:
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as lines:
            return any(line.strip() == "user_allow_other" for line in lines)
    except OSError:
        return False
