"""How a link is followed, and where its target really lies.

Links are resolved here and not by the kernel, one hop at a time, because only so is it known *which* link is broken,
where a target really lies, and that it does not lead into a mount of symfuse's: a path walk into our own would wait for
an answer that only we can give, and one into another's for an answer that may wait for us. Names and paths are bytes;
every path handed out is absolute and free of links.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

from symfuse.access.grants import FREE, Way
from symfuse.access.ways import Source, Ways
from symfuse.mountinfo import MountWatch, is_within, mounts
from symfuse.policy import Kind
from symfuse.source.realpaths import LOOK_INTO, NOT_REAL, RealPaths

#: Links followed in one resolution before it counts as a loop. Source: path_resolution(7), MAXSYMLINKS.
MAX_LINKS = 40
#: Source: limits.h. Some file systems have longer names than Linux can pass on.
NAME_MAX = 255
#: Real directories remembered by the text that led to them; links of one dataset share few of them.
MAX_REMEMBERED = 4096

#: What ends a link's text without naming an entry.
_NO_NAMES = frozenset({b"", b".", b".."})
_DANGLING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

T = TypeVar("T")


class Target(NamedTuple):
    """What a link leads to."""

    path: bytes
    status: os.stat_result


class Hop(NamedTuple):
    """One link followed: where it lies and what it says."""

    link: bytes
    text: bytes


#: Stands for each link on the way to a remembered directory.
_REMEMBERED = Hop(b"", b"")


class Unresolvable(Exception):
    """A link that leads to nothing that can be shown."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.meaning)
        self.kind = kind


class Trail:
    """What was met while a link was followed: the links in `hops`, and, where others may look, what may stop them.

    `detours` are directories that were walked and left again.
    """

    def __init__(self, ways: Ways | None = None, hops: list[Hop] | None = None) -> None:
        self.ways = ways
        self.hops: list[Hop] = [] if hops is None else hops
        self.detours: set[bytes] = set()
        self.way = FREE

    def follow(self, hop: Hop) -> None:
        """One more link. Errors: Unresolvable when they are too many, OSError."""
        if len(self.hops) >= MAX_LINKS:
            raise Unresolvable(Kind.LOOP)
        self.hops.append(hop)
        if self.ways is not None:
            self.detours.add(os.path.dirname(hop.link))
            self.way |= self.ways.followers(hop.link)

    def repeat(self, found: Remembered) -> None:
        """What was met on the way to a remembered directory. Errors: Unresolvable when it is too much."""
        # The hops count as if they were followed: equal links must not differ by who was asked first.
        if len(self.hops) + found.hops > MAX_LINKS:
            raise Unresolvable(Kind.LOOP)
        self.hops.extend(itertools.repeat(_REMEMBERED, found.hops))
        self.detours |= found.detours
        self.way |= found.way

    def leave(self, directory: bytes) -> None:
        """A `..` was met in a directory, which may be followed by those who may search it. Errors: Unresolvable."""
        if self.ways is not None:
            self.detours.add(directory)
        elif not os.access(directory, os.X_OK, effective_ids=True):
            raise Unresolvable(Kind.UNREADABLE)


#: `Links._real_directory`, or the same with a memory: (start, text, trail) -> real path.
DirectoryFinder = Callable[[bytes, bytes, Trail], bytes]


class Remembered(NamedTuple):
    """The real directory that a text led to, how many links were followed on the way, and the rest of the trail."""

    path: bytes
    hops: int
    detours: frozenset[bytes]
    way: Way


class Links:
    """Follows links. Safe to use from several threads.

    No link is followed into `mountpoint` (a real path) or any other mount of symfuse's, nor out of the directories
    `allowed` (real, each with a slash at its end) where those are given.
    """

    def __init__(self, *, mountpoint: bytes | None, allowed: tuple[bytes, ...] | None) -> None:
        self.mountpoint = mountpoint
        self.allowed = allowed
        # By where a text begins, by the text, and by whether the rest of the trail was noted, too.
        self._remembered: dict[tuple[bytes, bytes, bool], Remembered] = {}
        #: Devices that no link may lead into: our own mount's, wherever else it is bound to.
        self.forbidden: set[int] = set()
        #: For whatever is done to a real path. Where links are confined, what is looked at must lie there, too.
        self.paths = RealPaths(strict=allowed is not None)
        self._mounts = MountWatch()
        #: Where views are mounted, ours and others', which must not be looked at through a link.
        self.views: frozenset[bytes] = frozenset()
        self._older = frozenset(entry.mount_id for entry in mounts() if entry.shows_view)
        self._newer: frozenset[bytes] = frozenset()  # mountpoints of views that are younger than this
        self._note_mounts()

    def close(self) -> None:
        """Watch mounts no longer, and let go of all directories."""
        self._mounts.close()
        self.paths.close()

    def refresh(self) -> bool:
        """Take note of what was mounted since; True when anything was. Costs one system call where nothing was."""
        if not self._mounts.changed():
            return False
        self.forget()
        self._note_mounts()
        return True

    def forget(self) -> None:
        """Remember no directory: something was mounted, or a link was found in the place of a directory."""
        self._remembered.clear()

    def _note_mounts(self) -> None:
        views = [entry for entry in mounts() if entry.shows_view]
        self._newer = frozenset(entry.mountpoint for entry in views if entry.mount_id not in self._older)
        self.views = frozenset(entry.mountpoint for entry in views) | ({self.mountpoint} if self.mountpoint else set())

    def views_in(self, directory: bytes) -> frozenset[bytes]:
        """The names in a directory that are mountpoints of views younger than this one.

        A server never asks one that is younger than itself, so that no two can wait for each other. Where the dataset
        itself is made of mounts, those were there before.
        """
        places = [self.mountpoint, *self._newer] if self.mountpoint else self._newer
        return frozenset(os.path.basename(path) for path in places if os.path.dirname(path) == directory)

    def resolve(self, directory: bytes, name: bytes) -> Target:
        """Follow the link `directory`/`name` to its end. `directory` must be a real path.

        Errors: Unresolvable, with the kind; OSError EINVAL when it is no link.
        """
        return self._resolve(directory, name, self.follow)

    def trace(self, directory: bytes, name: bytes, *, hops: list[Hop]) -> Target:
        """Like `resolve`, and appends every link on the way to `hops`, also when it fails."""
        trail = Trail(hops=hops)
        return self._resolve(directory, name, lambda start, hop: self._follow(start, hop, trail, self._real_directory))

    def _resolve(self, directory: bytes, name: bytes, follow: Callable[[bytes, Hop], Target]) -> Target:
        path = join(directory, name)
        try:
            return follow(directory, Hop(path, self.paths.readlink(path)))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise
            raise Unresolvable(kind_of(error)) from error

    def follow(self, directory: bytes, hop: Hop) -> Target:
        """Follow one link that lies in `directory`, and those behind it. Errors: Unresolvable, OSError."""
        return self._up_to_date(lambda: self._follow(directory, hop, Trail(), self._remembered_directory))

    def guarded(self, directory: bytes, hop: Hop, ways: Ways) -> tuple[bytes, Source]:
        """As `follow`, and with what says who may read the target, of those who have come to `directory`."""
        return self._up_to_date(lambda: self._guarded(directory, hop, ways))

    def _guarded(self, directory: bytes, hop: Hop, ways: Ways) -> tuple[bytes, Source]:
        trail = Trail(ways)
        path = self._follow(directory, hop, trail, self._remembered_directory).path
        above = os.path.dirname(path)
        detours = [each for each in trail.detours if not is_within(directory, each) and not is_within(above, each)]
        source = ways.target(path, detours)
        return path, source._replace(way=source.way | trail.way)

    def _up_to_date(self, follow: Callable[[], T]) -> T:
        """What `follow` finds; once more where a link stands in the place of a directory that was remembered."""
        try:
            return follow()
        except OSError as error:
            if error.errno not in NOT_REAL:
                raise
        self.forget()
        return follow()

    def _follow(self, directory: bytes, hop: Hop, trail: Trail, real_directory: DirectoryFinder) -> Target:
        while True:
            trail.follow(hop)
            head, slash, last = hop.text.rpartition(b"/")
            if last in _NO_NAMES:
                path = self._real_directory(directory, hop.text, trail)
                status = self.paths.lstat(path)
            else:
                if slash:
                    directory = real_directory(directory, head or b"/", trail)
                path = join(directory, last)
                if path in self.views:
                    raise Unresolvable(Kind.RECURSIVE)
                status = self.paths.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    hop = Hop(path, self.paths.readlink(path))
                    continue
            if status.st_dev in self.forbidden:
                raise Unresolvable(Kind.RECURSIVE)
            if not self.may_show(path):
                raise Unresolvable(Kind.OUTSIDE)
            if stat.S_ISDIR(status.st_mode):  # all that lies below will be opened by this path, which must be real
                status = self.paths.strict_lstat(path)
            return Target(path, status)

    def may_show(self, path: bytes) -> bool:
        """Whether a real path lies where links may lead."""
        return self.allowed is None or with_slash(path).startswith(self.allowed)

    def near(self, directory: bytes, text: bytes) -> bytes | None:
        """Where a link in `directory` that says `text` leads, if that is plain and the last name there is no link's.

        Whether it is has to be seen: lstat it, or open it with O_NOFOLLOW. Touches no file.
        """
        head, slash, last = text.rpartition(b"/")
        base = self.remembered(directory, head if slash else None)
        if base is None or last in _NO_NAMES:
            return None
        path = join(base, last)
        return None if path in self.views or not self.may_show(path) else path

    def remembered(self, directory: bytes, head: bytes | None) -> bytes | None:
        """The real directory that `head`, a link's text up to its last slash, names from `directory`, if remembered.

        Without a slash there is no `head`. None also where so many links lead there that one more would be too many.
        """
        if head is None:
            return directory
        found = self._remembered.get((b"" if head.startswith(b"/") else directory, head, False))
        return found.path if found is not None and found.hops < MAX_LINKS else None

    def _remembered_directory(self, start: bytes, text: bytes, trail: Trail) -> bytes:
        """`_real_directory`, remembering what it found: links of one directory lead to few others."""
        key = (b"" if text.startswith(b"/") else start, text, trail.ways is not None)
        found = self._remembered.get(key)
        if found is not None:
            trail.repeat(found)
            return found.path
        before, inner = len(trail.hops), Trail(trail.ways, trail.hops)
        path = self._real_directory(start, text, inner)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        hops = len(trail.hops) - before
        self._remembered[key] = Remembered(path, hops, frozenset(inner.detours), inner.way)
        trail.detours |= inner.detours
        trail.way |= inner.way
        return path

    def _real_directory(self, start: bytes, text: bytes, trail: Trail) -> bytes:
        """The real path of the directory that `text` names, seen from the real directory `start`.

        Errors: Unresolvable, OSError.
        """
        path = b"/" if text.startswith(b"/") else start
        for part in text.split(b"/"):
            if part in (b"", b"."):
                continue
            if part == b"..":
                trail.leave(path)
                path = os.path.dirname(path)
                continue
            child = join(path, part)
            if child in self.views:
                raise Unresolvable(Kind.RECURSIVE)
            # Of a mount's root the kernel asks no more than its attributes, so this call is safe even if it is ours.
            status = self.paths.lstat(child)
            if status.st_dev in self.forbidden:
                raise Unresolvable(Kind.RECURSIVE)
            mode = status.st_mode
            if stat.S_ISLNK(mode):
                hop = Hop(child, self.paths.readlink(child))
                trail.follow(hop)
                path = self._real_directory(path, hop.text, trail)
            elif stat.S_ISDIR(mode):
                path = child
            else:
                raise Unresolvable(Kind.DANGLING)  # the kernel would say ENOTDIR
        return path


class Neighbours:
    """Follows the links of one directory, the quick way: into directories that are remembered, to no other link.

    That is all but a few links; linked directories are left to `Links`, too. Two in a row that lead into the same
    directory keep it open, for a path need not be walked then. To be closed; for one thread.
    """

    def __init__(self, links: Links, directory: bytes) -> None:
        self._links = links
        self._views = links.views
        self._paths = links.paths
        self._may_show = links.may_show
        self._directory = directory
        self._head: bytes | None = None  # of the last link's text, as `Links.remembered` takes it
        self._base: bytes | None = None  # the directory that it names, with a slash, if that is remembered
        self._fd: int | None = None

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, _type: type | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        self._close()

    def follow(self, text: bytes) -> tuple[bytes, os.stat_result] | None:
        """What `Links.follow` would find for a link that says `text`; None where that must be asked.

        Errors: OSError.
        """
        before, slash, last = text.rpartition(b"/")
        head = before if slash else None  # `/name` has an empty one, and `name` has none
        try:
            if head != self._head:
                self._close()
                self._head, self._base = head, None
            elif self._fd is None and self._base is not None:
                self._fd = self._paths.open(self._base[:-1] or b"/", LOOK_INTO)
            if self._base is None:
                base = self._links.remembered(self._directory, head)
                self._base = base and with_slash(base)
            if self._base is None or last in _NO_NAMES:
                return None
            path = self._base + last
            if path in self._views or not self._may_show(path):
                return None
            if self._fd is None:
                status = self._paths.lstat(path)
            else:
                status = os.stat(last, dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NOT_REAL:
                raise
            self._links.forget()  # a link stands in the place of a directory that was remembered
            self._close()
            self._base = None
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_dev in self._links.forbidden:
            return None  # a link, say
        return path, status

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def kind_of(error: OSError) -> Kind:
    """The problem that a failed system call on the way to a source stands for."""
    if error.errno in _DANGLING:
        return Kind.DANGLING
    if error.errno == errno.ELOOP:
        return Kind.LOOP
    if error.errno == errno.EDEADLK:  # our own server's answer to our own threads
        return Kind.RECURSIVE
    return Kind.UNREADABLE


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory, whose path is absolute and tidy."""
    return directory + name if directory == b"/" else directory + b"/" + name


def with_slash(path: bytes) -> bytes:
    """A path that all paths below it begin with."""
    return path if path.endswith(b"/") else path + b"/"
