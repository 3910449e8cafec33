"""The exception tree and the documented exit statuses.

Every error a user can cause or meet is a `SymfuseError`: one line that names the cause and, after it, the cure. The
class owns the exit status of the command line; README.md lists the same numbers, and a test compares the two.
"""

from __future__ import annotations

import enum


class ExitStatus(enum.IntEnum):
    """What the command line's exit statuses mean. A promise: numbers are never given a new meaning."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    SOURCE = 3
    MOUNTPOINT = 4
    FUSE = 5
    REFUSED = 6
    BUSY = 7
    NOT_MOUNTED = 8
    NOT_SHOWN = 9
    INTERRUPTED = 130
    RUN_FAILED = 125
    RUN_NOT_EXECUTABLE = 126
    RUN_NOT_FOUND = 127


class SymfuseError(Exception):
    """An error with a cause the user can read and a cure the user can apply."""

    status = ExitStatus.INTERNAL

    def __init__(self, cause: str, cure: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.cause}: {self.cure}" if self.cure else self.cause


class UsageError(SymfuseError):
    """Options that contradict each other or do not exist."""

    status = ExitStatus.USAGE


class SourceError(SymfuseError):
    """The dataset is missing, not a directory, or cannot be read."""

    status = ExitStatus.SOURCE


class MountpointError(SymfuseError):
    """The mountpoint is missing, not an empty directory, taken, or tangled with the dataset."""

    status = ExitStatus.MOUNTPOINT


class FuseUnavailable(SymfuseError):
    """This machine or this user cannot mount: no device, no permission, no helper, no library."""

    status = ExitStatus.FUSE


def missing_part(error: ImportError) -> FuseUnavailable:
    """The error for a Python that was built without a part of its library, or without one of our packages."""
    return FuseUnavailable(
        f"this Python lacks a part that symfuse needs ({error})", "install symfuse into a complete Python 3.11 or newer"
    )


class DatasetRefused(SymfuseError):
    """The dataset has problems that `fail_on` names."""

    status = ExitStatus.REFUSED


class MountBusy(SymfuseError):
    """Processes still use the mount."""

    status = ExitStatus.BUSY


class NotMounted(SymfuseError):
    """Nothing of symfuse's is mounted there, or its server is dead."""

    status = ExitStatus.NOT_MOUNTED


def raised_elsewhere(status: int, cause: str, cure: str) -> SymfuseError:
    """An error that another process of ours met, of the class that it had there."""
    kinds = {kind.status: kind for kind in SymfuseError.__subclasses__()}
    return kinds.get(ExitStatus(status), SymfuseError)(cause, cure)
