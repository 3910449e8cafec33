"""mount(2), umount2(2), and their like.

Root mounts with the system call; everybody else, and whoever the kernel refuses it, asks the setuid helper
(`helper.py`). Sources: mount(2), umount2(2), `fuse_kern_mount` in libfuse's `lib/mount.c`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct

from symfuse import libc
from symfuse.errors import FuseUnavailable, MountpointError, SymfuseError
from symfuse.fuse import helper
from symfuse.fuse.options import MountOptions
from symfuse.fuse.refusals import CURE_NO_ACCESS, CURE_NO_CAPABILITY, CURE_NO_DEVICE
from symfuse.mountinfo import FSTYPE

DEVICE = "/dev/fuse"

# Source: linux/mount.h, bits/sys/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# Numbers of system calls that are the same on every machine, and their arguments. Source: asm-generic/unistd.h,
# linux/mount.h, linux/fcntl.h
OPEN_TREE = 428
MOUNT_SETATTR = 442
OPEN_TREE_CLONE = 1
AT_EMPTY_PATH = 0x1000
#: `struct mount_attr`: attr_set (MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOATIME), attr_clr (MOUNT_ATTR__ATIME), propagation,
#: userns_fd.
_READ_ONLY = struct.pack("<QQQQ", 0x11, 0x70, 0, 0)

#: The largest READ that the server allows (`server.MAX_PAGES`).
READAHEAD_KIB = 1024

#: What root is told where the kernel, or a Python that cannot call libc, lets it do no more than anybody else.
POWERLESS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})

CURE_NO_CTYPES = "use a Python with ctypes, or install fusermount3 (apt-get install fuse3), which can do it instead"
CURE_NO_OVERLAY = "run 'modprobe overlay' as root, or mount without --stack"


def mount(options: MountOptions) -> int:
    """Mount, and return the descriptor of the connection; its first request will be INIT.

    Errors: FuseUnavailable when this machine or this user cannot; MountpointError when the kernel refuses the place.
    """
    if os.geteuid() != 0:
        return helper.mount(options)
    try:
        return _mount_as_root(options)
    except FuseUnavailable as refusal:
        # Some containers give root no device, but a helper that asks the world outside.
        with contextlib.suppress(SymfuseError):
            return helper.mount(options)
        raise refusal


def mount_overlay(source: bytes, mountpoint: bytes, lower: list[bytes], *, noexec: bool) -> None:
    """Mount an overlay of these directories, read-only; as root. No path in `lower` may hold a comma or a colon.

    Errors: FuseUnavailable when this kernel or this user cannot.
    """
    try:
        libc.call("mount", source, mountpoint, b"overlay", _flags(noexec=noexec), b"lowerdir=" + b":".join(lower))
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise FuseUnavailable("the kernel has no overlayfs, which --stack needs", CURE_NO_OVERLAY) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise FuseUnavailable("the kernel does not let you mount an overlay here", CURE_NO_CAPABILITY) from error
        raise FuseUnavailable(
            f"the kernel refuses an overlay over the mount ({error.strerror})", "mount without --stack"
        ) from error


def bind(mounted: bytes, mountpoint: bytes, via: bytes | None = None) -> None:
    """Show what is mounted at one place at another, too, as restricted as there; as root. `via`: see `MountOptions`.

    Errors: MountpointError.
    """
    try:
        libc.call("mount", mounted, via or mountpoint, b"none", MS_BIND, b"")
    except OSError as error:
        raise _misplaced(mountpoint, error) from error


def unmount(mountpoint: bytes, *, lazy: bool = False) -> None:
    """Unmount; `lazy` takes the mount out of the tree now and ends it when its last user is gone.

    Errors: OSError: EBUSY while it is in use and not `lazy`, EINVAL when nothing of the caller's is mounted there;
    FuseUnavailable when this machine or this user cannot.
    """
    if os.geteuid() != 0:
        helper.unmount(mountpoint, lazy=lazy)
        return
    try:
        libc.call("umount2", mountpoint, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno not in POWERLESS:
            raise
        with contextlib.suppress(FuseUnavailable):
            helper.unmount(mountpoint, lazy=lazy)
            return
        raise FuseUnavailable(
            f"the kernel does not let you unmount here ({error.strerror})", CURE_NO_CAPABILITY
        ) from error


def raise_readahead(device: int) -> None:
    """Let the kernel ask the file system of this device number for more at once than the 128 KiB it begins with.

    Only root may; for others, and where a container shows no writable /sys, all stays as it is.
    """
    with contextlib.suppress(OSError):
        path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        with open(path, "r+", encoding="ascii") as setting:
            setting.write(f"{READAHEAD_KIB}\n")


def reopened_read_only(fd: int) -> int:
    """What a descriptor has open, opened anew through a mount of its own: read-only, and without access times.

    For files that others will open anew, with flags of their own. As root. Errors: OSError.
    """
    clone = libc.call("syscall", OPEN_TREE, fd, b"", AT_EMPTY_PATH | OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        libc.call("syscall", MOUNT_SETATTR, clone, b"", AT_EMPTY_PATH, _READ_ONLY, len(_READ_ONLY))
        return os.open(f"/proc/self/fd/{clone}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(clone)


def open_device() -> int:
    """A new descriptor of `/dev/fuse`. Errors: FuseUnavailable, with the cure for each reason."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise FuseUnavailable(f"{DEVICE} does not exist", CURE_NO_DEVICE) from error
        if error.errno == errno.EACCES:
            raise FuseUnavailable(f"you have no permission to use {DEVICE}", CURE_NO_ACCESS) from error
        if error.errno == errno.EPERM:
            raise FuseUnavailable(f"{DEVICE} is forbidden here", CURE_NO_DEVICE) from error
        raise FuseUnavailable(f"{DEVICE} cannot be opened ({error.strerror})", CURE_NO_DEVICE) from error


def _mount_as_root(options: MountOptions) -> int:
    fd = open_device()
    data = [
        f"fd={fd}",
        f"rootmode={stat.S_IFDIR:o}",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        "default_permissions",
    ]
    if options.allow_other:
        data.append("allow_other")
    try:
        libc.call(
            "mount", options.fsname, options.via or options.mountpoint, FSTYPE,
            _flags(noexec=options.noexec), ",".join(data).encode(),
        )  # fmt: skip
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise FuseUnavailable("the kernel does not let you mount here", CURE_NO_CAPABILITY) from error
        if error.errno == errno.ENOSYS:
            raise FuseUnavailable(str(error.strerror), CURE_NO_CTYPES) from error
        if error.errno == errno.ENODEV:
            raise FuseUnavailable("the kernel has no FUSE", CURE_NO_DEVICE) from error
        raise _misplaced(options.mountpoint, error) from error
    return fd


def _flags(*, noexec: bool) -> int:
    """What every mount of ours promises, and what this one does."""
    return MS_RDONLY | MS_NOSUID | MS_NODEV | (MS_NOEXEC if noexec else 0)


def _misplaced(mountpoint: bytes, error: OSError) -> MountpointError:
    return MountpointError(f"cannot mount on {os.fsdecode(mountpoint)} ({error.strerror})", "choose another directory")
