"""What is to be found out about many files: what the cache knows of them, and the rest in packs.

    with Work(kind, width, nodeids, files, cache, on_progress=..., stop=...) as work:
        for pack in work.packs():
            begun_ns = time.time_ns()
            work.note(pack, [verdict_of(job) for job in pack], begun_ns=begun_ns)
            work.tick()
    return work.verdicts

What was noted reaches the cache every second, and when the work ends, however it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from symfuse.identity.cache import Key, VerdictCache
from symfuse.source.identity import Identity

#: Files that the cache is asked about at once.
BATCH = 4096
#: Files handed out at once.
PACK = 256
#: Seconds between two writes to the cache, and between two calls of `on_progress`.
SAVE_INTERVAL_S = 1.0
PROGRESS_INTERVAL_S = 0.1

#: Hears how many files are done, and how many bytes they have. Called by the thread that calls `tick`.
OnProgress = Callable[[int, int], None]
#: See `Work`. Called by several threads.
Packed = Callable[[bytes], bytes | None]
#: One file to look at: its index in the nodeids, its nodeid, its key, and what it was when it was frozen.
Job = tuple[int, int, Key, Identity]


class Files(Protocol):
    """The files behind nodeids. Its methods are called by several threads."""

    def keys(self, nodeids: Sequence[int]) -> list[Key]:
        """What the files were when the view was frozen, as the cache knows them."""

    def identities(self, nodeids: Sequence[int]) -> list[Identity]:
        """What the files were when the view was frozen."""

    def found(self, fd: int) -> Identity:
        """What an open file is now. Errors: OSError."""

    def open(self, nodeid: int) -> int:
        """A descriptor of what lies where the file was; the caller's to verify and to close. Errors: OSError."""

    def lasting(self, jobs: Sequence[Job], begun_ns: int) -> list[bool]:
        """Which files, read since `begun_ns` and with the keys that they then had, keep these keys for one content."""

    def forgotten(self, nodeids: Iterable[int]) -> None:
        """Hears which files were read, and will be read again at the next mount."""


def verified(found: Identity, frozen: Identity, key: Key) -> Key | None:
    """The key of what was read and is now `found` to be, None when that is not the file that was frozen.

    Its ctime may be another, though not its content. To be looked at after reading, for a change may come meanwhile.
    """
    return None if frozen.change(found) else (*key[:4], found.ctime_ns)


class Work:
    """Verdicts of `width` bytes on files, in the order of their nodeids. Zeros stand for what is not known.

    `packed` makes these bytes of a verdict as it is found out and cached, None of what is no verdict.

    Any thread may call `packs` and `note`; `tick` and the end of the `with` block belong to one.
    """

    def __init__(
        self, kind: str, width: int, nodeids: Sequence[int], files: Files, cache: VerdictCache, *,
        on_progress: OnProgress, stop: threading.Event, packed: Packed = bytes,
    ) -> None:  # fmt: skip
        self.verdicts = bytearray(width * len(nodeids))
        self._kind = kind
        self._width = width
        self._packed = packed
        self._nodeids = nodeids
        self._files = files
        self._cache = cache
        self._on_progress = on_progress
        self._stop = stop
        self._lock = threading.Lock()  # guards what follows
        self._ended = False
        self.files_done = 0
        self.bytes_done = 0
        self._unsaved: list[tuple[int, Key, bytes]] = []  # with their nodeids
        self._pending = self._unknown()
        self._saved_at = self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._save()
        if kind is None:
            self._on_progress(self.files_done, self.bytes_done)

    @property
    def is_stopped(self) -> bool:
        """True when what is being done shall be left undone."""
        return self._ended or self._stop.is_set()

    def packs(self) -> Iterator[list[Job]]:
        """What the cache does not know, some files at a time; each is handed out once, whichever thread asks."""
        while not self.is_stopped:
            with self._lock:
                pack = next(self._pending, None)
            if pack is None:
                return
            yield pack

    def _unknown(self) -> Iterator[list[Job]]:
        width = self._width
        for start in range(0, len(self._nodeids), BATCH):
            nodeids = self._nodeids[start : start + BATCH]
            keys = self._files.keys(nodeids)
            known = self._cache.get(self._kind, keys)
            jobs = []
            identities = self._files.identities(nodeids)
            rows = zip(nodeids, keys, identities, known, strict=True)
            for index, (nodeid, key, identity, verdict) in enumerate(rows, start):
                packed = None if verdict is None else self._packed(verdict)
                if packed is not None and len(packed) == width:
                    self.verdicts[index * width : (index + 1) * width] = packed
                    self.files_done += 1
                    self.bytes_done += key[2]
                else:
                    jobs.append((index, nodeid, key, identity))
            for begin in range(0, len(jobs), PACK):
                yield jobs[begin : begin + PACK]

    def abandon(self) -> None:
        """Hand out nothing more, and have what is being done left undone."""
        self._ended = True

    def note(self, jobs: Sequence[Job], verdicts: Sequence[bytes | None], *, begun_ns: int) -> None:
        """Verdicts on some files, None for what could not be read.

        `begun_ns` is `time.time_ns()` before the first of them was read.
        """
        width, lasting, forgotten = self._width, [], []
        rows = zip(jobs, verdicts, self._files.lasting(jobs, begun_ns), strict=True)
        for (index, nodeid, key, _identity), verdict, is_lasting in rows:
            packed = None if verdict is None else self._packed(verdict)
            if verdict is not None and packed is not None:
                self.verdicts[index * width : (index + 1) * width] = packed
                if is_lasting:
                    lasting.append((nodeid, key, verdict))
                else:
                    forgotten.append(nodeid)
        self._files.forgotten(forgotten)
        with self._lock:
            self.files_done += len(jobs)
            self.bytes_done += sum(key[2] for _index, _nodeid, key, _identity in jobs)
            self._unsaved += lasting

    def tick(self) -> None:
        """Save and tell what was done since, now and then; costs nothing when called often."""
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_INTERVAL_S:
            self._told_at = now
            self._on_progress(self.files_done, self.bytes_done)
        if now - self._saved_at >= SAVE_INTERVAL_S:
            self._saved_at = now
            self._save()

    def _save(self) -> None:
        with self._lock:
            unsaved, self._unsaved = self._unsaved, []
        if unsaved and not self._cache.put(self._kind, [(key, verdict) for _nodeid, key, verdict in unsaved]):
            self._files.forgotten(nodeid for nodeid, _key, _verdict in unsaved)
