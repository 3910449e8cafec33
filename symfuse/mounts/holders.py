"""Which processes keep a mount busy.

Read from /proc alone: by mount id where the kernel tells it, by device for mapped files. No file on any mount is
touched, so a server that hangs cannot hang us. A process that hangs itself can: while one of its threads waits for
storage, its map of memory may not be readable. A signal ends that wait, so a thread looks, and is left behind.
Source: proc(5), proc_pid_fdinfo(5), proc_pid_maps(5).
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from symfuse.mounts.table import MountEntry, is_within

#: Longest look. A machine with ten thousand processes needs one second.
LOOK_TIMEOUT_S = 5.0


class Holder(NamedTuple):
    """A process and the first thing found by which it holds the mount."""

    pid: int
    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, {self.how})"


def holders(mount: MountEntry, *, timeout_s: float = LOOK_TIMEOUT_S) -> list[Holder]:
    """The processes that hold a mount, as far as the caller may look into them, and can in this time."""
    found: list[Holder] = []
    thread = threading.Thread(target=_look, args=(mount, found), name="symfuse-holders", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return sorted(found)


def is_server(pid: int, uid: int | None) -> bool:
    """Whether a process is this user's and holds a connection of FUSE, as the server of a mount does.

    What a mount tells of its server is proved so, before anybody waits for that process.
    """
    try:
        if os.stat(f"/proc/{pid}").st_uid != uid:
            return False
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(_is_device(link) for link in links)


def _is_device(link: str) -> bool:
    try:
        return os.path.basename(os.readlink(link)) == "fuse"  # a container may have another path to it
    except OSError:
        return False


def _look(mount: MountEntry, found: list[Holder]) -> None:
    # Maps last: there the wait may be.
    left = [name for name in os.listdir("/proc") if name.isdigit()]
    for look in (_holds, _maps):
        for pid in left[:]:
            how = look(f"/proc/{pid}", mount)
            if how is not None:
                found.append(Holder(int(pid), _name(pid), how))
                left.remove(pid)


def _holds(process: str, mount: MountEntry) -> str | None:
    for link, how in (("cwd", "working directory"), ("root", "root directory"), ("exe", "running program")):
        if _is_on(f"{process}/{link}", mount):
            return how
    for fd in _listed(f"{process}/fdinfo"):
        if _mount_of_fd(f"{process}/fdinfo/{fd}") == mount.mount_id:
            return "open file"
    return None


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # ended meanwhile, or somebody else's
        return []


def _is_on(link: str, mount: MountEntry) -> bool:
    """Whether what a link of /proc leads to lies on the mount.

    Its text says so first: opening what lies on a network file system may hang, even with O_PATH. Of FUSE that asks
    nothing, and our own descriptor's fdinfo tells the mount.
    """
    try:
        if not is_within(os.readlink(os.fsencode(link)), mount.mountpoint):
            return False
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _mount_of_fd(f"/proc/self/fdinfo/{fd}") == mount.mount_id
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


def _maps(process: str, mount: MountEntry) -> str | None:
    wanted = b"%02x:%02x" % (os.major(mount.device), os.minor(mount.device))
    try:
        with open(f"{process}/maps", "rb") as lines:
            # start-end permissions offset device inode path
            return "mapped file" if any(line.split(b" ", 4)[3] == wanted for line in lines) else None
    except OSError:
        return None


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
