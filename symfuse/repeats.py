"""Links that multiply must not take the machine down: linked directories are shown again a bounded number of times."""

from __future__ import annotations

from collections import Counter

#: Directories reached through links may repeat sources already shown this often before the next is hidden: far more
#: than datasets do, far less than a machine bears.
REPEATS_ALLOWED = 100_000
REPEATS_PER_SOURCE = 16


class Repeats:
    """How often directories, given by their real paths, are shown. The caller sees to it that one thread counts."""

    def __init__(self) -> None:
        self._shown: Counter[bytes] = Counter()
        self._repeats = 0

    def allow(self, source: bytes) -> bool:
        """Count one more place for a source; False, and nothing is counted, where there are too many already."""
        if self._repeats > REPEATS_ALLOWED + REPEATS_PER_SOURCE * len(self._shown):
            return False
        self._repeats += source in self._shown
        self._shown[source] += 1
        return True

    def most_repeated(self) -> tuple[bytes, int]:
        """The source shown most often, and how often."""
        return self._shown.most_common(1)[0]
