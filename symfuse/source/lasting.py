"""Whether what was found out about a file's content may be remembered: another content must never pass for that one.

What is remembered is known by numbers, size and times, and everybody can set but the change time. So a file system must
have one, it must move at every change, and inode numbers must be those of one file system.

- Kernels, and servers of files, stamp each change with their clock, in ticks: what is written twice within one tick,
  and read in between, shows no trace of the second time. Git calls such files racy.
- Some keep whole seconds only (ext4 with inodes of 128 bytes, FAT two of them). Then a second is easily met twice, by a
  file of the same number on another disk, so that the file system's own id counts, too.
- Read-only images (squashfs, EROFS, ISO 9660) have no time but that which they were made with, and number files alike
  in each image: there the file that holds the image is known by its numbers and times.
- On FUSE, overlays, SMB and 9p it depends on what lies beneath. SFTP, rclone and FAT show the modification time for
  want of a change time; a change time that differs from it is one of its own. So is one beside a time of birth, which
  file systems have that stamp their files themselves: an overlay passes it on.

Source: Documentation/technical/racy-git.txt in git; current_time() in fs/inode.c, fat_truncate_time() in fs/fat/misc.c
and erofs_read_inode() in fs/erofs/inode.c of Linux; Documentation/ABI/testing/sysfs-block-loop there; statfs(2).
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import stat
from typing import NamedTuple

from symfuse.source import fresh
from symfuse.source.identity import COARSE_NS, Identity
from symfuse.source.realpaths import LOOK, opener
from symfuse.source.volumes import Volumes, fstype_of

#: How long a file must have been left alone before it was read: ten ticks of the slowest clock that kernels stamp files
#: with (100 Hz).
SETTLED_NS = 100_000_000
#: The same where times are coarse, or another machine's clock counts: the coarsest unit is two seconds.
COARSE_SETTLED_NS = 3_000_000_000


class Stamps(enum.Enum):
    """Who says when a file was changed."""

    KERNEL = "this kernel"
    SERVER = "another machine, or its kernel"
    IMAGE = "whoever made the read-only image"
    LAYER = "whatever file system the layer of an overlay lies on"
    BENEATH = "whatever lies beneath"
    NOBODY = "nobody"


_STAMPS = {
    **dict.fromkeys((b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"bcachefs", b"zfs", b"f2fs", b"jfs"), Stamps.KERNEL),
    **dict.fromkeys((b"nilfs2", b"reiserfs", b"tmpfs", b"ramfs"), Stamps.KERNEL),
    **dict.fromkeys((b"nfs", b"nfs4", b"ceph", b"lustre", b"gpfs", b"ocfs2", b"gfs2"), Stamps.SERVER),
    **dict.fromkeys((b"squashfs", b"erofs", b"iso9660"), Stamps.IMAGE),
    b"overlay": Stamps.LAYER,
    **dict.fromkeys((b"vfat", b"msdos", b"exfat", b"fuse.sshfs", b"fuse.rclone"), Stamps.NOBODY),
}


class Image(NamedTuple):
    """What holds the blocks of a loop device: which file, from which byte on."""

    file: Identity
    offset: int


class Volume:
    """One file system, or what a device number stands for on an overlay: what its files' times are good for."""

    def __init__(self, device: int, stamps: Stamps, *, fsid: int = 0, image: Image | None = None) -> None:
        self._device = device
        self._stamps = stamps
        self._image = image
        self.is_image = stamps is Stamps.IMAGE
        self._is_known = stamps is Stamps.IMAGE or fsid != 0
        self._number = _number(image) if self.is_image else _number((device, fsid))

    def number(self, ctime_ns: int) -> int:
        """What stands for the file system of a file with such a change time, before its inode number."""
        return self._device if ctime_ns % COARSE_NS and not self.is_image else self._number

    def is_settled(self, mtime_ns: int, ctime_ns: int, begun_ns: int, *, has_birth_time: bool = False) -> bool:
        """True when a file with these times, read since `begun_ns`, can have no other content without other times."""
        if self._image is not None:
            return begun_ns - self._image.file.ctime_ns > COARSE_SETTLED_NS
        age_ns, is_coarse = begun_ns - ctime_ns, ctime_ns % COARSE_NS == 0
        if self._stamps is Stamps.KERNEL and not is_coarse:
            return age_ns > SETTLED_NS
        if self._stamps in (Stamps.KERNEL, Stamps.SERVER):
            return age_ns > COARSE_SETTLED_NS and (self._is_known or not is_coarse)
        if self._stamps in (Stamps.LAYER, Stamps.BENEATH):
            return age_ns > COARSE_SETTLED_NS and not is_coarse and (ctime_ns != mtime_ns or has_birth_time)
        return False

    def is_still_there(self) -> bool:
        """True when the image is the one that it was, to be asked after reading; true for what is no image."""
        return not self.is_image or (self._image is not None and _image(self._device) == self._image)

    def has_birth_time(self, fd: int, found: Identity) -> bool:
        """True when an open file is on one that stamps its files itself; asked only where that counts."""
        is_asked = self._stamps is Stamps.LAYER and found.ctime_ns == found.mtime_ns
        return is_asked and fresh.has_birth_time(fd)


def volume(device: int, path: bytes, volumes: Volumes) -> Volume:
    """What a device number stands for; `path` is the real one of something on it."""
    stamps = _STAMPS.get(volumes.type_at(device, path), Stamps.BENEATH)
    if stamps is Stamps.IMAGE:
        image = _image(device)
        return Volume(device, stamps, image=image) if image is not None else UNKNOWN
    return Volume(device, stamps, fsid=_fsid(path))


def _fsid(path: bytes) -> int:
    with contextlib.suppress(OSError):
        fd = opener()(path, LOOK)
        try:
            return os.fstatvfs(fd).f_fsid
        finally:
            os.close(fd)
    return 0


def _image(device: int) -> Image | None:
    """The file behind a loop device; None for another device, or where that file cannot be found again.

    Its path may name another file where its mounts are not ours: the size, at least, must be that of the device. A file
    on FUSE and the like is not relied upon, nor is a file of another image.
    """
    loop = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    try:
        path = _line(f"{loop}/loop/backing_file")
        offset, limit, sectors = (int(_line(f"{loop}/{n}")) for n in ("loop/offset", "loop/sizelimit", "size"))
        fd = opener()(path, LOOK)
    except (OSError, ValueError):
        return None
    try:
        file, fstype = Identity.of(os.fstat(fd)), fstype_of(fd)
    finally:
        os.close(fd)
    is_it = stat.S_ISREG(file.mode) and limit == 0 and (file.size - offset) // 512 == sectors
    return Image(file, offset) if is_it and _STAMPS.get(fstype) in (Stamps.KERNEL, Stamps.SERVER) else None


def _line(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read().removesuffix(b"\n")


def _number(of: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8], "little")


#: For what cannot be looked at: nothing is remembered of it.
UNKNOWN = Volume(0, Stamps.NOBODY)
