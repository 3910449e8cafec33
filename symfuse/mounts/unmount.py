"""How a mount ends: regularly, lazily, or cleared away after its server died.

What is unmounted is always this very mount, known by its number and device, wherever it is by now: a mount of somebody
else's that was put over it, or in its place, is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator

from symfuse import libc, process
from symfuse.control import Message
from symfuse.errors import MountBusy, MountpointError, NotMounted, SymfuseError
from symfuse.fuse import kernelmount
from symfuse.mounts import bounded, live, probe, stack, table
from symfuse.mounts.claim import Claim, guarded
from symfuse.mounts.holders import holders, is_server
from symfuse.mounts.probe import NAME, mount_of
from symfuse.mounts.table import MountEntry, State
from symfuse.source.realpaths import LOOK_INTO, opener

#: How long a server may take to end after its mount is gone. Measured: 10 ms.
END_TIMEOUT_S = 10.0
#: The same after a lazy unmount, when it may have to serve its last users for hours.
LAZY_END_TIMEOUT_S = 1.0
#: How long `symfuse status` of others is waited for that holds a mount open. Its questions take milliseconds.
QUESTION_S = 2.0
#: Holders named in an error; more would not fit into a line.
MAX_NAMED = 5
#: What `session.place` makes: the number is the process whose mount it is.
TEMPORARY = re.compile(rb"symfuse-(\d+)-\w+")


def unmount(mountpoint: bytes, *, lazy: bool = False) -> bool:
    """Unmount what is mounted at this real path. Returns and raises what `end` does."""
    stack.clear_stale()
    return end(find(mountpoint), lazy=lazy)


def end(mount: MountEntry, *, lazy: bool = False) -> bool:
    """Unmount this very mount, and wait for its server to end, unless it is mounted elsewhere, too.

    A dead mount is cleared away. Another user's mount, which root may unmount, is asked nothing, and nothing is known
    of its server.

    Returns False when the mount was detached lazily and its server still serves those who use it.

    Errors: NotMounted; MountBusy, naming the holders, or why the server cannot end; MountpointError when it is another
    user's, or out of reach.
    """
    name = os.fsdecode(mount.mountpoint)
    if not _may_unmount(mount):
        raise _others(mount)
    found = live.look(mount)
    if found.path_hangs:
        raise MountpointError(f"{name} cannot be reached: {found.reason}", "unmount that with umount --lazy")
    if found.state is State.NOT_RESPONDING and not lazy:
        raise MountBusy(f"the server of {name} does not respond", "end its process, or use symfuse umount --lazy")
    if found.state is State.DEAD:
        with guarded(mount.mountpoint):
            _unmount(mount, lazy=True)
        return True
    with _server(mount, found.told) as server:
        _unmount(mount, lazy=lazy or found.state is State.NOT_RESPONDING)
        return server is None or _is_elsewhere(mount) or _ends(server, mount, found.told, lazy=lazy)


def find(mountpoint: bytes, *, even_hidden: bool = False) -> MountEntry:
    """The symfuse mount at a real path, the topmost of several. Errors: NotMounted."""
    entries = table.mounts()
    mount = table.covering(mountpoint, entries)
    name = os.fsdecode(mountpoint)
    if mount is not None and mount.is_symfuse and mount.mountpoint == mountpoint:
        return mount
    hidden = [entry for entry in entries if entry.is_symfuse and entry.mountpoint == mountpoint]
    if hidden and even_hidden:
        return hidden[-1]
    if hidden:
        raise _hidden(hidden[-1], mount)
    if mount is not None and mount.is_symfuse:
        raise NotMounted(f"{name} is not a mountpoint", f"it lies on the mount {os.fsdecode(mount.mountpoint)}")
    if mount is not None and mount.mountpoint == mountpoint:
        raise NotMounted(f"{name} is no symfuse mount but {os.fsdecode(mount.fstype)}", "use umount")
    raise NotMounted(f"nothing is mounted at {name}", "see symfuse status")


def _hidden(mount: MountEntry, over: MountEntry | None) -> NotMounted:
    name = os.fsdecode(mount.mountpoint)
    if over is None:
        return NotMounted(f"the mount {name} is hidden", State.HIDDEN.cure)
    what = f"{os.fsdecode(over.fstype)} is mounted over it, at {os.fsdecode(over.mountpoint)}"
    return NotMounted(f"the mount {name} is hidden: {what}", State.HIDDEN.cure)


# -- dead mounts ---------------------------------------------------------------------------------------------------


def clear_dead(mountpoint: bytes) -> bool:
    """Clear away the dead mounts at this real path, all that lie on each other; True when there was one.

    Errors: MountpointError when they cannot be unmounted.
    """
    stack.clear_stale()
    if _dead_at(mountpoint) is None:
        return False
    with guarded(mountpoint):
        return _clear(mountpoint)


def claim(mountpoint: bytes) -> Claim:
    """Claim a real path for a mount, after what is dead there was cleared. Errors: MountpointError."""
    with guarded(mountpoint):
        _clear(mountpoint)
        return Claim(mountpoint)


def clear_own_dead() -> list[MountEntry]:
    """Clear all dead mounts that are the caller's, wherever they are; returns them.

    Errors: MountpointError when one cannot be unmounted.
    """
    stack.clear_stale()
    cleared: list[MountEntry] = []
    while dead := _own_dead():  # one may have lain on another
        before = len(cleared)
        for mount in dead:
            is_left_behind = _is_left_behind(mount)
            with guarded(mount.mountpoint), contextlib.suppress(NotMounted):
                _unmount(mount, lazy=True)
                cleared.append(mount)
            if is_left_behind:
                _remove_temporary(mount.mountpoint)
        if len(cleared) == before:
            break
    return cleared


def clear_left_behind() -> list[MountEntry]:
    """Clear the dead mounts of `run` and `mounted` that were killed with their server, and their directories, too.

    Only the caller's own, and only when the process whose mount it was is gone: while it lives, somebody may read
    there, and must not find an empty directory. Returns what was cleared; raises nothing.
    """
    left = [mount for mount in table.symfuse_mounts() if _is_left_behind(mount)]
    cleared = [mount for mount in left if _clears(mount.mountpoint)]
    for mount in cleared:
        _remove_temporary(mount.mountpoint)
    return cleared


def _clears(mountpoint: bytes) -> bool:
    try:
        return clear_dead(mountpoint)
    except SymfuseError:
        return False


def _is_left_behind(mount: MountEntry) -> bool:
    found = TEMPORARY.fullmatch(os.path.basename(mount.mountpoint))
    return found is not None and table.is_own(mount) and not process.is_alive(int(found[1]))


def _remove_temporary(directory: bytes) -> None:
    """Remove what `mkdtemp` made; never more than an empty directory of our own that is closed to others."""
    with contextlib.suppress(OSError):
        status = os.lstat(directory)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU:
            os.rmdir(directory)


def _own_dead() -> list[MountEntry]:
    own = [mount for mount in table.symfuse_mounts() if table.is_own(mount)]
    return [mount for mount, found in zip(own, live.looks(own), strict=True) if found.state is State.DEAD]


def _may_unmount(mount: MountEntry) -> bool:
    return os.geteuid() == 0 or table.is_own(mount)


def _dead_at(mountpoint: bytes) -> MountEntry | None:
    mount = table.at(mountpoint)
    is_dead = mount is not None and mount.is_symfuse and _may_unmount(mount) and live.look(mount).state is State.DEAD
    return mount if is_dead else None


def _clear(mountpoint: bytes) -> bool:
    """`clear_dead`, in its guard."""
    was_dead = False
    while (mount := _dead_at(mountpoint)) is not None:
        was_dead = True
        with contextlib.suppress(NotMounted):
            _unmount(mount, lazy=True)
    return was_dead


# -- the unmounting itself -----------------------------------------------------------------------------------------


def _unmount(mount: MountEntry, *, lazy: bool) -> None:
    if not _may_unmount(mount):
        raise _others(mount)
    now = table.find_again(mount)
    if now is None:
        raise NotMounted(f"nothing is mounted at {os.fsdecode(mount.mountpoint)} any more")
    if (over := table.over(now)) is not None:
        raise _hidden(now, over)
    try:
        _take_away_unasked(now, lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _busy(now) from error
        name = os.fsdecode(now.mountpoint)
        if table.find_again(now) is None:
            raise NotMounted(f"nothing is mounted at {name} any more") from error
        raise MountpointError(f"{name} cannot be unmounted ({error.strerror})", "try it as root") from error


def _take_away_unasked(mount: MountEntry, *, lazy: bool) -> None:
    """`take_away`, when nobody's `symfuse status` holds the mount open: each does so for a moment."""
    deadline = time.monotonic() + QUESTION_S
    while True:
        try:
            take_away(mount, lazy=lazy)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline or _is_in_use(mount):
                raise
        time.sleep(0.01)


def _is_in_use(mount: MountEntry) -> bool:
    return bool(_mounted_on(mount)) or any(holder.name != NAME for holder in holders(mount))


def _mounted_on(mount: MountEntry) -> list[bytes]:
    return [other.mountpoint for other in table.mounts() if other.parent_id == mount.mount_id]


def take_away(mount: MountEntry, *, lazy: bool) -> None:
    """Unmount this mount, which is the topmost at its path.

    Root names it by descriptors: a mount that was made there meanwhile, or has its path by now, is then not touched.
    Errors: as of `kernelmount.unmount`.
    """
    if not table.is_trusted(mount):
        _take_away_from_afar(mount, lazy=lazy)
    elif os.geteuid() != 0 or mount.mountpoint == b"/":
        kernelmount.unmount(mount.mountpoint, lazy=lazy)
    else:
        try:
            _take_away_as_root(mount, lazy=lazy)
        except OSError as error:
            if error.errno not in kernelmount.POWERLESS:
                raise
            kernelmount.unmount(mount.mountpoint, lazy=lazy)  # by a helper


def _take_away_as_root(mount: MountEntry, *, lazy: bool) -> None:
    """`take_away` by umount2(2). Errors: OSError; EINVAL when it is not at its path any more."""
    directory, name = os.path.split(mount.mountpoint)
    with contextlib.ExitStack() as opened:
        above = opener()(directory, LOOK_INTO)
        opened.callback(os.close, above)
        fd = os.open(name, LOOK_INTO, dir_fd=above)
        closing = opened.enter_context(contextlib.ExitStack())
        closing.callback(os.close, fd)
        if mount_of(fd) != mount.mount_id:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), mount.mountpoint)
        if lazy:
            libc.call("umount2", b"/proc/self/fd/%d" % fd, kernelmount.MNT_DETACH)
            return
        closing.close()  # it would keep the mount busy; and nobody can rename what is mounted on
        libc.call("umount2", b"/proc/self/fd/%d/%s" % (above, name), kernelmount.UMOUNT_NOFOLLOW)


def _take_away_from_afar(mount: MountEntry, *, lazy: bool) -> None:
    """`take_away` of a mount that is neither root's nor ours: its server may hang whoever comes near it.

    Errors: as `take_away`; TimeoutError.
    """
    reports = bounded.ask(probe.UNMOUNT, mount.mountpoint, str(mount.mount_id), "lazy" if lazy else "")
    last = reports[-1] if reports else None
    if last is not None and last.kind == probe.FAILED:
        if last.error.errno not in kernelmount.POWERLESS:
            raise last.error
        kernelmount.unmount(mount.mountpoint, lazy=lazy)  # by a helper
    elif table.find_again(mount) is not None:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), mount.mountpoint)


def _others(mount: MountEntry) -> MountpointError:
    return MountpointError(
        f"{os.fsdecode(mount.mountpoint)} was mounted by another user", "unmount it as that user or as root"
    )


def _busy(mount: MountEntry) -> MountBusy:
    name = os.fsdecode(mount.mountpoint)
    above = _mounted_on(mount)
    if above:
        return MountBusy(f"{name} is busy: {os.fsdecode(above[0])} is mounted on it", "unmount that first")
    found = [str(holder) for holder in holders(mount)]
    if not found:
        return MountBusy(
            f"{name} is busy: used by processes that you may not look into",
            "see them as root, or use symfuse umount --lazy",
        )
    cure = f"end {'it' if len(found) == 1 else 'them'}, or use symfuse umount --lazy"
    if len(found) > MAX_NAMED:
        found[MAX_NAMED:] = [f"{len(found) - MAX_NAMED} more"]
    return MountBusy(f"{name} is busy: used by {', '.join(found)}", cure)


@contextlib.contextmanager
def _server(mount: MountEntry, told: Message) -> Iterator[int | None]:
    """What watches the server's process for its end, or None when it cannot be told (silent, not ours, elsewhere)."""
    watched = _watch_server(mount, told)
    try:
        yield watched
    finally:
        if watched is not None:
            os.close(watched)


def _watch_server(mount: MountEntry, told: Message) -> int | None:
    pid = _server_pid(told)
    if pid is None:
        return None
    try:
        watched = process.watch_end(pid)
    except OSError:
        return None
    # Asked again: the server still lives, so the number still was its own when the watching began.
    if _server_pid(live.look(mount).told) != pid or not is_server(pid, table.owner(mount)):
        os.close(watched)
        return None
    return watched


def _server_pid(told: Message) -> int | None:
    """The server's process number, if it means the same to us."""
    if "pid" not in told or told.get("pid_namespace") != os.readlink("/proc/self/ns/pid"):
        return None
    return int(told["pid"])


def _is_elsewhere(mount: MountEntry) -> bool:
    """True when the same view is also mounted at another place (a bind mount): its server has no reason to end."""
    return any(other.device == mount.device for other in table.mounts())


def _ends(server: int, mount: MountEntry, told: Message, *, lazy: bool) -> bool:
    timeout_s = LAZY_END_TIMEOUT_S if lazy else END_TIMEOUT_S
    if process.has_ended(server, timeout_s=timeout_s):
        return True
    if lazy:
        return False
    name, pid = os.fsdecode(mount.mountpoint), int(told["pid"])
    if process.is_stuck(pid):
        raise MountBusy(
            f"{name} is unmounted, but its server (process {pid}) cannot end: it waits for the storage of"
            f" {os.fsdecode(mount.source)}",
            "it ends when the storage answers",
        )
    raise MountBusy(
        f"{name} is unmounted, but its server (process {pid}) has not ended within {timeout_s:.0f} s",
        "something still uses its files, an overlay perhaps",
    )
