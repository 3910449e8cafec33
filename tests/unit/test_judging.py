"""For whom a file is broken, and why: tests/keras/test_judge.py asks the real TensorFlow whether that is so."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.dataset import Dataset
from symfuse.identity import judging, tensorflow
from symfuse.identity.reason import Words
from symfuse.identity.tensorflow.refused import Refused
from symfuse.identity.verdict import DIGEST_BYTES, FINDING_BYTES, NO_DIGEST, Verdict
from symfuse.policy import BrokenImages, Dedup, Judge, Kind, Policy, SameBy
from symfuse.selection import select
from symfuse.view import View
from tests.support.damage import ONE_BIT_BMP, RGB, RGBA, RLE8_BMP, WHOLE
from tests.support.encoding import encoded, png
from tests.support.trees import Entry, Name, tree

JPEG, PNG, GIF, BMP, WEBP = (encoded(RGB, form) for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP"))
TIFF = encoded(RGB, "TIFF")
#: More than Pillow takes, and one bit each.
LARGE = png(20_000, 10_000, depth=1, colour=0, rows=bytes(2501 * 10_000))

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    """As a worker is."""
    with warnings.catch_warnings():
        judging.prepare()
        yield


def examined(content: bytes, judge: Judge) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return judging.examine(file.fileno(), judge)


def verdict(content: bytes, judge: Judge) -> Verdict:
    return Verdict(examined(content, judge)[0])


def reason(content: bytes, judge: Judge) -> str:
    """Why it is broken, empty where it is not."""
    said, words = examined(content, judge), Words()
    packed = words.packed(said)
    assert packed is not None
    return words.sentence(packed) if said[0] in {Verdict.BROKEN, Verdict.NOT_AN_IMAGE} else ""


#: What each judge says of a file: nothing for one that it takes.
SAID = {
    "JPEG": (JPEG, "", ""),
    "PNG": (PNG, "", ""),
    "GIF": (GIF, "", ""),
    "BMP": (BMP, "", ""),
    "WebP": (WEBP, "", ""),
    "TIFF": (TIFF, "", "TensorFlow does not read TIFF"),
    "PPM": (encoded(RGB, "PPM"), "", "TensorFlow does not read PPM"),
    "JPEG 2000": (encoded(RGB, "JPEG2000"), "", "TensorFlow does not read JPEG 2000"),
    "ICO": (encoded(RGB, "ICO"), "", "TensorFlow does not read ICO"),
    "TGA": (encoded(RGB, "TGA"), "", "TensorFlow does not read TGA"),
    "BMP of 1 bit": (ONE_BIT_BMP, "", "TensorFlow cannot decode the image: a BMP of 1 bit per pixel"),
    "BMP in RLE8": (RLE8_BMP, "", "TensorFlow cannot decode the image: a BMP in RLE8 compression"),
    "BMP with more behind it": (
        BMP + b"\0",
        "",
        "TensorFlow cannot decode the image: a BMP that should have 8694 bytes",
    ),
    "200 megapixels": (LARGE, "the image has 200,000,000 pixels, and Pillow takes no more than 178,956,970", ""),
    "animated WebP without alpha": (
        encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)]),
        "",
        "TensorFlow cannot decode the image: an animated WebP without alpha",
    ),
    "animated WebP with alpha": (encoded(RGBA, "WEBP", save_all=True, append_images=[RGBA.rotate(90)]), "", ""),
    "cut JPEG": (
        JPEG[: len(JPEG) // 2],
        "the image is truncated (Pillow: image file is truncated",
        "the image is truncated (TensorFlow: a JPEG that ends too early)",
    ),
    "text": (b"cat dog", "no image: a text", "no image: a text"),
    "text that begins as a BMP": (b"BMW, Audi and others make cars", "no image: a text", "no image: a text"),
    "HEIC": (
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "Pillow does not read HEIC",
        "TensorFlow does not read HEIC",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_each_judge_says_why_it_does_not_take_a_file(name: str) -> None:
    content, pillows, tensorflows = SAID[name]
    for judge, expected in (
        (Judge.PILLOW, pillows),
        (Judge.TENSORFLOW, tensorflows),
        (Judge.BOTH, pillows or tensorflows),
    ):
        said = reason(content, judge)
        assert bool(said) == bool(expected)
        assert said.startswith(expected)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    """A TIFF that is called a JPEG, a PPM that is called a PNG, and a PNG that is called a JPEG."""
    root = tree(tmp_path / "dataset", {"png.jpg": PNG, "ppm.png": encoded(RGB, "PPM"), "tiff.jpg": TIFF, "tiff": TIFF})
    policy = Policy(broken_images=BrokenImages.HIDE, judge=Judge.TENSORFLOW)
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    assert [entry.path for entry in view.hidden_entries()] == [b"ppm.png", b"tiff", b"tiff.jpg"]
    assert {entry.kind for entry in view.hidden_entries()} == {Kind.BROKEN}
    view.close()


def test_judges_do_not_share_verdicts(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a.png": PNG, "large.png": LARGE, "one.bmp": ONE_BIT_BMP})
    hidden = {}
    for judge in (*Judge, *Judge):
        policy = Policy(broken_images=BrokenImages.HIDE, judge=judge)
        view = View(Dataset(os.fsencode(root), policy))
        view.freeze_all()
        select(view, policy, on_work=lambda _work: None, stop=threading.Event())
        hidden[judge] = [entry.path for entry in view.hidden_entries()]
        view.close()
    assert hidden == {
        Judge.PILLOW: [b"large.png"],
        Judge.TENSORFLOW: [b"one.bmp"],
        Judge.BOTH: [b"large.png", b"one.bmp"],
    }


def test_what_tensorflow_takes_and_pillow_does_not_is_compared_by_its_bytes(tmp_path: Path) -> None:
    assert examined(LARGE, Judge.TENSORFLOW) == bytes([Verdict.OK]) + NO_DIGEST
    root = tree(tmp_path / "dataset", {"1.png": LARGE, "2.png": LARGE})
    policy = Policy(dedup=Dedup(SameBy.PIXELS), broken_images=BrokenImages.HIDE, judge=Judge.TENSORFLOW)
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    assert [(entry.kind, entry.path) for entry in view.hidden_entries()] == [(Kind.DUPLICATE, b"2.png")]
    view.close()


def test_what_all_take_has_one_digest_for_all() -> None:
    found = {examined(PNG, judge) for judge in Judge}
    assert len(found) == 1
    assert len(found.pop()) == FINDING_BYTES == 1 + DIGEST_BYTES


def test_a_large_file_of_no_format_that_tensorflow_knows_is_not_read() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 40)
        assert judging.examine(file.fileno(), Judge.TENSORFLOW)[0] == Verdict.NOT_AN_IMAGE


@pytest.mark.parametrize("judge", [Judge.TENSORFLOW, Judge.BOTH])
def test_what_storage_fails_to_read_is_unknown(monkeypatch: pytest.MonkeyPatch, judge: Judge) -> None:
    def fail(_fd: int) -> Iterator[bytes]:
        raise OSError
        yield b""

    monkeypatch.setattr(judging, "pieces", fail)
    assert verdict(PNG, judge) is Verdict.UNKNOWN


def test_a_confined_worker_judges_as_this_process_does(tmp_path: Path) -> None:
    """What is imported late could not be loaded there, and no file of a damaged one be read again."""
    whole = {f"{form}{number}.jpg": content for form in WHOLE for number, content in enumerate(WHOLE[form])}
    names = whole | {f"cut {name}": content[: len(content) * 2 // 3] for name, content in whole.items()}
    entries: dict[Name, Entry] = dict(names.items())
    root = tree(tmp_path / "dataset", entries)
    policy = Policy(broken_images=BrokenImages.HIDE, judge=Judge.TENSORFLOW)
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    found = {os.fsdecode(entry.path): entry.reason for entry in view.hidden_entries()}
    said = {name: reason(content, Judge.TENSORFLOW) for name, content in names.items()}
    assert found == {name: why for name, why in said.items() if why}
    assert not view.progress().findings
    assert 20 < len(found) < len(names)
    view.close()


def test_a_gif_that_would_take_too_long_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no verdict on the file."""
    monkeypatch.setattr("symfuse.identity.tensorflow.gif._MAX_BYTES", len(GIF) - 1)
    assert verdict(GIF, Judge.TENSORFLOW) is Verdict.UNKNOWN
    assert verdict(GIF, Judge.PILLOW) is Verdict.OK


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * 10_000_000,
        b"\xff\xd8" + b"\xff" * 10_000_000 + b"\0",
        b"RIFF" + struct.pack("<I", 1 << 23) + b"WEBPVP8X\x0a\0\0\0" + bytes(10) + b"ALPH\0\0\0\0" * 1_000_000,
    ],
    ids=["fill bytes", "fill bytes and a zero", "parts of nothing"],
)
def test_no_file_takes_more_than_one_pass(content: bytes) -> None:
    """With one for each byte, or for each part, these take hours."""
    with pytest.raises(Refused, match=r"too early|more in it"):
        tensorflow.check(content, is_pillows=True)
