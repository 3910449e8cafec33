"""Which mounts there are. The kernel's mountinfo is the only registry; nothing is kept in files.

Nothing here waits for a server without a limit: a mount whose server hangs must not hang who asks about it.
The table itself is read by `symfuse.mountinfo`.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from symfuse.mountinfo import FSTYPE, OVERLAY, MountEntry, at, covering, is_within, mounts, parse

__all__ = [
    "FSTYPE",
    "OVERLAY",
    "MountEntry",
    "State",
    "at",
    "covering",
    "is_within",
    "mounts",
    "parse",
    "patiently",
    "state",
    "symfuse_mounts",
]

#: Longest wait for a server to answer. A healthy one needs a millisecond.
ANSWER_TIMEOUT_S = 3.0

T = TypeVar("T")


class State(enum.StrEnum):
    """What can be told of a mount without its server's help."""

    ALIVE = "alive"
    DEAD = "dead"
    SILENT = "silent"


def symfuse_mounts() -> list[MountEntry]:
    """Every symfuse mount, dead ones too."""
    return [entry for entry in mounts() if entry.is_symfuse]


def state(mountpoint: bytes, *, timeout_s: float = ANSWER_TIMEOUT_S) -> State:
    """Whether a server stands behind a symfuse mount.

    STATFS is the one question that the kernel neither caches nor refuses: `stat` and even listing a dead mount can
    succeed from the caches.
    """
    try:
        patiently(lambda: os.statvfs(mountpoint), timeout_s=timeout_s)
    except TimeoutError:
        return State.SILENT
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            return State.DEAD
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
    return State.ALIVE


def patiently(question: Callable[[], T], *, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
    """The answer to a question that may hang for ever; it is then left behind in a thread of its own.

    Errors: TimeoutError, and whatever the question raises.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, name="symfuse-question", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(errno.ETIMEDOUT, "no answer")
    return answers[0]
