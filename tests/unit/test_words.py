"""What the words of names say: `symfuse.words`."""

from __future__ import annotations

import pytest

from symfuse.words import is_for_images, rest_of_split, split_of, stems_before_labels, words


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train2017", ["train"]),
        ("TEST", ["test"]),
        ("ISIC-2017_Training_Part1_GroundTruth", ["isic", "training", "part", "groundtruth"]),
        ("groundTruth", ["groundtruth"]),
        ("leftImg8bit", ["left", "img", "bit"]),
        ("JPEGImages", ["jpegimages"]),
        ("SegmentationClass", ["segmentationclass"]),
        ("TrainVal", ["trainval"]),
        ("été", ["t"]),
        ("0001", []),
        ("", []),
    ],
)
def test_the_words_of_a_name(name: str, expected: list[str]) -> None:
    assert words(name.encode()) == [word.encode() for word in expected]


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("train2017", "train", set()),
        ("TEST", "test", set()),
        ("seg_train", "train", set()),
        ("training_set", "training", set()),
        ("bounding_box_train", "train", set()),
        ("ISIC2018_Task1_Training_Input", "training", {"isic"}),
        ("fold_3", "fold3", set()),
        ("Fold03", "fold3", set()),
        ("myFold10", "fold10", {"my"}),
        ("query", "query", set()),
    ],
)
def test_names_of_splits(name: str, split: str, rest: set[str]) -> None:
    assert split_of(name.encode()) == split.encode()
    assert rest_of_split(name.encode()) == {word.encode() for word in rest}


@pytest.mark.parametrize(
    "name", ["train_test", "fold", "scaffold3", "trains", "fold1_val", "fold1_fold2", "tested", ""]
)
def test_other_names_are_none_of_a_split(name: str) -> None:
    assert split_of(name.encode()) is None


@pytest.mark.parametrize(("name", "expected"), [("images", True), ("RGB_Images", True), ("images2", True),
                                                ("cat_images", False), ("001", False), ("masks", False)])  # fmt: skip
def test_names_with_words_for_images_alone(name: str, *, expected: bool) -> None:
    assert is_for_images(name.encode()) is expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("a_mask", ["a_", "a"]),
        ("a_mask_1", ["a_", "a"]),
        ("7mask", ["7"]),
        ("aMask", ["a"]),
        ("aGroundTruth", ["aGround", "a"]),
        ("a_GroundTruth", ["a_", "a"]),
        ("a mask-GT (2)", ["a mask-", "a mask", "a ", "a"]),
        ("__mask", ["__", "_"]),
        ("é_mask", ["é_", "é"]),
        ("mask", []),
        ("a_mask_b", []),
        ("a_maské", []),
        ("unmask", []),
        ("a_mask_unmask", []),
    ],
)
def test_what_stands_before_words_for_labels(stem: str, expected: list[str]) -> None:
    assert stems_before_labels(stem.encode()) == [each.encode() for each in expected]
