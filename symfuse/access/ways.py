"""What stands between a reader and a link's target: the directories on the way, each with its mode and access list.

Needed where other users may look: at the source the kernel would ask each of these directories, and on the mount it
asks none of them. All is read from descriptors, so that whoever may rename in the dataset can show one directory's mode
and have another's content served.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

from symfuse.access import grants
from symfuse.access.grants import FREE, Guard, Way
from symfuse.mountinfo import is_within
from symfuse.source.realpaths import LOOK, LOOK_INTO, RealPaths
from symfuse.source.volumes import Volumes

_ACL = "system.posix_acl_access"
#: Errors that say that there is no list.
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP})
#: Directories kept open while links of one directory are followed.
_KEPT = 64
_SHARED_BY_ALL = stat.S_ISVTX | stat.S_IWOTH


class Source(NamedTuple):
    """What others may look at: its attributes, what grants access to it, and what stands on the way there."""

    status: os.stat_result
    guard: Guard
    way: Way


class _Kept(NamedTuple):
    fd: int
    way: Way  # of whatever lies in this directory: its own guard is part of it
    sticky_owner: int | None  # of a directory that everybody may write, where nobody may rename what is another's


class Roots(NamedTuple):
    """Where links may lead: the view's own root, and the directories that are allowed besides; real paths.

    What lies above each does not count for what lies below it: whoever names a directory for others has opened the way
    there. Nor does the view's own root, which everybody has passed.
    """

    view: bytes
    allowed: tuple[bytes, ...]

    def innermost(self, path: bytes) -> bytes | None:
        """The root that a path lies in, of several the deepest."""
        return max((root for root in (self.view, *self.allowed) if is_within(path, root)), key=len, default=None)

    def counted(self, path: bytes) -> list[bytes]:
        """The directories that count for what lies in a directory: that one and those above it, the nearest first."""
        root = self.innermost(path)
        if root is None:  # it was only passed through: on the way to a root, or on a detour
            excused = {above for each in (self.view, *self.allowed) for above in _above(each)}
            return [each for each in (path, *_above(path)) if each not in excused]
        chain = [path, *_above(path)]
        return chain[: chain.index(root) + (root != self.view)]


class Ways:
    """Looks at sources by descriptors, for a reader who has come to one directory. For one thread, and not for long.

    `start` is that directory's real path, `fd` has it open. Whoever has come there has passed those above it: on the
    view's own way there, or behind a link that took them into account.
    """

    def __init__(self, paths: RealPaths, volumes: Volumes, roots: Roots, start: bytes, fd: int) -> None:
        self._paths = paths
        self._volumes = volumes
        self._roots = roots
        self._passed = {above: number for number, above in enumerate(roots.counted(start))}
        self._come_by = [fd]  # those of `_passed`, as far as they were asked for
        self._start = start, _Kept(fd, FREE, _sticky_owner(os.fstat(fd)))
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __enter__(self) -> Ways:
        return self

    def __exit__(self, _type: type | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        while self._kept:
            os.close(self._kept.popitem()[1].fd)
        for fd in self._come_by[1:]:
            os.close(fd)

    def source(self, name: bytes, directory: int) -> Source:
        """What a name in an open directory is; a link is itself. Nothing stands on the way. Errors: OSError."""
        fd = os.open(name, LOOK, dir_fd=directory)
        try:
            return self._source(fd, FREE)
        finally:
            os.close(fd)

    def target(self, path: bytes, detours: Iterable[bytes]) -> Source:
        """What lies at a real path, and all that stands on the way there, if the way has these detours.

        Errors: OSError.
        """
        way = FREE.union(*(self._directory(detour).way for detour in detours))
        if path in (self._roots.view, *self._roots.allowed):  # all above it is excused
            fd = self._paths.open(path, LOOK_INTO)
        else:
            kept = self._directory(os.path.dirname(path))
            way |= kept.way
            fd = os.open(os.path.basename(path), LOOK, dir_fd=kept.fd)
        try:
            return self._source(fd, way)
        finally:
            os.close(fd)

    def followers(self, link: bytes) -> Way:
        """What stands in the way of those who follow a link: in a directory that all may write, its owner alone may.

        Source: fs.protected_symlinks in proc_sys_fs(5); may_follow_link() in fs/namei.c. Errors: OSError.
        """
        kept = self._directory(os.path.dirname(link))
        if kept.sticky_owner is None:
            return FREE
        owner = os.stat(os.path.basename(link), dir_fd=kept.fd, follow_symlinks=False).st_uid
        return FREE if owner == kept.sticky_owner else frozenset({grants.only(owner)})

    def _source(self, fd: int, way: Way) -> Source:
        status = os.fstat(fd)
        self._volumes.is_stable(fd, status)  # which remembers those that are not
        return Source(status, guard_of(fd, status), way | keepers(self._volumes, status.st_dev))

    def _directory(self, path: bytes) -> _Kept:
        start, kept = self._start
        if path == start:
            return kept
        if path not in self._kept:
            fd = self._paths.open(path, LOOK_INTO)
            try:
                self._kept[path] = _Kept(fd, self._climb(fd, path), _sticky_owner(os.fstat(fd)))
            except OSError:
                os.close(fd)
                raise
            if len(self._kept) > _KEPT:
                os.close(self._kept.popitem(last=False)[1].fd)
        self._kept.move_to_end(path)
        return self._kept[path]

    def _climb(self, fd: int, path: bytes) -> Way:
        """The guards of a directory and of those above it that count, up to what was passed.

        By `..` and not by path: a directory that is above stays above, whatever is renamed meanwhile.
        Errors: OSError; ESTALE when what is above is not what the path says.
        """
        guards: list[Guard] = []
        with contextlib.ExitStack() as opened:
            for above in self._roots.counted(path):
                if above != path:
                    fd = os.open(b"..", LOOK_INTO, dir_fd=fd)
                    opened.close()  # one at a time, however deep it is
                    opened.callback(os.close, fd)
                if above in self._passed:
                    self._check_passed(above, fd)
                    break
                source = self._source(fd, FREE)
                guards += [source.guard, *source.way]
        return frozenset(guards)

    def _check_passed(self, path: bytes, fd: int) -> None:
        """Errors: OSError ESTALE when `fd` is not the directory at `path` that the reader has passed."""
        while len(self._come_by) <= self._passed[path]:
            self._come_by.append(os.open(b"..", LOOK_INTO, dir_fd=self._come_by[-1]))
        if not os.path.samestat(os.fstat(fd), os.fstat(self._come_by[self._passed[path]])):
            raise OSError(errno.ESTALE, "a directory on the way was replaced", path)


def _sticky_owner(directory: os.stat_result) -> int | None:
    return directory.st_uid if directory.st_mode & _SHARED_BY_ALL == _SHARED_BY_ALL else None


def keepers(volumes: Volumes, device: int) -> Way:
    """What stands in the way of all that lies on a device: a FUSE mount may be for one user alone."""
    user = volumes.private.get(device)
    return FREE if user is None else frozenset({grants.only(user)})


def guard_of(fd: int, status: os.stat_result, *, is_readable: bool = False) -> Guard:
    """What grants access to what a descriptor has open, whose attributes are `status`.

    One that is readable, and not O_PATH, is asked itself, in half the time.
    """
    acl = _acl(fd if is_readable else f"/proc/self/fd/{fd}", status)
    return Guard(status.st_mode, status.st_uid, status.st_gid, acl)


def _acl(file: int | str, status: os.stat_result) -> bytes:
    """The access control list; UNKNOWN where it cannot be read: then nobody may rely on the mode."""
    if stat.S_ISLNK(status.st_mode):
        return b""
    try:
        return os.getxattr(file, _ACL)
    except OSError as error:
        return b"" if error.errno in _NO_ACL else grants.UNKNOWN


def _above(path: bytes) -> Iterator[bytes]:
    """The directories above a path, the nearest first."""
    while path != b"/":
        path = os.path.dirname(path)
        yield path
