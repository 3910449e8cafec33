"""What begins as an image does: images that Pillow writes do, and what only resembles them does not."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from symfuse.identity.signature import HEAD_BYTES, begins_as_image


def written(form: str, mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", "RGB"), ("PNG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("BMP", "1"), ("WEBP", "RGB")),
        *(("TIFF", "RGB"), ("PPM", "RGB"), ("PPM", "L"), ("PPM", "1"), ("JPEG2000", "RGB"), ("AVIF", "RGB")),
    ],
)
def test_what_pillow_writes_begins_as_an_image(form: str, mode: str) -> None:
    assert begins_as_image(written(form, mode)[:HEAD_BYTES])


def test_variants_of_formats_are_known() -> None:
    assert begins_as_image(written("WEBP", "RGB", lossless=True)[:HEAD_BYTES])
    assert begins_as_image(written("TIFF", "RGB", big_tiff=True)[:HEAD_BYTES])
    assert begins_as_image(written("JPEG2000", "RGB", no_jp2=True)[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head",
    [
        b"MM\0*\0\0\0\x08",
        b"MM\0+\0\x08\0\0",
        b"P7\nWIDTH 8\n",
        b"P1 1 1 0",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x20ftypavis\0\0\0\0avis",
    ],
)
def test_formats_that_pillow_does_not_write_are_known(head: bytes) -> None:
    assert begins_as_image(head)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"B",
        b"BM",
        b"BMW 320i, 1987, sedan, automatic",
        b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(14),  # pixels in the middle of the headers
        b"P1",
        b"P6x",
        b"P8 1 1",
        b"PK\x03\x04",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"RIFF\x24\0\0\0WEBPwords",
        b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
        b"GIF is a format",
        b"II* is a name",
        b"\x93NUMPY\x01\0",
        b"0 0.5 0.5 0.1 0.1\n",
        b'{"label": "P1 "}',
    ],
)
def test_what_only_resembles_an_image_is_none(head: bytes) -> None:
    assert not begins_as_image(head)
