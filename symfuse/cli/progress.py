"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import importlib
import sys
import time
from types import TracebackType
from typing import Any, Self

from symfuse.cli.output import complain, counted, frozen_line
from symfuse.control import Message

#: Seconds between two plain lines: they end up in logs.
PLAIN_INTERVAL_S = 10.0
#: Seconds before a rate is worth showing.
RATE_AFTER_S = 0.5
#: What is done before it is known how much there is to do.
READING = "reading the dataset"


class ProgressDisplay:
    """Called with `Progress.as_dict()`, in long work with a `selection.Work` in it.

    What is done at once shows nothing, and does not load rich.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: str | None = None
        self._began_s = 0.0
        self._began_with: Message = {}
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
            self._bar = self._task = None

    def __call__(self, frozen: Message) -> None:
        """Show how far it is."""
        work: Message | None = frozen.get("work")
        if sys.stderr.isatty():
            self._show_bar(frozen, work)
        elif time.monotonic() - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = time.monotonic()
            complain(_plain(work) if work else f"{READING}: {frozen_line(frozen)} so far")

    def _show_bar(self, frozen: Message, work: Message | None) -> None:
        # How many files there are nobody knows before the dataset is read, so the bar only pulses until then.
        task = work["task"] if work else READING
        if task != self._task:
            self.close()
            self._task = task
            self._began_s, self._began_with = time.monotonic(), work or {}
            self._bar = _bar(is_measured=work is not None)
            self._bar.add_task(task, total=work["files"] if work else None)
            self._bar.start()
        what = task + self._rate(work) if work else frozen_line(frozen)
        self._bar.update(self._bar.task_ids[0], completed=work["files_done"] if work else 0, description=what)

    def _rate(self, work: Message) -> str:
        """Since the task is shown: what was known beforehand was no work."""
        seconds = time.monotonic() - self._began_s
        if seconds < RATE_AFTER_S:
            return ""
        files, size = ((work[name] - self._began_with[name]) / seconds for name in ("files_done", "bytes_done"))
        return f", {max(files, 0):,.0f} files/s, {max(size, 0) / 1e6:,.0f} MB/s"


def _bar(*, is_measured: bool) -> Any:
    progress = importlib.import_module("rich.progress")
    console = importlib.import_module("rich.console").Console(stderr=True)
    columns = [progress.BarColumn(), progress.TextColumn("{task.description}", markup=False)]
    if is_measured:
        done = progress.TextColumn("{task.completed:,} of {task.total:,}")
        columns += [done, progress.TimeRemainingColumn(), progress.TextColumn("left")]
    else:
        columns += [progress.TimeElapsedColumn()]
    return progress.Progress(*columns, console=console, transient=True)


def _plain(work: Message) -> str:
    done = f"{work['files_done']:,} of {counted(work['files'], 'file')}"
    return f"{work['task']}: {done}, {work['bytes_done'] / 1e6:,.0f} MB so far"
