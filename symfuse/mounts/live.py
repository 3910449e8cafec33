"""How the live mounts are, and what they say of themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from symfuse import control
from symfuse.control import Message
from symfuse.errors import MountpointError, SymfuseError
from symfuse.mounts import bounded, channel, table
from symfuse.mounts.channel import NoAnswer
from symfuse.mounts.table import MountEntry, State

#: How many questions are asked at once.
MAX_AT_ONCE = 64

T = TypeVar("T")
R = TypeVar("R")


class Look(NamedTuple):
    """What was found out of a mount: its state, what its server told (`Control.status`), and why it told nothing.

    `cure` is what helps, where it is another thing than for the state as such.
    """

    state: State
    told: Message
    reason: str = ""
    path_hangs: bool = False
    cure: str = ""


def look(mount: MountEntry) -> Look:
    """Ask a mount how it is, if that is the caller's or root's. Never raises for what a mount can be; never hangs."""
    if table.over(mount) is not None:
        return Look(State.HIDDEN, {})
    try:
        told = channel.ask(mount, control.STATUS)
    except (OSError, SymfuseError) as error:
        return _unanswered(mount, error)
    return Look(State.STORE_GONE if told["missing"] else State.ALIVE, told)


def _unanswered(mount: MountEntry, error: OSError | SymfuseError) -> Look:
    if isinstance(error, NoAnswer):
        return Look(error.state, {}, error.reason, error.path_hangs)
    if isinstance(error, TimeoutError):
        return Look(State.NOT_RESPONDING, {})
    if isinstance(error, PermissionError):
        return Look(State.ANOTHER_USER, {}, "it is root's" if table.owner(mount) == 0 else "")
    if isinstance(error, OSError):
        return Look(State.UNREACHABLE, {}, str(error.strerror))
    return Look(State.UNREACHABLE, {}, error.cause, cure=error.cure)


def looks(mounts: Iterable[MountEntry]) -> list[Look]:
    """`look` at each of these mounts, at the same time."""
    return _at_once(look, mounts)


def statuses(mounts: Iterable[MountEntry]) -> list[Message]:
    """`status` of each of these mounts, at the same time: one that hangs delays no other."""
    return _at_once(status, mounts)


def _at_once(question: Callable[[T], R], about: Iterable[T]) -> list[R]:
    """Threads are enough for this: each waits for a child process, and no longer than its deadline."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for whoever asks several

    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        return list(pool.map(question, about))


def status(mount: MountEntry) -> Message:
    """The mount's state, source and mountpoint, and whatever more its server tells (`Control.status`)."""
    found = look(mount)
    return found.told | {
        "state": str(found.state),
        "reason": found.reason,
        "cure": found.cure or found.state.cure,
        "source": os.fsdecode(mount.source),
        "mountpoint": os.fsdecode(mount.mountpoint),
        "stacked": mount.place is not None,
    }


def serving(path: bytes) -> MountEntry | None:
    """A live mount of the dataset that a path lies in, of those that we may ask; of nested ones, the innermost."""
    mounts = [mount for mount in table.symfuse_mounts() if table.is_trusted(mount)]
    holds = _at_once(lambda mount: _holds(mount.source, path), mounts)
    candidates = [mount for mount, is_held in zip(mounts, holds, strict=True) if is_held]
    for mount in sorted(candidates, key=lambda mount: len(mount.source), reverse=True):
        if look(mount).state.is_served:
            return mount
    return None


def _holds(source: bytes, path: bytes) -> bool:
    if table.is_within(path, source):
        return True
    try:
        return table.is_within(path, bounded.real_path(source))
    except MountpointError:  # it hangs
        return False
