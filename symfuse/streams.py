"""Standard input, output and error as everything here may take them: open, and no write to them raises.

A process may be started with any of the three closed: what it opens next gets that number then, be it `/dev/fuse`, and
is written to by whoever prints. And their other end may be gone, or its disk full: that must not end a mount.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Output(io.FileIO):
    """A descriptor to write to. What cannot be written is lost; the error is kept in `failure`."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Returns as if all had been written."""
        try:
            while (written := super().write(data)) is None:  # somebody made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes
        return written


def guard() -> None:
    """Open what is closed of the three on `/dev/null`, and let no write to the last two raise. To be called first."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as we live
    sys.stdout = _guarded(1, sys.stdout)
    sys.stderr = _guarded(2, sys.stderr)


def _guarded(fd: int, stream: TextIO | None) -> TextIO:
    """A text stream over a descriptor, with the manners of the one that it replaces; None where there was none."""
    return io.TextIOWrapper(
        io.BufferedWriter(Output(fd, "w", closefd=False)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


def failure_of(stream: TextIO) -> OSError | None:
    """Why something that was written to a guarded stream is lost; None when nothing is."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Output) else None
