"""One measurement in a process of its own: a task comes as JSON on standard input, the result goes to standard output.

It imports nothing of symfuse, measures only its own work, and checks that it saw what the dataset holds. A result is
what was done (`count`: files, or MiB of large files) in how many seconds, and what processor time that cost this
process; the time of the server is the caller's to know.

Tasks stop when their `budget_s` is used up: slow contenders then answer for fewer files, and the time per file is what
is compared. A task with `at_least_s` repeats itself until then, so that quick ones are no guess.
"""

from __future__ import annotations

import json
import os
import random
import resource
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Task = dict[str, Any]
Result = dict[str, float]
#: Path relative to the root, and size in bytes.
File = tuple[str, int]

#: The same order in every process that shuffles.
SEED = 1
MIB = 1 << 20
BATCH = 32
#: Edge of the images that Keras is asked for, in pixels.
IMAGE_SIZE = 64


class Wrong(Exception):
    """What was seen is not what the dataset holds."""


class Stopwatch:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._cpu_s = _cpu_s()
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def result(self, count: float, *, seconds: float | None = None) -> Result:
        """So much was done by now, or in so many seconds."""
        wall_s = self.seconds if seconds is None else seconds
        return {"seconds": wall_s, "count": count, "cpu_s": _cpu_s() - self._cpu_s}


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def repeated(task: Task, work: Callable[[], int]) -> Result:
    """Do it once, and again until `at_least_s` have passed."""
    watch = Stopwatch()
    count = work()
    while watch.seconds < task.get("at_least_s", 0):
        count += work()
    return watch.result(count)


# -- listing -----------------------------------------------------------------------------------------------------------


def walk(task: Task) -> dict[str, Result]:
    """os.walk over everything."""

    def once() -> int:
        seen = sum(len(files) for _, _, files in os.walk(task["root"], followlinks=True))
        return _all_of(task, seen)

    return {"walk": repeated(task, once)}


def stat_all(task: Task) -> dict[str, Result]:
    """Scandir of every directory, and the attributes of everything in it."""

    def once() -> int:
        seen, directories = 0, [task["root"]]
        while directories:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    if stat.S_ISDIR(entry.stat().st_mode):
                        directories.append(entry.path)
                    else:
                        seen += 1
        return _all_of(task, seen)

    return {"stat": repeated(task, once)}


def first_entry(task: Task) -> dict[str, Result]:
    """The time until the first entry of a directory is there."""
    watch = Stopwatch()
    with os.scandir(task["root"]) as entries:
        next(entries)
        return {"first-entry": watch.result(1)}


def _all_of(task: Task, seen: int) -> int:
    if seen != task["files"]:
        raise Wrong(f"it shows {seen:,} of {task['files']:,} files")
    return seen


# -- reading -----------------------------------------------------------------------------------------------------------


def read_os(path: str, size: int) -> int:
    """The bytes that os.open, os.read and os.close give; one more is asked for than there should be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        got = len(os.read(descriptor, size + 1))
        while got < size and (piece := os.read(descriptor, size - got)):
            got += len(piece)
        return got
    finally:
        os.close(descriptor)


def read_python(path: str, _size: int) -> int:
    """The bytes that Python's own open gives."""
    with open(path, "rb") as file:
        return len(file.read())


READERS = {"os": read_os, "python": read_python}


def read(task: Task) -> dict[str, Result]:
    """Read all files, in listing order or shuffled, with one process or several that share them."""
    files = _files(task)
    if task.get("shuffled"):
        random.Random(SEED).shuffle(files)  # noqa: S311 - an order, not a secret
    processes = task.get("processes", 1)
    if processes == 1:
        watch = Stopwatch()
        count, _, _ = _read_share(task, files, watch.started)
        return {"read": watch.result(count)}
    watch = Stopwatch()
    shares = list(_in_children(task, [files[first::processes] for first in range(processes)]))
    seconds = max(ended for _, _, ended in shares) - min(started for _, started, _ in shares)
    return {"read": watch.result(sum(count for count, _, _ in shares), seconds=seconds)}


def _files(task: Task) -> list[File]:
    with open(task["index"], encoding="ascii") as index:
        files = [(os.path.join(task["root"], path), size) for path, size in json.load(index)]
    return files[: int(task.get("limit") or len(files))]


def _read_share(task: Task, files: list[File], started: float) -> tuple[int, float, float]:
    """Files read, and when that began and ended."""
    reader, count, got, wanted = READERS[task["how"]], 0, 0, 0
    ends = started + task["budget_s"]
    again = started + min(task.get("at_least_s", 0), task["budget_s"])
    now = started
    while count == 0 or now < again:
        for path, size in files:
            got += reader(path, size)
            wanted += size
            count += 1
            now = time.monotonic()
            if now > ends:
                break
        if not files:
            break
    if got != wanted:
        raise Wrong(f"{count:,} files gave {got:,} bytes instead of {wanted:,}")
    return count, started, now


def _in_children(task: Task, shares: list[list[File]]) -> Iterator[tuple[int, float, float]]:
    """Each share read by a child of its own; all begin together, when the gate is closed."""
    gate, closer = os.pipe()
    results, writer = os.pipe()
    children = []
    for share in shares:
        child = os.fork()
        if child == 0:
            os.close(closer)
            os.read(gate, 1)
            try:
                done = json.dumps(_read_share(task, share, time.monotonic()))
            except Exception as error:
                done = json.dumps(f"{error}")
            os.write(writer, done.encode() + b"\n")  # shorter than PIPE_BUF: lines never mix
            os._exit(0)
        children.append(child)
    for descriptor in (gate, closer, writer):
        os.close(descriptor)
    with open(results, encoding="ascii") as lines:
        done_by_all = [json.loads(line) for line in lines]
    for child in children:
        os.waitpid(child, 0)
    for done in done_by_all:
        if isinstance(done, str):
            raise Wrong(done)
        yield done
    if len(done_by_all) != len(shares):
        raise Wrong(f"{len(shares) - len(done_by_all)} of {len(shares)} readers died")


def read_large(task: Task) -> dict[str, Result]:
    """Read large files from beginning to end, a MiB at a time into one buffer; counted in MiB, and at most `mib`."""
    buffer = bytearray(MIB)
    files = _files(task)
    wanted = sum(size for _, size in files)
    most = min(wanted, int(task.get("mib", wanted / MIB) * MIB))
    got, in_time = 0, True
    watch = Stopwatch()
    for path, _ in files:
        descriptor = os.open(path, os.O_RDONLY)
        while got < most and in_time and (piece := os.readv(descriptor, [buffer])):
            got += piece
            in_time = watch.seconds < task["budget_s"]
        os.close(descriptor)
    done = watch.result(got / MIB)
    if in_time and got < most:
        raise Wrong(f"{len(files)} large files gave {got:,} bytes instead of {most:,}")
    return {"read-large": done}


# -- training ----------------------------------------------------------------------------------------------------------


def keras(task: Task) -> dict[str, Result]:
    """Keras' two ways to a directory of images: indexing, and an epoch over what was read once before."""
    import tensorflow as tf  # noqa: PLC0415 - seconds, and only here
    from tensorflow.keras.preprocessing.image import ImageDataGenerator  # noqa: PLC0415

    root = os.path.join(task["root"], "train")
    common = {"batch_size": BATCH, "shuffle": False, "follow_links": True}
    watch = Stopwatch()
    images = ImageDataGenerator().flow_from_directory(root, target_size=(IMAGE_SIZE, IMAGE_SIZE), **common)
    done = {"keras-index": watch.result(images.samples)}
    batches = min(_warmed(images.filepaths, task["budget_s"]) // BATCH, len(images))
    watch = Stopwatch()
    seen = 0
    while seen < batches and watch.seconds < task["budget_s"]:
        next(images)
        seen += 1
    done["keras-epoch"] = watch.result(seen * BATCH)
    dataset = tf.keras.utils.image_dataset_from_directory(
        root, image_size=(IMAGE_SIZE, IMAGE_SIZE), verbose=False, **common
    ).take(batches)
    watch = Stopwatch()
    seen = 0
    for _ in dataset:  # the first pass says how far the time reaches, and builds the pipeline
        seen += 1
        if watch.seconds > task["budget_s"]:
            break
    watch = Stopwatch()
    for _ in dataset.take(seen):
        pass
    done["tf-epoch"] = watch.result(seen * BATCH)
    return done


def _warmed(paths: list[str], budget_s: float) -> int:
    """Read files for so long; how many were read."""
    ends = time.monotonic() + budget_s
    for number, path in enumerate(paths, 1):
        with open(path, "rb") as file:
            file.read()
        if time.monotonic() > ends:
            return number
    return len(paths)


WORK = {
    "walk": walk,
    "stat": stat_all,
    "first-entry": first_entry,
    "read": read,
    "read-large": read_large,
    "keras": keras,
}


def main() -> None:
    """Do the task; one line on standard error and exit status 1 where it cannot be done."""
    task = json.load(sys.stdin)
    # Keras prints what it found to standard output, which carries our result.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        done = WORK[task["work"]](task)
    except (Wrong, OSError, ImportError) as error:
        sys.exit(f"{error}")
    with open(answer, "w", encoding="ascii") as out:
        json.dump(done, out)


if __name__ == "__main__":
    main()
