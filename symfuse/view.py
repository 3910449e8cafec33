"""The frozen namespace: directories, nodeids, inode numbers, problems.

The view is the one definition of what is shown; the mount and `explain` read it. It knows neither FUSE nor errno
numbers beyond those of the dataset's own errors.

Invariants (`tests/support/invariants.py` asserts them):
- A directory's nodeid is its index in `_directories`; a file's is that index shifted left by 32, plus its place in the
  directory's table. Nodeids are never reused, so a FORGET may be ignored.
- An inode number is not a nodeid: it must be the same at the next mount, whatever is listed first then. Each
  directory owns a range of numbers; its entries take the first ones in order, and each entry has an equal share of the
  rest, for all below it if it is a directory.
- A directory's names never change once they are listed, nor what stands behind a name once that is frozen. Names are
  listed at once, what stands behind them is frozen a chunk at a time: whoever asks freezes what is asked for. Who asks
  for one name freezes that alone, so that nobody waits for a neighbour whose storage does not answer. The one
  exception: what a flaky storage failed to show is looked at once more, when somebody first asks for its directory.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from symfuse.content import Content, File
from symfuse.dataset import Dataset, Entry, Name
from symfuse.inos import ROOT_INO, InoSpace, share
from symfuse.lines import Lines
from symfuse.nodes import Directory, Node, Shown, node_of
from symfuse.policy import Finding, Kind
from symfuse.progress import Findings, Progress
from symfuse.repeats import Repeats
from symfuse.source.identity import Identity
from symfuse.table import CHUNK, HIDDEN_MODE_BITS, Row, Table, Trait, Traits, identity_of

ROOT_NODEID = 1
PLACE_BITS = 32
PLACE_MASK = (1 << PLACE_BITS) - 1
#: A directory is emptied when so much of what it could show is hidden for its problems.
NEARLY_ALL = 0.9
#: Choices that empty nothing, for nobody expects to see what they hide.
ALWAYS_MEANT = frozenset({Kind.DOT_ENTRY, Kind.DIR_LINK, Kind.NOT_UTF8, Kind.CLUTTER, Kind.EXCLUDED})
#: What is hidden for another file; of a hundred copies one is enough.
SAME_IMAGE = frozenset({Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT, Kind.SIDE_FILE})
#: Why a whole directory may be missing; what leads back to itself (a cycle, a loop) is none.
LOSSES = frozenset({Kind.DANGLING, Kind.OUTSIDE, Kind.UNREADABLE})
#: Links remembered, one for each directory, whose store may be absent, or not allowed.
MAX_SAMPLES = 64
#: Files and directories that stand for the whole view.
SAMPLE = 1024

log = logging.getLogger(__name__)


class HiddenEntry(NamedTuple):
    """What a view does not show: its path in the view, that of what is shown instead, and a line beyond its kind.

    Of a side file `belongs_to` is the path of its image, which is hidden, too.
    """

    kind: Kind
    path: bytes
    shown_instead: bytes | None = None
    reason: str | None = None
    belongs_to: bytes | None = None


class View:
    """The frozen namespace over a dataset. Safe to use from several threads.

    Making one reads nothing but the root's attributes. Errors: OSError.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._traits = Traits()
        self._inos = InoSpace()  # under _lock
        root_entry = dataset.root_entry()
        assert root_entry.status is not None
        self._root_status, self._root_mode = root_entry.status, root_entry.mode or 0
        self._is_root_narrowed = root_entry.is_narrowed
        #: The numbers of the dataset's file system, as they were. To ask again is to depend on a path that may by now
        #: be gone, hang, or lead into the mount itself.
        self.file_system = dataset.statvfs()
        root = Directory(
            number=ROOT_NODEID, parent=None, place=0, path=dataset.root, inos=self._inos.whole, repeats=False
        )  # fmt: skip
        # Both lists grow under _lock and are read without it; an index once valid stays so. Number 0 is nobody's.
        self._directories: list[Directory] = [root, root]
        self._tables: list[Table | None] = [None, None]
        self._lock = threading.Lock()
        self._shared: dict[bytes, Table] = {}  # tables of linked directories by real path, under _lock
        self._seen: set[int] = set()  # hashes of the paths and numbers of all that is listed
        self._repeats = Repeats()  # under _lock
        self._frozen = 0  # directories, under _lock
        self._failed: set[int] = set()  # directories that could not be read when it was tried, under _lock
        self._closed: set[int] = set()  # those that must not be tried again
        self._progress = Progress()  # under _lock
        self._findings = Findings()  # under _lock
        self._samples: dict[Kind, list[tuple[bytes, bytes]]] = {Kind.DANGLING: [], Kind.OUTSIDE: []}  # under _lock
        self._content = Content(dataset)
        self._stale: set[int] = set()  # nodeids whose failure was logged
        self._reasons = Lines()

    # -- the namespace ------------------------------------------------------------------------------------------

    def is_frozen(self, nodeid: int) -> bool:
        """True when a directory can be listed without touching the dataset."""
        if not 0 < nodeid < len(self._directories) or not self._directories[nodeid].is_frozen:
            return False
        table = self._tables[nodeid]
        return table is not None and not table.transient

    def directory(self, nodeid: int) -> Directory:
        """Errors: KeyError when `nodeid` is no directory's."""
        if 0 < nodeid < len(self._directories):
            return self._directories[nodeid]
        raise KeyError(nodeid)

    def table(self, nodeid: int) -> Table:
        """A directory's names, listed now if they were not.

        Errors: KeyError when `nodeid` is no directory's; OSError when it cannot be read.
        """
        directory = self.directory(nodeid)
        if nodeid in self._closed:
            raise OSError(errno.EIO, "its images were not compared, for it could not be read then")
        table = self._tables[nodeid]
        return self._list(directory) if table is None else table

    def find(self, parent: int, name: bytes) -> int | None:
        """The place of a name, shown or hidden, or None. What stands there is frozen now. Errors: as `table`."""
        table = self.table(parent)
        place = table.find(name)
        if place is not None:
            directory = self._directories[parent]
            if not table.is_frozen(place):
                self._freeze_one(directory, table, place, name)
            if place in table.transient:
                self._look_again(directory, table)
        return place

    def hidden(self, parent: int, place: int) -> Kind | None:
        """Why a frozen place is not shown, or None for one that is. Errors: as `table`."""
        table, directory = self.table(parent), self._directories[parent]
        kind = table.problems.get(place)
        if kind is None and place in table.subdirectories:
            self._child(directory, table, place)
        return kind or directory.absent.get(place)

    def stand_in(self, parent: int, place: int) -> int:
        """The nodeid of what is shown instead of the file hidden at a place, of a side file its image's; or 0."""
        return self.directory(parent).absent.stand_in(place)

    def reason(self, parent: int, place: int) -> str | None:
        """What is known, beyond its kind, of why a place is hidden: one line, or None."""
        return self._reasons[self.directory(parent).absent.reason(place)] or None

    def child(self, parent: int, place: int) -> int | None:
        """The nodeid of the directory that is shown at a place, if one is. Errors: as `table`."""
        table = self.table(parent)
        return self._child(self._directories[parent], table, place) if place in table.subdirectories else None

    def lookup(self, parent: int, name: bytes) -> Node | None:
        """The node of that name, or None. Errors: as `table`."""
        place = self.find(parent, name)
        if place is None or self.hidden(parent, place) is not None:
            return None
        return self._node(self._directories[parent], place, self.table(parent).row(place))

    def rows(self, nodeid: int, start: int = 0) -> Iterator[Shown]:
        """What a directory shows from a place on, in byte order, as it is stored. Errors: as `table`."""
        table = self.table(nodeid)
        directory, traits = self._directories[nodeid], self._traits
        problems, subdirectories = table.problems, table.subdirectories
        first_nodeid, first_ino = nodeid << PLACE_BITS, directory.first_ino
        while start < len(table):
            self._freeze(directory, table, start)
            if table.transient:
                self._look_again(directory, table)
            end = min(start - start % CHUNK + CHUNK, len(table))
            absent = directory.absent.kinds
            for place, row in enumerate(table.rows(start, end), start):
                if place in problems or (absent is not None and absent[place]):
                    continue
                child: int | None = first_nodeid | place
                if place in subdirectories:
                    child = self._child(directory, table, place)
                if child is not None:
                    yield place, table.name(place), child, first_ino + place, traits[row[6]], row
            start = end

    def listing(self, nodeid: int, start: int = 0) -> Iterator[tuple[bytes, Node, int]]:
        """Name, node and place of what a directory shows from a place on, in byte order. Errors: as `table`."""
        for place, name, child, ino, trait, row in self.rows(nodeid, start):
            yield name, node_of(child, ino, trait, row), place

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
        number, place = nodeid >> PLACE_BITS, nodeid & PLACE_MASK
        if number == 0:
            child = self.directory(nodeid)
            if child.parent is None:
                raise KeyError(nodeid)
            number, place = child.parent.number, child.place
        directory = self.directory(number)
        table = self._tables[number]
        if table is None or place >= len(table) or not table.is_frozen(place) or place in table.problems:
            raise KeyError(nodeid)
        return directory, place, table

    def _node(self, directory: Directory, place: int, row: Row) -> Node:
        nodeid = directory.children.get(place) or directory.number << PLACE_BITS | place
        return node_of(nodeid, directory.first_ino + place, self._traits[row.trait], row)

    def _root_node(self) -> Node:
        status = self._root_status
        return Node(
            ROOT_NODEID, ROOT_INO, self._root_mode & ~HIDDEN_MODE_BITS, 1, status.st_uid, status.st_gid,
            status.st_size, status.st_blocks, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip

    # -- freezing -----------------------------------------------------------------------------------------------

    def _list(self, directory: Directory) -> Table:
        """Read a directory's names and give it its inode numbers."""
        number = directory.number
        with directory.listing:
            table = self._tables[number]
            if table is None:
                table = self._read_names(directory)
                with self._lock:
                    if self._may_share(directory):
                        table = self._shared.setdefault(directory.path, table)
                    self._seen |= {hash(directory.path), hash(_numbers(table.listed))}
                    directory.first_ino, directory.shared_inos = self._inos.divide(
                        directory.inos, len(table), path=lambda: self._shown_path(directory)
                    )
                    self._tables[number] = table  # last: who sees the table may use all of the above
        if table.unfrozen == 0:  # it is empty, or another link to the same source was frozen before
            self._complete(directory, table)
        return table

    def _read_names(self, directory: Directory) -> Table:
        """The directory's table from disk; from memory when another link to the same source was listed before."""
        table = self._shared.get(directory.path) if self._may_share(directory) else None
        if table is None:
            listed, names = self.dataset.names(directory.path, self._found_as(directory))
            table = Table(names, listed)
        return table

    def _may_share(self, directory: Directory) -> bool:
        """Whether other links to the same source show the same: not where globs judge by the path in the view."""
        return directory.repeats and not self.dataset.rules.need_paths

    def _entries(self, directory: Directory, table: Table, names: Iterable[Name]) -> Iterator[Entry]:
        """What stands behind names of a directory. Errors: as `Dataset.entries`."""
        within = self._shown_path(directory) if self.dataset.rules.need_paths else b""
        return self.dataset.entries(directory.path, names, listed=table.listed, within=within)

    def _found_as(self, directory: Directory) -> Identity:
        """What a directory was when it was found."""
        if directory.parent is None:
            return self.dataset.identity(Identity.of(self._root_status), self._root_mode)
        table = self._tables[directory.parent.number]
        assert table is not None, "a child of an unfrozen directory"
        row = table.fields(directory.place)
        trait = self._traits[row[6]]
        return self.dataset.identity(identity_of(trait, row), trait.mode)

    def _freeze(self, directory: Directory, table: Table, place: int) -> None:
        """Freeze the chunk of a table that holds a place, if it is not."""
        if not table.is_chunk_frozen(place):
            with table.freezing:
                if not table.is_chunk_frozen(place):
                    table.freeze(place, self._entries(directory, table, table.chunk(place)), self._traits)
        if table.unfrozen == 0 and not directory.is_frozen:  # perhaps by way of another link to the same source
            self._complete(directory, table)

    def _freeze_one(self, directory: Directory, table: Table, place: int, name: bytes) -> None:
        """Freeze one entry, whatever others wait for. Costs an open of the directory more than as part of a chunk."""
        # Whether it is a link is seen when it is looked at.
        table.freeze_one(place, next(self._entries(directory, table, [(name, False)])), self._traits)

    def _look_again(self, directory: Directory, table: Table) -> None:
        """Look once more at what a flaky storage failed to show, before anybody is told that it is not there."""
        places = sorted(table.transient)
        names = [(table.name(place), False) for place in places]
        for place, entry in zip(places, self._entries(directory, table, names), strict=True):
            if table.look_again(place, entry, self._traits):
                self._take_back(table, place)

    def _take_back(self, table: Table, place: int) -> None:
        """Something that was counted as unreadable is shown after all."""
        for number in range(ROOT_NODEID, len(self._directories)):
            directory = self._directories[number]
            if self._tables[number] is not table or not directory.is_frozen:
                continue
            is_directory = place in table.subdirectories
            is_cycle = is_directory and self._is_own_ancestor(directory, table, place)
            with self._lock:
                progress, path = self._progress, os.path.join(self._shown_path(directory), table.name(place))
                progress.take_back(Kind.UNREADABLE, path)
                if is_directory:
                    self._create_child(directory, table, place, is_cycle=is_cycle)
                    progress.directories += place in directory.children
                    kind = directory.absent.get(place)
                    if kind is not None:
                        progress.note(kind, path)
                else:
                    progress.files += 1
                    progress.content_bytes += table.row(place).size
                self._withdraw(Finding.EMPTIED, number << PLACE_BITS | place)
                if not _is_emptied(table, [*table.problems.items(), *directory.absent.items()]):
                    self._withdraw(Finding.EMPTIED, number)

    def _complete(self, directory: Directory, table: Table) -> None:
        """All of a directory is frozen: make its subdirectories, and count what it shows and hides."""
        cycles = {place for place in table.subdirectories if self._is_own_ancestor(directory, table, place)}
        with self._lock:
            if not directory.is_frozen:
                for place in table.subdirectories:
                    self._create_child(directory, table, place, is_cycle=place in cycles)
                self._record(directory, table)
                directory.is_frozen = True

    def _child(self, directory: Directory, table: Table, place: int) -> int | None:
        """The number of the subdirectory at a place, made now if it was not; None where it is hidden."""
        number = directory.children.get(place)
        if number is None and place not in directory.absent:
            is_cycle = self._is_own_ancestor(directory, table, place)
            with self._lock:
                self._create_child(directory, table, place, is_cycle=is_cycle)
            number = directory.children.get(place)
        return number

    def _create_child(self, directory: Directory, table: Table, place: int, *, is_cycle: bool) -> None:
        """Give the subdirectory at a place its place in the view, or hide it. Called with _lock held."""
        if place in directory.children or place in directory.absent:
            return
        path = _real_path(directory, table, place)
        repeats = directory.repeats or self._traits[table.row(place).trait].is_link
        kind = Kind.CYCLE if is_cycle else None
        if kind is None and repeats and not self._repeats.allow(path):
            self._name_most_repeated()
            kind = Kind.MULTIPLIED
        if kind is not None:
            directory.absent.hide(place, kind, count=len(table))
            return
        child = Directory(
            number=len(self._directories), parent=directory, place=place, path=path,
            inos=share(directory.shared_inos, place, len(table)), repeats=repeats,
        )  # fmt: skip
        self._tables.append(None)
        self._directories.append(child)
        directory.children[place] = child.number  # last: who sees the number may use all of the above

    def _is_own_ancestor(self, parent: Directory, table: Table, place: int) -> bool:
        """True when the directory at a place is one of those that lead to it: the same path, or the same numbers.

        Numbers count only where the file system does not use them twice; elsewhere all that is known of the two
        directories must be equal, their names included. Reads the dataset, so no lock may be held.
        """
        path, row = _real_path(parent, table, place), table.row(place)
        found = identity_of(self._traits[row.trait], row)
        if not self._seen & {hash(path), hash(_numbers(found))}:
            return False  # as for nearly all: a look at every ancestor would make deep trees quadratic
        ancestor: Directory | None = parent
        while ancestor is not None:
            above = self._tables[ancestor.number]
            assert above is not None, "what leads to a directory is listed"
            if ancestor.path == path:
                return True
            if _numbers(above.listed) == _numbers(found) and self._is_same(above, path, found):
                return True
            ancestor = ancestor.parent
        return False

    def _is_same(self, table: Table, path: bytes, found: Identity) -> bool:
        """Whether the directory at `path` is the one that a table lists, which has the same numbers."""
        if self.dataset.volumes.is_numbered(found.dev, path):
            return True
        if table.listed.change(found):
            return False
        try:
            _listed, names = self.dataset.names(path)
        except OSError:
            return False  # whoever lists it will see
        return [name for name, _is_link in names] == [table.name(place) for place in range(len(table))]

    def _name_most_repeated(self) -> None:
        """Say once which directory multiplies. Called with _lock held."""
        if self._progress.error is None:
            path, number = self._repeats.most_repeated()
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
        progress.files += len(table) - len(table.problems) - len(table.subdirectories)
        progress.content_bytes += table.content_bytes
        if directory.number in self._failed:
            self._failed.remove(directory.number)
            progress.take_back(Kind.UNREADABLE, self._shown_path(directory))
            self._withdraw(Finding.EMPTIED, directory.number)
        hidden = sorted([*table.problems.items(), *directory.absent.items()])
        if hidden:  # most directories hide nothing, and need no path
            path = self._shown_path(directory)
            for place, kind in hidden:
                progress.note(kind, os.path.join(path, table.name(place)))
            if _is_emptied(table, hidden):
                self._report(Finding.EMPTIED, [directory.number])
            elif directory.children and len(directory.children) + len(hidden) == len(table):
                for place, kind in hidden:  # beside directories alone, what has no suffix was one, too
                    if kind in LOSSES and b"." not in table.name(place):
                        self._report(Finding.EMPTIED, [directory.number << PLACE_BITS | place])
            for wanted, samples in self._samples.items():
                sample = next((place for place, kind in hidden if kind is wanted), None)
                if sample is not None and len(samples) < MAX_SAMPLES:
                    samples.append((directory.path, table.name(sample)))
        self._record_findings(directory, table)

    def _record_findings(self, directory: Directory, table: Table) -> None:
        """Count what is wrong with entries that are shown. Called with _lock held."""
        for finding, places in ((Finding.NOT_UTF8, table.not_utf8()), (Finding.NARROWED, sorted(table.narrowed))):
            for place in places:
                if place not in table.problems and place not in directory.absent:
                    self._report(finding, [directory.children.get(place, directory.number << PLACE_BITS | place)])
        if directory.parent is None and self._is_root_narrowed:
            self._report(Finding.NARROWED, [ROOT_NODEID])

    def conclude(self, hints: Iterable[str] = ()) -> None:
        """All is frozen: judge the dataset as a whole, and add what may be behind all that is hidden."""
        with self._lock:
            progress = self._progress
            progress.hints = list(dict.fromkeys([*progress.hints, *hints]))
            known = {nodeid for (nodeid,) in self._findings.of(Finding.EMPTIED)}
            for number in range(ROOT_NODEID, len(self._directories)):
                if number not in known and self._was_emptied(number):
                    known.add(number)
                    self._report(Finding.EMPTIED, [number])
            is_emptied = progress.problems and progress.problems >= NEARLY_ALL * (progress.files + progress.problems)
            if is_emptied and ROOT_NODEID not in known:
                self._report(Finding.EMPTIED, [ROOT_NODEID])

    def _was_emptied(self, number: int) -> bool:
        """True for a directory that was emptied by what was hidden after it was frozen. Called with _lock held."""
        directory, table = self._directories[number], self._tables[number]
        if table is None or not directory.is_frozen or directory.absent.kinds is None:
            return False
        return _is_emptied(table, [*table.problems.items(), *directory.absent.items()])

    def samples(self, kind: Kind) -> list[tuple[bytes, bytes]]:
        """Some links hidden as dangling or outside, of different directories: its real path, and the name there."""
        with self._lock:
            return list(self._samples[kind])

    def hide(self, nodeid: int, kind: Kind, *, stand_in: int = 0, reason: str = "") -> None:
        """Hide a file that is shown; `stand_in` is the nodeid of what is shown in its stead, or its image's.

        `reason` is a line that says more than the kind.
        Only before the view is mounted: what the kernel was told is never taken back. Errors: KeyError.
        """
        directory, place, table = self._at(nodeid)
        with self._lock:
            number = self._reasons.number(reason)
            directory.absent.hide(place, kind, count=len(table), stand_in=stand_in, reason=number)
            self._progress.files -= 1
            self._progress.content_bytes -= table.row(place).size
            wanted = self._progress.wants_example(kind)  # the path of each of a million would take its time
            self._progress.note(kind, os.path.join(self._shown_path(directory), table.name(place)) if wanted else None)

    def report(self, finding: Finding, nodeids: Iterable[int], *, named: int | None = None) -> None:
        """Count an image that is shown though something is wrong with it; `nodeids` are those of its copies.

        An example names only the first `named` of them.
        """
        with self._lock:
            self._report(finding, list(nodeids), named)

    def note_unremembered(self, files: int) -> None:
        """So many files were read, and will be read again at the next mount."""
        with self._lock:
            self._progress.unremembered = files

    def describe_layout(self, layout: str) -> None:
        """What the levels of directories were taken for: one line for the user."""
        with self._lock:
            self._progress.layout = layout

    def note_looked_at(self, compared: int, decoded: int, left_alone: int) -> None:
        """So many files were compared as images, or decoded without that, and so many are something else."""
        with self._lock:
            self._progress.compared, self._progress.decoded = compared, decoded
            self._progress.left_alone = left_alone

    def _withdraw(self, finding: Finding, nodeid: int) -> None:
        """A finding about a single entry no longer holds, if there was one. Called with _lock held."""
        if self._findings.remove(finding, nodeid):
            self._progress.withdraw(finding, self._name_of(nodeid))

    def _name_of(self, nodeid: int) -> bytes:
        """As `path`, also of an entry that is hidden."""
        number, place = nodeid >> PLACE_BITS, nodeid & PLACE_MASK
        if number == 0:
            return self._shown_path(self._directories[nodeid])
        table = self._tables[number]
        assert table is not None, "a finding in a directory that is not frozen"
        return os.path.join(self._shown_path(self._directories[number]), table.name(place))

    def _report(self, finding: Finding, nodeids: list[int], named: int | None = None) -> None:
        """Called with _lock held."""
        self._findings.add(finding, nodeids)
        self._progress.report(finding, map(self._name_of, nodeids[:named]))

    def found(self) -> Iterator[tuple[Finding, list[bytes]]]:
        """Every finding, and the paths of all that it is about."""
        with self._lock:
            findings = list(self._findings)
        for finding, nodeids in findings:
            yield finding, [self._name_of(nodeid) for nodeid in nodeids]

    def hidden_entries(self) -> Iterator[HiddenEntry]:
        """Every entry that is hidden in the directories that are frozen."""
        with self._lock:
            failed = sorted(self._failed)
        for number in range(ROOT_NODEID, len(self._directories)):
            directory, table = self._directories[number], self._tables[number]
            if table is not None and directory.is_frozen:
                hidden = sorted([*table.problems.items(), *directory.absent.items()])
                path = self._shown_path(directory) if hidden else b""
                for place, kind in hidden:
                    other = directory.absent.stand_in(place)
                    named = self.path(other) if other else None
                    instead, image = (None, named) if kind is Kind.SIDE_FILE else (named, None)
                    name, reason = os.path.join(path, table.name(place)), self.reason(number, place)
                    yield HiddenEntry(kind, name, instead, reason, image)
        for number in failed:
            yield HiddenEntry(Kind.UNREADABLE, self._shown_path(self._directories[number]))

    def hidden_files(self, kinds: Collection[Kind]) -> Iterator[int]:
        """The nodeids of the files that were hidden for one of these kinds by now, by `hide`."""
        for number in range(ROOT_NODEID, len(self._directories)):
            absent = self._directories[number].absent
            for place in [place for place, kind in absent.items() if kind in kinds]:
                yield number << PLACE_BITS | place

    def frozen_directories(self) -> Iterator[int]:
        """The nodeids of the directories that are frozen, in order."""
        return (number for number in range(ROOT_NODEID, len(self._directories)) if self._directories[number].is_frozen)

    def devices(self) -> set[int]:
        """The devices that the root and all sources frozen so far lie on."""
        return {self._root_status.st_dev, *self._traits.devices()}

    def stale(self) -> list[int]:
        """The nodeids of files that could not be read because their sources changed or vanished."""
        return sorted(self._stale.copy())

    def files(self) -> Iterator[tuple[int, Trait, tuple[int, ...]]]:
        """Nodeid, trait and the fields of a `Row` of every file shown in the directories that are frozen."""
        for number in self.frozen_directories():
            for _place, _name, nodeid, _ino, trait, row in self.rows(number):
                if nodeid >> PLACE_BITS:
                    yield nodeid, trait, row

    def sample(self, limit: int = SAMPLE) -> tuple[int, int]:
        """How many files are among the first of the view, and how many bytes they have: the same each time it is asked.

        Directories are looked at breadth first and frozen as far as that needs, at most `limit` of them and of files.
        """
        sizes: list[int] = []
        numbers = [ROOT_NODEID]
        for number in itertools.islice(numbers, limit):  # which grows meanwhile
            with contextlib.suppress(OSError):
                for _place, _name, nodeid, _ino, _trait, row in self.rows(number):
                    if nodeid >> PLACE_BITS:
                        sizes.append(row[1])
                    else:
                        numbers.append(nodeid)
                    if len(sizes) == limit:
                        return len(sizes), sum(sizes)
        return len(sizes), sum(sizes)

    def entry(self, nodeid: int) -> tuple[int, bytes, bool]:
        """Of a file: its directory's nodeid, its name there, and whether it is a link's target. Errors: KeyError."""
        directory, place, table = self._at(nodeid)
        return directory.number, table.name(place), self._traits[table.row(place).trait].is_link

    def identities(self, nodeids: Iterable[int]) -> list[Identity]:
        """What files' sources were when they were frozen.

        The nodeids are those of `files`. Quickest where files of one directory follow each other.
        """
        found = []
        number, table = 0, None
        for nodeid in nodeids:
            if nodeid >> PLACE_BITS != number or table is None:
                number = nodeid >> PLACE_BITS
                table = self._tables[number]
                assert table is not None, "no nodeid of files()"
            row = table.fields(nodeid & PLACE_MASK)
            found.append(identity_of(self._traits[row[6]], row))
        return found

    def source_path(self, nodeid: int) -> bytes:
        """The real path of a file's source: of a link, where it leads now. Errors: KeyError; OSError."""
        directory, place, table = self._at(nodeid)
        name = table.name(place)
        if not self._traits[table.row(place).trait].is_link:
            return os.path.join(directory.path, name)
        return self.dataset.target(directory.path, name)

    def is_numbered(self, nodeid: int) -> bool:
        """True when no other file has the device and inode number of this file's source. Errors: KeyError."""
        _directory, place, table = self._at(nodeid)
        trait = self._traits[table.row(place).trait]
        try:
            return self.dataset.volumes.is_numbered(trait.dev, self.source_path(nodeid))
        except OSError:
            return False

    def path(self, nodeid: int) -> bytes:
        """The path of a node, relative to the view's root. Errors: KeyError."""
        if nodeid == ROOT_NODEID:
            return b""
        directory, place, table = self._at(nodeid)
        return os.path.join(self._shown_path(directory), table.name(place))

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
            progress.complete = self._frozen + len(self._failed) == len(self._directories) - 1
        return progress

    def freeze_all(self, *, keep_on: Callable[[], bool] = lambda: True) -> Progress:
        """Freeze every directory, breadth first. `keep_on` is asked after each chunk; False ends it early.

        A directory that cannot be read is logged, counted as unreadable, and tried again when somebody looks at it;
        but not where images are compared, for its own would then be shown without that.
        """
        number = ROOT_NODEID
        while number < len(self._directories):
            directory = self._directories[number]
            try:
                if not directory.is_frozen and not self._freeze_chunks(directory, keep_on):
                    break
            except OSError as error:
                self._note_failure(directory, error)
            except Exception as error:  # a fault of ours in one directory must not hide all others
                log.exception("%s cannot be frozen", os.fsdecode(directory.path))
                self._note_failure(directory, OSError(errno.EIO, str(error)))
            number += 1
        return self.progress()

    def _freeze_chunks(self, directory: Directory, keep_on: Callable[[], bool]) -> bool:
        """Freeze a whole directory; False when `keep_on` ended it. Errors: OSError."""
        table = self.table(directory.number)
        for place in range(0, len(table), CHUNK):
            self._freeze(directory, table, place)
            if not keep_on():
                return False
        return True

    def _note_failure(self, directory: Directory, error: OSError) -> None:
        log.warning("%s cannot be listed: %s", os.fsdecode(directory.path), error.strerror)
        with self._lock:
            if self.dataset.policy.looks_into_files:
                self._closed.add(directory.number)
            if directory.number not in self._failed:
                self._failed.add(directory.number)
                self._progress.note(Kind.UNREADABLE, self._shown_path(directory))
                self._report(Finding.EMPTIED, [directory.number])

    # -- content ------------------------------------------------------------------------------------------------

    def read(self, nodeid: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`: fewer only at the end of the file as it was frozen.

        Errors: KeyError when there is no such node; OSError: EISDIR for a directory, ESTALE when the source is no
        longer what was frozen, whatever else reading it gave. Each file's failure is logged once.
        """
        file = self._file(nodeid)
        try:
            return self._content.read(nodeid, file, offset, size)
        except OSError as error:
            self._log_once(nodeid, error)
            raise

    def open_source(self, nodeid: int) -> int:
        """A descriptor of a file's source, which is now what was frozen; the caller's to close. Errors: as `read`."""
        file = self._file(nodeid)
        try:
            return self._content.open(file)
        except OSError as error:
            self._log_once(nodeid, error)
            raise

    def open_unverified(self, nodeid: int) -> int:
        """As `open_source`, for those who verify what they have read afterwards."""
        return self._content.open_unverified(self._file(nodeid))

    def _file(self, nodeid: int) -> File:
        directory, place, table = self._at(nodeid)
        row = table.row(place)
        trait = self._traits[row.trait]
        if stat.S_ISDIR(trait.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        identity = self.dataset.identity(identity_of(trait, row), trait.mode)
        return File(directory.path, table.name(place), trait.is_link, identity)

    def is_narrowed(self, nodeid: int) -> bool:
        """True for what is shown with fewer permissions than its source grants. Errors: KeyError."""
        if nodeid == ROOT_NODEID:
            return self._is_root_narrowed
        _directory, place, table = self._at(nodeid)
        return place in table.narrowed

    def _log_once(self, nodeid: int, error: OSError) -> None:
        if nodeid not in self._stale:
            self._stale.add(nodeid)
            log.warning("%s cannot be read: %s", os.fsdecode(self.path(nodeid)), error.strerror)

    def close(self) -> None:
        """Close every descriptor of a source."""
        self._content.close()
        self.dataset.close()


def _real_path(directory: Directory, table: Table, place: int) -> bytes:
    """The real path of the subdirectory at a place."""
    return table.subdirectories[place] or os.path.join(directory.path, table.name(place))


def _numbers(identity: Identity) -> tuple[int, int]:
    return identity.dev, identity.ino


def _is_emptied(table: Table, hidden: list[tuple[int, Kind]]) -> bool:
    """True when nearly all that a directory could show is hidden for its problems, or all for that and for others."""
    kinds = [kind for _place, kind in hidden if kind not in ALWAYS_MEANT]
    problems = sum(kind not in SAME_IMAGE for kind in kinds)
    shown = len(table) - len(hidden)
    return bool(kinds) and (shown == 0 or (problems > 0 and problems >= NEARLY_ALL * (shown + len(kinds))))
