"""How dataset files are found: list a directory, resolve a link, open a source. `source.py` reads what was opened.

No other module opens dataset files, and nothing here opens one for writing. Links are resolved here and not by the
kernel, one hop at a time, because only so is it known *which* link is broken, where a target really lies, and that the
way does not lead into our own mountpoint: a path walk into it would wait for an answer that only we can give.
Names and paths are bytes; every path handed out is absolute and free of links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from symfuse.errors import SourceError
from symfuse.policy import DirLinks, DotEntries, Kind, Outside, Policy

#: Links followed in one resolution before it counts as a loop. Source: path_resolution(7), MAXSYMLINKS.
MAX_LINKS = 40
#: Source: limits.h; PATH_MAX counts the closing NUL. Some file systems have longer names than Linux can pass on.
PATH_MAX = 4096
NAME_MAX = 255
#: Real directories remembered by the text that led to them; links of one dataset share few of them.
MAX_REMEMBERED = 4096

_READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: ENXIO: a socket stands there now.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
#: What ends a link's text without naming an entry.
_NO_NAMES = frozenset({b"", b".", b".."})
_DANGLING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

T = TypeVar("T")


class Target(NamedTuple):
    """What a link leads to."""

    path: bytes
    status: os.stat_result


#: A name in a directory, and whether it is a link's.
Name = tuple[bytes, bool]


class Entry(NamedTuple):
    """What stands behind a name: either a source to show or the reason not to.

    `target` is the source's real path when a link led to it, else None.
    """

    status: os.stat_result | None
    problem: Kind | None = None
    target: bytes | None = None


class Hop(NamedTuple):
    """One link followed: where it lies and what it says."""

    link: bytes
    text: bytes


class Unresolvable(Exception):
    """A link that leads to nothing that can be shown."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.meaning)
        self.kind = kind


#: `Dataset._real_directory`, or the same with a memory: (start, text, hops) -> real path.
DirectoryFinder = Callable[[bytes, bytes, list[Hop]], bytes]


class Dataset:
    """The user's directory tree. Safe to use from several threads.

    `mountpoint` is where its view will be mounted (a real path): no link is followed into it. `confined` says that
    other users may look: outside links are then followed only into `policy.allow_roots`.

    Errors: SourceError when `root` is missing, no directory, or unreadable.
    """

    def __init__(self, root: bytes, policy: Policy, *, mountpoint: bytes | None = None, confined: bool = False) -> None:
        self.root = real_root(root)
        self.policy = policy
        #: Threads now inside a call that may block on the dataset. A FUSE request from one of them came through a
        #: path into our own mount and must be refused at once.
        self.callers: set[int] = set()
        self._mountpoint = mountpoint
        self._mountpoint_name = mountpoint and os.path.basename(mountpoint)
        self._mount_device: int | None = None
        self._allowed: tuple[bytes, ...] | None = None
        if confined or policy.outside is Outside.HIDE:
            roots = (self.root, *(os.path.realpath(path) for path in policy.allow_roots))
            self._allowed = tuple(_with_slash(path) for path in roots)
        self._remembered: dict[tuple[bytes, bytes], bytes] = {}
        self._readable: set[tuple[int, int, int, int]] = set()  # (mode, uid, gid, device) that need no second look
        self._uid = os.geteuid()
        self._groups = frozenset((os.getegid(), *os.getgroups()))

    def forbid_device(self, device: int) -> None:
        """Follow no link into this device: our own mount's, once it is there, wherever else it is bound to."""
        self._mount_device = device
        self._readable.clear()

    def root_status(self) -> os.stat_result:
        """The root directory's attributes. Errors: OSError."""
        return os.lstat(self.root)

    def statvfs(self) -> os.statvfs_result:
        """The numbers of the file system that the root lies on. Errors: OSError."""
        return os.statvfs(self.root)

    # -- listing ------------------------------------------------------------------------------------------------

    def names(self, path: bytes, *, dev: int, ino: int) -> list[Name]:
        """The names in one directory in byte order, without . and ..

        Errors: OSError; ESTALE when `path` is no longer the directory that `dev` and `ino` name.
        """
        with self._listed(path, dev, ino) as fd, os.scandir(fd) as found:
            return sorted([(os.fsencode(entry.name), entry.is_symlink()) for entry in found])

    def entries(self, path: bytes, names: Iterable[Name], *, dev: int, ino: int) -> Iterator[Entry]:
        """What stands behind names of one directory, one entry for each. Errors: as `names`."""
        with self._listed(path, dev, ino) as fd:
            for name, is_link in names:
                yield self._entry(path, name, fd=fd, is_link=is_link)

    @contextlib.contextmanager
    def _listed(self, path: bytes, dev: int, ino: int) -> Iterator[int]:
        """A descriptor of the directory, proved to be the one that is meant."""
        thread = threading.get_native_id()
        self.callers.add(thread)
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if (found.st_dev, found.st_ino) != (dev, ino):
                    raise OSError(errno.ESTALE, "directory was replaced", path)
                yield fd
            finally:
                os.close(fd)
        finally:
            self.callers.discard(thread)

    def _entry(self, directory: bytes, name: bytes, *, fd: int, is_link: bool) -> Entry:
        problem = self._name_problem(directory, name)
        if problem is not None:
            return Entry(None, problem)
        try:
            if is_link:
                return self._linked_entry(directory, name, fd)
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (Unresolvable, OSError) as error:
            return Entry(None, error.kind if isinstance(error, Unresolvable) else _kind_of(error))
        if stat.S_ISLNK(status.st_mode):  # replaced since scandir saw it
            return self._entry(directory, name, fd=fd, is_link=True)
        return Entry(status, self._problem(status, name, fd))

    def _name_problem(self, directory: bytes, name: bytes) -> Kind | None:
        """Why an entry cannot be shown whatever it is, if so."""
        if name.startswith(b".") and self.policy.dot_entries is DotEntries.HIDE:
            return Kind.DOT_ENTRY
        if name == self._mountpoint_name and _join(directory, name) == self._mountpoint:
            return Kind.RECURSIVE  # a link led to a directory that holds it
        return Kind.UNREADABLE if len(name) > NAME_MAX else None

    def _linked_entry(self, directory: bytes, name: bytes, fd: int) -> Entry:
        text = os.readlink(name, dir_fd=fd)
        found = self._neighbour(directory, text)
        if found is None:
            hop = Hop(_join(directory, name), text)
            found = self._follow(directory, hop, hops=[], real_directory=self._remembered_directory)
        path, status = found
        problem = self._problem(status, path, None)
        if problem is None and self.policy.dir_links is DirLinks.HIDE and stat.S_ISDIR(status.st_mode):
            problem = Kind.DIR_LINK
        return Entry(status, problem, path)

    def _neighbour(self, directory: bytes, text: bytes) -> tuple[bytes, os.stat_result] | None:
        """What `_follow` would find, for all but a few links: those into a remembered directory, to no other link.

        It is nothing but quicker. Errors: OSError.
        """
        head, slash, last = text.rpartition(b"/")
        base = self._remembered.get((b"" if head.startswith(b"/") else directory, head)) if slash else directory
        if base is None or self._allowed is not None or last in _NO_NAMES:
            return None
        path = _join(base, last)
        if path == self._mountpoint or len(path) >= PATH_MAX:
            return None
        status = os.lstat(path)
        is_end = not stat.S_ISLNK(status.st_mode) and status.st_dev != self._mount_device
        return (path, status) if is_end else None

    def _problem(self, status: os.stat_result, path: bytes, dir_fd: int | None) -> Kind | None:
        """Why a source that exists cannot be shown, if so."""
        likeness = (status.st_mode, status.st_uid, status.st_gid, status.st_dev)
        if likeness in self._readable:
            return None
        if status.st_dev == self._mount_device:
            return Kind.RECURSIVE
        if stat.S_ISREG(status.st_mode):
            need = os.R_OK
        elif stat.S_ISDIR(status.st_mode):
            need = os.R_OK | os.X_OK
        else:
            return Kind.SPECIAL
        # The mode bits answer for nearly every file; only where they say no (root, access control lists) it is worth
        # a system call.
        shift = 6 if status.st_uid == self._uid else 3 if status.st_gid in self._groups else 0
        if (status.st_mode >> shift) & need == need:
            self._readable.add(likeness)
            return None
        return None if os.access(path, need, dir_fd=dir_fd, effective_ids=True) else Kind.UNREADABLE

    # -- resolving ----------------------------------------------------------------------------------------------

    def resolve(self, directory: bytes, name: bytes) -> Target:
        """Follow the link `directory`/`name` to its end. `directory` must be a real path.

        Errors: Unresolvable, with the kind; OSError EINVAL when it is no link.
        """
        return self._resolve(directory, name, [], self._remembered_directory)

    def trace(self, directory: bytes, name: bytes, *, hops: list[Hop]) -> Target:
        """Like `resolve`, and appends every link on the way to `hops`, also when it fails."""
        return self._resolve(directory, name, hops, self._real_directory)

    def _resolve(self, directory: bytes, name: bytes, hops: list[Hop], real_directory: DirectoryFinder) -> Target:
        path = _join(directory, name)
        try:
            hop = Hop(path, _at(os.readlink, path))
            return self._follow(directory, hop, hops=hops, real_directory=real_directory)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise
            raise Unresolvable(_kind_of(error)) from error

    def _follow(
        self,
        directory: bytes,
        hop: Hop,
        *,
        hops: list[Hop],
        real_directory: DirectoryFinder,
    ) -> Target:
        """Follow one link and those behind it. Errors: Unresolvable, OSError."""
        while True:
            _count(hop, hops)
            head, slash, last = hop.text.rpartition(b"/")
            if last in _NO_NAMES:
                path = self._real_directory(directory, hop.text, hops)
                status = _at(os.lstat, path)
            else:
                if slash:
                    directory = real_directory(directory, head or b"/", hops)
                path = _join(directory, last)
                if path == self._mountpoint:
                    raise Unresolvable(Kind.RECURSIVE)
                status = _at(os.lstat, path)
                if stat.S_ISLNK(status.st_mode):
                    hop = Hop(path, _at(os.readlink, path))
                    continue
            if status.st_dev == self._mount_device:
                raise Unresolvable(Kind.RECURSIVE)
            return Target(path, status if self._allowed is None else self._confined(path, self._allowed))

    def _confined(self, path: bytes, allowed: tuple[bytes, ...]) -> os.stat_result:
        """The attributes of what really lies at `path`, if that is in an allowed directory.

        Path and attributes are those of one descriptor: whoever may write to the dataset can put a link in the place of
        a directory that the resolver has passed, or remembers. Errors: Unresolvable, OSError.
        """
        if not _with_slash(path).startswith(allowed):
            raise Unresolvable(Kind.OUTSIDE)
        fd = _at(os.open, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _with_slash(os.readlink(b"/proc/self/fd/%d" % fd)).startswith(allowed):
                raise Unresolvable(Kind.OUTSIDE)
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _remembered_directory(self, start: bytes, text: bytes, hops: list[Hop]) -> bytes:
        """`_real_directory`, remembering what it found: links of one directory lead to few others."""
        key = (b"" if text.startswith(b"/") else start, text)
        path = self._remembered.get(key)
        if path is None:
            path = self._real_directory(start, text, hops)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = path
        return path

    def _real_directory(self, start: bytes, text: bytes, hops: list[Hop]) -> bytes:
        """The real path of the directory that `text` names, seen from the real directory `start`.

        Errors: Unresolvable, OSError.
        """
        path = b"/" if text.startswith(b"/") else start
        for part in text.split(b"/"):
            if part in (b"", b"."):
                continue
            if part == b"..":
                path = os.path.dirname(path)
                continue
            child = _join(path, part)
            if child == self._mountpoint:
                raise Unresolvable(Kind.RECURSIVE)
            # Of a mount's root the kernel asks no more than its attributes, so this call is safe even if it is ours.
            status = _at(os.lstat, child)
            if status.st_dev == self._mount_device:
                raise Unresolvable(Kind.RECURSIVE)
            mode = status.st_mode
            if stat.S_ISLNK(mode):
                hop = Hop(child, _at(os.readlink, child))
                _count(hop, hops)
                path = self._real_directory(path, hop.text, hops)
            elif stat.S_ISDIR(mode):
                path = child
            else:
                raise Unresolvable(Kind.DANGLING)  # the kernel would say ENOTDIR
        return path

    def exists(self, directory: bytes, name: bytes) -> bool:
        """True when the dataset has an entry of that name now, whatever it is."""
        try:
            _at(os.lstat, _join(directory, name))
        except OSError:
            return False
        return True

    # -- reading ------------------------------------------------------------------------------------------------

    def open(self, directory: bytes, name: bytes, *, is_link: bool) -> int:
        """A descriptor of the source behind an entry, opened for reading; not yet verified, see `source.read`.

        Errors: OSError; ESTALE when the source, or the way to it, is gone.
        """
        thread = threading.get_native_id()
        self.callers.add(thread)
        try:
            path = self.resolve(directory, name).path if is_link else _join(directory, name)
            return self._open(path, _READ_ONLY)
        except Unresolvable as problem:
            raise OSError(errno.ESTALE, f"source changed: {problem}") from problem
        except OSError as error:
            if error.errno in _GONE or (is_link and error.errno == errno.EINVAL):
                raise OSError(errno.ESTALE, f"source changed: {error.strerror}") from error
            raise
        finally:
            self.callers.discard(thread)

    def _open(self, path: bytes, flags: int) -> int:
        """open(2) that leaves no access time behind where the user may ask for that."""
        try:
            return _at(os.open, path, flags | os.O_NOATIME)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            return _at(os.open, path, flags)  # somebody else's file: O_NOATIME is for owners


def real_root(root: bytes) -> bytes:
    """The real path of a dataset's root. Errors: SourceError when it is missing, no directory, or unreadable."""
    shown = os.fsdecode(root)
    try:
        path = os.path.realpath(root, strict=True)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise SourceError(f"{shown} is not a directory", "name the directory that holds the dataset")
        with os.scandir(path):
            pass
    except FileNotFoundError as error:
        raise SourceError(f"{shown} does not exist", "name the directory that holds the dataset") from error
    except PermissionError as error:
        raise SourceError(f"{shown} cannot be read", "ask its owner for permission to list it") from error
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be read ({error.strerror})", "name a directory that can be listed"
        ) from error
    return path


def _kind_of(error: OSError) -> Kind:
    """The problem that a failed system call on the way to a source stands for."""
    if error.errno in _DANGLING:
        return Kind.DANGLING
    if error.errno == errno.ELOOP:
        return Kind.LOOP
    if error.errno == errno.EDEADLK:  # our own server's answer to our own threads
        return Kind.RECURSIVE
    return Kind.UNREADABLE


def _count(hop: Hop, hops: list[Hop]) -> None:
    if len(hops) >= MAX_LINKS:
        raise Unresolvable(Kind.LOOP)
    hops.append(hop)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory == b"/" else directory + b"/" + name


def _with_slash(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"


def _at(function: Callable[..., T], path: bytes, *args: Any) -> T:
    """`function(path, *args)` for os.open, os.lstat or os.readlink, also where `path` is longer than PATH_MAX."""
    if len(path) < PATH_MAX:
        return function(path, *args)
    fd = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while len(path) >= PATH_MAX:
            cut = path.rfind(b"/", 1, PATH_MAX)
            if cut < 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            deeper = os.open(path[:cut].lstrip(b"/"), flags, dir_fd=fd)
            os.close(fd)
            fd, path = deeper, path[cut + 1 :]
        return function(path, *args, dir_fd=fd)
    finally:
        os.close(fd)
