"""One directory's listing in packed columns: names, attributes, place by name.

A million Python objects cost 860 MB; a million rows cost 48 bytes each, plus the name and four bytes for where it
begins. Nothing here knows where a listing comes from or what a nodeid is.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from symfuse.dataset import Entry, Name, is_utf8
from symfuse.policy import Kind
from symfuse.source.identity import Identity

#: Entries frozen in one go: some milliseconds' work.
CHUNK = 1024
#: What of st_mode is never shown: write permission, set-user-ID and set-group-ID.
HIDDEN_MODE_BITS = 0o6222
_SHOWN_MODE_BITS = ~HIDDEN_MODE_BITS


class Trait(NamedTuple):
    """What many files have in common, kept once for all of them.

    `mode` is the one shown, `source_mode` and `nlink` are the source's.
    """

    mode: int
    uid: int
    gid: int
    dev: int
    is_link: bool
    source_mode: int
    nlink: int


#: A trait's fields as a plain tuple, which is quicker to make.
Likeness = tuple[int, int, int, int, bool, int, int]


class Row(NamedTuple):
    """One entry's attributes as stored. `blocks` counts 512 bytes; `trait` is an index into `Traits`."""

    ino: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    blocks: int
    trait: int


_ROW = struct.Struct("<QQqqqII")
_MAX_BLOCKS = (1 << 32) - 1


def identity_of(trait: Trait, row: Sequence[int]) -> Identity:
    """What the source was whose trait and row these are."""
    ino, size, _atime_ns, mtime_ns, ctime_ns, _blocks, _trait = row
    _mode, uid, gid, dev, _is_link, source_mode, nlink = trait
    # For each read: quicker than a call of the class.
    return tuple.__new__(Identity, (dev, ino, size, mtime_ns, ctime_ns, source_mode, uid, gid, nlink))


class Traits:
    """All traits of one view, each once. Indices never change."""

    def __init__(self) -> None:
        self._traits: list[Trait] = []  # appended to under _lock
        self._indices: dict[Likeness, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Trait:
        return self._traits[index]

    def devices(self) -> set[int]:
        """The devices of all sources so far."""
        return {trait.dev for trait in self._traits.copy()}

    def index(self, likeness: Likeness) -> int:
        """The trait's index, for ever."""
        index = self._indices.get(likeness)
        if index is None:
            with self._lock:
                index = self._indices.get(likeness)
                if index is None:
                    index = len(self._traits)
                    self._traits.append(Trait(*likeness))
                    self._indices[likeness] = index  # last: who finds it here may use it
        return index


class Table:
    """The entries of one directory, in byte order of their names, which never change.

    What stands behind the names is frozen a chunk at a time, so that a huge directory is no stall, or a single entry
    at a time, so that nobody waits for another's storage. `listed` is the directory that had these names. Safe to use
    from several threads; only what is frozen may be asked for.
    """

    __slots__ = (
        *("_frozen", "_is_link", "_names", "_offsets", "_rows", "_single", "_unpackable", "_writing"),
        *("content_bytes", "freezing", "listed", "narrowed", "problems", "subdirectories", "transient", "unfrozen"),
    )

    def __init__(self, names: Iterable[Name], listed: Identity) -> None:
        is_link = bytearray()
        offsets = array("I", [0])
        blob = bytearray()
        for name, name_is_link in names:
            blob += name
            offsets.append(len(blob))
            is_link.append(name_is_link)
        self._names = bytes(blob)
        self._offsets = offsets
        self._rows = bytearray(len(is_link) * _ROW.size)
        self._frozen = bytearray(-(-len(is_link) // CHUNK))
        self._is_link: bytearray | None = is_link  # needed until all is frozen
        self._single: set[int] = set()  # places frozen alone, in chunks that are not frozen
        self._unpackable: dict[int, tuple[int, ...]] = {}  # rows with numbers that are too large, by place
        self._writing = threading.Lock()  # guards all writing; nothing waits for the dataset in here
        self.listed = listed
        #: Held by whoever freezes a chunk, so that it is read once.
        self.freezing = threading.Lock()
        #: Chunks that are not frozen yet.
        self.unfrozen = len(self._frozen)
        #: The size of all files together that are frozen.
        self.content_bytes = 0
        #: Why the dataset has an entry that the view hides, by place.
        self.problems: dict[int, Kind] = {}
        #: Places whose problem may be gone when somebody looks again.
        self.transient: set[int] = set()
        #: Places that are shown with fewer permissions than their sources grant.
        self.narrowed: set[int] = set()
        #: The places of directories; each one's real path when a link led to it.
        self.subdirectories: dict[int, bytes | None] = {}

    def __len__(self) -> int:
        return len(self._offsets) - 1

    # -- freezing -----------------------------------------------------------------------------------------------

    def is_frozen(self, place: int) -> bool:
        """True when it is known what stands at a place."""
        return self._frozen[place // CHUNK] != 0 or place in self._single

    def is_chunk_frozen(self, place: int) -> bool:
        """True when it is known what stands at all places of the chunk that holds this one."""
        return self._frozen[place // CHUNK] != 0

    def chunk(self, place: int) -> list[Name]:
        """The names of the unfrozen chunk that holds a place, which begins at a multiple of CHUNK."""
        is_link = self._is_link
        assert is_link is not None, "all is frozen"
        start = place - place % CHUNK
        end = min(start + CHUNK, len(self))
        names, offsets = self._names, self._offsets[start : end + 1]
        bounds = zip(offsets, offsets[1:], is_link[start:end], strict=False)
        return [(names[begin:finish], bool(each)) for begin, finish, each in bounds]

    def freeze(self, place: int, entries: Iterable[Entry], traits: Traits) -> None:
        """Write down what stands behind `chunk(place)`. Nothing is changed when `entries` raises."""
        start = place - place % CHUNK
        found = list(entries)
        with self._writing:
            if self._frozen[start // CHUNK]:
                return
            self._write(start, found, traits)
            self._frozen[start // CHUNK] = 1  # last: who sees it may use all of the above
            self._single.difference_update(range(start, start + CHUNK))
            self.unfrozen -= 1
            if self.unfrozen == 0:
                self._is_link = None

    def freeze_one(self, place: int, entry: Entry, traits: Traits) -> None:
        """Write down what stands at one place, unless somebody has already."""
        with self._writing:
            if not self.is_frozen(place):
                self._write(place, [entry], traits)
                self._single.add(place)

    def look_again(self, place: int, entry: Entry, traits: Traits) -> bool:
        """Write down what stands at a frozen place of `transient` now; True when its problem is gone."""
        with self._writing:
            if place not in self.transient:
                return False
            self.transient.remove(place)
            if entry.problem is not None or entry.status is None:
                return False
            del self.problems[place]
            self._write(place, [entry], traits)
            return True

    def _write(self, start: int, entries: Iterable[Entry], traits: Traits) -> None:
        """Rows for entries from a place on, but for those that were frozen alone. Called with _writing held."""
        # A million times: all in one loop.
        pack_into, rows, size, index_of, single = _ROW.pack_into, self._rows, _ROW.size, traits.index, self._single
        for at, (status, problem, target, is_transient, shown_mode, is_narrowed) in enumerate(entries, start):
            if single and at in single:
                continue
            if problem is not None or status is None:
                self.problems[at] = problem or Kind.UNREADABLE
                if is_transient:
                    self.transient.add(at)
                continue
            mode = (status.st_mode if shown_mode is None else shown_mode) & _SHOWN_MODE_BITS
            if is_narrowed:
                self.narrowed.add(at)
            if mode & 0o170000 == 0o040000:
                self.subdirectories[at] = target
            else:
                self.content_bytes += status.st_size
            trait = index_of(
                (mode, status.st_uid, status.st_gid, status.st_dev, target is not None, status.st_mode, status.st_nlink)
            )
            blocks = status.st_blocks
            row = (
                status.st_ino, status.st_size, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
                blocks if 0 <= blocks < _MAX_BLOCKS else _MAX_BLOCKS, trait,
            )  # fmt: skip
            try:
                pack_into(rows, at * size, *row)
            except struct.error:  # a time after 2262, which file systems can hold
                self._unpackable[at] = row

    # -- reading ------------------------------------------------------------------------------------------------

    def name(self, place: int) -> bytes:
        """The name at a place, 0 <= place < len(self)."""
        return self._names[self._offsets[place] : self._offsets[place + 1]]

    def row(self, place: int) -> Row:
        """The attributes at a frozen place that is not hidden."""
        return Row._make(self.fields(place))

    def fields(self, place: int) -> tuple[int, ...]:
        """As `row`; a plain tuple."""
        if place in self._unpackable:
            return self._unpackable[place]
        return _ROW.unpack_from(self._rows, place * _ROW.size)

    def rows(self, start: int, end: int) -> Iterator[tuple[int, ...]]:
        """As `row`, for the places from `start` to before `end`; as plain tuples."""
        if self._unpackable:
            yield from map(self.fields, range(start, end))
            return
        size = _ROW.size
        with memoryview(self._rows) as rows:
            yield from _ROW.iter_unpack(rows[start * size : end * size])

    def find(self, name: bytes) -> int | None:
        """The place of a name, hidden or not, or None."""
        place = self.first_from(name)
        return place if place < len(self) and self.name(place) == name else None

    def beginning_with(self, prefix: bytes) -> Iterator[int]:
        """The places of the names, hidden or not, that begin with a prefix, in order."""
        place = self.first_from(prefix)
        while place < len(self) and self.name(place).startswith(prefix):
            yield place
            place += 1

    def first_from(self, name: bytes) -> int:
        """The place of the first name that is no less than this one, or the number of names."""
        low, high = 0, len(self)
        names, offsets = self._names, self._offsets
        while low < high:
            middle = (low + high) // 2
            if names[offsets[middle] : offsets[middle + 1]] < name:
                low = middle + 1
            else:
                high = middle
        return low

    def may_have(self, name: bytes) -> bool:
        """False where `find` would find nothing: at once, also in a large directory."""
        return name in self._names

    def mentions(self, words: Iterable[bytes]) -> bool:
        """False where no name has one of these words, in small letters, in whatever case: at once, as `may_have`."""
        names = self._names.lower()
        return any(word in names for word in words)

    def not_utf8(self) -> list[int]:
        """The places of names that are not UTF-8."""
        if self._names.isascii():
            return []
        return [place for place in range(len(self)) if not is_utf8(self.name(place))]

    def nbytes(self) -> int:
        """Bytes held by the packed columns."""
        return len(self._names) + self._offsets.itemsize * len(self._offsets) + len(self._rows)
