"""This process's connections to the kernel: descriptors of `/dev/fuse`, whoever opened them.

libfuse keeps its own to itself. Nothing here asks a file system: storage that hangs must not hang who looks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Iterator

#: The device number of /dev/fuse. Source: Documentation/admin-guide/devices.txt
FUSE_DEVICE = os.makedev(10, 229)


def descriptors() -> Iterator[int]:
    """All descriptors of the device."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            # By its name first, for to look at what lies on storage may hang; a container may have another path to it.
            if os.path.basename(os.readlink(f"/proc/self/fd/{name}")) == "fuse" and _is_device(int(name)):
                yield int(name)


def _is_device(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == FUSE_DEVICE


def find() -> int:
    """The descriptor of this process's one connection. Errors: OSError when there is none."""
    for fd in descriptors():
        return fd
    raise OSError(errno.ENOENT, "no descriptor of /dev/fuse")


def devices() -> set[int]:
    """The device numbers of our mounts; empty on kernels that do not say. Source: `fuse_dev_show_fdinfo`."""
    found = set()
    for fd in descriptors():
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            found |= {os.makedev(0, int(line.split()[1])) for line in lines if line.startswith(b"fuse_connection:")}
    return found


def is_over(fd: int) -> bool:
    """Whether the kernel has ended a connection: nobody can ask us any more. Source: `fuse_dev_poll`."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR needs no asking
    return bool(poll.poll(0))
