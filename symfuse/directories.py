"""Where we write, and whose files there we believe: in directories that nobody but root and we can change.

Root may run with another user's HOME, XDG_… or TMPDIR (`sudo -E`, `su` without `-`), and an ordinary user's cache may
lie where a whole group can write. So each directory on the way is looked at, links among them, before the next step is
taken: whoever could change one of them could have planted what comes next. A group that is the user's alone counts as
the user: on many systems it may write to all that the user makes. ACLs that let others write show in the group's bits,
too. Source: acl(5), inode(7); pam_umask(8), "usergroups".
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator

from platformdirs import user_cache_dir, user_log_dir

from symfuse import mountinfo, owners

#: As many links as the kernel follows.
_MAX_HOPS = 40
#: Where temporary files may go, as `tempfile` has it.
_TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - looked at before it is used


class NotOurs(PermissionError):
    """A directory, or one above it, that somebody else can change. `strerror` names it, and what helps."""


def cache() -> list[str]:
    """Where verdicts on images are kept, the best first. None of them is looked at yet."""
    return _or_at_roots_home(user_cache_dir("symfuse"), ".cache/symfuse")


def logs() -> list[str]:
    """Where logs of servers in the background are kept, the best first. None of them is looked at yet."""
    return _or_at_roots_home(user_log_dir("symfuse"), ".local/state/symfuse/log")


def _or_at_roots_home(directory: str, below_home: str) -> list[str]:
    if os.geteuid() != 0:
        return [directory]
    with contextlib.suppress(KeyError):
        return list(dict.fromkeys([directory, os.path.join(pwd.getpwuid(0).pw_dir, below_home)]))
    return [directory]


def made(directory: str) -> str:
    """The real path of a directory that is ours alone; what is missing of it is made, closed to others.

    Errors: OSError; NotOurs where it, or a directory on the way to it, is another's, or others may write there.
    """
    if not os.path.isabs(directory):  # platformdirs knows no home
        raise FileNotFoundError(errno.ENOENT, "there is no home directory")
    real, status = _walk(directory, make=True)
    if status.st_uid not in owners.trusted_uids():
        raise _anothers(real)
    if _is_open_to_others(real, status):
        raise _open_to_others(real)
    return real


def temporary() -> str:
    """Where temporary files and directories go: where the user says, unless that is another user's.

    A directory that others can write to is taken only if nothing better is there; what `tempfile` makes there is ours
    all the same. Errors: FileNotFoundError.
    """
    named = [os.fsdecode(tempfile.tempdir or ""), *(os.environ.get(name, "") for name in _TEMPORARY_VARIABLES)]
    candidates = [os.path.abspath(directory) for directory in (*named, *_TEMPORARY) if directory]
    for is_open in (False, True):
        for directory in candidates:
            with contextlib.suppress(OSError):
                real, _ = _walk(directory, is_open=is_open)
                if os.access(real, os.W_OK | os.X_OK):
                    return real
    raise FileNotFoundError(errno.ENOENT, f"none of {', '.join(candidates)} can be written")


def _walk(directory: str, *, make: bool = False, is_open: bool = False) -> tuple[str, os.stat_result]:
    """The real path of a directory and its status, where everything on the way is root's or ours.

    `is_open`: others may write to all of it. Errors: as `made`.
    """
    real, hops, left = "/", 0, directory.split("/")[::-1]
    strangers = {os.fsdecode(mountpoint) for mountpoint in _strangers_mounts()}
    status = _checked(real, os.lstat(real), is_open=is_open)
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        step = os.path.dirname(real) if name == ".." else os.path.join(real, name)
        if step in strangers:  # to look at it would be to ask its server
            raise _anothers(step)
        status = _checked(step, _lstat(step, make=make), is_open=is_open)
        if not stat.S_ISLNK(status.st_mode):
            real = step
            continue
        hops += 1
        if hops > _MAX_HOPS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        text = os.readlink(step)
        left += text.split("/")[::-1]
        real = "/" if text.startswith("/") else real
    return real, os.lstat(real)


def _strangers_mounts() -> Iterator[bytes]:
    for mount in mountinfo.mounts():
        if mount.user is not None and not mountinfo.is_trusted(mount):
            yield mount.mountpoint


def _lstat(path: str, *, make: bool) -> os.stat_result:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path)
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    return os.lstat(path)


def _checked(path: str, status: os.stat_result, *, is_open: bool) -> os.stat_result:
    """The status of a directory or link that nobody else can change. Errors: OSError."""
    if status.st_uid not in owners.possible_uids():
        raise _anothers(path)
    if stat.S_ISLNK(status.st_mode):
        return status
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is no directory")
    if not status.st_mode & stat.S_ISVTX and not is_open and _is_open_to_others(path, status):
        raise _open_to_others(path)
    return status


def _is_open_to_others(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    with contextlib.suppress(OSError):
        os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
        return True  # the list may name anybody
    return not _is_ours_alone(status.st_gid)


def _is_ours_alone(gid: int) -> bool:
    """Whether a group has no other member than us: our own, of the same name. Root's never is.

    Others have root's group in the password database (sync, halt), and whoever a container runs as another user.
    """
    uid = os.geteuid()
    if uid == 0:
        return False
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if (group.gr_gid, group.gr_name) != (user.pw_gid, user.pw_name) or {*group.gr_mem} - {user.pw_name}:
        return False
    return all(each.pw_uid == uid for each in pwd.getpwall() if each.pw_gid == gid)


def _anothers(path: str) -> NotOurs:
    return NotOurs(errno.EPERM, f"{path} belongs to another user")


def _open_to_others(path: str) -> NotOurs:
    return NotOurs(errno.EPERM, f"others may write to {path}: chmod go-w it, or use another directory")
