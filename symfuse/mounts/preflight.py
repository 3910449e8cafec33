"""What must hold before a mount is tried. Each refusal names the cause and the cure.

Nothing is changed, but that dead mounts are cleared out of the way. The server looks at the mountpoint again when it
mounts (`claim.py`). Whether this user may mount is not foretold here: the kernel and fusermount3 are asked, and what
they say is explained (`fuse/refusals.py`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from symfuse.dataset import real_root
from symfuse.errors import FuseUnavailable, MountpointError, SourceError
from symfuse.mounts import bounded, table, unmount
from symfuse.mounts.claim import already_mounted
from symfuse.mounts.request import MountRequest
from symfuse.policy import Backend


def check(request: MountRequest, *, on_note: Callable[[str], None]) -> None:
    """Refuse what cannot work; `on_note` hears what was done to make it work.

    Errors: SourceError, MountpointError, FuseUnavailable.
    """
    unmount.clear_left_behind()
    _check_not_on_strangers(request.mountpoint)
    if unmount.clear_dead(request.mountpoint):
        on_note(f"cleared a dead mount at {os.fsdecode(request.mountpoint)}: its server had ended without unmounting")
    _check_responds(request)
    real_root(request.source)
    check_mountpoint(request.mountpoint, request.source)
    check_fuse(request.backend)
    if request.stack and os.geteuid() != 0:
        raise FuseUnavailable("only root can mount an overlay, which --stack needs", "mount without --stack")


def _check_not_on_strangers(mountpoint: bytes) -> None:
    """What lies on another user's FUSE mount may hang whoever looks, or be another thing at the next look.

    Whoever made a container's root has every say there anyway. Errors: MountpointError.
    """
    for mount in table.way_to(mountpoint):
        if mount.user is not None and not table.is_trusted(mount) and mount.mountpoint != b"/":
            if mount.is_symfuse and mount.mountpoint == mountpoint:
                raise already_mounted(mount)
            name, on = os.fsdecode(mountpoint), os.fsdecode(mount.mountpoint)
            raise MountpointError(f"{name} lies on {on}, a FUSE mount of another user", "use a directory elsewhere")


def _check_responds(request: MountRequest) -> None:
    """Nobody can end a process that looks at storage that hangs, so a child looks first.

    Errors: SourceError, MountpointError.
    """
    name = os.fsdecode(request.source)
    if not bounded.responds(request.source):
        raise SourceError(f"the storage of {name} does not respond", "see the file systems it lies on")
    _check_free(request.mountpoint)  # the server of a mount there may be what hangs
    if not bounded.responds(request.mountpoint):
        cure = "a file system on the way to it hangs: see findmnt"
        raise MountpointError(f"the path {os.fsdecode(request.mountpoint)} does not respond", cure)


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
    _check_empty(mountpoint)


def _check_free(mountpoint: bytes) -> None:
    """Only a symfuse mount is in the way: to mount over an empty directory of any other file system is fine."""
    mounted = table.at(mountpoint)
    if mounted is not None and mounted.is_symfuse:
        raise already_mounted(mounted)


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


def _check_empty(mountpoint: bytes) -> None:
    name = os.fsdecode(mountpoint)
    try:
        with os.scandir(mountpoint) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise MountpointError(f"mountpoint {name}: {error.strerror}", "use an empty directory of your own") from None
    if not is_empty:
        raise MountpointError(f"mountpoint {name} is not empty", "use an empty directory")


def check_fuse(backend: Backend) -> None:
    """What must be there before a server is started; whether it may mount, the server asks. Errors: FuseUnavailable."""
    if backend is Backend.FUSEPY:
        _check_libfuse()


def _check_libfuse() -> None:
    """What `import fuse` will look for. Source: fusepy's fuse.py."""
    try:
        from ctypes.util import find_library  # noqa: PLC0415 - some builds of Python lack it
    except ImportError as error:
        raise FuseUnavailable("this Python lacks ctypes, which fusepy needs", "use --backend kernel") from error
    if os.environ.get("FUSE_LIBRARY_PATH") is None and find_library("fuse") is None:
        raise FuseUnavailable(
            "--backend fusepy needs libfuse 2, which is not installed",
            "install it (apt-get install libfuse2), or use --backend kernel",
        )
