"""mount(2), umount2(2) and the fusermount3 protocol.

Root mounts with the system call; everybody else asks the setuid helper fusermount3, which hands the descriptor of the
connection back over a socket. Sources: mount(2), umount2(2), `fuse_kern_mount` in libfuse's `lib/mount.c`,
`util/fusermount.c`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import struct
import subprocess

from symfuse import libc
from symfuse.errors import FuseUnavailable, MountpointError
from symfuse.fuse.options import MountOptions

DEVICE = "/dev/fuse"
FSTYPE = "fuse.symfuse"

# Source: linux/mount.h, bits/sys/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
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

CURE_NO_DEVICE = "run 'modprobe fuse' as root; in a container, start it with --device /dev/fuse"
CURE_NO_ACCESS = "ask root for 'chmod 666 /dev/fuse', which is the usual mode of this device"
CURE_NO_CAPABILITY = "in a container, start it with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
CURE_NO_OVERLAY = "run 'modprobe overlay' as root, or mount without --stack"
CURE_NO_HELPER = "ask root to install it: apt-get install fuse3"


def mount(options: MountOptions) -> int:
    """Mount, and return the descriptor of the connection; its first request will be INIT.

    Errors: FuseUnavailable when this machine or this user cannot; MountpointError when the kernel refuses the place.
    """
    return _mount_as_root(options) if os.geteuid() == 0 else _mount_with_helper(options)


def mount_overlay(source: bytes, mountpoint: bytes, lower: list[bytes]) -> None:
    """Mount an overlay of these directories, read-only; as root. No path in `lower` may hold a comma or a colon.

    Errors: FuseUnavailable when this kernel or this user cannot.
    """
    try:
        libc.call(
            "mount", source, mountpoint, b"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, b"lowerdir=" + b":".join(lower)
        )
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise FuseUnavailable("the kernel has no overlayfs, which --stack needs", CURE_NO_OVERLAY) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise FuseUnavailable("the kernel does not let you mount an overlay here", CURE_NO_CAPABILITY) from error
        raise FuseUnavailable(
            f"the kernel refuses an overlay over the mount ({error.strerror})", "mount without --stack"
        ) from error


def bind(mounted: bytes, mountpoint: bytes) -> None:
    """Show what is mounted at one place at another, too; as root. Errors: MountpointError."""
    try:
        libc.call("mount", mounted, mountpoint, b"none", MS_BIND, b"")
    except OSError as error:
        raise _misplaced(mountpoint, error) from error


def unmount(mountpoint: bytes, *, lazy: bool = False) -> None:
    """Unmount; `lazy` takes the mount out of the tree now and ends it when its last user is gone.

    Errors: OSError: EBUSY while it is in use and not `lazy`, EINVAL when nothing is mounted there, EPERM when it is not
    the caller's.
    """
    if os.geteuid() == 0:
        libc.call("umount2", mountpoint, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
    else:
        _unmount_with_helper(mountpoint, lazy=lazy)


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


def helper() -> str | None:
    """The path of fusermount3, or of fusermount where only that is installed."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


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
            "mount", options.fsname, options.mountpoint, FSTYPE.encode(),
            MS_RDONLY | MS_NOSUID | MS_NODEV, ",".join(data).encode(),
        )  # fmt: skip
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise FuseUnavailable("the kernel does not let you mount here", CURE_NO_CAPABILITY) from error
        if error.errno == errno.ENODEV:
            raise FuseUnavailable("the kernel has no FUSE", CURE_NO_DEVICE) from error
        raise _misplaced(options.mountpoint, error) from error
    return fd


def _misplaced(mountpoint: bytes, error: OSError) -> MountpointError:
    return MountpointError(f"cannot mount on {os.fsdecode(mountpoint)} ({error.strerror})", "choose another directory")


def _mount_with_helper(options: MountOptions) -> int:
    os.close(open_device())  # its errors say more than the helper's
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
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        arguments: list[bytes | str] = [_require_helper(), "-o", b",".join(wanted), "--", options.mountpoint]
        environment = {"_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"}
        done = subprocess.run(
            arguments, env=environment, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, check=False
        )
        theirs.close()
        _byte, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    if done.returncode != 0 or not fds:
        raise FuseUnavailable(f"fusermount3 refused to mount ({_one_line(done.stderr)})", _cure_of(done.stderr))
    os.set_inheritable(fds[0], False)  # a child that kept it would keep a dead connection open
    return fds[0]


def _unmount_with_helper(mountpoint: bytes, *, lazy: bool) -> None:
    arguments: list[bytes | str] = [_require_helper(), "-u", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(arguments, env={"LC_ALL": "C"}, stderr=subprocess.PIPE, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.lower()
    if b"busy" in said:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)
    if b"not permitted" in said or b"permission" in said:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), mountpoint)
    raise OSError(errno.EINVAL, _one_line(done.stderr), mountpoint)


def _require_helper() -> str:
    path = helper()
    if path is None:
        raise FuseUnavailable("fusermount3 is not installed, and only root can mount without it", CURE_NO_HELPER)
    return path


def _cure_of(said: bytes) -> str:
    if b"allow_other" in said:
        return "ask root to write 'user_allow_other' into /etc/fuse.conf, or leave out --allow-other"
    if b"mount failed: operation not permitted" in said.lower():  # the helper may be root, but lacks the capability
        return f"{CURE_NO_CAPABILITY}, and without no-new-privileges"
    if b"could not determine username" in said:
        return "use a uid that /etc/passwd knows; in an image, make one with useradd"
    if b"write access" in said or b"not permitted" in said:
        return "choose a directory that you own and may write to"
    return "see fusermount3(1)"


def _one_line(text: bytes) -> str:
    return " ".join(os.fsdecode(text).split()).removeprefix("fusermount3: ")


def escape(value: bytes) -> bytes:
    r"""A value for a list of mount options, which is split at commas; `\` takes the next character as it is.

    Source: `process_opt_sep_arg` in libfuse's `lib/fuse_opt.c`, `get_string_opt` in `util/fusermount.c`.
    """
    return value.replace(b"\\", b"\\\\").replace(b",", b"\\,")
