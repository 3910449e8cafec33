"""Signals that end a run, and the moments in which they must wait: what was begun there must be known to be undone."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns the first such signal into SystemExit, at once or when nothing holds it any more."""

    def __init__(self) -> None:
        self._holders = 0
        self._pending: int | None = None

    def install(self) -> None:
        """From here on, in this process."""
        for number in SIGNALS:
            signal.signal(number, self._came)

    def _came(self, number: int, _frame: object) -> None:
        # Once is enough: a second Ctrl-C must not cut the tidying short.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._pending = number
        self._act()

    def _act(self) -> None:
        if self._pending is not None and not self._holders:
            number, self._pending = self._pending, None
            sys.exit(128 + number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For a short block that starts something or ends it."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._act()


INTERRUPTS = Interrupts()
