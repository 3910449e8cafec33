"""Planted duplicates, links, re-encodings, leaks and broken images: what Keras finds, and what it trains on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.digits import link, link_classes, write_store
from tests.conftest import MountMaker
from tests.keras.datasets import Linked, write_photograph

CLASSES = 10
#: Digits in the dataset; every fifth is for validation.
LIMIT = 400


def flow(tf: Any, directory: Path) -> Any:
    """All images below `directory`, in order, a grey 8 by 8 picture each."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator()
    return generator.flow_from_directory(
        directory, target_size=(8, 8), color_mode="grayscale", class_mode="sparse", batch_size=50, shuffle=False
    )


def pixels(images: Any) -> set[bytes]:
    """What one epoch yields."""
    return {image.tobytes() for place in range(len(images)) for image in images[place][0]}


@pytest.fixture
def planted(tmp_path: Path) -> Linked:
    """400 digits as real files by split and class, with planted copies, links, re-encodings and wrong labels.

    320 are for training and 80 for validation; 10 copies, 10 links and 10 re-encodings join the training images of
    their class, 5 of another class, and 8 copies leak into validation. All of class 9 in validation are leaks.
    """
    made = Linked(tmp_path / "dataset", tmp_path / "store")
    digits = write_store(made.store, limit=LIMIT)
    link_classes(made.root, [])
    for digit in digits:
        place = made.root / digit.split / str(digit.label) / digit.path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(digit.path, place)
    training = [digit for digit in digits if digit.split == "train"]
    for digit in training[:10]:
        directory = made.root / "train" / str(digit.label)
        shutil.copyfile(digit.path, directory / f"copy-{digit.number}.png")
        link(directory / f"link-{digit.number}.png", directory / digit.path.name)
        with Image.open(digit.path) as image:
            image.save(directory / f"encoded-{digit.number}.bmp")
    for digit in training[10:15]:
        shutil.copyfile(
            digit.path, made.root / "train" / str((digit.label + 1) % CLASSES) / f"wrong-{digit.number}.png"
        )
    nine = made.root / "val" / "9"
    shutil.rmtree(nine)
    for digit in [digit for digit in training if digit.label == 9][:8]:
        nine.mkdir(exist_ok=True)
        shutil.copyfile(digit.path, nine / f"leak-{digit.number}.png")
    return made


def validation_nines() -> int:
    from scripts.digits import VALIDATION_EVERY, images  # noqa: PLC0415

    return sum(label == 9 and number % VALIDATION_EVERY == 0 for number, (label, _) in enumerate(images(LIMIT)))


@pytest.mark.parametrize(
    ("options", "training", "leaks"),
    [
        ((), 320 + 35, 8),
        (("--dedup", "target"), 320 + 25, 8),
        (("--dedup", "bytes"), 320 + 15, 8),
        (("--dedup", "pixels"), 320 + 5, 8),
        (("--dedup", "pixels", "--dedup-scope", "split"), 320, 8),
        (("--dedup", "bytes", "--dedup-scope", "all"), 320 + 10, 0),
        (("--dedup", "pixels", "--dedup-scope", "all"), 320, 0),
        (("--dedup", "pixels", "--dedup-scope", "all", "--conflicts", "keep"), 320 + 5, 0),
        (("--dedup", "pixels", "--dedup-scope", "all", "--conflicts", "drop"), 315, 0),
    ],
)
def test_the_numbers_that_keras_finds(
    tf: Any, symfuse_mount: MountMaker, planted: Linked, capsys: pytest.CaptureFixture[str], *,
    options: tuple[str, ...], training: int, leaks: int,
) -> None:  # fmt: skip
    validation = 80 - validation_nines() + leaks
    path = symfuse_mount(planted.root, *options).path
    capsys.readouterr()
    flows = flow(tf, path / "train"), flow(tf, path / "val")
    assert capsys.readouterr().out.splitlines() == [
        f"Found {training} images belonging to 10 classes.",
        f"Found {validation} images belonging to 10 classes.",
    ]
    assert flows[0].class_indices == flows[1].class_indices == {str(label): label for label in range(CLASSES)}


def test_no_training_image_is_in_validation(tf: Any, symfuse_mount: MountMaker, planted: Linked) -> None:
    def shared(root: Path) -> int:
        return len(pixels(flow(tf, root / "train")) & pixels(flow(tf, root / "val")))

    assert shared(planted.root) == 8
    path = symfuse_mount(planted.root, "--dedup", "bytes", "--dedup-scope", "all").path
    assert shared(path) == 0
    assert len(pixels(flow(tf, path / "train"))) == 320, "and no training image is lost"
    assert not list((path / "val" / "9").iterdir())
    images = tf.keras.utils.image_dataset_from_directory(path / "val", image_size=(8, 8))
    assert images.class_names == [str(label) for label in range(CLASSES)]


def test_a_broken_image_ends_the_epoch_on_the_dataset_and_not_on_the_mount(
    tf: Any, symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    for name in ("chelsea", "coffee", "rocket"):
        write_photograph(dataset / "photographs", name)
    broken = dataset / "photographs" / "coffee.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])

    with pytest.raises((OSError, tf.errors.UnknownError), match="truncated"):
        pixels(flow(tf, dataset))
    with pytest.raises((OSError, tf.errors.UnknownError), match="truncated"):
        pixels(flow(tf, symfuse_mount(dataset).path))
    assert len(pixels(flow(tf, symfuse_mount(dataset, "--broken-images", "hide").path))) == 2
