"""Which file system a device number stands for, and how far its inode numbers can be trusted."""

from __future__ import annotations

import contextlib
import os

from symfuse.mountinfo import mounts

#: File systems whose device and inode numbers name one file, and no other at the same time. FUSE passes on numbers of
#: several file systems (bindfs, mergerfs, virtiofs) or makes them up, and so do 9p, SMB and FAT.
_NUMBERED = frozenset(
    {
        *(b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"bcachefs", b"zfs", b"f2fs", b"jfs", b"nilfs2", b"reiserfs"),
        *(b"tmpfs", b"ramfs", b"overlay", b"squashfs", b"erofs", b"iso9660", b"udf"),
        *(b"nfs", b"nfs4", b"ceph", b"lustre", b"gpfs", b"ocfs2", b"gfs2"),
    }
)
_AUTOFS = b"autofs"


class Volumes:
    """The file systems that sources lie on, by device number. Safe to use from several threads."""

    def __init__(self) -> None:
        self._types: dict[int, bytes] = {}
        #: Devices of automount triggers: what is seen of them without opening them is not what they show.
        self.triggers: frozenset[int] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Forget what was known: something was mounted or unmounted, and device numbers are used again."""
        self._types = {}
        self.triggers = frozenset(entry.device for entry in mounts() if entry.fstype == _AUTOFS)

    def is_numbered(self, device: int, path: bytes) -> bool:
        """True when inode numbers of this device tell files apart. `path` is that of a file or directory on it."""
        if device not in self._types:
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    return self.has_numbered(fd, device)
                finally:
                    os.close(fd)
        return self._types.get(device) in _NUMBERED

    def has_numbered(self, fd: int, device: int) -> bool:
        """As `is_numbered`, for the device of an open file."""
        fstype = self._types.get(device)
        if fstype is None:
            fstype = self._types[device] = _fstype(fd)
        return fstype in _NUMBERED


def _fstype(fd: int) -> bytes:
    """The type of the file system that an open file lies on; empty where that cannot be found out.

    By mount id and not by device: subvolumes of btrfs, and layers of overlay, have device numbers that mountinfo lacks.
    """
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            mount_id = next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))
        return next((entry.fstype for entry in mounts() if entry.mount_id == mount_id), b"")
    return b""
