"""A loader is called twice, once for training and once for validation. Both calls must see one listing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.digits import link
from tests.conftest import MountMaker
from tests.keras.datasets import Linked

FRACTION = 0.5


class Splitter:
    """One way to ask Keras for a subset; gives the files' names below the dataset."""

    def __init__(self, tf: Any, loader: str) -> None:
        self._tf = tf
        self._loader = loader

    def subset(self, root: Path, name: str) -> set[str]:
        """The files of the subset `training` or `validation`."""
        if self._loader == "flow_from_directory":
            generator = self._tf.keras.preprocessing.image.ImageDataGenerator(validation_split=FRACTION)
            flow = generator.flow_from_directory(root, target_size=(8, 8), subset=name)
            return {flow.filenames[place] for place in range(flow.samples)}
        loaded = self._tf.keras.utils.image_dataset_from_directory(
            root, image_size=(8, 8), validation_split=FRACTION, subset=name, seed=5
        )
        return {str(Path(path).relative_to(root)) for path in loaded.file_paths}


@pytest.fixture(params=["flow_from_directory", "image_dataset_from_directory"])
def splitter(request: pytest.FixtureRequest, tf: Any) -> Splitter:
    return Splitter(tf, request.param)


def add_images(dataset: Linked) -> None:
    """More images, so that the line between the subsets runs elsewhere."""
    for number in range(4):
        link(dataset.root / "class0" / f"new-{number}.png", dataset.store / "0007.png")


def test_on_the_dataset_itself_new_files_move_others_from_one_subset_to_the_other(
    splitter: Splitter, two_classes: Linked
) -> None:
    training = splitter.subset(two_classes.root, "training")
    add_images(two_classes)
    assert training & splitter.subset(two_classes.root, "validation")


def test_on_the_mount_the_subsets_are_disjoint_although_files_were_added(
    splitter: Splitter, two_classes: Linked, symfuse_mount: MountMaker
) -> None:
    mount = symfuse_mount(two_classes.root)
    mount.dataset_may_change()
    frozen = {str(path.relative_to(two_classes.root)) for path in two_classes.root.rglob("*.png")}

    training = splitter.subset(mount.path, "training")
    add_images(two_classes)
    validation = splitter.subset(mount.path, "validation")

    assert not training & validation
    assert training | validation == frozen
