"""What the user can choose, and the kinds of entries a view does not show.

Values are frozen and carry no behaviour beyond answering what they mean; every other module reads them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    """Why an entry of the dataset is not shown."""

    DANGLING = "dangling"
    LOOP = "loop"
    CYCLE = "cycle"
    SPECIAL = "special"
    UNREADABLE = "unreadable"
    RECURSIVE = "recursive"
    MULTIPLIED = "multiplied"
    OUTSIDE = "outside"
    DOT_ENTRY = "dot-entry"
    DIR_LINK = "dir-link"

    @property
    def meaning(self) -> str:
        """One line for the user."""
        return _MEANINGS[self]

    @property
    def is_choice(self) -> bool:
        """True for what the user asked to hide; the rest are problems of the dataset (`--fail-on any`)."""
        return self in (Kind.DOT_ENTRY, Kind.DIR_LINK)


_MEANINGS = {
    Kind.DANGLING: "the link's target does not exist",
    Kind.LOOP: "the link leads back to itself, or through more than 40 links",
    Kind.CYCLE: "the directory is one of its own ancestors",
    Kind.SPECIAL: "a fifo, a socket or a device",
    Kind.UNREADABLE: "it cannot be read: no permission, or an error of its file system",
    Kind.RECURSIVE: "the link leads into the mountpoint",
    Kind.MULTIPLIED: "linked directories repeat each other without end in sight",
    Kind.OUTSIDE: "the link leaves the dataset and its target is in no --allow-root directory",
    Kind.DOT_ENTRY: "its name begins with a dot",
    Kind.DIR_LINK: "a link to a directory, and --dir-links hide was given",
}

PROBLEMS = frozenset(kind for kind in Kind if not kind.is_choice)


class Backend(enum.StrEnum):
    """Which way the view takes to the kernel."""

    KERNEL = "kernel"
    FUSEPY = "fusepy"


class Io(enum.StrEnum):
    """How the content of files reaches its readers."""

    AUTO = "auto"
    CACHED = "cached"
    PASSTHROUGH = "passthrough"


class Outside(enum.StrEnum):
    """Links whose resolved target lies outside the dataset."""

    FOLLOW = "follow"
    HIDE = "hide"


class DirLinks(enum.StrEnum):
    """Links to directories."""

    FOLLOW = "follow"
    HIDE = "hide"


class DotEntries(enum.StrEnum):
    """Entries whose name begins with a dot."""

    HIDE = "hide"
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a view shows. `allow_roots` are absolute real paths: outside links into them are always followed."""

    outside: Outside = Outside.FOLLOW
    dir_links: DirLinks = DirLinks.FOLLOW
    dot_entries: DotEntries = DotEntries.HIDE
    allow_roots: tuple[bytes, ...] = ()
    fail_on: frozenset[Kind] = field(default_factory=frozenset)
