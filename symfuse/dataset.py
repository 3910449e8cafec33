"""How dataset files are found: list a directory, open a source. `links.py` follows links, `source.py` reads.

No other module opens dataset files, and nothing here opens one for writing. Names and paths are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from symfuse.errors import SourceError
from symfuse.links import NAME_MAX, Hop, Links, Neighbours, Unresolvable, at_path, join, kind_of, with_slash
from symfuse.policy import DirLinks, DotEntries, Kind, NonUtf8, Outside, Policy

_DOT = ord(".")
_READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: ENXIO: a socket stands there now. EDEADLK: the way leads into our own mount now.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EDEADLK})
#: A name in a directory, and whether it is a link's.
Name = tuple[bytes, bool]


class Entry(NamedTuple):
    """What stands behind a name: either a source to show or the reason not to.

    `target` is the source's real path when a link led to it, else None.
    """

    status: os.stat_result | None
    problem: Kind | None = None
    target: bytes | None = None


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
        self._mountpoint_name = mountpoint and os.path.basename(mountpoint)
        allowed: tuple[bytes, ...] | None = None
        if confined or policy.outside is Outside.HIDE:
            roots = (self.root, *(os.path.realpath(path) for path in policy.allow_roots))
            allowed = tuple(with_slash(path) for path in roots)
        self.links = Links(mountpoint=mountpoint, allowed=allowed)
        self._readable: set[tuple[int, int, int, int]] = set()  # (mode, uid, gid, device) that need no second look
        self._uid = os.geteuid()
        self._groups = frozenset((os.getegid(), *os.getgroups()))

    def forbid_device(self, device: int) -> None:
        """Follow no link into this device: our own mount's, once it is there, wherever else it is bound to."""
        self.links.forbidden.add(device)
        self._readable.clear()

    def root_status(self) -> os.stat_result:
        """The root directory's attributes. Errors: OSError."""
        return os.lstat(self.root)

    def statvfs(self) -> os.statvfs_result:
        """The numbers of the file system that the root lies on. Errors: OSError."""
        # Python shows counts of 64 bits as signed ones, and EROFS has as many inodes free as there are numbers.
        return os.statvfs_result([number & 0xFFFF_FFFF_FFFF_FFFF for number in os.statvfs(self.root)])

    # -- listing ------------------------------------------------------------------------------------------------

    def names(self, path: bytes, *, dev: int, ino: int) -> list[Name]:
        """The names in one directory in byte order, without . and ..

        Errors: OSError; ESTALE when `path` is no longer the directory that `dev` and `ino` name.
        """
        with self._listed(path, dev, ino) as fd, os.scandir(fd) as found:
            return sorted([(os.fsencode(entry.name), entry.is_symlink()) for entry in found])

    def entries(self, path: bytes, names: Iterable[Name], *, dev: int, ino: int) -> Iterator[Entry]:
        """What stands behind names of one directory, one entry for each. Errors: as `names`."""
        # A million times: what is rare is asked for in functions of its own.
        new, own, readable = tuple.__new__, self._mountpoint_name, self._readable
        with self._listed(path, dev, ino) as fd, Neighbours(self.links, path) as neighbours:
            follow = neighbours.follow
            for name, is_link in names:
                target = None
                if name[0] == _DOT or name == own or len(name) > NAME_MAX or not name.isascii():
                    problem = self._name_problem(path, name)
                    if problem is not None:
                        yield Entry(None, problem)
                        continue
                try:
                    status = None if is_link else os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if status is None or stat.S_ISLNK(status.st_mode):  # or replaced since it was listed
                        text = os.readlink(name, dir_fd=fd)
                        target, status = follow(text) or self.links.follow(path, Hop(join(path, name), text))
                except (Unresolvable, OSError) as error:
                    yield Entry(None, error.kind if isinstance(error, Unresolvable) else kind_of(error))
                    continue
                likeness = (status.st_mode, status.st_uid, status.st_gid, status.st_dev)
                problem = None if likeness in readable else self._problem(status, name, fd, target)
                yield new(Entry, (status, problem, target))

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

    def _name_problem(self, directory: bytes, name: bytes) -> Kind | None:
        """Why an entry cannot be shown whatever it is, if so."""
        if name.startswith(b".") and self.policy.dot_entries is DotEntries.HIDE:
            return Kind.DOT_ENTRY
        if name == self._mountpoint_name and join(directory, name) == self.links.mountpoint:
            return Kind.RECURSIVE  # a link led to a directory that holds it
        if self.policy.non_utf8 is NonUtf8.HIDE and not is_utf8(name):
            return Kind.NOT_UTF8
        return Kind.UNREADABLE if len(name) > NAME_MAX else None

    def _problem(self, status: os.stat_result, name: bytes, fd: int, target: bytes | None) -> Kind | None:
        """Why a source that exists cannot be shown, if so. `name` is that of the entry in the directory `fd`."""
        if status.st_dev in self.links.forbidden:
            return Kind.RECURSIVE
        if stat.S_ISREG(status.st_mode):
            need = os.R_OK
        elif stat.S_ISDIR(status.st_mode):
            need = os.R_OK | os.X_OK
            if target is not None and self.policy.dir_links is DirLinks.HIDE:
                return Kind.DIR_LINK
        else:
            return Kind.SPECIAL
        # The mode bits answer for nearly every file; only where they say no (root, access control lists) it is worth
        # a system call.
        shift = 6 if status.st_uid == self._uid else 3 if status.st_gid in self._groups else 0
        if (status.st_mode >> shift) & need == need:
            if need == os.R_OK:
                self._readable.add((status.st_mode, status.st_uid, status.st_gid, status.st_dev))
            return None
        at = {"path": name, "dir_fd": fd} if target is None else {"path": target}
        return None if os.access(mode=need, effective_ids=True, **at) else Kind.UNREADABLE

    # -- reading ------------------------------------------------------------------------------------------------

    def exists(self, directory: bytes, name: bytes) -> bool:
        """True when the dataset has an entry of that name now, whatever it is."""
        try:
            at_path(os.lstat, join(directory, name))
        except OSError:
            return False
        return True

    def open(self, directory: bytes, name: bytes, *, is_link: bool) -> int:
        """A descriptor of the source behind an entry, opened for reading; not yet verified, see `source.read`.

        Errors: OSError; ESTALE when the source, or the way to it, is gone.
        """
        thread = threading.get_native_id()
        self.callers.add(thread)
        try:
            fd = self._open_linked(directory, name) if is_link else self._open(join(directory, name), _READ_ONLY)
            # A link may stand now for a directory on the way, and to read of ourselves is to wait for ourselves.
            if self.links.forbidden and os.fstat(fd).st_dev in self.links.forbidden:
                os.close(fd)
                raise Unresolvable(Kind.RECURSIVE)
            return fd
        except Unresolvable as problem:
            raise OSError(errno.ESTALE, f"source changed: {problem}") from problem
        except OSError as error:
            if error.errno in _GONE or (is_link and error.errno == errno.EINVAL):
                raise OSError(errno.ESTALE, f"source changed: {error.strerror}") from error
            raise
        finally:
            self.callers.discard(thread)

    def _open_linked(self, directory: bytes, name: bytes) -> int:
        """The source behind a link. Most need one readlink and one open. Errors: Unresolvable, OSError."""
        near = self.links.near(directory, at_path(os.readlink, join(directory, name)))
        if near is not None:
            try:
                return self._open(near, _READ_ONLY)
            except OSError as error:
                if error.errno != errno.ELOOP:  # it is a link
                    raise
        return self._open(self.links.resolve(directory, name).path, _READ_ONLY)

    def _open(self, path: bytes, flags: int) -> int:
        """open(2) that leaves no access time behind where the user may ask for that."""
        try:
            return at_path(os.open, path, flags | os.O_NOATIME)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            return at_path(os.open, path, flags)  # somebody else's file: O_NOATIME is for owners


def is_utf8(name: bytes) -> bool:
    """Whether a name can be read as text."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def real_root(root: bytes) -> bytes:
    """The real path of a dataset's root. Errors: SourceError when it is missing, no directory, or unreadable."""
    shown = os.fsdecode(root)
    try:
        path = os.path.realpath(root, strict=True)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise SourceError(f"{shown} is not a directory", "name the directory that holds the dataset")
        with os.scandir(path) as entries:
            next(entries, None)  # some file systems let a directory be opened that they cannot list
    except FileNotFoundError as error:
        raise SourceError(f"{shown} does not exist", "name the directory that holds the dataset") from error
    except PermissionError as error:
        raise SourceError(f"{shown} cannot be read", "ask its owner for permission to list it") from error
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be read ({error.strerror})", "name a directory that can be listed"
        ) from error
    return path
