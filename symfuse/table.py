"""One directory's listing in packed columns: names, attributes, place by name.

A million Python objects cost 860 MB; a million rows cost 48 bytes each, plus the name and four bytes for where it
begins. Nothing here knows where a listing comes from or what a nodeid is.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from symfuse.dataset import Entry
from symfuse.policy import Kind

#: What of st_mode is never shown: write permission, set-user-ID and set-group-ID.
HIDDEN_MODE_BITS = 0o6222


class Trait(NamedTuple):
    """What many files have in common, kept once for all of them. `mode` is the one shown."""

    mode: int
    uid: int
    gid: int
    dev: int
    is_link: bool


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


class Traits:
    """All traits of one view, each once. Indices never change."""

    def __init__(self) -> None:
        self._traits: list[Trait] = []  # appended to under _lock
        self._indices: dict[Trait, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Trait:
        return self._traits[index]

    def index(self, trait: Trait) -> int:
        """The trait's index, for ever."""
        index = self._indices.get(trait)
        if index is None:
            with self._lock:
                index = self._indices.get(trait)
                if index is None:
                    index = len(self._traits)
                    self._traits.append(trait)
                    self._indices[trait] = index  # last: who finds it here may use it
        return index


class Subdirectory(NamedTuple):
    """A directory among a table's entries; `target` is its real path when a link led to it."""

    place: int
    target: bytes | None


class Table:
    """The frozen entries of one directory, in byte order of their names. Immutable."""

    __slots__ = ("_names", "_offsets", "_rows", "problems", "subdirectories")

    def __init__(self, entries: Iterable[Entry], traits: Traits) -> None:
        names: list[bytes] = []
        rows = bytearray()
        problems: list[tuple[bytes, Kind]] = []
        subdirectories: list[Subdirectory] = []
        offsets = array("I", [0])
        end = 0
        for name, status, problem, target in entries:
            if problem is not None or status is None:
                problems.append((name, problem or Kind.UNREADABLE))
                continue
            mode = status.st_mode & ~HIDDEN_MODE_BITS
            trait = Trait(mode, status.st_uid, status.st_gid, status.st_dev, target is not None)
            if mode & 0o170000 == 0o040000:
                subdirectories.append(Subdirectory(len(names), target))
            names.append(name)
            end += len(name)
            offsets.append(end)
            rows += _ROW.pack(
                status.st_ino,
                status.st_size,
                status.st_atime_ns,
                status.st_mtime_ns,
                status.st_ctime_ns,
                min(status.st_blocks, _MAX_BLOCKS),
                traits.index(trait),
            )
        self._names = b"".join(names)
        self._offsets = offsets
        self._rows = bytes(rows)
        #: What the dataset has and the view hides, by name.
        self.problems = tuple(problems)
        self.subdirectories = tuple(subdirectories)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def name(self, place: int) -> bytes:
        """The name at a place, 0 <= place < len(self)."""
        return self._names[self._offsets[place] : self._offsets[place + 1]]

    def row(self, place: int) -> Row:
        """The attributes at a place, 0 <= place < len(self)."""
        return Row._make(_ROW.unpack_from(self._rows, place * _ROW.size))

    def find(self, name: bytes) -> int | None:
        """The place of a name, or None."""
        low, high = 0, len(self)
        names, offsets = self._names, self._offsets
        while low < high:
            middle = (low + high) // 2
            if names[offsets[middle] : offsets[middle + 1]] < name:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.name(low) == name else None

    def problem(self, name: bytes) -> Kind | None:
        """Why a name of the dataset is not shown, if it is one of those."""
        return next((kind for hidden, kind in self.problems if hidden == name), None)

    def nbytes(self) -> int:
        """Bytes held by the packed columns."""
        return len(self._names) + self._offsets.itemsize * len(self._offsets) + len(self._rows)
