"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import importlib
import sys
import time
from types import TracebackType
from typing import Any, Self

from symfuse.cli.output import complain, frozen_line
from symfuse.control import Message

#: Seconds between two plain lines: they end up in logs.
PLAIN_INTERVAL_S = 10.0


class ProgressDisplay:
    """Called with `Progress.as_dict()`. What is done at once shows nothing, and does not load rich."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, frozen: Message) -> None:
        """Show how far it is."""
        if sys.stderr.isatty():
            self._show_bar(frozen_line(frozen))
        elif time.monotonic() - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = time.monotonic()
            complain(f"reading the dataset: {frozen_line(frozen)} so far")

    def _show_bar(self, text: str) -> None:
        if self._bar is None:
            progress = importlib.import_module("rich.progress")
            console = importlib.import_module("rich.console").Console(stderr=True)
            # How much there is nobody knows before it is read, so the bar only pulses.
            columns = (progress.BarColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
            self._bar = progress.Progress(*columns, console=console, transient=True)
            self._bar.add_task("", total=None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], description=text)
