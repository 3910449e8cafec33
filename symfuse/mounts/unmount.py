"""How a mount ends: regularly, lazily, or cleared away after its server died."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from symfuse import control, process
from symfuse.errors import MountBusy, MountpointError, NotMounted, SymfuseError
from symfuse.fuse import kernelmount
from symfuse.mounts import channel, stack, table
from symfuse.mounts.holders import holders
from symfuse.mounts.table import MountEntry, State

#: How long a server may take to end after its mount is gone. Measured: 10 ms.
END_TIMEOUT_S = 10.0
#: The same after a lazy unmount, when it may have to serve its last users for hours.
LAZY_END_TIMEOUT_S = 1.0
#: Holders named in an error; more would not fit into a line.
MAX_NAMED = 5


def unmount(mountpoint: bytes, *, lazy: bool = False) -> bool:
    """Unmount what is mounted at this real path, and wait for its server to end, unless it is mounted elsewhere, too.

    A dead mount is cleared away.

    Returns False when the mount was detached lazily and its server still serves those who use it.

    Errors: NotMounted; MountBusy, naming the holders; MountpointError when it is another user's.
    """
    stack.clear_stale()
    mount = find(mountpoint)
    state = table.state(mountpoint)
    if state is State.SILENT and not lazy:
        raise MountBusy(
            f"the server of {os.fsdecode(mountpoint)} does not answer", "end its process, or use symfuse umount --lazy"
        )
    with _server(mount, state) as server:
        _unmount(mount, lazy=lazy or state is not State.ALIVE)
        return server is None or _is_elsewhere(mount) or _ends(server, mount, lazy=lazy)


def find(mountpoint: bytes) -> MountEntry:
    """The symfuse mount at a real path. Errors: NotMounted."""
    mount = table.covering(mountpoint)
    name = os.fsdecode(mountpoint)
    if mount is not None and mount.is_symfuse and mount.mountpoint == mountpoint:
        return mount
    if mount is not None and mount.is_symfuse:
        raise NotMounted(f"{name} is not a mountpoint", f"it lies on the mount {os.fsdecode(mount.mountpoint)}")
    if mount is not None and mount.mountpoint == mountpoint:
        raise NotMounted(f"{name} is no symfuse mount but {os.fsdecode(mount.fstype)}", "use umount")
    raise NotMounted(f"nothing is mounted at {name}", "see symfuse status")


def clear_dead(mountpoint: bytes) -> bool:
    """Clear away the mount at this real path if its server is dead; True when there was one.

    Errors: MountpointError when it is another user's.
    """
    stack.clear_stale()
    mount = table.at(mountpoint)
    if mount is None or not mount.is_symfuse or table.state(mountpoint) is not State.DEAD:
        return False
    _unmount(mount, lazy=True)
    return True


def _unmount(mount: MountEntry, *, lazy: bool) -> None:
    name = os.fsdecode(mount.mountpoint)
    if os.geteuid() not in (0, mount.user):
        raise MountpointError(f"{name} was mounted by another user", "unmount it as that user or as root")
    try:
        kernelmount.unmount(mount.mountpoint, lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _busy(mount) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise MountpointError(
                f"{name} was mounted by another user", "unmount it as that user or as root"
            ) from error
        if table.at(mount.mountpoint) is None:
            raise NotMounted(f"nothing is mounted at {name} any more") from error
        raise MountpointError(f"{name} cannot be unmounted ({error.strerror})", "try it as root") from error


def _busy(mount: MountEntry) -> MountBusy:
    name = os.fsdecode(mount.mountpoint)
    above = [other.mountpoint for other in table.mounts() if other.parent_id == mount.mount_id]
    if above:
        return MountBusy(f"{name} is busy: {os.fsdecode(above[0])} is mounted on it", "unmount that first")
    found = [str(holder) for holder in holders(mount)]
    if not found:
        return MountBusy(
            f"{name} is busy: used by processes that you may not look into",
            "see them as root, or use symfuse umount --lazy",
        )
    if len(found) > MAX_NAMED:
        found[MAX_NAMED:] = [f"{len(found) - MAX_NAMED} more"]
    return MountBusy(f"{name} is busy: used by {', '.join(found)}", "end them, or use symfuse umount --lazy")


@contextlib.contextmanager
def _server(mount: MountEntry, state: State) -> Iterator[int | None]:
    """What watches the server's process for its end, or None when it cannot be told (dead, silent, not ours)."""
    watched = _watch_server(mount) if state is State.ALIVE else None
    try:
        yield watched
    finally:
        if watched is not None:
            os.close(watched)


def _watch_server(mount: MountEntry) -> int | None:
    pid = _server_pid(mount)
    if pid is None:
        return None
    try:
        watched = process.watch_end(pid)
    except OSError:
        return None
    # Asked again: the server still lives, so the number still was its own when the watching began.
    if _server_pid(mount) != pid:
        os.close(watched)
        return None
    return watched


def _server_pid(mount: MountEntry) -> int | None:
    """The server's process number, if it means the same to us."""
    try:
        status = table.patiently(lambda: channel.ask(mount, control.STATUS))
    except (NotMounted, PermissionError, TimeoutError):
        return None
    if status.get("pid_namespace") != os.readlink("/proc/self/ns/pid"):
        return None
    return int(status["pid"])


def _is_elsewhere(mount: MountEntry) -> bool:
    """True when the same view is also mounted at another place (a bind mount): its server has no reason to end."""
    return any(other.device == mount.device for other in table.mounts())


def _ends(server: int, mount: MountEntry, *, lazy: bool) -> bool:
    timeout_s = LAZY_END_TIMEOUT_S if lazy else END_TIMEOUT_S
    if process.has_ended(server, timeout_s=timeout_s):
        return True
    if lazy:
        return False
    raise SymfuseError(
        f"{os.fsdecode(mount.mountpoint)} is unmounted, but its server has not ended within {timeout_s:.0f} s",
        "something still uses its files, an overlay perhaps",
    )
