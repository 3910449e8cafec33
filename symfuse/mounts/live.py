"""What the live mounts say of themselves."""

from __future__ import annotations

import os

from symfuse import control
from symfuse.control import Message
from symfuse.errors import NotMounted
from symfuse.mounts import channel, table
from symfuse.mounts.table import MountEntry, State

#: The state of a mount whose server talks to nobody but its own user.
PRIVATE = "private"
#: The state of a mount that no path leads to: another one lies over it, or over a directory above it.
HIDDEN = "hidden"
#: The state of a stacked mount whose server listens where we do not see it, in another container.
UNREACHABLE = "unreachable"


def status(mount: MountEntry) -> Message:
    """The mount's state, source and mountpoint, and whatever more its server tells (`Control.status`)."""
    if _is_hidden(mount):
        return _known(mount, HIDDEN)
    state = table.state(mount.mountpoint)
    told: Message = {}
    if state is State.ALIVE:
        try:
            told = channel.ask(mount, control.STATUS)
        except PermissionError:
            return _known(mount, PRIVATE)
        except TimeoutError:
            state = State.SILENT
        except NotMounted:
            return _known(mount, _unasked(mount))
    return told | _known(mount, state)


def _unasked(mount: MountEntry) -> str:
    """The state of a mount that was alive a moment ago and could not be asked."""
    if mount.place is None or _is_hidden(mount):
        return State.DEAD  # it ended while we asked
    return UNREACHABLE if table.state(mount.mountpoint) is State.ALIVE else State.DEAD


def _is_hidden(mount: MountEntry) -> bool:
    """What is asked at its mountpoint would be asked of another mount."""
    found = table.at(mount.mountpoint)
    return found is None or found.mount_id != mount.mount_id


def _known(mount: MountEntry, state: str) -> Message:
    return {
        "state": str(state),
        "source": os.fsdecode(mount.source),
        "mountpoint": os.fsdecode(mount.mountpoint),
        "stacked": mount.place is not None,
    }


def serving(path: bytes) -> MountEntry | None:
    """A live mount of the dataset that a path lies in; of several nested ones, the innermost."""
    candidates = [mount for mount in table.symfuse_mounts() if _holds(mount.source, path)]
    for mount in sorted(candidates, key=lambda mount: len(mount.source), reverse=True):
        if not _is_hidden(mount) and table.state(mount.mountpoint) is State.ALIVE:
            return mount
    return None


def _holds(source: bytes, path: bytes) -> bool:
    return table.is_within(path, source) or table.is_within(path, os.path.realpath(source))
