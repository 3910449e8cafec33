"""Which directories hold images, labels and arrays: `symfuse.census`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symfuse.census import Census
from symfuse.dataset import Dataset
from symfuse.policy import Policy
from symfuse.view import View
from tests.support.trees import Entry, Name, link, tree

IMAGE: dict[Name, Entry] = {"1.jpg": b"1"}
TEXT: dict[Name, Entry] = {"1.txt": b"1"}


def census(root: Path) -> tuple[Census, dict[str, int]]:
    """With the nodeids of all directories by their paths."""
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    found = Census(view)
    return found, {os.fsdecode(view.path(number)): number for number in found.directories}


def labels(root: Path) -> dict[str, tuple[list[str], bool]]:
    """Every label directory, its counterparts, and whether these are its own."""
    found, numbers = census(root)
    paths = {number: path for path, number in numbers.items()}
    return {
        paths[number]: ([paths[each] for each in counterparts.directories], counterparts.is_own)
        for number, counterparts in found.labels.items()
    }


def test_what_holds_images_is_known_by_their_names_at_whatever_depth(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset",
        {
            "a": {"b": {"1.txt": b"", "2.PNG": b""}, "c": TEXT},
            "d": {"1.png": {"x": b""}, "e": {}},
            "linked": link("a"),
            "hidden": {".1.png": b"", "dangling.png": link("nowhere")},
        },
    )
    found, numbers = census(root)
    assert [path for path, number in numbers.items() if found.holds_itself(number)] == ["a/b", "linked/b"]
    assert [path for path, number in numbers.items() if found.holds_below(number)] == ["", "a", "linked"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"images": IMAGE, "labels": TEXT}, {"labels": (["images"], True)}),
        ({"train": IMAGE, "train_masks": IMAGE, "test": IMAGE}, {"train_masks": (["train"], True)}),
        ({"JPEGImages": IMAGE, "Annotations": TEXT, "SegmentationClass": IMAGE},
         {"Annotations": (["JPEGImages"], True), "SegmentationClass": (["JPEGImages"], True)}),
        ({"ISIC_Training_Input": IMAGE, "ISIC_Training_GroundTruth": IMAGE, "ISIC_Test_Input": IMAGE},
         {"ISIC_Training_GroundTruth": (["ISIC_Training_Input"], True)}),
        ({"annotations": TEXT, "train2017": IMAGE, "val2017": IMAGE},
         {"annotations": (["train2017", "val2017"], False)}),
        ({"ground_truth": {"broken": IMAGE}, "test": {"broken": IMAGE, "good": IMAGE}, "train": {"good": IMAGE}},
         {"ground_truth": (["test", "train"], False)}),
        ({"ISIC-2017_Training_Data": IMAGE, "ISIC-2017_Training_Part1_GroundTruth": IMAGE},
         {"ISIC-2017_Training_Part1_GroundTruth": (["ISIC-2017_Training_Data"], True)}),
        ({"batch1": IMAGE, "batch2": IMAGE, "masks": {"batch1": IMAGE}}, {"masks": (["batch1"], False)}),
        ({"bounding_box_test": IMAGE, "bounding_box_train": IMAGE, "gt_bbox": IMAGE, "gt_query": TEXT, "query": IMAGE},
         {"gt_query": (["query"], True), "gt_bbox": (["bounding_box_test", "bounding_box_train", "query"], False)}),
        ({**IMAGE, "masks": IMAGE, "notes": TEXT}, {"masks": ([""], False)}),
        ({**IMAGE, "masks": {"x.jpg": b"1"}, "cat": IMAGE}, {}),
        ({"labels": TEXT, "notes": TEXT}, {}),
        ({"masks": IMAGE}, {}),
        ({"labels": {"images": IMAGE, "masks": IMAGE}, "images": IMAGE}, {"labels": (["images"], True)}),
        # Classes.
        ({"mask": IMAGE, "no_mask": IMAGE}, {}),
        ({"mask": IMAGE, "no_mask": IMAGE, "test": {"mask": IMAGE, "no_mask": IMAGE}}, {}),
        ({"mask": {"adults": IMAGE}, "no_mask": {"adults": IMAGE}}, {}),
        ({"bus": IMAGE, "box": IMAGE, "train": IMAGE}, {}),
        ({"bottle": IMAGE, "box": IMAGE}, {}),
        ({"0": IMAGE, "1": IMAGE, "target": IMAGE}, {}),
        ({"seg_test": IMAGE, "seg_train": IMAGE}, {}),
    ],
)  # fmt: skip
def test_label_directories_and_what_their_labels_are_of(
    tmp_path: Path, entries: dict[Name, Entry], expected: dict[str, tuple[list[str], bool]]
) -> None:
    assert labels(tree(tmp_path / "dataset", entries)) == expected


def test_what_lies_in_label_directories_counts_nowhere(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": {"images": IMAGE, "masks": {"x": IMAGE}}, "b": {"masks": IMAGE}})
    found, numbers = census(root)
    assert [path for path, number in numbers.items() if found.is_in_labels(number)] == ["a/masks", "a/masks/x"]
    assert [path for path, number in numbers.items() if found.holds_images(number)] == [
        *("", "a", "b", "a/images", "b/masks")
    ]


@pytest.mark.parametrize("name", ["x.zarr", "X.N5", "plain"])
@pytest.mark.parametrize("inside", ["nothing", ".zarray", ".zgroup", "zarr.json"])
def test_array_stores_are_known_by_their_endings_or_by_what_they_hold(tmp_path: Path, name: str, inside: str) -> None:
    root = tree(tmp_path / "dataset", {"a": {name: {inside: b"", "0": {"1.png": b""}}}})
    found, numbers = census(root)
    is_store = name != "plain" or inside != "nothing"
    in_store = [path for path, number in numbers.items() if found.is_in_store(number)]
    assert in_store == ([f"a/{name}", f"a/{name}/0"] if is_store else [])
    assert found.holds_images(numbers["a"]) is not is_store


def test_labels_with_numbers_are_of_the_images_with_the_same(tmp_path: Path) -> None:
    names = ("img_1", "img_2", "img_x3", "mask_01", "mask_2", "mask_4", "masks", "train2014", "train2017")
    root = tree(tmp_path / "dataset", dict.fromkeys((*names, "train2017_masks"), IMAGE))
    counterparts = {path: directories for path, (directories, _is_own) in labels(root).items()}
    assert counterparts == {
        "mask_01": ["img_1"],
        "mask_2": ["img_2"],
        "mask_4": ["img_1", "img_2"],
        "masks": ["img_1", "img_2"],
        "train2017_masks": ["train2017"],
    }


def test_many_labels_share_what_they_know_of_many_images(tmp_path: Path) -> None:
    names = [f"img_{n}" for n in range(9)] + [f"mask_{n}" for n in range(10, 19)]
    found, numbers = census(tree(tmp_path / "dataset", dict.fromkeys(names, IMAGE)))
    images = tuple(numbers[name] for name in names[:9])
    assert {each.directories for each in found.labels.values()} == {images}
    assert len({id(each) for each in found.labels.values()}) == 1
