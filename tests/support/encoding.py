"""Images in files as Pillow writes them, and as it cannot."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from typing import Any

from PIL import Image

from symfuse.identity import image
from symfuse.identity.verdict import DIGEST_BYTES, Verdict


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """As Pillow saves it."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of what Pillow cannot write: `rows` are the filtered scan lines, before compression."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def digest_of(content: bytes) -> bytes:
    """By which an image is the same as another, as a worker finds it; in this process."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        found = image.examine(file.fileno())
    assert Verdict(found[0]) in {Verdict.OK, Verdict.RARE}
    return found[1 : 1 + DIGEST_BYTES]
