"""Which directories hold labels and which are classes, in the layouts of public datasets.

What each shows by equal bytes, once in all, is written out. Every image of a class is another, but those called equal.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from symfuse.census import Census
from symfuse.dataset import Dataset
from symfuse.errors import DatasetRefused
from symfuse.pairs import Pairs
from symfuse.policy import Dedup, Kind, Policy, SameBy, Scope, SideFiles
from symfuse.selection import select
from symfuse.table import Table
from symfuse.view import View
from tests.support.trees import Entry, Name, link, tree

BLACK = b"\x89PNG\r\n\x1a\nall black"
LABEL = b"0 0.5 0.5 1 1\n"
EQUAL = b"\xff\xd8\xffthe same image"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(*names: str) -> dict[Name, Entry]:
    """Images of which the first and the last are the same."""
    others: dict[Name, Entry] = {name: b"\xff\xd8\xff" + name.encode() for name in names[1:-1]}
    return {names[0]: EQUAL, **others, names[-1]: EQUAL}


def masks(*names: str) -> dict[Name, Entry]:
    """Masks that are all the same."""
    return dict.fromkeys(names, BLACK)


def labels(*names: str) -> dict[Name, Entry]:
    return dict.fromkeys(names, LABEL)


def hidden(root: Path, scope: Scope = Scope.ALL, side_files: SideFiles = SideFiles.FOLLOW) -> dict[str, str]:
    """What is hidden of a dataset for its content, and its kind. Errors: DatasetRefused."""
    policy = Policy(dedup=Dedup(SameBy.BYTES, scope), side_files=side_files)
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    found = {os.fsdecode(path): str(kind) for kind, path, *_ in view.hidden_entries() if kind is not Kind.DANGLING}
    view.close()
    return found


THREE = ("1.png", "2.png", "3.png")
FRAMES = tuple(f"{n}.png" for n in range(4))

#: A dataset, and what is hidden of it.
PAIRED: dict[str, tuple[dict[Name, Entry], set[str]]] = {
    "COCO with panoptic masks": (
        {
            "annotations": {
                "panoptic_train2017": masks("01.png", "02.png", "03.png"),
                "panoptic_val2017": masks("11.png", "12.png", "13.png"),
                "panoptic_train2017.json": b"{}",
                "instances_val2017.json": b"{}",
            },
            "train2017": images("01.jpg", "02.jpg", "03.jpg"),
            "val2017": {"11.jpg": b"\xff\xd8\xff11", "12.jpg": b"\xff\xd8\xff12", "13.jpg": b"\xff\xd8\xff13"},
            "unlabeled2017": {"21.jpg": b"\xff\xd8\xff21"},
        },
        {"train2017/03.jpg", "annotations/panoptic_train2017/03.png"},
    ),
    "Pascal VOC with SBD": (
        {
            "JPEGImages": images("1.jpg", "2.jpg", "3.jpg", "4.jpg"),
            "SegmentationClassAug": masks("1.png", "4.png"),
            "SegmentationClassRaw": masks("4.png"),
        },
        {"JPEGImages/4.jpg", "SegmentationClassAug/4.png", "SegmentationClassRaw/4.png"},
    ),
    "DRIVE": (
        {
            "training": {
                "images": images("21_training.tif", "22_training.tif", "23_training.tif"),
                "mask": masks(*(f"{n}_training_mask.gif" for n in (21, 22, 23))),
            }
        },
        {"training/images/23_training.tif", "training/mask/23_training_mask.gif"},
    ),
    "CamVid": (
        {
            "train": images(*THREE),
            "trainannot": masks(*THREE),
            "test": {"4.png": b"\xff\xd8\xff4"},
            "testannot": masks("4.png"),
        },
        {"train/3.png", "trainannot/3.png"},
    ),
    "Penn-Fudan": (
        {
            "PNGImages": images("Ped1.png", "Ped2.png", "Ped3.png"),
            "PedMasks": masks("Ped1_mask.png", "Ped2_mask.png", "Ped3_mask.png"),
        },
        {"PNGImages/Ped3.png", "PedMasks/Ped3_mask.png"},
    ),
    "MVTec": (
        {
            "train": {"good": {"000.png": b"\xff\xd8\xff0", "001.png": b"\xff\xd8\xff1"}},
            "test": {"good": {"001.png": b"\xff\xd8\xff2"}, "broken": images("000.png", "001.png", "002.png")},
            "ground_truth": {"broken": masks("000_mask.png", "001_mask.png", "002_mask.png")},
        },
        {"test/broken/002.png", "ground_truth/broken/002_mask.png"},
    ),
    "numbers in the names of directories": (
        {
            "images1": images(*THREE),
            "images2": {"1.png": b"\xff\xd8\xff1", "3.png": b"\xff\xd8\xff3"},
            "labels1": labels("1.txt", "2.txt", "3.txt"),
            "labels2": labels("1.txt", "3.txt"),
        },
        {"images1/3.png", "labels1/3.txt"},
    ),
    "a hundred numbered cases": (
        {
            **{f"case{n:03}_masks": masks("0.png", "1.png") for n in range(100)},
            **{
                f"case{n:03}_images": {f"{m}.png": b"\xff\xd8\xff" + b"%d" % (n * (n > 1) * 2 + m) for m in range(2)}
                for n in range(100)
            },
        },
        {"case001_images/0.png", "case001_images/1.png", "case001_masks/0.png", "case001_masks/1.png"},
    ),
    "masks of which nine in ten have an image": (
        {"slides": images(*(f"{n}.png" for n in range(10))), "mask": masks(*(f"{n}.png" for n in range(9)), "x.png")},
        {"slides/9.png"},
    ),
    "labels of which each has the directory of its images": (
        {
            "north": images(*THREE),
            "south": {"1.png": b"\xff\xd8\xffs"},
            "gt": {"north": masks(*THREE), "south": masks("1.png")},
        },
        {"north/3.png", "gt/north/3.png"},
    ),
    "lists of a split, and the names of classes": (
        {
            "images": {"train2017": images(*THREE)},
            "annotations": labels("instances_train2017.json", "captions_train2017.json"),
            "labels": labels("classes.txt"),
        },
        {"images/train2017/3.png"},
    ),
}
EQUAL_STEMS = (
    *(
        ("CXR_png", "masks"),
        ("original", "mask"),
        ("Original", "Ground truth"),
        ("im", "mask"),
        ("images", "labelmaps"),
    ),
    *(("images", "annot"), ("images", "alpha"), ("image_2", "semantic"), ("tissue images", "label masks")),
    *(("color", "label"), ("case001", "case001_masks"), ("images", "GroundTruth")),
)


@pytest.mark.parametrize("name", PAIRED)
def test_masks_and_labels_go_with_their_images(tmp_path: Path, name: str) -> None:
    entries, expected = PAIRED[name]
    assert hidden(tree(tmp_path / "dataset", entries)).keys() == expected


@pytest.mark.parametrize(("of_images", "of_labels"), EQUAL_STEMS)
def test_masks_of_equal_stems_go_with_their_images(tmp_path: Path, of_images: str, of_labels: str) -> None:
    root = tree(tmp_path / "dataset", {of_images: images(*THREE), of_labels: masks(*THREE)})
    assert hidden(root) == {f"{of_images}/3.png": "duplicate", f"{of_labels}/3.png": "side-file"}


CLASSES = (
    ("turtle", "box_turtle", "sea turtle"),
    ("Porsche", "Porsche mask", "Audi"),
    ("cardboard", "cardboard box"),
    ("squirrel", "ground_squirrel"),
    ("001.bus", "002.bus box"),
    ("set", "mask", "cat"),
    ("truth", "images", "depth"),
    ("with_mask", "without_mask", "mask_worn_incorrectly"),
)


@pytest.mark.parametrize("names", CLASSES)
def test_classes_are_no_labels_though_their_images_are_numbered_alike(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = tree(tmp_path / "dataset", dict.fromkeys(names, images(*THREE)))
    assert hidden(root, Scope.CLASS) == {f"{name}/3.png": "duplicate" for name in names}


@pytest.mark.parametrize("names", CLASSES)
def test_classes_are_no_labels_where_their_images_have_other_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    classes: dict[Name, Entry] = {
        name: images(*(f"{number}{n}.png" for n in range(3))) for number, name in enumerate(names)
    }
    expected = {f"{name}/{number}2.png": "duplicate" for number, name in enumerate(names)}
    assert hidden(tree(tmp_path / "dataset", classes), Scope.CLASS) == expected


def test_a_mask_among_more_classes_than_are_compared_is_one_of_them(tmp_path: Path) -> None:
    classes: dict[Name, Entry] = {str(n): images(*(f"{n}_{m}.png" for m in range(2))) for n in range(20)}
    one: dict[Name, Entry] = {**classes, "mask": masks("0_0.png", "0_1.png")}
    assert hidden(tree(tmp_path / "20", one))["mask/0_1.png"] == "side-file"
    more: dict[Name, Entry] = {**one, "20": images("20_0.png", "20_1.png")}
    assert hidden(tree(tmp_path / "21", more), Scope.CLASS)["mask/0_1.png"] == "duplicate"


# -- where it cannot be decided ----------------------------------------------------------------------------------------

UNDECIDED: dict[str, dict[Name, Entry]] = {
    "Cityscapes": {
        kind: {split: {"aachen": files} for split in ("train", "val")}
        for kind, files in (
            ("leftImg8bit", images("a_leftImg8bit.png", "b_leftImg8bit.png")),
            ("gtFine", masks("a_gtFine_color.png", "b_gtFine_color.png")),
        )
    },
    "Caltech-101": {
        "101_ObjectCategories": {"ant": images(*(f"image_000{n}.jpg" for n in range(4)))},
        "Annotations": {"ant": labels(*(f"annotation_000{n}.mat" for n in range(4)))},
    },
    "DRIVE, by hand": {
        "images": images("21_training.tif", "22_training.tif"),
        "1st_manual": masks("21_manual1.gif", "22_manual1.gif"),
    },
    "masks by their order": {"images": images(*FRAMES), "masks": masks("m0.png", "m1.png", "m2.png", "m3.png")},
    "one mask of many by its name": {
        "images": images(*FRAMES),
        "masks": masks("m0.png", "m1.png", "m2.png", "m3.png", "1.png"),
    },
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_may_go_by_its_order_is_not_torn_apart(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "dataset", UNDECIDED[name])
    with pytest.raises(DatasetRefused, match="cannot be known"):
        hidden(root)
    kept = hidden(root, side_files=SideFiles.KEEP)
    assert kept and not any("gt" in path or "mask" in path or "anno" in path or "manual" in path for path in kept)


def test_an_image_with_a_label_of_its_name_is_hidden_with_it_even_there(tmp_path: Path) -> None:
    entries: dict[Name, Entry] = {
        "images": images(*FRAMES),
        "masks": masks("m0.png", "m1.png", "m2.png", "3.png"),
    }
    assert hidden(tree(tmp_path / "dataset", entries)) == {
        "images/3.png": "duplicate",
        "masks/3.png": "side-file",
    }


def test_labels_stay_of_what_is_not_hidden_for_its_content(tmp_path: Path) -> None:
    entries: dict[Name, Entry] = {
        "images": {"1.jpg": link("nowhere"), "2.jpg": EQUAL},
        "labels": labels("1.txt", "2.txt"),
    }
    assert hidden(tree(tmp_path / "dataset", entries)) == {}


# -- the work is in proportion -----------------------------------------------------------------------------------------


def lookups(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many names are looked for while labels are found and followed; every image is hidden."""
    count = 0
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    first_from = Table.first_from

    def counted(table: Table, name: bytes) -> int:
        nonlocal count
        count += 1
        return first_from(table, name)

    monkeypatch.setattr(Table, "first_from", counted)
    census = Census(view)
    pairs = Pairs(view, census)
    for number in census.directories:
        if not census.is_in_labels(number):
            for nodeid, _name in [*census.images(number)]:
                view.hide(nodeid, Kind.DUPLICATE)
    name_of = view.entry

    def entry(nodeid: int) -> tuple[int, bytes, bool]:
        nonlocal count
        count += 1
        return name_of(nodeid)

    monkeypatch.setattr(view, "entry", entry)
    pairs.follow()
    monkeypatch.undo()
    view.close()
    return count


def cases(numbers: Iterable[int]) -> dict[Name, Entry]:
    return {f"case{n}_{kind}": {f"{m}.png": b"" for m in range(3)} for n in numbers for kind in ("images", "masks")}


def clips(numbers: Iterable[int]) -> dict[Name, Entry]:
    frames: dict[Name, Entry] = {"000.png": b"", "001.png": b""}
    return {
        "images": {f"clip{n}": frames for n in numbers},
        "masks": {f"clip{n}_m": frames for n in numbers},
    }


def flat(numbers: Iterable[int]) -> dict[Name, Entry]:
    """Directories of images with the labels of all in one."""
    return {"annotations": labels(*(f"{n}.xml" for n in numbers)), **{f"c{n}": {f"{n}.png": b""} for n in numbers}}


def below(numbers: Iterable[int]) -> dict[Name, Entry]:
    return {
        "annotations": {f"c{n}": labels(f"{n}.xml") for n in numbers},
        **{f"c{n}": {f"{n}.png": b""} for n in numbers},
    }


def alike(numbers: Iterable[int]) -> dict[Name, Entry]:
    return {f"{n}{kind}": {"000.png": b""} for n in numbers for kind in ("", " mask")}


@pytest.mark.parametrize("entries", [cases, clips, flat, below, alike])
def test_four_times_the_directories_are_four_times_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: object
) -> None:
    assert callable(entries)
    few = lookups(tree(tmp_path / "few", entries(range(25))), monkeypatch)
    many = lookups(tree(tmp_path / "many", entries(range(100))), monkeypatch)
    assert many < 6 * few


def test_no_name_is_looked_for_where_no_directory_has_a_word_for_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stems(*_arguments: object) -> object:
        raise AssertionError("a stem was looked at")

    monkeypatch.setattr("symfuse.census.stem_of", stems)
    view = View(Dataset(os.fsencode(tree(tmp_path / "d", {"cat": images(*THREE), "dog": images(*THREE)})), Policy()))
    view.freeze_all()
    assert not Census(view).labels
    view.close()
