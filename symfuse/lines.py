"""Lines of text that many things share."""

from __future__ import annotations

import threading

#: The most different lines that are kept: some ten megabytes at the worst.
MAX_LINES = 1 << 16


class Lines:
    """Lines of text, each kept once and known by a number: a million entries need four bytes each to have one.

    Number 0 is the empty line; it stands for all that comes after MAX_LINES different ones. Safe for several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = {"": 0}
        self._lines = [""]

    def number(self, line: str) -> int:
        """The number of a line, which is kept now if it was not."""
        with self._lock:
            if line not in self._numbers and len(self._lines) < MAX_LINES:
                self._numbers[line] = len(self._lines)
                self._lines.append(line)
            return self._numbers.get(line, 0)

    def __getitem__(self, number: int) -> str:
        return self._lines[number] if number < len(self._lines) else ""
