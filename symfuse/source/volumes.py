"""Which file system a device number stands for, and how far its inode numbers can be trusted."""

from __future__ import annotations

import contextlib
import os
import stat

from symfuse.mountinfo import mounts
from symfuse.source.realpaths import LOOK, opener

#: File systems whose device and inode numbers name one file, and no other at the same time. FUSE passes on numbers of
#: several file systems (bindfs, mergerfs, virtiofs) or makes them up, and so do 9p, SMB and FAT.
_NUMBERED = frozenset(
    {
        *(b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"bcachefs", b"zfs", b"f2fs", b"jfs", b"nilfs2", b"reiserfs"),
        *(b"tmpfs", b"ramfs", b"overlay", b"squashfs", b"erofs", b"iso9660", b"udf"),
        *(b"nfs", b"nfs4", b"ceph", b"lustre", b"gpfs", b"ocfs2", b"gfs2"),
    }
)
#: File systems on which this kernel alone decides who may read, so that root may. Elsewhere a server has a say (NFS may
#: squash root), or what lies beneath (overlay).
_LOCAL = frozenset(
    {
        *(b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"bcachefs", b"zfs", b"f2fs", b"jfs", b"nilfs2", b"reiserfs"),
        *(b"tmpfs", b"ramfs", b"squashfs", b"erofs", b"iso9660", b"udf", b"vfat", b"exfat"),
    }
)
_OVERLAY = b"overlay"
#: Those whose inode numbers never change while a file lives. An overlay's may, where its layers are on several disks.
_STABLE = _NUMBERED - {_OVERLAY}
#: File systems that the kernel makes up. To open or read one of their files can do something: /proc/kmsg is consumed, a
#: variable of EFI calls the firmware. Not tmpfs, ramfs and hugetlbfs, whose files are what somebody wrote.
_PSEUDO = frozenset(
    {
        *(b"proc", b"sysfs", b"debugfs", b"tracefs", b"securityfs", b"configfs", b"cgroup", b"cgroup2", b"cpuset"),
        *(b"bpf", b"pstore", b"efivarfs", b"fusectl", b"binfmt_misc", b"mqueue", b"devpts", b"nsfs", b"pidfs"),
        *(b"autofs", b"selinuxfs", b"smackfs", b"resctrl", b"binder", b"rpc_pipefs", b"nfsd", b"ocfs2_dlmfs"),
        *(b"functionfs", b"gadgetfs", b"spufs", b"ibmasmfs", b"openpromfs", b"s390_hypfs", b"xenfs", b"dlmfs"),
        *(b"ipathfs", b"qibfs", b"oprofilefs", b"usbfs", b"usbdevfs", b"anon_inodefs", b"guest_memfd"),
    }
)
_AUTOFS = b"autofs"


class Volumes:
    """The file systems that sources lie on, by device number. Safe to use from several threads."""

    def __init__(self) -> None:
        self._types: dict[int, bytes] = {}
        #: Devices of automount triggers: what is seen of them without opening them is not what they show.
        self.triggers: frozenset[int] = frozenset()
        #: Devices that were asked for and whose inode numbers are not stable. Never forgotten.
        self.movable: set[int] = set()
        self._overlays: frozenset[int] = frozenset()  # their own devices; files may have those of layers
        self._persistent: set[int] = set()  # overlays whose files have the overlay's device
        #: FUSE file systems that one user alone may look at, and who that is.
        self.private: dict[int, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Forget what was known: something was mounted or unmounted, and device numbers are used again."""
        self._types = {}
        entries = mounts()
        self.triggers = frozenset(entry.device for entry in entries if entry.fstype == _AUTOFS)
        self._overlays = frozenset(entry.device for entry in entries if entry.fstype == _OVERLAY)
        self._persistent &= self._overlays
        self.private = {entry.device: entry.user for entry in entries if entry.user is not None and not entry.is_open}

    def is_numbered(self, device: int, path: bytes) -> bool:
        """True when inode numbers of this device tell files apart. `path` is the real one of something on it."""
        return self.type_at(device, path) in _NUMBERED

    def has_numbered(self, fd: int, device: int) -> bool:
        """As `is_numbered`, for the device of an open file."""
        return self._type(fd, device) in _NUMBERED

    def is_stable(self, fd: int, status: os.stat_result) -> bool:
        """True when an open file or directory, whose attributes these are, has one inode number as long as it lives.

        An overlay that gives its files its own device number does so because their numbers are persistent, and those of
        its directories are then, too. Source: "Inode properties" in Documentation/filesystems/overlayfs.rst of Linux.
        """
        device, fstype = status.st_dev, self._type(fd, status.st_dev)
        if fstype in _STABLE:
            return True
        if fstype == _OVERLAY and device in self._overlays:
            if not stat.S_ISDIR(status.st_mode):
                self._persistent.add(device)
            return device in self._persistent
        self.movable.add(device)
        return False

    def is_pseudo(self, device: int, path: bytes) -> bool:
        """True when the kernel makes up the files of a device. `path` is as above."""
        return self.type_at(device, path) in _PSEUDO

    def has_pseudo(self, fd: int, device: int) -> bool:
        """As `is_pseudo`, for the device of an open file; one that was only looked at (O_PATH) will do."""
        return self._type(fd, device) in _PSEUDO

    def is_local(self, device: int, path: bytes) -> bool:
        """True when this kernel alone decides who may read on a device. `path` is as above."""
        return self.type_at(device, path) in _LOCAL

    def type_at(self, device: int, path: bytes) -> bytes:
        """The type of a device's file system, empty where it cannot be found out. `path` is as above."""
        if device not in self._types:
            with contextlib.suppress(OSError):
                fd = opener()(path, LOOK)
                try:
                    return self._type(fd, device) if os.fstat(fd).st_dev == device else b""
                finally:
                    os.close(fd)
        return self._types.get(device, b"")

    def _type(self, fd: int, device: int) -> bytes:
        fstype = self._types.get(device)
        if fstype is None:
            fstype = self._types[device] = fstype_of(fd)
        return fstype


def fstype_of(fd: int) -> bytes:
    """The type of the file system that an open file lies on; empty where that cannot be found out.

    By mount id and not by device: subvolumes of btrfs, and layers of overlay, have device numbers that mountinfo lacks.
    """
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            mount_id = next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))
        return next((entry.fstype for entry in mounts() if entry.mount_id == mount_id), b"")
    return b""
