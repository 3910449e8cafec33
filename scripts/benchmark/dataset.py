"""The datasets that are measured: photographs behind links of several forms, large files, and a copy of both.

Everything is made in one directory and can be made again byte for byte.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SEED = 1
MIB = 1 << 20
#: scikit-image's colour photographs that come with its package.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket")
QUALITY = 90
#: Of ten classes one is a linked directory; of ten images in the others, so many are linked in each form.
LINKED_CLASS_EVERY = 10
RELATIVE, ABSOLUTE = 5, 3  # and the rest through a second link
SPLITS = ("train", "val", "test")
TRAIN_OF_TEN, VAL_OF_TEN = 8, 1
STORE_DIRECTORY = 1000

File = tuple[str, int]


@dataclass(frozen=True)
class Shape:
    """What to make. Sizes in bytes; the images have this size on average."""

    files: int = 20_000
    size: int = 18_000
    classes: int = 20
    large_files: int = 4
    large_size: int = 256 * MIB


@dataclass(frozen=True)
class Tree:
    """A dataset of links, the `cp -rL` copy of it, and the list of its files and their sizes."""

    dataset: str
    copy: str
    index: str
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.files)


@dataclass(frozen=True)
class Data:
    """The two datasets of a run."""

    images: Tree
    large: Tree


def make(directory: str, shape: Shape) -> Data:
    """Make both datasets below an empty directory. Errors: OSError; ImportError without scikit-image."""
    images = _tree(directory, "images", list(_images(directory, shape)))
    large = _tree(directory, "large", list(_large(directory, shape)))
    return Data(images, large)


def _tree(directory: str, name: str, files: list[File]) -> Tree:
    """Copy a dataset of links, and write down what is in it, in the order of its paths."""
    dataset, copy, index = (os.path.join(directory, name, what) for what in ("dataset", "copy", "index"))
    subprocess.run(["cp", "-rL", "--", dataset, copy], check=True)  # noqa: S607 - the cp that users have
    files.sort(key=lambda file: os.fsencode(file[0]))
    with open(index, "x", encoding="ascii") as out:
        json.dump(files, out)
    return Tree(dataset, copy, index, tuple(files))


# -- images ------------------------------------------------------------------------------------------------------------


def _images(directory: str, shape: Shape) -> Iterator[File]:
    """Make store and links of the images; yields the path of each in the dataset, and its size."""
    top = os.path.join(directory, "images")
    dataset = os.path.join(top, "dataset")
    sizes = _store(top, shape)
    for number, size in enumerate(sizes):
        shown, stored = shown_as(number, shape), os.path.join(top, stored_as(number, shape))
        path = os.path.join(dataset, shown)
        if is_in_linked_class(number, shape):
            path, stored = os.path.dirname(path), os.path.dirname(stored)
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _link(path, stored, number, top)
        yield shown, size


def _link(path: str, target: str, number: int, top: str) -> None:
    """A link in the form that is this number's."""
    form = number // 3 % 10
    if form < RELATIVE:
        os.symlink(os.path.relpath(target, os.path.dirname(path)), path)
    elif form < RELATIVE + ABSOLUTE:
        os.symlink(target, path)
    else:
        between = os.path.join(top, "named", f"{number // STORE_DIRECTORY:03}", f"{number:07}.jpg")
        os.makedirs(os.path.dirname(between), exist_ok=True)
        os.symlink(os.path.relpath(target, os.path.dirname(between)), between)
        os.symlink(os.path.relpath(between, os.path.dirname(path)), path)


def split_and_class(number: int, shape: Shape) -> tuple[str, int]:
    """Where an image belongs: eight of ten to train, the last two to val and test; the classes in turn."""
    place = number % 10
    split = SPLITS[0] if place < TRAIN_OF_TEN else SPLITS[1] if place < TRAIN_OF_TEN + VAL_OF_TEN else SPLITS[2]
    return split, number // 10 % shape.classes


def is_in_linked_class(number: int, shape: Shape) -> bool:
    """Whether this image's whole class is one link to a directory."""
    return split_and_class(number, shape)[1] % LINKED_CLASS_EVERY == LINKED_CLASS_EVERY - 1


def shown_as(number: int, shape: Shape) -> str:
    """The path of an image in the dataset."""
    split, label = split_and_class(number, shape)
    return os.path.join(split, f"class{label:03}", f"{number:07}.jpg")


def stored_as(number: int, shape: Shape) -> str:
    """The path of an image's one real file, beside the dataset."""
    if is_in_linked_class(number, shape):
        split, label = split_and_class(number, shape)
        return os.path.join("store", "classes", f"{split}{label:03}", f"{number:07}.jpg")
    return os.path.join("store", f"{number // STORE_DIRECTORY:03}", f"{number:07}.jpg")


def _store(top: str, shape: Shape) -> list[int]:
    """Write all images with as many processes as there are processors; their sizes in bytes."""
    edge = _edge(shape.size)
    jobs = [(os.path.join(top, stored_as(number, shape)), number, edge) for number in range(shape.files)]
    for directory in {os.path.dirname(path) for path, _, _ in jobs}:
        os.makedirs(directory, exist_ok=True)
    # Spawned, not forked: what runs us may have threads.
    # Ctrl-C reaches them, too, and is for us.
    ignored = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(initializer=signal.signal, initargs=ignored) as pool:
        return pool.starmap(_write_image, jobs, chunksize=256)


def _edge(size: int) -> int:
    """The edge in pixels with which images have about this size on average."""
    edge = 64
    for _ in range(6):  # size grows a little slower than area: a few steps settle it
        mean = sum(len(encoded(number, edge)) for number in range(40)) / 40
        edge = max(8, round(edge * (size / mean) ** 0.5))
    return min(edge, 300)  # the smallest photograph's


def _write_image(path: str, number: int, edge: int) -> int:
    content = encoded(number, edge)
    with open(path, "xb") as file:
        file.write(content)
    return len(content)


def encoded(number: int, edge: int) -> bytes:
    """A JPEG file: a square piece of a photograph, at a place that is this number's; turned, so that no two agree."""
    from PIL import Image  # noqa: PLC0415 - each process loads it once

    chance = random.Random(SEED * 1_000_003 + number)  # noqa: S311 - photographs, not secrets
    photograph = _photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
    height, width = photograph.shape[:2]
    edge = min(edge, height, width)
    top, left = chance.randrange(height - edge + 1), chance.randrange(width - edge + 1)
    piece = Image.fromarray(photograph[top : top + edge, left : left + edge]).rotate(chance.choice((0, 90, 180, 270)))
    out = io.BytesIO()
    # The number goes along as a comment: contents differ even where the same piece was chosen twice.
    piece.save(out, "JPEG", quality=QUALITY, comment=f"{number}".encode())
    return out.getvalue()


_loaded: dict[str, Any] = {}


def _photograph(name: str) -> Any:
    if name not in _loaded:
        from skimage import data  # noqa: PLC0415

        _loaded[name] = getattr(data, name)()
    return _loaded[name]


# -- large files -------------------------------------------------------------------------------------------------------


def _large(directory: str, shape: Shape) -> Iterator[File]:
    """Make the large files and links to them; yields the path of each in the dataset, and its size."""
    top = os.path.join(directory, "large")
    for name in ("store", "dataset"):
        os.makedirs(os.path.join(top, name))
    noise = random.Random(SEED).randbytes(MIB)  # noqa: S311 - incompressible, not secret
    for number in range(shape.large_files):
        name = f"{number:03}.bin"
        with open(os.path.join(top, "store", name), "xb") as file:
            for place in range(0, shape.large_size, MIB):
                block = (number * shape.large_size + place).to_bytes(8, "big") + noise[8:]
                file.write(block[: shape.large_size - place])
        os.symlink(os.path.join("..", "store", name), os.path.join(top, "dataset", name))
        yield name, shape.large_size
