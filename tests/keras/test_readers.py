"""What `--dedup pixels` calls the same is the same to other readers: Pillow, OpenCV, tifffile, TensorFlow."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageSequence

from symfuse.identity import image
from tests.support.corpus import DIFFERENT, FEW_COLOURS, RGB, SAME, TOLD_APART, TWO_COLOURS, variants
from tests.support.encoding import digest_of, encoded

#: What a reader makes of a file: None if it cannot read it.
Reader = Callable[[bytes], Any]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    """As a worker is."""
    with warnings.catch_warnings():
        image.prepare()
        yield


def by_pillow(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as picture:
        said = picture.getexif().get(274, 1), str(picture.info.get("transparency")), str(picture.info.get("sizes"))
        mode, palette = picture.mode.replace("I;16B", "I;16"), picture.getpalette()
        return [np.asarray(frame) for frame in ImageSequence.Iterator(picture)], mode, palette, said


def by_opencv(content: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def by_tifffile(content: bytes) -> Any:
    if content[:2] not in {b"II", b"MM"}:
        return None
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        return [series.asarray() for series in file.series], len(file.pages), file.pages.first.colormap


@pytest.fixture
def readers(tf: Any) -> dict[str, Reader]:
    """By their names."""

    def by_tensorflow(content: bytes) -> Any:
        if b"ANIM" in content[:64]:
            return None  # TensorFlow 2.21 ends the process: a check of its own fails
        return tf.io.decode_image(content).numpy()

    return {"Pillow": by_pillow, "OpenCV": by_opencv, "tifffile": by_tifffile, "TensorFlow": by_tensorflow}


def read(reader: Reader, content: bytes) -> Any:
    try:
        return reader(content)
    except Exception:  # each has its own for what it cannot read
        return None


def found(content: bytes) -> bytes | None:
    """The digest of what may be broken."""
    try:
        return digest_of(content)
    except AssertionError:
        return None


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(np.array_equal(one, other)) and np.asarray(one).shape == np.asarray(other).shape


def disagreements(readers: dict[str, Reader], files: dict[str, bytes]) -> tuple[list[str], dict[str, int]]:
    """Which reader tells apart what is called the same; and how many pairs each has read."""
    groups: dict[bytes, list[str]] = {}
    for name, content in files.items():
        groups.setdefault(digest_of(content), []).append(name)
    told_apart, compared = [], dict.fromkeys(readers, 0)
    for names in groups.values():
        for who, reader in readers.items():
            seen = {name: read(reader, files[name]) for name in names}
            for one, other in itertools.combinations([name for name in names if seen[name] is not None], 2):
                compared[who] += 1
                if not equal(seen[one], seen[other]):
                    told_apart.append(f"{who} tells apart: {one}, and {other}")
    return told_apart, compared


def corpus() -> dict[str, bytes]:
    """All files of the pairs that are and are not the same, and every image in every way to store it."""
    pairs = {**SAME, **TOLD_APART}
    files = {f"{name}, {place}": content for name, both in pairs.items() for place, content in enumerate(both)}
    return {**files, **DIFFERENT, **variants()}


def test_no_reader_tells_apart_what_is_called_the_same(readers: dict[str, Reader]) -> None:
    told_apart, compared = disagreements(readers, corpus())
    assert not told_apart
    # The corpus has hundreds of pairs that are the same, and each reader takes its part of them.
    assert compared["Pillow"] > 1000
    assert min(compared.values()) > 500, compared


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(RGB.crop((0, 0, 9, 5)), form) for form in ("PNG", "BMP", "TIFF")),
        encoded(TWO_COLOURS.crop((0, 0, 9, 5)), "TIFF"),
        encoded(FEW_COLOURS.crop((0, 0, 9, 5)), "GIF"),
    ],
    ids=["PNG", "BMP", "TIFF", "TIFF of 1 bit", "GIF"],
)
def test_no_reader_notices_a_flipped_bit_that_makes_no_other_image(readers: dict[str, Reader], content: bytes) -> None:
    files = {"whole": content}
    for place, bit in itertools.product(range(len(content)), (0x01, 0x80)):
        flipped = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        if found(flipped) == found(content):
            files[f"bit {bit:#x} of byte {place}"] = flipped
    assert len(files) > 10
    for who, reader in readers.items():
        whole = read(reader, content)
        for name, flipped in files.items():
            seen = read(reader, flipped)
            assert whole is None or seen is None or equal(whole, seen), f"{who} notices {name}"


@pytest.mark.parametrize("name", TOLD_APART)
def test_some_reader_tells_apart_what_is_not_called_the_same(readers: dict[str, Reader], name: str) -> None:
    one, other = TOLD_APART[name]
    seen = {who: (read(reader, one), read(reader, other)) for who, reader in readers.items()}
    assert [who for who, (first, second) in seen.items() if not equal(first, second)]
