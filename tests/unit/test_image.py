"""One file decoded: which files are broken."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image, ImageFile
from skimage import data

from symfuse.identity import image
from symfuse.identity.reason import Reason, Words, is_finding
from symfuse.identity.sniff import format_of, what_else
from symfuse.identity.verdict import NO_DIGEST, Verdict, finding
from tests.support.encoding import chunk, encoded, png

RGB = Image.fromarray(data.astronaut()[100:164, 180:260])  # type: ignore[no-untyped-call]

#: A worker ignores warnings, of large images for one.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    """As a worker is."""
    with warnings.catch_warnings():
        image.prepare()
        yield


def examined(content: bytes) -> tuple[Verdict, bytes]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        found = image.examine(file.fileno())
    assert is_finding(found)
    verdict = Verdict(found[0])
    assert verdict not in {Verdict.OK, Verdict.RARE} or found[1:] != NO_DIGEST
    return verdict, found[1:]


def reason(content: bytes) -> str:
    """Why it is broken."""
    words = Words()
    verdict, rest = examined(content)
    assert verdict in {Verdict.BROKEN, Verdict.NOT_AN_IMAGE}
    packed = words.packed(bytes([verdict]) + rest)
    assert packed is not None
    return words.sentence(packed)


# -- what is broken ----------------------------------------------------------------------------------------------------

JPEG = encoded(RGB, "JPEG", quality=80)
PROGRESSIVE = encoded(RGB, "JPEG", quality=80, progressive=True)
PNG = encoded(RGB)


def cuts(content: bytes, *, until: int) -> list[bytes]:
    """The content cut at some 40 lengths, from nothing on."""
    return [content[:length] for length in range(0, until, until // 40)]


@pytest.mark.parametrize("content", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_cut_anywhere_is_broken(content: bytes) -> None:
    verdicts = [examined(cut)[0] for cut in cuts(content, until=len(content) - 2)]
    begin = verdicts.index(Verdict.BROKEN)
    assert set(verdicts[:begin]) == {Verdict.NOT_AN_IMAGE}  # not even its header is whole
    assert set(verdicts[begin:]) == {Verdict.BROKEN}
    assert begin < len(verdicts) / 2


def test_a_png_cut_anywhere_is_broken() -> None:
    empty, *others = [examined(cut)[0] for cut in cuts(PNG, until=len(PNG) - 16)]
    assert empty is Verdict.NOT_AN_IMAGE
    assert set(others) == {Verdict.BROKEN}


@pytest.mark.parametrize("form", ["GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_half_a_file_of_any_format_does_not_load(form: str) -> None:
    content = encoded(RGB, form)
    assert examined(content[: len(content) // 2])[0] in {Verdict.BROKEN, Verdict.NOT_AN_IMAGE}


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    middle = len(PNG) // 2
    assert examined(PNG[:middle] + bytes([PNG[middle] ^ 1]) + PNG[middle + 1 :])[0] is Verdict.BROKEN


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"<html>404</html>",
        b"BMW, Audi and others. A text that begins like a bitmap.",
        b"P1 is the first of three. A text that begins like a bitmap, too.",
        b"II*\0 or not, this is no TIFF",
        b"\0\0\2\0" + bytes(14) + b" what Pillow would take for a TGA",
        b"\0\0\1\xba an MPEG stream, which Pillow knows and cannot decode",
        b"\x89HDF\r\n\x1a\n and so on",
        b"\x93NUMPY\x01\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
        PNG[:20],
    ],
)
def test_what_is_no_image_is_said_to_be_none(content: bytes) -> None:
    assert examined(content)[0] is Verdict.NOT_AN_IMAGE


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
def test_an_image_is_known_by_its_content(form: str) -> None:
    assert examined(encoded(RGB, form))[0] is Verdict.OK


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_a_broken_image_is_known_by_its_content(form: str) -> None:
    content = encoded(RGB, form)
    assert examined(content[: len(content) * 3 // 4])[0] is Verdict.BROKEN


def test_of_a_rare_format_the_name_must_say_that_it_is_an_image() -> None:
    assert examined(encoded(RGB, "TGA"))[0] is Verdict.RARE


def test_postscript_is_never_run() -> None:
    """Pillow would hand it to Ghostscript."""
    assert examined(encoded(RGB, "EPS"))[0] is Verdict.NOT_AN_IMAGE


def test_a_header_that_claims_too_much_is_broken_and_costs_nothing() -> None:
    assert examined(png(100_000, 100_000, depth=8, colour=2, rows=bytes(100)))[0] is Verdict.BROKEN


def test_a_compressed_text_that_explodes_is_not_unpacked() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50 << 20)))
    assert examined(png(1, 1, depth=8, colour=0, rows=b"\0\0"))[0] is Verdict.OK
    assert examined(png(1, 1, depth=8, colour=0, rows=b"\0\0", extra=text))[0] is Verdict.NOT_AN_IMAGE


def test_a_photograph_of_100_megapixels_loads() -> None:
    """It is black, as only its size is asked."""
    rows = (b"\0" + bytes(11_600 // 8)) * 8_700
    assert examined(png(11_600, 8_700, depth=1, colour=0, rows=rows))[0] is Verdict.OK


CUT = "the image is truncated"
LINK = "no image: a text that looks like a link unpacked as a file"


@pytest.mark.parametrize(
    ("content", "beginning"),
    [
        (JPEG[: len(JPEG) // 2], f"{CUT} (Pillow: image file is truncated ("),
        (PNG[: len(PNG) // 2], f"{CUT} (Pillow: image file is truncated)"),
        (encoded(RGB, "WEBP")[:-100], f"{CUT}: its file ends too early"),
        (JPEG[:20], "Pillow cannot decode the image: the header of this JPEG is damaged or cut"),
        (encoded(RGB.quantize(16), "GIF")[:-200] + b"\xff" * 200, "Pillow cannot decode the image: broken data stream"),
        (
            png(20_000, 10_000, depth=1, colour=0, rows=b""),
            "the image has 200,000,000 pixels, and Pillow takes no more than 178,956,970",
        ),
        (b"", "no image: the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "no image: a git-lfs pointer"),
        (b"../../store/0036.png", LINK),
        (b"/data/store/0036.png\n", LINK),
        (b"0036.png", LINK),
        ("Bäume/grün".encode(), LINK),
        (b"cat dog", "no image: a text"),
        (b"1/2 0.5\n3/4 0.75\n", "no image: a text"),
        (b"https://example.org/a.png", "no image: a text"),
        (b"<!DOCTYPE html>\n<html>404</html>", "no image: a web page"),
        (b"\n<!-- no --><HTML>404</HTML>", "no image: a web page"),
        (b"<!-- - --> <!---->" * 99 + b"<html>", "no image: a web page"),
        (b"<!---->" * 99 + b"<p>", "no image: a text"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "Pillow does not read SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "Pillow does not read HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "Pillow does not read JPEG XL"),
        (bytes(100), "no image: its content is of no format that is known"),
    ],
)
def test_it_is_said_why_an_image_is_broken(content: bytes, beginning: str) -> None:
    assert reason(content).startswith(beginning)


def test_a_certain_signature_makes_an_image_of_what_pillow_does_not_read() -> None:
    for brand in (b"heic", b"mif2", b"hevm", b"hevs"):
        assert examined(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100))[0] is Verdict.BROKEN
    assert examined(b"8BPS, and then some text")[0] is Verdict.NOT_AN_IMAGE


def test_a_file_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, "bad disk")

    with open("/proc/self/mem", "rb") as unreadable:  # nothing is mapped at its beginning: EIO
        assert image.examine(unreadable.fileno()) == finding(Verdict.UNKNOWN)
    monkeypatch.setattr(os, "pread", pread)
    assert examined(PNG[:-100])[0] is Verdict.UNKNOWN


def test_what_storage_fails_to_read_is_not_taken_for_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes a head that it cannot read for no image's."""
    failures = [OSError(errno.EIO, "bad disk")]

    class Flaky(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            if failures:
                raise failures.pop()
            return super().readinto(buffer)

    monkeypatch.setattr(image, "_File", type("FlakyFile", (image._File, Flaky), {}))
    assert examined(b"no image")[0] is Verdict.UNKNOWN
    assert not failures
    assert examined(b"no image")[0] is Verdict.NOT_AN_IMAGE


def test_a_storage_that_fails_once_breaks_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    load, failures = ImageFile.ImageFile.load, [OSError(errno.EIO, "bad disk")]

    def flaky(image_file: ImageFile.ImageFile) -> Any:
        if failures:
            raise failures.pop()
        return load(image_file)

    monkeypatch.setattr(ImageFile.ImageFile, "load", flaky)
    assert examined(encoded(RGB, "JPEG"))[0] is Verdict.OK


def test_a_decoder_that_ran_out_of_memory_and_calls_it_something_else_is_believed_to_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(_self: Image.Image) -> None:
        raise OSError("unrecognized data stream contents when reading image file")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert examined(PNG)[0] is Verdict.BROKEN
    monkeypatch.setattr("symfuse.identity.image.mmap.mmap", refuse)
    with pytest.raises(MemoryError):
        examined(PNG)


def test_a_large_file_that_is_no_image_is_not_read() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 40)
        assert Verdict(image.examine(file.fileno())[0]) is Verdict.NOT_AN_IMAGE


def test_memory_that_ends_is_told_to_whoever_can_start_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    def tobytes(_self: Image.Image) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "tobytes", tobytes)
    with pytest.raises(MemoryError):
        examined(PNG)


@pytest.mark.parametrize("repeated", [b"<!---->", b"<!--", b" ", b"\n<!-- -->", b"<?xml", b"<!-->"])
def test_no_beginning_of_a_text_takes_long(repeated: bytes) -> None:
    """A million of them: with each way to share them among the parts of a pattern, longer than anybody waits."""
    head = repeated * 1_000_000
    assert format_of(head) is None
    assert what_else(head, len(head)) is Reason.TEXT
