"""Whether what was opened is what others are judged by: the mode that a mount shows was that of one file or directory.

Whoever may write to a dataset can put another's file in its place, one of equal size and times: sizes and modification
times can be set, all that changes within one tick of the kernel's clock has one change time, and who serves a FUSE file
system may say of a file what they like.
"""

from __future__ import annotations

import errno
import os

from symfuse.access.grants import shown_mode
from symfuse.access.ways import guard_of, keepers
from symfuse.source.identity import Guarded, Identity
from symfuse.source.volumes import Volumes

#: What of a mode lets anybody read, search or execute.
READING = 0o555


def check(fd: int, status: os.stat_result, was: Guarded, volumes: Volumes) -> bool:
    """Whether a readable descriptor surely has open what was frozen; False where inode numbers prove nothing.

    Errors: OSError ESTALE when it is closed to somebody whom the mode shown lets in, or surely something else.
    """
    guard = guard_of(fd, status, is_readable=True)
    require_covered(was, shown_mode(guard, keepers(volumes, status.st_dev)))
    return check_inode(fd, status, was, volumes)


def check_inode(fd: int, status: os.stat_result, was: Identity, volumes: Volumes) -> bool:
    """As `check`, of the inode alone."""
    found = Identity.of(status)
    if volumes.is_stable(fd, status):
        # The device may be another: it was mounted again. Numbers of FUSE are not comparable with its own.
        if found.ino != was.ino or was.dev in volumes.movable:
            raise OSError(errno.ESTALE, "source changed: another file")
        return True
    if found.dev != was.dev:
        raise OSError(errno.ESTALE, "source changed: another file system")
    return False


def require_covered(was: Guarded, mode: int) -> None:
    """Errors: OSError ESTALE when `mode` keeps out somebody whom the mode shown lets in."""
    if was.shown & ~mode & READING:
        raise OSError(errno.ESTALE, "source changed: it is closed to some who may read it here")
