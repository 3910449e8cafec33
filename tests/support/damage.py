"""Damaged images, the same at every run; and TensorFlow's word on them, from a process that they may end."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Self

from PIL import Image
from skimage import data

from tests.support.encoding import chunk, encoded

RGB = Image.fromarray(data.astronaut()[100:148, 180:240])  # type: ignore[no-untyped-call]
GREY = RGB.convert("L")
RGBA = Image.merge("RGBA", (*RGB.split(), GREY.rotate(180)))
PALETTE = RGB.quantize(16)
BITS = RGB.convert("1")

_EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
_RANDOM = random.Random("rows")


def bmp(width: int, height: int, bits: int, pixels: bytes, *, compression: int = 0, palette: bytes = b"") -> bytes:
    """A BMP as the header says it, whatever its pixels are."""
    at = 14 + 40 + len(palette)
    sizes = (0, 0, len(palette) // 4, 0)
    header = struct.pack("<IiiHHII4I", 40, width, height, 1, bits, compression, len(pixels), *sizes)
    return b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at) + header + palette + pixels


ONE_BIT_BMP = encoded(BITS, "BMP")
RLE8_BMP = bmp(10, 7, 8, b"\n\3\0\0" * 7 + b"\0\1", compression=1, palette=bytes(1024))


def _rows(height: int, stride: int) -> bytes:
    return b"".join(bytes([_RANDOM.randrange(5)]) + _RANDOM.randbytes(stride) for _ in range(height))


def _interlaced(width: int, height: int, bits: int) -> bytes:
    """The rows of the seven passes of a PNG."""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = ((-(-(width - left) // x), -(-(height - top) // y)) for left, top, x, y in steps)
    return b"".join(_rows(rows, (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 < rows)


def png_of(width: int, height: int, form: tuple[int, int, int], rows: bytes, *, extra: bytes = b"") -> bytes:
    """A PNG of so many bits, a colour type, and interlacing."""
    depth, colour, interlacing = form
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlacing))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _in_parts(png: bytes) -> bytes:
    """The same PNG with its image in several chunks, the last one empty."""
    at = png.index(b"IDAT") - 4
    size = int.from_bytes(png[at : at + 4], "big")
    body, part = png[at + 8 : at + 8 + size], size // 3 + 1
    parts = [body[start : start + part] for start in range(0, size, part)]
    return png[:at] + b"".join(chunk(b"IDAT", each) for each in (*parts, b"")) + png[at + 12 + size :]


_ANCILLARY = chunk(b"gAMA", b"\0\0\1\0") + chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", bytes(5))
_TEXTS = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text")) + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"none"))

#: What is damaged: whole files, though not all of them of a kind that TensorFlow takes.
WHOLE = {
    "JPEG": [
        encoded(RGB, "JPEG", quality=80),
        encoded(RGB, "JPEG", progressive=True),
        encoded(GREY, "JPEG", progressive=True, restart_marker_blocks=2),
        encoded(RGB.convert("CMYK"), "JPEG"),
        encoded(RGB, "JPEG", restart_marker_rows=1),
        encoded(RGB, "JPEG", quality=95, subsampling=0, exif=_EXIF, comment=b"text"),
        encoded(RGB.crop((0, 0, 7, 5)), "JPEG", optimize=True),
    ],
    "PNG": [
        *(encoded(picture) for picture in (RGB, GREY, RGBA, PALETTE, BITS)),
        _in_parts(encoded(RGB)),
        png_of(13, 11, (8, 2, 1), _interlaced(13, 11, 24)),
        png_of(3, 2, (1, 0, 1), _interlaced(3, 2, 1)),
        _in_parts(png_of(20, 10, (16, 6, 0), _rows(10, 160))),
        png_of(20, 10, (4, 3, 0), _rows(10, 10), extra=_ANCILLARY),
        png_of(20, 10, (8, 2, 0), _rows(10, 60), extra=_TEXTS),
    ],
    "GIF": [
        encoded(PALETTE, "GIF"),
        encoded(RGB, "GIF"),
        encoded(GREY, "GIF", interlace=0),
        encoded(PALETTE, "GIF", transparency=2),
        encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180), PALETTE.rotate(90)]),
        encoded(PALETTE.crop((0, 0, 5, 4)), "GIF"),
        encoded(BITS, "GIF"),
    ],
    "BMP": [
        *(encoded(picture, "BMP") for picture in (RGB, GREY, RGBA, PALETTE)),
        ONE_BIT_BMP,
        RLE8_BMP,
        bmp(10, -7, 24, bytes(32 * 7)),
        bmp(5, 3, 32, bytes(20 * 3), compression=3),
        bmp(5, 3, 12, bytes(8 * 3)),
    ],
    "WEBP": [
        encoded(RGB, "WEBP"),
        encoded(RGB, "WEBP", lossless=True),
        encoded(RGBA, "WEBP"),
        encoded(RGBA, "WEBP", lossless=True),
        encoded(RGB, "WEBP", exif=_EXIF, xmp=b"text"),
        encoded(RGBA, "WEBP", save_all=True, append_images=[RGBA.rotate(180)]),
    ],
}


def damaged(form: str, count: int) -> Iterator[bytes]:
    """So many damaged files of a format, the same each time."""
    rng = random.Random(form)
    for _ in range(count):
        yield rng.choice(_WAYS[form])(rng, rng.choice(WHOLE[form]))


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _flipped(rng: random.Random, content: bytes) -> bytes:
    return _changed(rng, content, range(rng.choice((1, 1, 2, 5))), len(content))


def _changed(rng: random.Random, content: bytes, times: range, until: int) -> bytes:
    found = bytearray(content)
    for _ in times:
        found[rng.randrange(until)] ^= rng.randrange(1, 256)
    return bytes(found)


def _other_header(rng: random.Random, content: bytes) -> bytes:
    return _changed(rng, content, range(rng.choice((1, 2, 3))), min(64, len(content)))


def _range(rng: random.Random, content: bytes) -> tuple[int, int]:
    begin = rng.randrange(len(content))
    return begin, begin + rng.choice((1, 2, 4, 16, 64, 200))


def _removed(rng: random.Random, content: bytes) -> bytes:
    begin, end = _range(rng, content)
    return content[:begin] + content[end:]


def _doubled(rng: random.Random, content: bytes) -> bytes:
    begin, end = _range(rng, content)
    return content[:end] + content[begin:]


_DAMAGES = (_cut, _flipped, _other_header, _removed, _doubled)


def _with_sums(rng: random.Random, content: bytes) -> bytes:
    """A damaged PNG whose sums are right, so that what is in its chunks matters."""
    content = rng.choice(_DAMAGES)(rng, content)
    found, at = content[:8], 8
    while len(content) >= at + 12 + (size := int.from_bytes(content[at : at + 4], "big")):
        found += chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + size])
        at += 12 + size
    return found + content[at:]


def _with_other_rows(rng: random.Random, content: bytes) -> bytes:
    """A PNG whose image is damaged before it is packed, or behind its end, in chunks of any length."""
    begin, end = content.index(b"IDAT") - 4, content.rindex(b"IEND") - 4
    packed, at = b"", begin
    while at < end:
        size = int.from_bytes(content[at : at + 4], "big")
        packed += content[at + 8 : at + 8 + size]
        at += 12 + size
    if rng.random() < 0.5:
        packed = zlib.compress(rng.choice(_DAMAGES)(rng, zlib.decompress(packed)))
    else:
        packed = packed[: -rng.randrange(1, 8)] + rng.randbytes(rng.choice((0, 0, 9)))
    part = rng.choice((len(packed), len(packed) // 2 + 1, 7))
    parts = (packed[start : start + part] for start in range(0, len(packed), part))
    return content[:begin] + b"".join(chunk(b"IDAT", each) for each in parts) + content[end:]


_WAYS: dict[str, tuple[Callable[[random.Random, bytes], bytes], ...]] = {
    **dict.fromkeys(WHOLE, _DAMAGES),
    "PNG": (*_DAMAGES, *[_with_sums] * 5, *[_with_other_rows] * 3),
}

_PROGRAM = """
import sys
import tensorflow as tf

out = sys.stdout.buffer
while size := sys.stdin.buffer.read(4):
    content = sys.stdin.buffer.read(int.from_bytes(size, "little"))
    try:
        tf.io.decode_image(content)
        said = ""
    except tf.errors.OpError as error:
        said = error.message
    out.write(b"taken\\n" if not said else b"refused: " + repr(said).encode() + b"\\n")
    out.flush()
"""


class TensorFlow:
    """`tf.io.decode_image` in a process of its own."""

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def says(self, content: bytes) -> str:
        """`taken`, or why it is not."""
        try:
            self._stdin.write(len(content).to_bytes(4, "little") + content)
            self._stdin.flush()
            said = self._stdout.readline()
        except OSError:
            said = b""
        if said:
            return said.decode().strip()
        self._end()
        self._start()
        return "refused: the process ended"

    def _start(self) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
