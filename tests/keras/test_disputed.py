"""Three situations people argue about, with real photographs: what really happens.

1. An image, and a link to it in another class. 2. Random augmentation of an image and of a link to it. 3. Augmented
copies, saved while training from links.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.digits import link
from tests.conftest import MountMaker
from tests.keras.datasets import Linked, write_photograph

# Keras' own augmentation still imports SciPy's function by its old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Please import `affine_transform` from the `scipy.ndimage` namespace:DeprecationWarning"
)

DRAWS = 60


def flow(tf: Any, directory: Path, *, save_to_dir: Path | None = None, **augmentation: Any) -> Any:
    """Batches of everything below `directory`, in order."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(**augmentation)
    return generator.flow_from_directory(
        directory,
        target_size=(48, 48),
        batch_size=64,
        shuffle=False,
        class_mode="sparse",
        seed=1,
        save_to_dir=save_to_dir,
    )


# -- 1. an image, and a link to it in another class -------------------------------------------------------------------


def test_an_image_and_a_link_to_it_in_another_class_are_two_examples_with_two_labels(
    tf: Any, symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    original = write_photograph(dataset / "cats", "chelsea")
    link(dataset / "pets" / "chelsea.jpg", original)
    mount = symfuse_mount(dataset)

    for root in (dataset, mount.path):  # a link alone hides nothing from Keras, and the mount shows all of it, too
        images, labels = next(flow(tf, root))
        assert labels.tolist() == [0.0, 1.0]
        np.testing.assert_array_equal(images[0], images[1])
    cat, pet = (mount.path / label / "chelsea.jpg" for label in ("cats", "pets"))
    assert (dataset / "cats" / "chelsea.jpg").samefile(dataset / "pets" / "chelsea.jpg")
    assert not cat.samefile(pet)
    assert not pet.is_symlink()


# -- 2. random augmentation of an image and of a link to it -----------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A photograph and a link to it, in one class."""
    original = write_photograph(tmp_path / "pair" / "cats", "chelsea")
    link(tmp_path / "pair" / "cats" / "link.jpg", original)
    return tmp_path / "pair"


def equal_draws(batches: Any) -> int:
    """In how many of DRAWS epochs the image and its link came out the same."""
    return sum(np.array_equal(images[0], images[1]) for images, _ in (next(batches) for _ in range(DRAWS)))


def test_an_image_and_a_link_to_it_are_augmented_independently(tf: Any, symfuse_mount: MountMaker, pair: Path) -> None:
    mount = symfuse_mount(pair)
    for root in (pair, mount.path):  # often said to be otherwise for links; it is not
        assert equal_draws(flow(tf, root)) == DRAWS
        # Two fair coins agree half the time: 60 draws, within six standard deviations.
        assert DRAWS / 2 - 24 < equal_draws(flow(tf, root, horizontal_flip=True)) < DRAWS / 2 + 24
        assert equal_draws(flow(tf, root, rotation_range=30, zoom_range=0.2)) == 0


# -- 3. augmented copies, saved while training from links -------------------------------------------------------------


def test_augmented_copies_go_elsewhere_and_no_original_changes(
    tf: Any, symfuse_mount: MountMaker, photos: Linked, tmp_path: Path
) -> None:
    before = photos.originals()
    mount = symfuse_mount(photos.root)
    saved = tmp_path / "saved"
    saved.mkdir()

    batches = flow(tf, mount.path, save_to_dir=saved, rotation_range=30)
    next(batches)

    assert len(list(saved.iterdir())) == batches.samples > 5
    assert all(path.is_file() and not path.is_symlink() for path in saved.iterdir())
    assert photos.originals() == before


def test_saving_augmented_copies_through_a_linked_class_adds_them_to_the_originals(tf: Any, photos: Linked) -> None:
    """Why the mount is read-only: this is what happens without it."""
    before = photos.originals()
    next(flow(tf, photos.root, save_to_dir=photos.root / "textures", rotation_range=30))
    assert set(photos.originals()) > set(before)


def test_saving_augmented_copies_into_the_mount_fails(tf: Any, symfuse_mount: MountMaker, photos: Linked) -> None:
    before = photos.originals()
    mount = symfuse_mount(photos.root)
    with pytest.raises(OSError) as failure:
        next(flow(tf, mount.path, save_to_dir=mount.path / "textures", rotation_range=30))
    assert failure.value.errno == errno.EROFS
    assert photos.originals() == before
