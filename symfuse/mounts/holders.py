"""Which processes keep a mount busy.

Read from /proc alone: by mount id where the kernel tells it, by device for mapped files. No file on the mount is
touched, so a server that hangs cannot hang us. Source: proc(5), proc_pid_fdinfo(5), proc_pid_maps(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from symfuse.mounts.table import MountEntry


class Holder(NamedTuple):
    """A process and the first thing found by which it holds the mount."""

    pid: int
    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, {self.how})"


def holders(mount: MountEntry) -> list[Holder]:
    """The processes that hold a mount, as far as the caller may look into them."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    found = {pid: next(_holds(f"/proc/{pid}", mount), None) for pid in pids}
    return sorted(Holder(int(pid), _name(pid), how) for pid, how in found.items() if how is not None)


def _holds(process: str, mount: MountEntry) -> Iterator[str]:
    for link, how in (("cwd", "working directory"), ("root", "root directory"), ("exe", "running program")):
        if _mount_of_link(f"{process}/{link}") == mount.mount_id:
            yield how
    for fd in _listed(f"{process}/fdinfo"):
        if _mount_of_fd(f"{process}/fdinfo/{fd}") == mount.mount_id:
            yield "open file"
    if _maps(process, mount.device):
        yield "mapped file"


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # ended meanwhile, or somebody else's
        return []


def _mount_of_link(link: str) -> int | None:
    """O_PATH asks the file system nothing, and our own descriptor's fdinfo tells the mount."""
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _mount_of_fd(f"/proc/self/fdinfo/{fd}")
    finally:
        os.close(fd)


def _mount_of_fd(fdinfo: str) -> int | None:
    try:
        with open(fdinfo, "rb") as lines:
            for line in lines:
                if line.startswith(b"mnt_id:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def _maps(process: str, device: int) -> bool:
    wanted = b"%02x:%02x" % (os.major(device), os.minor(device))
    try:
        with open(f"{process}/maps", "rb") as lines:
            # start-end permissions offset device inode path
            return any(line.split(b" ", 4)[3] == wanted for line in lines)
    except OSError:
        return False


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
