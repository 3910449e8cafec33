"""Which store links lead into, and whether it is there: an empty directory is left where nothing is mounted."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator

from symfuse import mountinfo
from symfuse.dataset import Dataset

FSTAB = "/etc/fstab"


def absent_store(dataset: Dataset, directory: bytes, name: bytes) -> str | None:
    """Why a dangling link may dangle: one line about the store that it leads into, if that seems not to be mounted."""
    with _calling(dataset):
        target = os.path.realpath(os.path.join(directory, name))
        expected = _not_mounted(target)
        if expected is not None:
            return f"{os.fsdecode(expected)} is in {FSTAB}, and nothing is mounted there"
        deepest = os.path.dirname(target)
        while not os.path.isdir(deepest):
            deepest = os.path.dirname(deepest)
        with contextlib.suppress(OSError):
            if dataset.links.may_show(deepest) and dataset.is_empty(deepest):
                return f"{os.fsdecode(deepest)} is empty: is it mounted?"
    return None


def common_store(dataset: Dataset, links: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The innermost directory that all of these links (directory and name) lead into, unless that is the root."""
    with _calling(dataset):
        targets = [os.path.realpath(os.path.join(directory, name)) for directory, name in links]
    found = os.path.commonpath([os.path.dirname(target) for target in targets]) if targets else b"/"
    return None if found == b"/" else found


@contextlib.contextmanager
def _calling(dataset: Dataset) -> Iterator[None]:
    """A path that leads into our own mount is refused by it, see `Dataset.callers`."""
    thread = threading.get_native_id()
    dataset.callers.add(thread)
    try:
        yield
    finally:
        dataset.callers.discard(thread)


def _not_mounted(path: bytes) -> bytes | None:
    """The mountpoint in fstab that a path lies below, if nothing is mounted there."""
    mounted = {entry.mountpoint for entry in mountinfo.mounts()}
    expected = (each for each in _fstab() if mountinfo.is_within(path, each))
    return next((each for each in expected if each not in mounted), None)


def _fstab() -> list[bytes]:
    """The mountpoints in fstab. Source: fstab(5)."""
    with contextlib.suppress(OSError), open(FSTAB, "rb") as file:
        lines = (line.split() for line in file if not line.lstrip().startswith(b"#"))
        found = (mountinfo.unescape(fields[1]) for fields in lines if len(fields) > 1)
        return [path for path in found if path.startswith(b"/")]
    return []
