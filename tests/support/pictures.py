"""Small images, a dataset of them with what dedup is about, and what a mount of it shows."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.support.mounting import MYSELF, WAYS, Run
from tests.support.trees import Entry, Name, link


@functools.cache
def picture(number: int, form: str = "PNG") -> bytes:
    """An image of 8 by 8 pixels, the same for the same number in whatever form without loss."""
    file = io.BytesIO()
    Image.frombytes("RGB", (8, 8), bytes((number + place) % 256 for place in range(192))).save(file, form)
    return file.getvalue()


A, B, C, D = (picture(number) for number in range(4))
A_AS_BMP = picture(0, "BMP")
CUT = A[:45]


def shown(root: Path | str) -> list[str]:
    """The files of a tree by their paths in it, in order."""
    found = [os.path.relpath(os.path.join(top, name), root) for top, _, names in os.walk(root) for name in names]
    return sorted(found)


#: A is twice in train/cat, a conflict in train and a leak to val; C is a leak alone.
SPLITS: dict[Name, Entry] = {
    "train": {"cat": {"1.png": A, "2.png": link("1.png"), "3.png": B}, "dog": {"4.png": A, "5.png": C}},
    "val": {"cat": {"6.png": A, "7.png": A_AS_BMP}, "dog": {"8.png": C}},
}


@contextmanager
def mounted_at(dataset: Path, mountpoint: Path, *options: str, backend: str = "kernel") -> Iterator[Run]:
    """Mounted by the command, for what it says; else `symfuse_mount` is the better choice."""
    done = MYSELF.symfuse("mount", *WAYS[backend], *options, "--", dataset, mountpoint)
    try:
        yield done
    finally:
        MYSELF.symfuse("umount", "--", mountpoint)
