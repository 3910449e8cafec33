"""Whether what lies somewhere now is what was frozen. The one place that judges it: SAME, or what shows a change.

A file is known by what the file system says of it, and not every file system says the truth about everything:

- Device numbers mean nothing across an unmount: another loop device, an automount, a restarted FUSE server.
- Inode numbers move on FUSE (sshfs, mergerfs), overlay and FAT as soon as the kernel forgets an inode.
- Size and modification time always count, but whoever writes can put the time back (`touch -r`, `rsync --inplace -t`).
- The change time cannot be set by anybody, so it is the best evidence. It also moves when a file only gets another
  name, mode or owner; the link count, mode and owner then say so.
- File systems that store times in coarser units than they keep in memory cut them when an inode is read again, and
  those that store no change time show the modification time in its place (SFTP, FAT).

What no evidence can tell is said in docs/semantics.md. Source: stat(2), inode(7); inode_set_ctime_current() in
fs/inode.c of Linux; sshfs.c (attributes of SFTP have no change time).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

#: Units, in nanoseconds, that file systems store times in: SMB 100 ns, UDF 1 µs, some FUSE 1 ms, exFAT 10 ms, ext4 with
#: small inodes 1 s, FAT 2 s.
_UNITS_NS = (2_000_000_000, 1_000_000_000, 10_000_000, 1_000_000, 1_000, 100)
#: Times of whole milliseconds come from file systems that keep no change time of their own, or a coarse one.
COARSE_NS = 1_000_000


class Identity(NamedTuple):
    """What a source was when it was frozen. `mode` is all of st_mode; times are in nanoseconds."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int
    nlink: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """What stat(2) says of a source."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink,
        )  # fmt: skip

    def is_of(self, status: os.stat_result) -> bool:
        """True when nothing at all shows a change: the quick look of every read. `change` weighs what is less plain."""
        return (
            status.st_ctime_ns == self.ctime_ns and status.st_mtime_ns == self.mtime_ns and status.st_size == self.size
        )

    @property
    def is_coarse(self) -> bool:
        """True when the change time may not show every change."""
        return self.ctime_ns % COARSE_NS == 0

    def change(self, found: Identity) -> str:
        """What shows that the file `found` is another than this one, or was written to; empty for the same file."""
        if found == self:
            return ""
        if stat.S_IFMT(found.mode) != stat.S_IFMT(self.mode):
            return "file type"
        if found.size != self.size:
            return "size"
        if not _is_cut(self.mtime_ns, found.mtime_ns):
            return "modification time"
        return "" if self._explains(found) else "change time"

    def _explains(self, found: Identity) -> bool:
        """True when the change time that was found comes from anything but a write.

        This judges hostile datasets, too: whoever may swap a file for another can choose the other's size and time, so
        a change time that moved is excused only for what is the same inode of the same owner.
        """
        if _is_cut(self.ctime_ns, found.ctime_ns):
            return True
        is_ours = (found.ino, found.uid, found.gid) == (self.ino, self.uid, self.gid)
        if is_ours and (found.mode, found.nlink) != (self.mode, self.nlink):
            return True  # it got another mode or name
        # No file system moves a change time back. One that stores none showed it from memory, and has forgotten it.
        return found.is_coarse and found.ctime_ns == found.mtime_ns and found.ctime_ns < self.ctime_ns

    def is_directory(self, found: Identity) -> bool:
        """True when the directory `found` is this one, whatever was added to it or removed meanwhile."""
        if (found.dev, found.ino) == (self.dev, self.ino):
            return True
        # Its numbers moved, as on FUSE, or after it was mounted again: then it is the same if nothing else moved.
        return not self.change(found)


class Guarded(Identity):
    """What a source was that others than whoever mounts may read: owner, group and mode must be what they were.

    `shown` is the mode that they are judged by (`access/proof.py`).
    """

    shown: int = 0

    @classmethod
    def by(cls, identity: Identity, shown: int) -> Guarded:
        """The same identity, for those who are judged by a mode."""
        guarded = cls(*identity)
        guarded.shown = shown
        return guarded

    def is_of(self, status: os.stat_result) -> bool:
        # For each read: quicker than to make an identity of it.
        permissions = status.st_mode, status.st_uid, status.st_gid
        return permissions == (self.mode, self.uid, self.gid) and super().is_of(status)

    def change(self, found: Identity) -> str:
        return super().change(found) or ("" if self._has_permissions_of(found) else "owner or mode")

    def is_directory(self, found: Identity) -> bool:
        return self._has_permissions_of(found) and super().is_directory(found)

    def _has_permissions_of(self, found: Identity) -> bool:
        return (found.mode, found.uid, found.gid) == (self.mode, self.uid, self.gid)


def _is_cut(frozen_ns: int, found_ns: int) -> bool:
    """True for equal times, and for one that lost the digits that its file system does not store."""
    if found_ns == frozen_ns:
        return True
    return any(found_ns % unit == 0 and found_ns == frozen_ns - frozen_ns % unit for unit in _UNITS_NS)
