"""Which images are the same to `--dedup pixels`: what no reader can tell apart."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator

import pytest
from PIL import ImageFile

from symfuse.identity import digest, image
from tests.support.corpus import (
    DEEP,
    DIFFERENT,
    FEW_COLOURS,
    GREY,
    JPEG,
    RGB,
    RGBA,
    SAME,
    TOLD_APART,
    stack,
    with_comment,
)
from tests.support.encoding import digest_of, encoded

#: A worker ignores warnings, of large images for one.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    """As a worker is."""
    with warnings.catch_warnings():
        image.prepare()
        yield


@pytest.mark.parametrize("name", SAME)
def test_one_image(name: str) -> None:
    one, other = SAME[name]
    assert one != other
    assert digest_of(one) == digest_of(other)


def test_different_images() -> None:
    names: dict[bytes, str] = {}
    for name, content in DIFFERENT.items():
        twin = names.setdefault(digest_of(content), name)
        assert twin == name, f"{name} is not {twin}"


@pytest.mark.parametrize("name", TOLD_APART)
def test_what_another_reader_tells_apart(name: str) -> None:
    one, other = TOLD_APART[name]
    assert digest_of(one) != digest_of(other)


def by_its_bytes(content: bytes) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return digest.contents_digest(file.fileno())


@pytest.mark.parametrize(
    "content",
    [
        *(stack("GIF", FEW_COLOURS, GREY), stack("PNG", RGB, GREY.convert("RGB")), stack("TIFF", RGB, GREY)),
        *(*TOLD_APART["16 bits a colour in PNG"], DIFFERENT["lossy WebP"], DIFFERENT["lossless JPEG 2000"]),
        *(encoded(RGB)[:-12], encoded(RGB)[:-12] + b"and no end", encoded(RGB) + b"behind it"),
        *(encoded(RGB, "TGA"), encoded(RGB, "ICO"), DIFFERENT["few colours, in TIFF"]),
    ],
)
def test_what_pillow_may_not_see_all_of_is_compared_by_its_bytes(content: bytes) -> None:
    assert digest_of(content) == by_its_bytes(content)


@pytest.mark.parametrize("name", SAME)
def test_no_digest_of_pixels_is_one_of_bytes(name: str) -> None:
    assert digest_of(SAME[name][0]) != by_its_bytes(SAME[name][0])


def test_of_many_frames_only_the_first_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    load = ImageFile.ImageFile.load

    def counted(image_file: ImageFile.ImageFile) -> object:
        decoded.extend(image_file.tile)
        return load(image_file)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    digest_of(stack("GIF", *(FEW_COLOURS.rotate(angle) for angle in range(0, 360, 10))))
    assert len(decoded) == 1


def test_a_large_image_is_hashed_in_strips_and_is_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [encoded(picture) for picture in (RGB, RGBA, FEW_COLOURS, DEEP)]
    whole = [digest_of(content) for content in pictures]
    monkeypatch.setattr(digest, "STRIP_PIXELS", 250)  # three rows, and one at the end
    assert [digest_of(content) for content in pictures] == whole


def test_the_last_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "STRIP_PIXELS", 250)
    other = RGB.copy()
    other.putpixel((79, 63), (1, 2, 3))
    assert digest_of(encoded(other)) != digest_of(encoded(RGB))


def test_a_jpeg_is_read_to_its_end_without_its_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "PIECE_BYTES", 1000)
    longer = with_comment(with_comment(JPEG, bytes(60_000)), b"\xff\xda is no scan")
    assert digest_of(longer) == digest_of(JPEG)
    assert digest_of(JPEG + b"behind it") != digest_of(JPEG)


def test_a_jpeg_with_anything_between_its_segments_is_compared_by_its_bytes() -> None:
    content = JPEG[:2] + b"\xff" + JPEG[2:]
    assert digest_of(content) == by_its_bytes(content)
