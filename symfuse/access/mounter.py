"""Whoever mounts: what they may read of the dataset, and how that is shown to them.

Most of it follows from a file's owner, group and mode, which are shown as they are. What does not (an access control
list, a server that decides by itself) is asked of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import stat

from symfuse import owners
from symfuse.source.volumes import Volumes

#: Source: linux/capability.h. Either lets a process read everything.
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


class Mounter:
    """This process's user, groups and capabilities, as they are now."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._uid = os.geteuid()
        self._is_capable = _is_capable()
        self._is_in_namespace = not owners.everybody_has_a_number()
        # A group without a number there lets its members read at the source; on the mount the kernel knows it no more.
        nameless = {owners.OVERFLOW} if self._is_in_namespace else set()
        self._groups = frozenset((os.getegid(), *os.getgroups())) - nameless

    def may_read_all(self, device: int, path: bytes) -> bool:
        """True when nothing on a device is closed to whoever mounts; `path` is that of a file or directory on it."""
        return self._is_capable and not self._is_in_namespace and self._volumes.is_local(device, path)

    def shown_mode(self, status: os.stat_result) -> int:
        """The mode to show of what whoever mounts may read, so that they may read it on the mount, too.

        Where an access control list lets them in although the mode does not, the bits of the class that they are of are
        added: on a private mount nobody else is of any.
        """
        shift = 6 if status.st_uid == self._uid else 3 if status.st_gid in self._groups else 0
        mode = status.st_mode
        need = needed(mode)
        if mode >> shift & need == need or self._is_almighty(status):
            return mode
        return mode | need << shift

    def shown_to_others(self, status: os.stat_result, mode: int) -> int:
        """A mode for others, less what it grants to a user or group that only stands for all without a number here."""
        if self._is_in_namespace and status.st_uid == owners.OVERFLOW:
            mode &= ~stat.S_IRWXU
        if self._is_in_namespace and status.st_gid == owners.OVERFLOW:
            mode &= ~stat.S_IRWXG
        return mode

    def _is_almighty(self, status: os.stat_result) -> bool:
        """True when capabilities, which count on the mount as well, open a file."""
        return self._is_capable and not (self._is_in_namespace and owners.OVERFLOW in (status.st_uid, status.st_gid))


def _is_capable() -> bool:
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status", "rb") as lines:
        effective = int(next(line for line in lines if line.startswith(b"CapEff:")).split()[1], 16)
        return bool(effective >> _CAP_DAC_OVERRIDE & 1 or effective >> _CAP_DAC_READ_SEARCH & 1)
    return False


def may_all(need: int, path: bytes, directory: int) -> bool:
    """Whether this process has permissions (R_OK, X_OK) for a path, seen from an open directory.

    Each is asked for by itself: two entries of an access control list may grant one each, and not both together.
    """
    wanted = (bit for bit in (os.R_OK, os.X_OK) if need & bit)
    return all(os.access(path, bit, dir_fd=directory, effective_ids=True) for bit in wanted)


def needed(mode: int) -> int:
    """The permissions without which a regular file or a directory cannot be shown; 0 for anything else."""
    if stat.S_ISREG(mode):
        return os.R_OK
    return os.R_OK | os.X_OK if stat.S_ISDIR(mode) else 0
