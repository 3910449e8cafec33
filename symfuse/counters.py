"""Requests by opcode and bytes read, counted exactly although several threads serve one mount.

`count += 1` on a shared integer loses increments between threads. Each thread therefore counts in a tally of its own,
and only the sum is shared.
"""

from __future__ import annotations

import threading
from collections import Counter


class Tally:
    """One thread's counts. Only that thread writes it."""

    __slots__ = ("bytes_read", "requests")

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes_read = 0


class Counters:
    """The sum over all threads' tallies."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []  # appended to under _lock, never removed from
        self._lock = threading.Lock()
        self._local = threading.local()

    def tally(self) -> Tally:
        """This thread's own tally; made at its first call. Keep it: the call costs more than counting does."""
        tally: Tally | None = getattr(self._local, "tally", None)
        if tally is None:
            tally = self._local.tally = Tally()
            with self._lock:
                self._tallies.append(tally)
        return tally

    def requests(self) -> dict[str, int]:
        """Requests by opcode name (lower case, as in `linux/fuse.h` without FUSE_), most frequent first."""
        total: Counter[str] = Counter()
        for tally in list(self._tallies):
            total.update(tally.requests.copy())
        return dict(total.most_common())

    def waited_for(self) -> int:
        """Requests so far that the background freeze delays: all but listings, which wait for just what it does."""
        requests = self.requests()
        return sum(requests.values()) - sum(requests.get(name, 0) for name in ("readdir", "readdirplus"))

    def bytes_read(self) -> int:
        """Bytes of file content sent to the kernel."""
        return sum(tally.bytes_read for tally in list(self._tallies))
