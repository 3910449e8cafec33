"""What the kernel is told of an entry, and what the view knows of a directory beside its table."""

from __future__ import annotations

import stat
from collections.abc import Sequence
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


class Directory:
    """A directory of the view. Its table, once listed, is in `View._tables`; who lists it sets the rest before."""

    __slots__ = (
        "absent",
        "children",
        "dev",
        "first_ino",
        "ino",
        "inos",
        "is_frozen",
        "number",
        "parent",
        "path",
        "place",
        "repeats",
        "shared_inos",
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
        self.shared_inos = range(0)  # what its entries share for all below them
        self.is_frozen = False  # all of it; set last
        self.children: dict[int, int] = {}  # place -> number
        self.absent: dict[int, Kind] = {}  # places hidden here, though not everywhere the table is used
