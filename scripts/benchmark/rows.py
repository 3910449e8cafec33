"""What is measured: one row of the table each, and the groups of rows that share a fresh mount."""

from __future__ import annotations

from dataclasses import dataclass

#: The states of the caches before a measurement.
FRESH = "fresh mount, source in the page cache"
DISK = "fresh mount, all caches dropped"
AGAIN = "again on the same mount"
#: As the table shows them.
CONDITIONS = (FRESH, AGAIN, DISK)


@dataclass(frozen=True)
class Row:
    """One thing that is measured of every contender, in this unit; less is better.

    A row that is `absolute` has no ratio: the links have no server.
    """

    key: str
    title: str
    condition: str
    unit: str
    absolute: bool = False


def _reads() -> list[Row]:
    rows = []
    for how, called in (("os", "os.open"), ("python", "Python open")):
        for processes in (1, 4, 8):
            readers = "1 process" if processes == 1 else f"{processes} processes"
            rows.append(Row(f"cold-{how}-{processes}", f"read, {called}, {readers}", FRESH, "µs/file"))
            rows.append(Row(f"warm-{how}-{processes}", f"read, {called}, {readers}", AGAIN, "µs/file"))
    return rows


ROWS = {
    row.key: row
    for row in (
        Row("walk-first", "os.walk", FRESH, "µs/file"),
        Row("walk-second", "os.walk", AGAIN, "µs/file"),
        Row("stat-first", "scandir and stat", FRESH, "µs/file"),
        Row("stat-second", "scandir and stat", AGAIN, "µs/file"),
        *_reads(),
        Row("cold-shuffled", "read, os.open, shuffled", FRESH, "µs/file"),
        Row("disk-listing", "read, os.open, listing order", DISK, "µs/file"),
        Row("disk-shuffled", "read, os.open, shuffled", DISK, "µs/file"),
        Row("keras-index", "Keras flow_from_directory, indexing", FRESH, "µs/file"),
        Row("keras-epoch", "Keras flow_from_directory, epoch", AGAIN, "µs/file"),
        Row("tf-epoch", "image_dataset_from_directory, epoch", AGAIN, "µs/file"),
        Row("large-first", "large files, 1 MiB at a time", FRESH, "µs/MiB"),
        Row("large-second", "large files, 1 MiB at a time", AGAIN, "µs/MiB"),
        Row("large-disk", "large files, 1 MiB at a time", DISK, "µs/MiB"),
        Row("cpu-cold", "processor time of client and server, os.open", FRESH, "ms/1,000 files"),
        Row("cpu-warm", "processor time of client and server, os.open", AGAIN, "ms/1,000 files"),
        Row("ready", "from the command to the first listing", FRESH, "ms", absolute=True),
        Row("memory-ready", "resident memory of the server, when ready", FRESH, "MB", absolute=True),
        Row("memory-read", "resident memory of the server, all listed, read for 5 s", AGAIN, "MB", absolute=True),
        Row("server-cpu-cold", "processor time of the server, os.open", FRESH, "ms/1,000 files", absolute=True),
        Row("server-cpu-warm", "processor time of the server, os.open", AGAIN, "ms/1,000 files", absolute=True),
        Row("requests-walk-first", "requests, os.walk", FRESH, "per file", absolute=True),
        Row("requests-walk-second", "requests, os.walk", AGAIN, "per file", absolute=True),
        Row("requests-stat-second", "requests, scandir and stat", AGAIN, "per file", absolute=True),
        Row("requests-cold", "requests, read, os.open", FRESH, "per file", absolute=True),
        Row("requests-warm-os", "requests, read, os.open", AGAIN, "per file", absolute=True),
        Row("requests-warm-python", "requests, read, Python open", AGAIN, "per file", absolute=True),
    )
}

#: What `--quick` measures.
QUICK = (
    *("walk-first", "walk-second", "stat-first", "stat-second", "cold-os-1", "warm-os-1", "warm-python-1"),
    *("keras-epoch", "tf-epoch", "large-first", "large-second", "cpu-cold", "ready", "memory-read"),
    *("requests-cold", "requests-warm-os", "requests-warm-python"),
)
