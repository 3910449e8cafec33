"""Keras' own loaders read the mount as they read the tree that `cp -rL` makes, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MountMaker
from tests.keras.datasets import Linked, messy_digits, photographs
from tests.support.oracle import copy_dereferenced, drop_names

SIZE = (32, 32)


@pytest.fixture(params=["photographs", "digits"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of class directories full of links, for loaders that take one split."""
    if request.param == "photographs":
        return photographs(tmp_path).root
    return messy_digits(tmp_path, limit=200).root


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """What the mount must look like."""
    return drop_names(copy_dereferenced(dataset, tmp_path / "copy"))


def splits(root: Path) -> list[str]:
    """The directories below `root` that a loader is pointed at."""
    return ["train", "val"] if (root / "train").is_dir() else ["."]


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_flow_from_directory_gives_what_it_gives_on_the_copy(
    tf: Any, symfuse_mount: MountMaker, dataset: Path, copy: Path, shuffle: bool
) -> None:
    mount = symfuse_mount(dataset)

    def flow(directory: Path) -> Any:
        generator = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255)
        return generator.flow_from_directory(directory, target_size=SIZE, batch_size=8, shuffle=shuffle, seed=3)

    for split in splits(dataset):
        ours, theirs = flow(mount.path / split), flow(copy / split)
        assert len(theirs.filenames) > 5
        assert ours.filenames == theirs.filenames
        assert ours.class_indices == theirs.class_indices
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        assert len(ours) == len(theirs)
        for place in range(len(theirs)):
            (our_images, our_labels), (their_images, their_labels) = ours[place], theirs[place]
            np.testing.assert_array_equal(our_images, their_images)
            np.testing.assert_array_equal(our_labels, their_labels)


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_image_dataset_from_directory_gives_what_it_gives_on_the_copy(
    tf: Any, symfuse_mount: MountMaker, dataset: Path, copy: Path, shuffle: bool
) -> None:
    mount = symfuse_mount(dataset)

    def load(directory: Path) -> Any:
        return tf.keras.utils.image_dataset_from_directory(
            directory, image_size=SIZE, batch_size=8, shuffle=shuffle, seed=3
        )

    for split in splits(dataset):
        ours, theirs = load(mount.path / split), load(copy / split)
        assert ours.class_names == theirs.class_names
        assert relative(ours.file_paths, mount.path) == relative(theirs.file_paths, copy)
        batches = list(zip(ours, theirs, strict=True))
        assert batches
        for (our_images, our_labels), (their_images, their_labels) in batches:
            np.testing.assert_array_equal(our_images, their_images)
            np.testing.assert_array_equal(our_labels, their_labels)


def test_tf_data_reads_whole_files(tf: Any, symfuse_mount: MountMaker, dataset: Path, copy: Path) -> None:
    """tf.io.read_file believes st_size: a link's own size would silently cut each image to a few bytes."""
    mount = symfuse_mount(dataset)
    count = 0
    for directory, _, names in tf.io.gfile.walk(str(copy)):
        for name in names:
            path = Path(directory, name)
            read = tf.io.read_file(str(mount.path / path.relative_to(copy))).numpy()
            assert read == path.read_bytes()
            count += 1
    ours = [Path(directory, name) for directory, _, names in tf.io.gfile.walk(str(mount.path)) for name in names]
    assert len(ours) == count > 5


def test_a_dangling_link_ends_the_training_on_the_dataset_and_not_on_the_mount(
    tf: Any, symfuse_mount: MountMaker, digits: Linked
) -> None:
    mount = symfuse_mount(digits.root)

    def fit(root: Path) -> tuple[int, float]:
        generator = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255)
        images = generator.flow_from_directory(
            root / "train", target_size=(8, 8), color_mode="grayscale", class_mode="sparse", batch_size=16
        )
        model = tf.keras.Sequential(
            [
                tf.keras.layers.Input((8, 8, 1)),
                tf.keras.layers.Flatten(),
                tf.keras.layers.Dense(images.num_classes, activation="softmax"),
            ]
        )
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
        history = model.fit(images, epochs=1, verbose=0)
        return images.num_classes, float(history.history["loss"][0])

    with pytest.raises((FileNotFoundError, tf.errors.UnknownError), match=r"No such file or directory: .*/9999\.png"):
        fit(digits.root)
    classes, loss = fit(mount.path)
    assert classes == 10
    assert np.isfinite(loss)


def test_what_systems_and_tools_leave_behind_is_no_class_and_no_image(
    tf: Any, symfuse_mount: MountMaker, two_classes: Linked, tmp_path: Path
) -> None:
    clean = copy_dereferenced(two_classes.root, tmp_path / "clean")
    image = next((clean / "class0").iterdir())
    for directory in (two_classes.root, two_classes.root / "class0"):
        for name in ("__MACOSX", "lost+found", "@eaDir", "__pycache__", "#recycle", "System Volume Information"):
            (directory / name).mkdir()
            shutil.copy(image, directory / name / "thumbnail.png")
    mount = symfuse_mount(two_classes.root)

    def load(root: Path) -> tuple[dict[str, int], list[str], list[str], list[str]]:
        generator = tf.keras.preprocessing.image.ImageDataGenerator()
        flow = generator.flow_from_directory(root, target_size=SIZE)
        loaded = tf.keras.utils.image_dataset_from_directory(root, image_size=SIZE)
        return flow.class_indices, flow.filenames, loaded.class_names, sorted(relative(loaded.file_paths, root))

    assert load(mount.path) == load(clean)
    assert len(load(two_classes.root)[0]) == 8, "on the dataset itself each is a class"


def relative(paths: list[str], root: Path) -> list[str]:
    """Paths as they are called below `root`."""
    return [str(Path(path).relative_to(root)) for path in paths]
