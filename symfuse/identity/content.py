"""Files of equal bytes.

Compressed images that differ do so nearly everywhere. So a sample of each is compared, from its middle, where there are
no headers that all files of a camera share; only files with the same sample are read whole.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from blake3 import blake3

from symfuse.identity.cache import VerdictCache
from symfuse.identity.signature import HEAD_BYTES, begins_as_image
from symfuse.identity.signature import REVISION as SIGNATURES_REVISION
from symfuse.identity.verdict import DIGEST_BYTES
from symfuse.identity.work import PROGRESS_INTERVAL_S, Files, Job, OnProgress, Work, verified

SAMPLE_BYTES = 256
#: How much of a file is in memory at once, for each thread.
PIECE_BYTES = 1 << 20
#: What is no larger is read in one go, which costs less.
SMALL_BYTES = 1 << 16
#: A file keeps the interpreter's lock for about as long as it takes to read and hash so much without it. Threads that
#: have less to do for each file wait for each other: 2 take 1.2 times as long for the samples as one, 4 take 1.8 times.
THREAD_BYTES = 1 << 15
#: Threads that wait for a disk do not: 8 take a third of one thread's time for samples of cold files, 16 no less.
MAX_WAITING_THREADS = 8
#: A process that uses less of one core than this waits for something.
BUSY = 0.7
#: Digests of samples are a family of their own: no file's bytes can be chosen so that they have the digest of a sample.
_SAMPLE_FAMILY = b"symfuse: size and sample".ljust(32)
_SIZE_BYTES = 8
#: What `signatures` says.
BEGINS_AS_IMAGE, BEGINS_OTHERWISE = 1, 2
_SIZE = 2  # its place in a key

#: Reads some of an open file of this size, and returns its digest; None when the file ends early, or the work does.
#: Errors: OSError.
Hash = Callable[[int, int, Work], bytes | None]

log = logging.getLogger(__name__)


def digests(
    nodeids: Sequence[int], files: Files, cache: VerdictCache, *, on_progress: OnProgress, stop: threading.Event
) -> bytearray:
    """DIGEST_BYTES for each file, in order: the same for files of equal bytes, and for no others among these.

    NO_DIGEST for a file that cannot be read or is not what was frozen, and for what is not done when `stop` is set.
    `on_progress` hears of all files while samples are taken, and then again of those that must be read whole.
    """
    kind = f"bytes/sample/{SAMPLE_BYTES}"
    samples = Work(kind, DIGEST_BYTES, nodeids, files, cache, on_progress=on_progress, stop=stop)
    found = _hash_all(samples, _hash_sample, files, SAMPLE_BYTES)
    shared = array("Q", _shared(found))
    sizes = [key[_SIZE] for key in files.keys([nodeids[index] for index in shared])]
    alike = array("Q", (index for index, size in zip(shared, sizes, strict=True) if size > SAMPLE_BYTES))
    if not alike:
        return found
    rest = array("Q", (nodeids[index] for index in alike))
    rest_bytes = sum(size for size in sizes if size > SAMPLE_BYTES)
    files_before, bytes_before = samples.files_done - len(rest), samples.bytes_done - rest_bytes

    def on_whole(files_done: int, bytes_done: int) -> None:
        on_progress(files_before + files_done, bytes_before + bytes_done)

    work = Work("bytes", DIGEST_BYTES, rest, files, cache, on_progress=on_whole, stop=stop)
    whole = _hash_all(work, _hash_whole, files, rest_bytes // len(rest))
    for place, index in enumerate(alike):
        digest = whole[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
        found[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest
    return found


def signatures(
    nodeids: Sequence[int], files: Files, cache: VerdictCache, *, on_progress: OnProgress, stop: threading.Event
) -> bytearray:
    """One byte for each file, in order: BEGINS_AS_IMAGE, or BEGINS_OTHERWISE.

    0 for a file that cannot be read or is not what was frozen, and for what is not done when `stop` is set.
    """
    work = Work(f"signature/{SIGNATURES_REVISION}", 1, nodeids, files, cache, on_progress=on_progress, stop=stop)
    return _hash_all(work, _read_signature, files, HEAD_BYTES)


def _read_signature(fd: int, size: int, _work: Work) -> bytes | None:
    head = os.pread(fd, HEAD_BYTES, 0)
    if len(head) < min(size, HEAD_BYTES):
        return None
    return bytes([BEGINS_AS_IMAGE if begins_as_image(head) else BEGINS_OTHERWISE])


def _shared(found: bytearray) -> Iterator[int]:
    """The indices of digests that are there more than once, or seem to be: the first half of each is compared."""
    halves = array("Q", bytes(found))[:: DIGEST_BYTES // 8]
    shared = {half for half, next_half in itertools.pairwise(sorted(halves)) if half == next_half}
    shared.discard(0)
    return (index for index, half in enumerate(halves) if half in shared)


def _hash_sample(fd: int, size: int, _work: Work) -> bytes | None:
    length = min(size, SAMPLE_BYTES)
    sample = os.pread(fd, length, (size - length) // 2)
    if len(sample) < length:
        return None
    return blake3(sample + size.to_bytes(_SIZE_BYTES, "little"), key=_SAMPLE_FAMILY).digest(DIGEST_BYTES)


def _hash_whole(fd: int, size: int, work: Work) -> bytes | None:
    if size <= SMALL_BYTES:
        content = os.pread(fd, size, 0)
        return blake3(content).digest(DIGEST_BYTES) if len(content) == size else None
    hasher, offset = blake3(), 0
    with memoryview(bytearray(min(size, PIECE_BYTES))) as piece:
        while offset < size and not work.is_stopped:
            got = os.preadv(fd, [piece[: size - offset]], offset)
            if got == 0:
                break
            hasher.update(piece[:got])
            offset += got
    return hasher.digest(DIGEST_BYTES) if offset == size else None


# -- all files, on all cores -------------------------------------------------------------------------------------------


def _hash_all(work: Work, hash_source: Hash, files: Files, mean_bytes: int) -> bytearray:
    """What `hash_source` says of each file, of which it reads `mean_bytes`."""
    threads = min(len(os.sched_getaffinity(0)), 1 + mean_bytes // THREAD_BYTES)
    with work, ThreadPoolExecutor(max(threads, MAX_WAITING_THREADS), thread_name_prefix="hash") as pool:
        try:
            running = {pool.submit(_hash_packs, work, hash_source, files) for _ in range(threads)}
            while running:
                wall_s, cpu_s = time.monotonic(), time.process_time()
                done, running = wait(running, PROGRESS_INTERVAL_S)
                for each in done:
                    each.result()
                work.tick()
                is_waiting = (time.process_time() - cpu_s) / (time.monotonic() - wall_s) < BUSY
                if running and is_waiting and len(running) < MAX_WAITING_THREADS:
                    running |= {pool.submit(_hash_packs, work, hash_source, files) for _ in range(len(running))}
        except BaseException:  # Ctrl-C, too
            work.abandon()
            raise
    return work.verdicts


def _hash_packs(work: Work, hash_source: Hash, files: Files) -> None:
    for pack in work.packs():
        begun_ns = time.time_ns()
        hashed = [_hashed(job, hash_source, files, work) for job in pack if not work.is_stopped]
        work.note([job for job, _ in hashed], [digest for _, digest in hashed], begun_ns=begun_ns)


def _hashed(job: Job, hash_source: Hash, files: Files, work: Work) -> tuple[Job, bytes | None]:
    """A file's digest, and the key that it has now."""
    index, nodeid, key, identity = job
    try:
        fd = files.open(nodeid)
        try:
            digest = hash_source(fd, identity.size, work)
            found = verified(files.found(fd), identity, key)
        finally:
            os.close(fd)
        if found is not None:
            return (index, nodeid, found, identity), digest
        log.debug("no digest of node %d: it has changed", nodeid)
    except OSError as error:
        log.debug("no digest of node %d: %s", nodeid, error)
    return job, None
