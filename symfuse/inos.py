"""Inode numbers that are the same at the next mount, whatever is listed first then.

Each directory owns a range of numbers. Its entries take the first ones, in order; each entry has an equal share of the
rest, for all below it if it is a directory. A directory whose range is too small for its entries (the numbers of
entries along its path, multiplied, exceed 2**53) gets one beyond all shares.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable

ROOT_INO = 1
#: Inode numbers stay below 2**53, so that programs that keep them in a double (JSON) keep them apart.
FIRST_INO = 2
INO_SPACE = 1 << 53
#: Those of directories too deep for that lie between INO_SPACE and this; st_ino has 64 bits, some programs' a sign.
INO_END = 1 << 63


class InoSpace:
    """All inode numbers of one view. The caller sees to it that only one thread divides at a time."""

    def __init__(self) -> None:
        self.whole = range(FIRST_INO, INO_SPACE)
        self._spare: list[tuple[int, int]] = []  # ranges beyond the shares, sorted (start, end)

    def divide(self, numbers: range, count: int, *, path: Callable[[], bytes]) -> tuple[int, range]:
        """The first inode number of `count` entries, and the numbers that they share for what is below them.

        `path` gives the path, in the view, of the directory that owns `numbers`.
        """
        if count > len(numbers):
            return self._spare_numbers(path(), count), range(0)
        return numbers.start, numbers[count:]

    def _spare_numbers(self, path: bytes, count: int) -> int:
        """The first of `count` numbers beyond all shares.

        Where they begin is a hash of the directory's path, so it is the same at the next mount. That two directories
        overlap is improbable, and made impossible: the later one moves behind the earlier.
        """
        digest = hashlib.sha256(path).digest()[:8]  # no BLAKE2: FIPS mode forbids it
        start = INO_SPACE + int.from_bytes(digest, "little") % (INO_END - INO_SPACE - count)
        index = bisect.bisect(self._spare, (start, start))
        if index > 0 and self._spare[index - 1][1] > start:
            start = self._spare[index - 1][1]
        while index < len(self._spare) and self._spare[index][0] < start + count:
            start = self._spare[index][1]
            index += 1
        self._spare.insert(index, (start, start + count))
        return start


def share(numbers: range, heir: int, heirs: int) -> range:
    """An equal part of a range, for the one of its `heirs` that is number `heir`."""
    size = len(numbers) // heirs
    return numbers[heir * size : (heir + 1) * size]
