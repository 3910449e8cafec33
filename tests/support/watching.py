"""Which files below a directory are opened, as the kernel counts it (inotify): exactly what is read again."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from symfuse.source.lasting import COARSE_SETTLED_NS, SETTLED_NS
from symfuse.source.volumes import fstype_of
from tests.support.oracle import walk

#: Source: inotify(7). Closing is watched only because the kernel merges equal events that follow each other.
_OPEN, _CLOSE, _IS_DIRECTORY, _OVERFLOW = 0x20, 0x18, 0x4000_0000, 0x4000
_EVENT = struct.Struct("iIII")
_TIMEOUT_S = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


class Opens:
    """Counts the opens of each file below `root`, from the beginning of the `with` block on."""

    def __init__(self, root: Path) -> None:
        self._counts: Counter[str] = Counter()
        self._directories: dict[int, bytes] = {}
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        top = os.fsencode(root)
        for path in [top, *(path for path in walk(root) if os.path.isdir(path) and not os.path.islink(path))]:
            number = _checked(_libc.inotify_add_watch(self._fd, path, _OPEN | _CLOSE))
            self._directories[number] = os.path.relpath(path, top)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.counts()
        os.close(self._fd)
        self._fd = -1

    def counts(self) -> Counter[str]:
        """How often each file was opened until now, or until the end of the block."""
        while self._fd >= 0:
            try:
                self._take(os.read(self._fd, 1 << 16))
            except BlockingIOError:
                break
        return self._counts

    def wait_for(self, path: str, times: int) -> None:
        """Until a file was opened so often."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self.counts()[path] < times:
            assert time.monotonic() < deadline, f"{path} is not opened: {self._counts}"
            select.select([self._fd], [], [], 1)

    def wait_for_files(self, number: int) -> None:
        """Until so many different files were opened."""
        deadline = time.monotonic() + _TIMEOUT_S
        while len(self.counts()) < number:
            assert time.monotonic() < deadline, f"no more files are opened: {self._counts}"
            select.select([self._fd], [], [], 1)

    def _take(self, events: bytes) -> None:
        offset = 0
        while offset < len(events):
            number, mask, _cookie, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size
            name = events[offset : offset + length].rstrip(b"\0")
            offset += length
            assert not mask & _OVERFLOW, "more events than the kernel keeps"
            if mask & _OPEN and not mask & _IS_DIRECTORY:
                self._counts[os.fsdecode(os.path.normpath(os.path.join(self._directories[number], name)))] += 1


class Touched:
    """Which of these files, directories, FIFOs and devices are opened, by whatever path; to look (O_PATH) is none."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._paths = {_checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), _OPEN)): path for path in paths}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def opened(self) -> set[Path]:
        """Those that were opened since this was asked last."""
        found: set[Path] = set()
        while True:
            try:
                events, offset = os.read(self._fd, 1 << 16), 0
            except BlockingIOError:
                return found
            while offset < len(events):
                number, mask, _cookie, length = _EVENT.unpack_from(events, offset)
                offset += _EVENT.size + length
                assert not mask & _OVERFLOW, "more events than the kernel keeps"
                found.add(self._paths[number])


def settle(root: Path) -> None:
    """Until everything below a directory was left alone for so long that verdicts on it are kept."""
    fd = os.open(root, os.O_RDONLY)
    needed_ns = COARSE_SETTLED_NS if fstype_of(fd) == b"overlay" else SETTLED_NS
    os.close(fd)
    newest_ns = max((os.lstat(path).st_ctime_ns for path in walk(root)), default=0)
    while time.time_ns() <= newest_ns + needed_ns:
        time.sleep(0.01)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
