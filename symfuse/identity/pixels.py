"""Which files are the same picture, and which are broken: each is decoded once, by worker processes."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import PIL

from symfuse.identity.cache import VerdictCache
from symfuse.identity.decoder import COMMAND, Decoder
from symfuse.identity.reason import Words
from symfuse.identity.verdict import DIGEST_BYTES, FINDING_BYTES, NO_DIGEST, Verdict
from symfuse.identity.work import PROGRESS_INTERVAL_S, Files, Job, OnProgress, Work, verified
from symfuse.policy import Judge

#: Counted up whenever a worker finds something else in the same file.
REVISION = 4
#: Each costs two descriptors and one for each file that it was given ahead, and few may have more than 1024.
MAX_WORKERS = 128

log = logging.getLogger(__name__)


class Findings:
    """What was found of each file, in order.

    `verdicts` has one byte of `Verdict` for each, `digests` DIGEST_BYTES of its pixels: NO_DIGEST unless it is OK.
    """

    def __init__(self, findings: bytearray, words: Words) -> None:
        self._findings = findings
        self._words = words
        self.verdicts = findings[::FINDING_BYTES]

    def name_images(self, is_image: Callable[[int], bool]) -> None:
        """Where contents leave it open whether a file is meant as an image, its name decides: `is_image` of its index.

        Until then such files are RARE.
        """
        for index in self.indices(Verdict.RARE):
            self.verdicts[index] = Verdict.OK if is_image(index) else Verdict.NOT_AN_IMAGE

    def indices(self, *verdicts: Verdict) -> Iterator[int]:
        """The files of which one of these was found."""
        return (match.start() for match in re.finditer(b"[%s]" % bytes(verdicts), bytes(self.verdicts)))

    def reason(self, index: int) -> str:
        """Why a file that is BROKEN, or NOT_AN_IMAGE, does not load: one line."""
        return self._words.sentence(bytes(self._findings[index * FINDING_BYTES : (index + 1) * FINDING_BYTES]))

    @functools.cached_property
    def digests(self) -> bytearray:
        """To be asked for once names have decided."""
        digests = bytearray(DIGEST_BYTES * len(self.verdicts))
        for byte in range(DIGEST_BYTES):
            digests[byte::DIGEST_BYTES] = self._findings[1 + byte :: FINDING_BYTES]
        for index in self.indices(*(verdict for verdict in Verdict if verdict is not Verdict.OK)):
            digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = NO_DIGEST
        return digests


def kind_of(directory: str, judge: Judge = Judge.PILLOW) -> str:
    """The kind of verdicts that a judge gives with the Pillow in a directory, for the cache.

    Builds of one version differ: some have no WebP, or other libraries. Their extension modules tell them apart.
    """
    with os.scandir(directory) as entries:
        modules = sorted((entry.name, entry.stat().st_size) for entry in entries if entry.name.endswith(".so"))
    build = hashlib.sha256(repr(modules).encode()).hexdigest()[:16]
    return f"pixels/{REVISION}/{judge}/pillow-{PIL.__version__}/{build}"


def examine(
    nodeids: Sequence[int],
    files: Files,
    cache: VerdictCache,
    *,
    on_progress: OnProgress,
    stop: threading.Event,
    judge: Judge = Judge.PILLOW,
    command: Sequence[str] = COMMAND,
) -> Findings:
    """Decode what the cache does not know yet, on all cores.

    A file that cannot be read, has changed, or comes after `stop` is UNKNOWN. `command` starts a worker.

    Errors: SymfuseError when workers do not start.
    """
    threads = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    words = Words()
    work = Work(
        kind_of(PIL.__path__[0], judge), FINDING_BYTES, nodeids, files, cache,
        on_progress=on_progress, stop=stop, packed=words.packed,
    )  # fmt: skip
    with work, ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            take = _one_by_one(work)
            decoder = functools.partial(Decoder, command=command, judge=judge)
            running = {pool.submit(_decode_all, work, take, files, decoder) for _ in range(threads)}
            while running:
                done, running = wait(running, PROGRESS_INTERVAL_S)
                for each in done:
                    each.result()
                work.tick()
        except BaseException:  # Ctrl-C, too
            work.abandon()
            raise
    return Findings(work.verdicts, words)


def _one_by_one(work: Work) -> Callable[[], Job | None]:
    """Hands out single files, None after the last: no thread shall sit on a pack of large images while others idle."""
    jobs = itertools.chain.from_iterable(work.packs())
    lock = threading.Lock()

    def take() -> Job | None:
        with lock:
            return None if work.is_stopped else next(jobs, None)

    return take


def _decode_all(work: Work, take: Callable[[], Job | None], files: Files, start: Callable[[], Decoder]) -> None:
    """Have one worker examine files until there are no more. Errors: SymfuseError."""
    first = take()
    if first is None:
        return
    flying: deque[tuple[Job, int, int]] = deque()  # with the open descriptor, and when it was opened

    def fds() -> Iterator[int]:
        for job in itertools.chain([first], iter(take, None)):
            begun_ns = time.time_ns()
            try:
                fd = files.open(job[1])
            except OSError as error:
                log.debug("node %d is not decoded: %s", job[1], error)
                work.note([job], [None], begun_ns=begun_ns)
            else:
                flying.append((job, fd, begun_ns))
                yield fd

    try:
        with start() as decoder:
            for finding in decoder.examine(fds(), lambda: work.is_stopped):
                (index, nodeid, key, identity), fd, begun_ns = flying.popleft()
                try:
                    found = verified(files.found(fd), identity, key)
                finally:
                    os.close(fd)
                is_known = finding[0] != Verdict.UNKNOWN and found is not None
                if not is_known:
                    log.debug("node %d is not decoded: it cannot be read, or has changed", nodeid)
                work.note([(index, nodeid, found or key, identity)], [finding if is_known else None], begun_ns=begun_ns)
    finally:
        for _job, fd, _begun_ns in flying:
            os.close(fd)
