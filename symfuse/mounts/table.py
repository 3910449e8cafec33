"""Which mounts there are, and how each can be. The kernel's mountinfo is the only registry; nothing is kept in files.

Nothing here touches a mount: a server that hangs must not hang whoever asks about it (`bounded.py`).
The table itself is read by `symfuse.mountinfo`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from symfuse.mountinfo import (
    FSTYPE,
    OVERLAY,
    MountEntry,
    at,
    covering,
    is_own,
    is_trusted,
    is_within,
    mounts,
    owner,
    parse,
    way_to,
)

__all__ = [
    "FSTYPE",
    "OVERLAY",
    "MountEntry",
    "State",
    "at",
    "covering",
    "find_again",
    "is_own",
    "is_trusted",
    "is_within",
    "mounts",
    "over",
    "owner",
    "parse",
    "symfuse_mounts",
    "way_to",
]


class State(enum.StrEnum):
    """How a mount is. None of these is an error for whoever asks."""

    ALIVE = "alive"
    STORE_GONE = "store-gone"
    NOT_RESPONDING = "not-responding"
    DEAD = "dead"
    HIDDEN = "hidden"
    UNREACHABLE = "unreachable"
    ANOTHER_USER = "another-user"

    @property
    def is_served(self) -> bool:
        """True when its server answered."""
        return self in (State.ALIVE, State.STORE_GONE)

    @property
    def meaning(self) -> str:
        """What is the matter, in a few words."""
        return _STATES[self][0]

    @property
    def cure(self) -> str:
        """What helps; empty where nothing is the matter."""
        return _STATES[self][1]


_STATES = {
    State.ALIVE: ("its server answers", ""),
    State.STORE_GONE: ("its server answers, but files of the dataset are gone", "bring them back, or mount again"),
    State.NOT_RESPONDING: ("its server does not respond", "wait, or end its process and use symfuse umount --lazy"),
    State.DEAD: ("its server ended without unmounting", "clear it with symfuse umount"),
    State.HIDDEN: ("another mount lies over it", "unmount that first"),
    State.UNREACHABLE: ("its server cannot be reached from here", "ask where it was mounted"),
    State.ANOTHER_USER: ("it is another user's", "ask as that user"),
}


def symfuse_mounts() -> list[MountEntry]:
    """Every symfuse mount, dead ones too."""
    return [entry for entry in mounts() if entry.is_symfuse]


def over(mount: MountEntry, entries: Iterable[MountEntry] | None = None) -> MountEntry | None:
    """The mount that hides this one: it lies over it, or over a directory above it. None while it can be seen."""
    found = covering(mount.mountpoint, entries)
    return None if found is None or found.mount_id == mount.mount_id else found


def find_again(mount: MountEntry) -> MountEntry | None:
    """The same mount as it is now, perhaps at another path: a directory above it may have been renamed.

    None when it is gone. Numbers of mounts are given again, so what it is a mount of must agree, too.
    """
    return next((entry for entry in mounts() if _fixed(entry) == _fixed(mount)), None)


def _fixed(mount: MountEntry) -> MountEntry:
    """What of a mount never changes."""
    return mount._replace(parent_id=0, mountpoint=b"")
