"""What the kernel is told of an entry, and what the view knows of a directory beside its table."""

from __future__ import annotations

import stat
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from symfuse.policy import Kind
from symfuse.table import Trait


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


#: A shown entry as it is stored: place, name, nodeid, inode number, trait, and the fields of a `Row`.
Shown = tuple[int, bytes, int, int, Trait, tuple[int, ...]]


def node_of(nodeid: int, ino: int, trait: Trait, row: Sequence[int]) -> Node:
    """The node of an entry whose row and trait these are."""
    _source_ino, size, atime_ns, mtime_ns, ctime_ns, blocks, _trait = row
    return Node(nodeid, ino, trait.mode, 1, trait.uid, trait.gid, size, blocks, atime_ns, mtime_ns, ctime_ns)


_KINDS = tuple(Kind)
_CODES = {kind: code for code, kind in enumerate(_KINDS, 1)}


class Absent:
    """The places of one directory that are hidden there, though not everywhere its table is used.

    Packed, for dedup may hide a million: one byte for each place of a directory that hides any, and eight more where
    others stand for them, or four where a reason is known.
    """

    __slots__ = ("_reasons", "_stand_ins", "kinds")

    def __init__(self) -> None:
        #: 0 for what is shown; None while nothing is hidden.
        self.kinds: bytearray | None = None
        self._stand_ins: array[int] | None = None
        self._reasons: array[int] | None = None

    def __contains__(self, place: int) -> bool:
        return self.kinds is not None and self.kinds[place] != 0

    def hide(self, place: int, kind: Kind, *, count: int, stand_in: int = 0, reason: int = 0) -> None:
        """Hide one of the `count` places; `stand_in` is the nodeid of what is shown in its stead.

        `reason` is the number of a line that says more than the kind.
        """
        if self.kinds is None:
            self.kinds = bytearray(count)
        self.kinds[place] = _CODES[kind]
        if stand_in:
            if self._stand_ins is None:
                self._stand_ins = array("Q", bytes(8 * count))
            self._stand_ins[place] = stand_in
        if reason:
            if self._reasons is None:
                self._reasons = array("I", bytes(4 * count))
            self._reasons[place] = reason

    def get(self, place: int) -> Kind | None:
        """Why a place is hidden here, if it is."""
        return _KINDS[self.kinds[place] - 1] if self.kinds is not None and self.kinds[place] else None

    def stand_in(self, place: int) -> int:
        """The nodeid of what is shown instead, or 0."""
        return self._stand_ins[place] if self._stand_ins is not None else 0

    def reason(self, place: int) -> int:
        """The number of the line that says why a place is hidden, or 0."""
        return self._reasons[place] if self._reasons is not None else 0

    def items(self) -> Iterator[tuple[int, Kind]]:
        """Place and kind of all that is hidden here."""
        return ((place, _KINDS[code - 1]) for place, code in enumerate(self.kinds or b"") if code)


class Directory:
    """A directory of the view. Its table, once listed, is in `View._tables`; who lists it sets the rest before."""

    __slots__ = (
        "absent",
        "children",
        "first_ino",
        "inos",
        "is_frozen",
        "listing",
        "number",
        "parent",
        "path",
        "place",
        "repeats",
        "shared_inos",
    )

    def __init__(
        self, *, number: int, parent: Directory | None, place: int, path: bytes, inos: range, repeats: bool
    ) -> None:
        self.number = number
        self.parent = parent
        self.place = place  # in the parent's table
        self.path = path  # real, and so the same for all links to one directory
        self.inos = inos  # this directory's range of inode numbers, for all below it
        self.repeats = repeats  # reached through a link: its source may be shown elsewhere, too
        self.first_ino = 0  # shown for the entry at place 0
        self.shared_inos = range(0)  # what its entries share for all below them
        self.is_frozen = False  # all of it; set last
        self.children: dict[int, int] = {}  # place -> number
        self.absent = Absent()
        self.listing = threading.Lock()  # held by whoever reads its names
