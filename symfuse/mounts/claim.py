"""One mountpoint, one mount: a server claims its place before it prepares the view, and looks again when it mounts.

The claim is a lock (flock) on the directory itself: it needs no file, ends with its process, and keeps out those who
come later, however long preparing takes. Where a file system has no such locks (NFS locks no directory), and against
whoever knows nothing of them, the kernel decides: a mount that finds itself on top of another gives up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from symfuse.errors import MountpointError
from symfuse.mounts import table
from symfuse.mounts.probe import mount_of
from symfuse.mounts.table import MountEntry

#: How long somebody else may hold a lock that is held for moments only.
GUARD_TIMEOUT_S = 2.0
#: The same for the claim itself: others than we (systemd-tmpfiles) lock directories for moments.
CLAIM_TIMEOUT_S = 0.3
RETRY_S = 0.02


class Claim:
    """A mountpoint, kept for the one mount that this process will make there. Free again with `release`.

    Errors: MountpointError when another process has claimed it, or it cannot be opened.
    """

    def __init__(self, mountpoint: bytes) -> None:
        self._path = mountpoint
        self._name = os.fsdecode(mountpoint)
        try:
            self._fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            cure = "use an empty directory of your own"
            raise MountpointError(f"mountpoint {self._name}: {error.strerror}", cure) from error
        self._mount_id = mount_of(self._fd)
        try:
            if not _lock(self._fd, timeout_s=CLAIM_TIMEOUT_S):
                raise MountpointError(
                    f"{self._name} is being mounted by another symfuse", "wait for that, or use another directory"
                )
            self._refuse_symfuse()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def via(self) -> bytes | None:
        """A path to the directory itself, whatever is renamed on the way to it; None where there is no /proc."""
        path = b"/proc/self/fd/%d" % self._fd
        return path if os.path.exists(path) else None

    def confirm(self) -> None:
        """The path still names this very directory, empty and not mounted over. Errors: MountpointError."""
        self._refuse_symfuse()
        cure = "mount again, when nothing else changes it"
        try:
            fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise MountpointError(f"mountpoint {self._name} was taken away ({error.strerror})", cure) from error
        try:
            is_same = os.path.sameopenfile(fd, self._fd) and mount_of(fd) == self._mount_id
        finally:
            os.close(fd)
        if not is_same:
            raise MountpointError(f"mountpoint {self._name} was replaced or mounted over", cure)
        if os.listdir(self._fd):
            raise MountpointError(f"mountpoint {self._name} is not empty any more", "use an empty directory")

    def refuse_on_top(self, mount: MountEntry) -> None:
        """Errors: MountpointError when our mount came to lie on another one instead of on the directory."""
        if not self.holds(mount):
            raise MountpointError(f"{self._name} was mounted by somebody else at the same time", "use that mount")

    def holds(self, mount: MountEntry) -> bool:
        """True for a mount that lies on the very directory."""
        return mount.parent_id == self._mount_id

    def _refuse_symfuse(self) -> None:
        mounted = table.at(self._path)
        if mounted is not None and mounted.is_symfuse:
            raise already_mounted(mounted)

    def release(self) -> None:
        """Keep others out no longer: the mount itself does."""
        os.close(self._fd)


def already_mounted(mount: MountEntry) -> MountpointError:
    """What is said to whoever comes second."""
    return MountpointError(
        f"{os.fsdecode(mount.mountpoint)} is already mounted, from {os.fsdecode(mount.source)}",
        "run symfuse umount on it first",
    )


@contextlib.contextmanager
def guarded(mountpoint: bytes) -> Iterator[None]:
    """Clear or claim a place alone: none of us clears what another of us has just mounted there.

    Where the directory above cannot be locked this guards nothing, and what is cleared is still told by its identity.
    """
    try:
        parent = os.open(os.path.dirname(mountpoint), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        _lock(parent, timeout_s=GUARD_TIMEOUT_S)
        yield
    finally:
        os.close(parent)


def _lock(fd: int, *, timeout_s: float) -> bool:
    """False when somebody else holds the lock all that time; True also where there are no locks."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return True
            if time.monotonic() > deadline_s:
                return False
            time.sleep(RETRY_S)
        else:
            return True
