"""The kernel's table of mounts, read. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
import select
import threading
import weakref
from collections.abc import Iterable
from typing import NamedTuple

from symfuse import owners

FSTYPE = b"fuse.symfuse"
OVERLAY = b"overlay"


class MountEntry(NamedTuple):
    """One line of mountinfo.

    `device` is what st_dev says of the files there, `root` is b"/" but for bind mounts, `user` made a FUSE mount,
    `is_open` says that others may look at it. `user` is a number of the user namespace that the mount was made in,
    whoever reads it. `place` is the directory that a stacked mount was made in (`stack.py`), None for all others.
    Source: `fuse_show_options` in fs/fuse/inode.c.
    """

    mount_id: int
    parent_id: int
    device: int
    root: bytes
    mountpoint: bytes
    fstype: bytes
    source: bytes
    user: int | None
    place: bytes | None = None
    is_open: bool = False

    @property
    def is_symfuse(self) -> bool:
        """True for a view, whichever backend serves it, and not for a bind mount of a part of one."""
        return self.shows_view and self.root == b"/"

    @property
    def shows_view(self) -> bool:
        """True for every mount of a view, also a bind mount of a part of one."""
        return self.fstype == FSTYPE or self.place is not None


def parse(mountinfo: bytes) -> list[MountEntry]:
    """The mounts in the order they were made."""
    return [_entry(line) for line in mountinfo.split(b"\n") if line]  # a carriage return is not escaped


def _entry(line: bytes) -> MountEntry:
    # 36 35 98:0 /root /mountpoint options [optional fields…] - fstype source super-options
    fields = line.split(b" ")
    separator = fields.index(b"-", 6)
    fstype, options = unescape(fields[separator + 1]), fields[separator + 3]
    major, _, minor = fields[2].partition(b":")
    return MountEntry(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=os.makedev(int(major), int(minor)),
        root=unescape(fields[3]),
        mountpoint=unescape(fields[4]),
        fstype=fstype,
        source=unescape(fields[separator + 2]),
        user=_user(options),
        place=_place(options) if fstype == OVERLAY else None,
        is_open=b"allow_other" in options.split(b","),
    )


def _user(options: bytes) -> int | None:
    found = re.findall(rb"(?:^|,)user_id=(\d+)", options)  # before it may come what a security module was told
    return int(found[-1]) if found else None


def _place(options: bytes) -> bytes | None:
    found = re.search(rb"(?:^|,)lowerdir=(/\w+/symfuse-stack-\w+)/fuse/view:\1/fuse/empty(?:,|$)", options)
    return found[1] if found else None


def unescape(text: bytes) -> bytes:
    r"""Space, tab, newline and backslash stand as `\040` and so on."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), text)


def mounts() -> list[MountEntry]:
    """All mounts of this mount namespace."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def owner(mount: MountEntry) -> int | None:
    """The number of the user who made a mount. Of a stacked one mountinfo does not tell: only root can have made it."""
    return 0 if mount.place is not None else mount.user


def is_own(mount: MountEntry) -> bool:
    """Whether a mount is the caller's."""
    return owner(mount) == os.geteuid()


def is_trusted(mount: MountEntry) -> bool:
    """Whether what answers at a FUSE mount is the caller's own or root's: nothing else is ever asked.

    Anybody can make a mount that calls itself symfuse. In a user namespace our number may be another's outside; the
    kernel then lets us in only where all are let in.
    """
    if owner(mount) == 0:
        return True
    return is_own(mount) and not (mount.is_open and not owners.everybody_has_a_number())


def covering(path: bytes, entries: Iterable[MountEntry] | None = None) -> MountEntry | None:
    """The mount that a path lies on. `path` is absolute and real; below a mountpoint it may name anything.

    Follows the tree of mounts as a path walk does, because a later mount can hide an earlier one.
    """
    children: dict[int, list[MountEntry]] = {}
    known = list(mounts() if entries is None else entries)
    ids = {entry.mount_id for entry in known}
    for entry in known:
        if is_within(path, entry.mountpoint):
            parent = entry.parent_id if entry.parent_id in ids and entry.parent_id != entry.mount_id else 0
            children.setdefault(parent, []).append(entry)
    found: MountEntry | None = None
    while candidates := children.get(found.mount_id if found else 0):
        # The walk meets the shortest mountpoint first; of two at one place the later one lies on top.
        found = min(reversed(candidates), key=lambda entry: len(entry.mountpoint))
    return found


def is_within(path: bytes, directory: bytes) -> bool:
    """True for the directory itself and all below it; both are absolute and tidy."""
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def way_to(path: bytes) -> list[MountEntry]:
    """The mounts that a walk to this absolute, real path goes through, that of the path itself first."""
    entries = mounts()
    by_id = {entry.mount_id: entry for entry in entries}
    found, way = covering(path, entries), []
    while found is not None and found not in way:
        way.append(found)
        found = by_id.get(found.parent_id)
    return way


def at(mountpoint: bytes) -> MountEntry | None:
    """The topmost mount at exactly this real path."""
    entry = covering(mountpoint)
    return entry if entry is not None and entry.mountpoint == mountpoint else None


class MountWatch:
    """Whether mountinfo has changed since somebody last asked. Source: poll in proc_pid_mountinfo(5)."""

    def __init__(self) -> None:
        fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLERR | select.POLLPRI)
        self._lock = threading.Lock()  # of those who ask, for a poll object serves one at a time

    def changed(self) -> bool:
        """True once after each change. Several threads may ask; one of them hears of a change."""
        if not self.close.alive or not self._lock.acquire(blocking=False):
            return False
        try:
            return bool(self._poll.poll(0))
        finally:
            self._lock.release()
