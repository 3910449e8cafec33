"""The frozen namespace: directories, nodeids, inode numbers, problems.

The view is the one definition of what is shown; the mount and `explain` read it. It knows neither FUSE nor errno
numbers beyond those of the dataset's own errors.

Invariants (`View.check` asserts them):
- A directory's nodeid is its index in `_directories`; a file's is that index shifted left by 32, plus its place in the
  directory's table. Nodeids are never reused, so a FORGET may be ignored.
- An inode number is not a nodeid: it must be the same at the next mount, whatever is listed first then. Each
  directory owns a range of numbers; its entries take the first ones in order, its subdirectories share the rest.
- A directory's table never changes once it is there.
"""

from __future__ import annotations

import bisect
import errno
import hashlib
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from symfuse import source
from symfuse.dataset import Dataset
from symfuse.policy import Kind
from symfuse.progress import Progress
from symfuse.table import HIDDEN_MODE_BITS, Row, Table, Trait, Traits

ROOT_NODEID = 1
ROOT_INO = 1
#: Inode numbers stay below 2**53, so that programs that keep them in a double (JSON) keep them apart.
FIRST_INO = 2
INO_SPACE = 1 << 53
#: Those of directories too deep for that lie between INO_SPACE and this; st_ino has 64 bits, some programs' a sign.
INO_END = 1 << 63
PLACE_BITS = 32
#: Directories reached through links may repeat sources already shown this often before the next is hidden: far more
#: than datasets do, far less than a machine bears.
REPEATS_ALLOWED = 100_000
REPEATS_PER_SOURCE = 16

log = logging.getLogger(__name__)


class Node(NamedTuple):
    """What a getattr shows. `mode` includes the file type; `blocks` counts 512 bytes; times are in nanoseconds."""

    nodeid: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Directory:
    """A directory of the view. Its table, once listed, is in `View._tables`; who freezes it sets the rest before."""

    __slots__ = (
        "absent",
        "children",
        "dev",
        "first_ino",
        "ino",
        "inos",
        "number",
        "parent",
        "path",
        "place",
        "repeats",
    )

    def __init__(
        self, *, number: int, parent: Directory | None, place: int, path: bytes, dev: int, ino: int, inos: range,
        repeats: bool,
    ) -> None:  # fmt: skip
        self.number = number
        self.parent = parent
        self.place = place  # in the parent's table
        self.path = path  # real
        self.dev = dev
        self.ino = ino  # of the source, as `dev`
        self.inos = inos  # this directory's range of inode numbers, for all below it
        self.repeats = repeats  # reached through a link: its source may be shown elsewhere, too
        self.first_ino = 0  # shown for the entry at place 0
        self.children: dict[int, int] = {}  # place -> number
        self.absent: dict[int, Kind] = {}  # places hidden here, though not everywhere the table is used


class View:
    """The frozen namespace over a dataset. Safe to use from several threads.

    Making one reads nothing but the root's attributes. Errors: OSError.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._traits = Traits()
        status = dataset.root_status()
        self._root_status = status
        root = Directory(
            number=ROOT_NODEID, parent=None, place=0, path=dataset.root, dev=status.st_dev, ino=status.st_ino,
            inos=range(FIRST_INO, INO_SPACE), repeats=False,
        )  # fmt: skip
        # Both lists grow under _lock and are read without it; an index once valid stays so. Number 0 is nobody's.
        self._directories: list[Directory] = [root, root]
        self._tables: list[Table | None] = [None, None]
        self._lock = threading.Lock()
        # One of these is held while a directory is read from disk, so that it is read once.
        self._freezing = [threading.Lock() for _ in range(64)]
        self._shared: dict[tuple[int, int], Table] = {}  # tables of linked directories by source, under _lock
        self._sources_repeated: Counter[tuple[int, int]] = Counter()  # under _lock
        self._repeats = 0  # under _lock
        self._spare: list[tuple[int, int]] = []  # ranges beyond the shares, sorted (start, end), under _lock
        self._frozen = 0  # directories, under _lock
        self._failed: set[int] = set()  # directories that could not be read when it was tried, under _lock
        self._progress = Progress()  # under _lock
        self._idle = source.IdleSources()
        self._stale: set[int] = set()  # nodeids whose failure was logged

    # -- the namespace ------------------------------------------------------------------------------------------

    def is_frozen(self, nodeid: int) -> bool:
        """True when a directory can be listed without touching the dataset."""
        return 0 < nodeid < len(self._tables) and self._tables[nodeid] is not None

    def directory(self, nodeid: int) -> Directory:
        """Errors: KeyError when `nodeid` is no directory's."""
        if 0 < nodeid < len(self._directories):
            return self._directories[nodeid]
        raise KeyError(nodeid)

    def table(self, nodeid: int) -> Table:
        """A directory's entries, frozen now if they were not. See `Directory.absent` for what to leave out.

        Errors: KeyError when `nodeid` is no directory's; OSError when it cannot be read.
        """
        directory = self.directory(nodeid)
        table = self._tables[nodeid]
        return self._freeze(directory) if table is None else table

    def lookup(self, parent: int, name: bytes) -> Node | None:
        """The node of that name, or None. Errors: as `table`."""
        table = self.table(parent)
        directory = self._directories[parent]
        place = table.find(name)
        if place is None or place in directory.absent:
            return None
        return self._node(directory, place, table.row(place))

    def listing(self, nodeid: int, start: int = 0) -> Iterator[tuple[bytes, Node, int]]:
        """Name, node and place of a directory's entries, in byte order, from a place on. Errors: as `table`."""
        table = self.table(nodeid)
        directory = self._directories[nodeid]
        for place in range(start, len(table)):
            if place not in directory.absent:
                yield table.name(place), self._node(directory, place, table.row(place)), place

    def node(self, nodeid: int) -> Node:
        """Errors: KeyError when there is no such node."""
        if nodeid == ROOT_NODEID:
            return self._root_node()
        directory, place, table = self._at(nodeid)
        return self._node(directory, place, table.row(place))

    def parent(self, nodeid: int) -> int:
        """The nodeid of a directory's parent; the root is its own. Errors: KeyError."""
        parent = self.directory(nodeid).parent
        return nodeid if parent is None else parent.number

    def _at(self, nodeid: int) -> tuple[Directory, int, Table]:
        """Where a node other than the root stands: its parent directory, its place, the parent's table."""
        number, place = nodeid >> PLACE_BITS, nodeid & ((1 << PLACE_BITS) - 1)
        if number == 0:
            child = self.directory(nodeid)
            if child.parent is None:
                raise KeyError(nodeid)
            number, place = child.parent.number, child.place
        directory = self.directory(number)
        table = self._tables[number]
        if table is None or place >= len(table):
            raise KeyError(nodeid)
        return directory, place, table

    def _node(self, directory: Directory, place: int, row: Row) -> Node:
        trait = self._traits[row.trait]
        nodeid = directory.children.get(place) or directory.number << PLACE_BITS | place
        return Node(
            nodeid, directory.first_ino + place, trait.mode, 1, trait.uid, trait.gid,
            row.size, row.blocks, row.atime_ns, row.mtime_ns, row.ctime_ns,
        )  # fmt: skip

    def _root_node(self) -> Node:
        status = self._root_status
        return Node(
            ROOT_NODEID, ROOT_INO, status.st_mode & ~HIDDEN_MODE_BITS, 1, status.st_uid, status.st_gid,
            status.st_size, status.st_blocks, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip

    # -- freezing -----------------------------------------------------------------------------------------------

    def _freeze(self, directory: Directory) -> Table:
        number = directory.number
        with self._freezing[number % len(self._freezing)]:
            table = self._tables[number]
            if table is None:
                table = self._read_table(directory)
                with self._lock:
                    self._admit(directory, table)
        return table

    def _read_table(self, directory: Directory) -> Table:
        """The directory's table from disk; from memory when another link to the same source was read before."""
        key = (directory.dev, directory.ino)
        table = self._shared.get(key) if directory.repeats else None
        if table is None:
            table = Table(self.dataset.entries(directory.path, dev=directory.dev, ino=directory.ino), self._traits)
            if directory.repeats:
                with self._lock:
                    self._shared[key] = table
        return table

    def _admit(self, directory: Directory, table: Table) -> None:
        """Give a directory its table, and its subdirectories a place in the view. Called with _lock held."""
        directory.first_ino, shares = self._number(directory, table)
        for share, (place, target) in enumerate(table.subdirectories):
            row = table.row(place)
            trait = self._traits[row.trait]
            kind = self._refuse(directory, row.ino, trait)
            if kind is not None:
                directory.absent[place] = kind
                continue
            child = Directory(
                number=len(self._directories), parent=directory, place=place,
                path=target or os.path.join(directory.path, table.name(place)), dev=trait.dev, ino=row.ino,
                inos=shares[share], repeats=directory.repeats or trait.is_link,
            )  # fmt: skip
            directory.children[place] = child.number
            self._tables.append(None)
            self._directories.append(child)
        self._record(directory, table)
        self._tables[directory.number] = table  # last: who sees the table may use all of the above

    def _number(self, directory: Directory, table: Table) -> tuple[int, list[range]]:
        """The entries' first inode number, and the range of each subdirectory.

        A range too small for its entries (50 levels of two subdirectories each lead there, or 8 of 100) is left alone
        for one beyond all shares.
        """
        numbers, count, heirs = directory.inos, len(table), len(table.subdirectories)
        if count > len(numbers):
            return self._spare_numbers(directory, count), [range(0)] * heirs
        share = (len(numbers) - count) // max(heirs, 1)
        start = numbers.start + count
        return numbers.start, [range(start + share * heir, start + share * (heir + 1)) for heir in range(heirs)]

    def _spare_numbers(self, directory: Directory, count: int) -> int:
        """The first of `count` numbers beyond all shares. Called with _lock held.

        Where they begin is a hash of the directory's path, so it is the same at the next mount. That two directories
        overlap is improbable, and made impossible: the later one moves behind the earlier.
        """
        digest = hashlib.blake2b(self._shown_path(directory), digest_size=8).digest()
        start = INO_SPACE + int.from_bytes(digest, "little") % (INO_END - INO_SPACE - count)
        index = bisect.bisect(self._spare, (start, start))
        if index > 0 and self._spare[index - 1][1] > start:
            start = self._spare[index - 1][1]
        while index < len(self._spare) and self._spare[index][0] < start + count:
            start = self._spare[index][1]
            index += 1
        self._spare.insert(index, (start, start + count))
        return start

    def _refuse(self, parent: Directory, ino: int, trait: Trait) -> Kind | None:
        """Why a directory must not be shown below `parent`, if so. Called with _lock held."""
        ancestor: Directory | None = parent
        while ancestor is not None:
            if (ancestor.dev, ancestor.ino) == (trait.dev, ino):
                return Kind.CYCLE
            ancestor = ancestor.parent
        if not (parent.repeats or trait.is_link):
            return None  # directories without links on the way cannot multiply
        if self._repeats > REPEATS_ALLOWED + REPEATS_PER_SOURCE * len(self._sources_repeated):
            self._name_culprit()
            return Kind.MULTIPLIED
        key = (trait.dev, ino)
        self._repeats += key in self._sources_repeated
        self._sources_repeated[key] += 1
        return None

    def _name_culprit(self) -> None:
        """Say once which directory multiplies. Called with _lock held."""
        if self._progress.error is None:
            key, number = self._sources_repeated.most_common(1)[0]
            path = next(found.path for found in self._directories if (found.dev, found.ino) == key)
            self._progress.error = (
                f"links multiply: {os.fsdecode(path)} alone would be shown {number} times or more, "
                "so further linked directories are hidden; remove links, or use --dir-links hide"
            )
            log.error("%s", self._progress.error)

    def _record(self, directory: Directory, table: Table) -> None:
        """Count a frozen directory. Called with _lock held."""
        progress = self._progress
        self._frozen += 1
        progress.directories += len(directory.children)
        progress.files += len(table) - len(table.subdirectories)
        if directory.number in self._failed:
            self._failed.remove(directory.number)
            progress.take_back(Kind.UNREADABLE, self._shown_path(directory))
        hidden = [*table.problems, *((table.name(place), kind) for place, kind in directory.absent.items())]
        if hidden:  # most directories hide nothing, and need no path
            path = self._shown_path(directory)
            for name, kind in hidden:
                progress.note(kind, os.path.join(path, name))

    def _shown_path(self, directory: Directory) -> bytes:
        """Relative to the view's root."""
        names: list[bytes] = []
        while directory.parent is not None:
            table = self._tables[directory.parent.number]
            assert table is not None, "a child of an unfrozen directory"
            names.append(table.name(directory.place))
            directory = directory.parent
        return b"/".join(reversed(names))

    def progress(self) -> Progress:
        """A snapshot of what was frozen so far."""
        with self._lock:
            progress = self._progress.copy()
            progress.complete = self._frozen == len(self._directories) - 1
        return progress

    def freeze_all(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Progress:
        """Freeze every directory, breadth first; `stop` ends it early.

        A directory that cannot be read is logged, counted as unreadable, and tried again when somebody looks at it.
        """
        number = ROOT_NODEID
        while number < len(self._directories) and not (stop is not None and stop.is_set()):
            if self._tables[number] is None:
                self._freeze_or_note(self._directories[number])
                if on_progress is not None:
                    on_progress(self.progress())
            number += 1
        return self.progress()

    def _freeze_or_note(self, directory: Directory) -> None:
        try:
            self._freeze(directory)
        except OSError as error:
            log.warning("%s cannot be listed: %s", os.fsdecode(directory.path), error.strerror)
            with self._lock:
                if directory.number not in self._failed:
                    self._failed.add(directory.number)
                    self._progress.note(Kind.UNREADABLE, self._shown_path(directory))

    # -- content ------------------------------------------------------------------------------------------------

    def read(self, nodeid: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`: fewer only at the end of the file as it was frozen.

        Errors: KeyError when there is no such node; OSError: EISDIR for a directory, ESTALE when the source is no
        longer what was frozen, whatever else reading it gave. Each file's failure is logged once.
        """
        directory, place, table = self._at(nodeid)
        row = table.row(place)
        trait = self._traits[row.trait]
        if stat.S_ISDIR(trait.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        wanted = min(size, row.size - offset)
        if wanted <= 0:
            return b""
        identity = source.Identity(trait.dev, row.ino, row.size, row.mtime_ns)
        fd = self._idle.take(nodeid)
        try:
            if fd is None:
                fd = self.dataset.open(directory.path, table.name(place), is_link=trait.is_link)
            data = source.read(fd, wanted, offset, identity)
        except OSError as error:
            if fd is not None:
                os.close(fd)
            self._log_once(nodeid, directory, table.name(place), error)
            raise
        # Who reads the end of a file seldom comes back; a small file is never kept open at all.
        if offset + wanted == row.size:
            os.close(fd)
        else:
            self._idle.give(nodeid, fd)
        return data

    def _log_once(self, nodeid: int, directory: Directory, name: bytes, error: OSError) -> None:
        if nodeid not in self._stale:
            self._stale.add(nodeid)
            path = os.fsdecode(os.path.join(self._shown_path(directory), name))
            log.warning("%s cannot be read: %s", path, error.strerror)

    def close(self) -> None:
        """Close every descriptor of a source."""
        self._idle.close()

    # -- invariants ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants over all that is frozen, for tests."""
        seen: set[int] = {ROOT_INO}
        for number in range(ROOT_NODEID, len(self._directories)):
            if not self.is_frozen(number):
                continue
            names = []
            for name, node, place in self.listing(number):
                assert node.ino not in seen, f"inode number {node.ino} twice"
                assert self.node(node.nodeid) == node, name
                assert self.lookup(number, name) == node, name
                assert node.nodeid >> PLACE_BITS in (0, number), name
                assert place not in self._directories[number].absent, name
                seen.add(node.ino)
                names.append(name)
            assert names == sorted(set(names))
