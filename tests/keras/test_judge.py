"""What `--judge tensorflow` calls broken is what `tf.io.decode_image` does not take, and nothing else."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.identity import judging
from symfuse.identity.verdict import Verdict
from symfuse.policy import Judge
from tests.conftest import MountMaker
from tests.support.damage import ONE_BIT_BMP, RGB, RGBA, RLE8_BMP, WHOLE, TensorFlow, damaged
from tests.support.encoding import encoded
from tests.support.trees import Entry, Name, tree

#: Damaged files of each format.
FILES = 1000

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    """As a worker is."""
    with warnings.catch_warnings():
        judging.prepare()
        yield


@pytest.fixture(scope="module")
def tensorflow(tf: object) -> Iterator[TensorFlow]:  # which says what is missing without it
    with TensorFlow() as process:
        yield process


def ours(content: bytes) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return judging.examine(file.fileno(), Judge.TENSORFLOW)


def is_taken(content: bytes) -> bool:
    verdict = ours(content)[0]
    assert verdict in {Verdict.OK, Verdict.BROKEN, Verdict.NOT_AN_IMAGE}
    return verdict == Verdict.OK


def corrupts_memory(content: bytes) -> bool:
    """At an animation without alpha the real one writes beyond its memory: there is no telling what it says then."""
    return b"writes beyond its memory" in ours(content)


@pytest.mark.parametrize("form", WHOLE)
def test_damaged_images_are_broken_for_tensorflow_where_it_says_so(tensorflow: TensorFlow, form: str) -> None:
    """Counted over a thousand files of each format: there is no file of which the two say different things."""
    files = [content for content in (*WHOLE[form], *damaged(form, FILES)) if not corrupts_memory(content)]
    assert len(files) > FILES * 0.99
    told = [tensorflow.says(content) for content in files]
    seen = Counter((said == "taken", is_taken(content)) for said, content in zip(told, files, strict=True))
    assert (seen[False, True], seen[True, False]) == (0, 0), "shown though refused, hidden though taken"
    assert seen[True, True] > FILES / 20
    assert seen[False, False] > FILES / 20


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(RGB, form) for form in ("TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA", "PCX")),
        ONE_BIT_BMP,
        RLE8_BMP,
        b"",
        b"cat dog",
        b"BMW, Audi and others",
    ],
)
def test_what_pillow_may_load_and_tensorflow_does_not_is_broken_for_it(tensorflow: TensorFlow, content: bytes) -> None:
    assert tensorflow.says(content).startswith("refused")
    assert not is_taken(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_what_tensorflow_takes_is_taken_whatever_follows_it(tensorflow: TensorFlow, form: str) -> None:
    for picture in (RGB, RGBA) if form not in {"JPEG"} else (RGB,):
        content = encoded(picture, form) + (b"" if form == "BMP" else b"\0 more")
        assert tensorflow.says(content) == "taken"
        assert is_taken(content)


def test_every_image_that_is_shown_ends_no_epoch(
    tensorflow: TensorFlow, symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    """Under names as loaders want them: `image_dataset_from_directory` goes by names, and decodes what is behind."""
    images = {
        f"{form}.jpg": encoded(RGB, form) for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
    }
    images |= {"ico.png": encoded(RGB, "ICO"), "1.bmp": ONE_BIT_BMP, "rle.bmp": RLE8_BMP, "cut.png": encoded(RGB)[:500]}
    entries: dict[Name, Entry] = dict(images.items())
    dataset = tree(tmp_path / "dataset", {"cat": entries, "dog": {"labels.txt": b"cat dog"}})
    refused = {}
    for judge in Judge:
        path = symfuse_mount(dataset, "--broken-images", "hide", "--judge", judge).path / "cat"
        told = {image.name: tensorflow.says(image.read_bytes()) for image in path.iterdir()}
        assert len(told) >= 5
        refused[judge] = sorted(name for name, said in told.items() if said != "taken")
    assert refused == {
        Judge.PILLOW: ["1.bmp", "AVIF.jpg", "PPM.jpg", "TIFF.jpg", "ico.png", "rle.bmp"],
        Judge.TENSORFLOW: [],
        Judge.BOTH: [],
    }
