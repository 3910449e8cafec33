"""How dataset files are found: list a directory, open a source. `links.py` follows links, `source/` reads.

No other module opens dataset files, and nothing here opens one for writing. Names and paths are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from symfuse.access import proof
from symfuse.access.grants import Guard, is_narrowed, shown_mode
from symfuse.access.mounter import Mounter, may_all, needed
from symfuse.access.ways import Roots, Source, Ways, guard_of, keepers
from symfuse.errors import SourceError
from symfuse.links import NAME_MAX, Hop, Links, Neighbours, Unresolvable, join, kind_of, with_slash
from symfuse.policy import DirLinks, DotEntries, Kind, NameRule, NonUtf8, Outside, Policy
from symfuse.rules import CLUTTER, NameRules, is_clutter
from symfuse.source.identity import Guarded, Identity
from symfuse.source.realpaths import LOOK, LOOK_INTO, NOT_REAL, opener, reopened
from symfuse.source.volumes import Volumes

_DOT = ord(".")
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: EDEADLK: the way leads into our own mount now.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EDEADLK})
#: Errors that may be gone a moment later: of storage and networks, and of a machine that is short of something.
_TRANSIENT = frozenset(
    {
        *(errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EREMOTEIO),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNREFUSED),
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
    }
)
#: Seconds to wait before each further look at what failed so, and for how many entries of a chunk that is waited: where
#: all of a disk fails, waiting for each file would take for ever.
_WAITS_S = (0.01, 0.05)
_WAITED_FOR = 16
#: A name in a directory, and whether it is a link's.
Name = tuple[bytes, bool]


class Entry(NamedTuple):
    """What stands behind a name: either a source to show or the reason not to.

    `target` is the source's real path when a link led to it, else None. `is_transient` says that the problem may be
    gone when somebody looks again. `mode` is the one to show, None for the source's; `is_narrowed` says that it grants
    less than the source does.
    """

    status: os.stat_result | None
    problem: Kind | None = None
    target: bytes | None = None
    is_transient: bool = False
    mode: int | None = None
    is_narrowed: bool = False


#: `Neighbours.follow`: where a link's text leads, if that is plain.
Follow = Callable[[bytes], tuple[bytes, os.stat_result] | None]
#: What stands behind a name, which the listing says is a link. Errors: Unresolvable, OSError.
Look = Callable[[bytes, bool], Entry]


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
        allowed: tuple[bytes, ...] | None = None
        self._roots = Roots(self.root, ())
        if confined or policy.outside is Outside.HIDE:
            allowed_roots = [os.path.realpath(path) for path in policy.allow_roots]
            allowed = tuple(with_slash(path) for path in (self.root, *allowed_roots))
            self._roots = Roots(self.root, tuple(allowed_roots))
        self.links = Links(mountpoint=mountpoint, allowed=allowed)
        self.rules = NameRules(policy.name_rules)
        self.volumes = Volumes()
        #: True when users other than whoever mounts may look.
        self.is_shared = confined
        self._mounter = Mounter(self.volumes)
        self._open_devices: set[int] = set()  # those on which nothing is closed to whoever mounts

    def forbid_device(self, device: int) -> None:
        """Follow no link into this device: our own mount's, once it is there, wherever else it is bound to."""
        self.links.forbidden.add(device)

    def root_status(self) -> os.stat_result:
        """The root directory's attributes now. Errors: OSError."""
        return self.links.paths.lstat(self.root)

    def root_entry(self) -> Entry:
        """What the root directory is. Errors: OSError."""
        with self._opened(self.root) as fd:
            status = os.fstat(fd)
            if not self.is_shared:
                return Entry(status, mode=self._mounter.shown_mode(status))
            return self._entry_for_all(Source(status, guard_of(fd, status), keepers(self.volumes, status.st_dev)))

    def statvfs(self) -> os.statvfs_result:
        """The numbers of the file system that the root lies on. Errors: OSError."""
        # Python shows counts of 64 bits as signed ones, and EROFS has as many inodes free as there are numbers.
        fd = self.links.paths.open(self.root, LOOK_INTO)
        try:
            return os.statvfs_result([number & 0xFFFF_FFFF_FFFF_FFFF for number in os.statvfs(fd)])
        finally:
            os.close(fd)

    # -- listing ------------------------------------------------------------------------------------------------

    def identity(self, found: Identity, shown_mode: int) -> Identity:
        """What a source was that is shown with a mode, as it has to be compared: with care where others may look."""
        return Guarded.by(found, shown_mode) if self.is_shared else found

    def names(self, path: bytes, was: Identity | None = None) -> tuple[Identity, list[Name]]:
        """The names in one directory in byte order, without . and .., and which directory it was that had them.

        `was` is what it was when it was found. Errors: OSError; ESTALE when others may look, and it is another one now.
        """
        for wait_s in (*_WAITS_S, None):
            try:
                with self._opened(path) as fd:
                    listed = Identity.of(status := os.fstat(fd))
                    if isinstance(was, Guarded):
                        proof.check(fd, status, was, self.volumes)
                        _require_same(path, was, listed)
                    return listed, _names(fd)
            except OSError as error:
                if wait_s is None or error.errno not in _TRANSIENT:
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last failure was raised")

    def is_empty(self, path: bytes) -> bool:
        """Whether the directory at a real path has no names. Errors: OSError."""
        with self._opened(path) as fd, os.scandir(fd) as found:
            return next(found, None) is None

    def entries(self, path: bytes, names: Iterable[Name], *, listed: Identity, within: bytes = b"") -> Iterator[Entry]:
        """What stands behind names of one directory, one entry for each.

        `within` is the directory's path in the view, which counts where `rules.need_paths`.

        Errors: OSError; ESTALE when `path` is no longer the directory that was `listed`.
        """
        self.refresh()
        views = self.links.views_in(path)
        has_rules, marked = bool(self.rules), CLUTTER.union(map(bytes.lower, views))  # locals: a million times
        waits = iter(range(_WAITED_FOR))
        with self._opened(path) as fd, self._looking(path, fd) as plainly:
            status = os.fstat(fd)
            _require_same(path, listed, Identity.of(status))
            if self.is_shared:
                proof.check_inode(fd, status, listed, self.volumes)
            look = self._by_rules(plainly, path, within, views) if has_rules else plainly
            for name, is_link in names:
                if name[0] == _DOT or name.lower() in marked or len(name) > NAME_MAX or not name.isascii():
                    problem = None if has_rules else self._name_problem(name, views)
                    if problem is not None:
                        yield Entry(None, problem)
                        continue
                try:
                    yield look(name, is_link)
                except Unresolvable as error:
                    yield Entry(None, error.kind)
                except OSError as error:
                    yield self._failed(look, name, error, waits)

    def _failed(self, look: Look, name: bytes, error: OSError, waits: Iterator[int]) -> Entry:
        """What stands behind a name after a first look failed: a flaky disk or network is asked again."""
        for wait_s in _WAITS_S:
            if error.errno not in _TRANSIENT or next(waits, None) is None:
                break
            time.sleep(wait_s)
            try:
                return look(name, False)
            except Unresolvable as unresolvable:
                return Entry(None, unresolvable.kind)
            except OSError as again:
                error = again
        return Entry(None, kind_of(error), None, error.errno in _TRANSIENT)

    @contextlib.contextmanager
    def _looking(self, path: bytes, fd: int) -> Iterator[Look]:
        """A function that looks at names of one open directory, for one thread."""
        if self.is_shared:
            with Ways(self.links.paths, self.volumes, self._roots, path, fd) as ways:
                yield functools.partial(self._look_for_all, path, fd, ways)
        else:
            with Neighbours(self.links, path) as neighbours:
                yield functools.partial(self._look, path, fd, neighbours.follow)

    def _look(self, path: bytes, fd: int, follow: Follow, name: bytes, is_link: bool) -> Entry:
        """One name, for whoever mounts alone. Errors: Unresolvable; OSError."""
        target = None
        status = None if is_link else os.stat(name, dir_fd=fd, follow_symlinks=False)
        if status is None or stat.S_ISLNK(status.st_mode):  # or replaced since it was listed
            text = os.readlink(name, dir_fd=fd)
            found = follow(text) or self.links.follow(path, Hop(join(path, name), text))
            target, status = found[0], found[1]
        if status.st_dev in self._open_devices and status.st_size > 0 and stat.S_ISREG(status.st_mode):
            return tuple.__new__(Entry, (status, None, target, False, None, False))  # as nearly all; a million times
        if status.st_dev in self.volumes.triggers:
            status = self._triggered(join(path, name) if target is None else target)[0]
        problem = self._problem(status, path, fd, name, target)
        if problem is not None:
            return Entry(None, problem)
        return Entry(status, None, target, False, self._mounter.shown_mode(status))

    def _by_rules(self, look: Look, path: bytes, within: bytes, views: frozenset[bytes]) -> Look:
        """`look`, but for what the user's rules hide, and what is hidden for its name where none of them decides."""

        def judged(name: bytes, is_link: bool) -> Entry:
            problem = self._name_problem(name, views, self.deciding_rule(path, name, within))
            return look(name, is_link) if problem is None else Entry(None, problem)

        return judged

    def _look_for_all(self, path: bytes, fd: int, ways: Ways, name: bytes, is_link: bool) -> Entry:
        """One name, for whoever mounts and for others, who must see no more than at the source. Errors: as `_look`."""
        target = None
        source = None if is_link else ways.source(name, fd)
        if source is None or stat.S_ISLNK(source.status.st_mode):
            text = os.readlink(name, dir_fd=fd)
            target, source = self.links.guarded(path, Hop(join(path, name), text), ways)
        status, guard, way = source
        if status.st_dev in self.volumes.triggers:
            status, guard = self._triggered(join(path, name) if target is None else target)
            self.refresh()  # what was mounted there just now may be for one user alone
            way |= keepers(self.volumes, status.st_dev)
        problem = self._problem(status, path, fd, name, target)
        if problem is not None:
            return Entry(None, problem)
        return self._entry_for_all(Source(status, guard, way), target)

    def _entry_for_all(self, source: Source, target: bytes | None = None) -> Entry:
        """What is shown of a source where others may look."""
        status, guard, way = source
        mode = self._mounter.shown_to_others(status, shown_mode(guard, way))
        return Entry(status, None, target, False, mode, is_narrowed(guard, way))

    @contextlib.contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        """A descriptor of the directory at `path`."""
        thread = threading.get_native_id()
        self.callers.add(thread)
        try:
            fd = self.links.paths.open_unnoticed(path, _LIST)
            try:
                self._refuse_ourselves(os.fstat(fd))
                yield fd
            finally:
                os.close(fd)
        finally:
            self.callers.discard(thread)

    def _refuse_ourselves(self, status: os.stat_result) -> None:
        """Refuse our own mount, which somebody has mounted on the way meanwhile: to read it is to wait for ourselves.

        Errors: OSError ESTALE.
        """
        if status.st_dev in self.links.forbidden:
            raise OSError(errno.ESTALE, "the path leads into the mount itself now")

    def _triggered(self, path: bytes) -> tuple[os.stat_result, Guard]:
        """The attributes of what an automount shows, which opening it mounts, and its guard. Errors: OSError."""
        mounted = self.links.paths.open(path, _LIST)
        try:
            status = os.fstat(mounted)
            return status, guard_of(mounted, status)
        finally:
            os.close(mounted)

    def _size_problem(self, path: bytes, name: bytes, status: os.stat_result, target: bytes | None) -> Kind | None:
        """Of an empty file: SPECIAL when it has content all the same, as some servers of FUSE have it."""
        source = join(path, name) if target is None else target
        if status.st_size < 0:
            return Kind.SPECIAL
        if not stat.S_ISREG(status.st_mode) or self.volumes.is_numbered(status.st_dev, source):
            return None
        with contextlib.suppress(OSError):
            fd = self._open(source)
            try:
                return Kind.SPECIAL if os.read(fd, 1) else None
            finally:
                os.close(fd)
        return None

    def refresh(self) -> None:
        """Take note of what was mounted or unmounted since."""
        if self.links.refresh():
            self.volumes.refresh()
            self._open_devices.clear()  # numbers are used again

    def deciding_rule(self, path: bytes, name: bytes, within: bytes) -> NameRule | None:
        """Which of the user's rules decides about a name in the directory `path`, if one does.

        `within` as for `entries`. The entry is looked at only where its type decides. Errors: OSError that may be gone
        when somebody looks again.
        """
        rule = self.rules.deciding(name, within, is_directory=False)
        if not self.rules.need_types:
            return rule
        of_directory = self.rules.deciding(name, within, is_directory=True)
        return of_directory if of_directory is not rule and self._is_directory(path, name) else rule

    def _is_directory(self, path: bytes, name: bytes) -> bool:
        """Whether a name in a directory is that of a directory, or of a link that may be followed to one.

        Errors: as `deciding_rule`.
        """
        if name in self.links.views_in(path):
            return True  # to look at it might be to wait for ourselves
        literal = join(path, name)
        try:
            status = self.links.paths.lstat(literal)
            if stat.S_ISLNK(status.st_mode):
                status = self.links.follow(path, Hop(literal, self.links.paths.readlink(literal))).status
        except Unresolvable:
            return False
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise
            return False
        return stat.S_ISDIR(status.st_mode)

    def _name_problem(self, name: bytes, views: frozenset[bytes], rule: NameRule | None = None) -> Kind | None:
        """Why an entry is not shown whatever it is, if so.

        `views` are the names that views are mounted on. `rule` is the user's that decides, if one does: it takes the
        place of what holds by default, but cures no problem.
        """
        if rule is not None and rule.hides:
            return Kind.EXCLUDED
        if rule is None and name.startswith(b".") and self.policy.dot_entries is DotEntries.HIDE:
            return Kind.DOT_ENTRY
        if rule is None and is_clutter(name):
            return Kind.CLUTTER
        if name in views:
            return Kind.RECURSIVE  # a link led to a directory that holds our mountpoint, say
        if rule is None and self.policy.non_utf8 is NonUtf8.HIDE and not is_utf8(name):
            return Kind.NOT_UTF8
        return Kind.UNREADABLE if len(name) > NAME_MAX else None

    def _problem(self, status: os.stat_result, path: bytes, fd: int, name: bytes, target: bytes | None) -> Kind | None:
        """Why a source that exists cannot be shown, if so. `name` is in the directory `path`, which `fd` has open."""
        if status.st_dev in self.links.forbidden:
            return Kind.RECURSIVE
        need = needed(status.st_mode)
        if not need:
            return Kind.SPECIAL
        if need & os.X_OK and target is not None and self.policy.dir_links is DirLinks.HIDE:
            return Kind.DIR_LINK
        if status.st_dev not in self._open_devices:
            source = join(path, name) if target is None else target
            if need == os.R_OK and self.volumes.is_pseudo(status.st_dev, source):
                return Kind.SPECIAL
            # The mode does not tell: there may be an access control list, or a server that decides.
            if not may_all(need, name if target is None else target, fd):
                return Kind.UNREADABLE
            if self._mounter.may_read_all(status.st_dev, source):
                self._open_devices.add(status.st_dev)
        return self._size_problem(path, name, status, target) if status.st_size <= 0 else None

    def target(self, directory: bytes, name: bytes) -> bytes:
        """The real path that a link leads to now. Errors: OSError ESTALE when it leads to nothing that can be shown."""
        try:
            return self.links.resolve(directory, name).path
        except Unresolvable as problem:
            raise OSError(errno.ESTALE, str(problem)) from problem

    def close(self) -> None:
        """Watch mounts no longer."""
        self.links.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def exists(self, directory: bytes, name: bytes) -> bool:
        """True when the dataset has an entry of that name now, whatever it is."""
        try:
            self.links.paths.lstat(join(directory, name))
        except OSError:
            return False
        return True

    def open(self, directory: bytes, name: bytes, *, is_link: bool, was: Identity | None = None) -> int:
        """A descriptor of the source behind an entry, opened for reading; not yet verified, see `source/reader.py`.

        Errors: OSError; ESTALE when the source, or the way to it, is gone, or closed to others who may look.
        """
        thread = threading.get_native_id()
        self.callers.add(thread)
        try:
            fd = self._open_linked(directory, name) if is_link else self._open(join(directory, name))
            if isinstance(was, Guarded):
                try:
                    self._prove(fd, directory, name, was, is_link=is_link)
                except BaseException:
                    os.close(fd)
                    raise
            return fd
        except Unresolvable as problem:
            raise OSError(errno.ESTALE, f"source changed: {problem}") from problem
        except OSError as error:
            if error.errno in _GONE or (is_link and error.errno == errno.EINVAL):
                raise OSError(errno.ESTALE, f"source changed: {error.strerror}") from error
            raise
        finally:
            self.callers.discard(thread)

    def _prove(self, fd: int, directory: bytes, name: bytes, was: Guarded, *, is_link: bool) -> None:
        """What an entry's descriptor has open is open to all who are let in. Errors: OSError ESTALE; Unresolvable."""
        status = os.fstat(fd)
        if proof.check(fd, status, was, self.volumes) or (status.st_ino == was.ino and not is_link):
            return
        with self._opened(directory) as directory_fd, self._looking(directory, directory_fd) as look:
            entry = look(name, is_link)
        if entry.status is None or not os.path.samestat(entry.status, status):
            raise OSError(errno.ESTALE, "source changed: another file")
        proof.require_covered(was, entry.mode or 0)

    def _open_linked(self, directory: bytes, name: bytes) -> int:
        """The source behind a link. Most need one readlink and one open. Errors: Unresolvable, OSError."""
        near = self.links.near(directory, self.links.paths.readlink(join(directory, name)))
        fd = None if near is None else self._open_if_real(near)
        if fd is None:
            with contextlib.suppress(Unresolvable):
                fd = self._open_if_real(self.links.resolve(directory, name).path)
        if fd is None:
            fd = self._open(self.links.trace(directory, name, hops=[]).path)
            self.links.forget()  # a directory that is remembered has moved, or was one that stood there for a moment
        return fd

    def _open_if_real(self, path: bytes) -> int | None:
        """As `_open`, but None where nothing lies there, or a link does, or one stands on the way."""
        try:
            return self._open(path)
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in NOT_REAL:
                raise
            return None

    def _open(self, path: bytes) -> int:
        """The regular file at a real path, for reading; nothing else is opened, whatever lies there by now.

        So it is looked at first: to open a FIFO, a device or a file of /proc can be noticed, and do things. Errors:
        OSError.
        """
        found = self.links.paths.open(path, LOOK)
        try:
            status = os.fstat(found)
            self._refuse_ourselves(status)
            if not stat.S_ISREG(status.st_mode):
                if stat.S_ISLNK(status.st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                raise OSError(errno.ESTALE, "source changed: file type")
            if self.volumes.has_pseudo(found, status.st_dev):
                raise OSError(errno.ESTALE, "source changed: file system")
            return reopened(found)
        finally:
            os.close(found)


def _require_same(path: bytes, was: Identity, found: Identity) -> None:
    """Errors: OSError ESTALE when the directory that was found is another than before."""
    if not was.is_directory(found):
        raise OSError(errno.ESTALE, "directory was replaced", path)


def is_utf8(name: bytes) -> bool:
    """Whether a name can be read as text."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _names(fd: int) -> list[Name]:
    """The names in an open directory, sorted; each once, although file systems that unite others give some twice."""
    with os.scandir(fd) as found:
        return sorted({os.fsencode(entry.name): _is_link(entry) for entry in found}.items())


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Where the listing does not say so, the entry is looked at; one that fails is no reason to lose the others."""
    try:
        return entry.is_symlink()
    except OSError:
        return False


def real_root(root: bytes) -> bytes:
    """The real path of a dataset's root. Errors: SourceError when it is missing, no directory, or unreadable."""
    shown = os.fsdecode(root)
    try:
        path = os.path.realpath(root, strict=True)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise SourceError(f"{shown} is not a directory", "name the directory that holds the dataset")
        fd = opener()(path, _LIST | os.O_NOFOLLOW)
        try:
            with os.scandir(fd) as entries:
                next(entries, None)  # some file systems let a directory be opened that they cannot list
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise SourceError(f"{shown} does not exist", "name the directory that holds the dataset") from error
    except PermissionError as error:
        raise SourceError(f"{shown} cannot be read", "ask its owner for permission to list it") from error
    except OSError as error:
        raise SourceError(
            f"{shown} cannot be read ({error.strerror})", "name a directory that can be listed"
        ) from error
    return path
