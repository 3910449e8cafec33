"""Which splits and classes are recognised, in the layouts of public datasets, and what is refused without them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from symfuse.census import Census
from symfuse.dataset import Dataset
from symfuse.errors import DatasetRefused
from symfuse.layout import Label, Labels, split_rank
from symfuse.pattern import layout_of
from symfuse.policy import SPLIT_ORDER, Conflicts, Dedup, Finding, Kind, Policy, SameBy, Scope
from symfuse.selection import select
from symfuse.view import View
from tests.support.trees import Entry, Name, link, tree

#: The same image in all of them.
A: dict[Name, Entry] = {"a.jpg": b"A"}
TEXT: dict[Name, Entry] = {"a.txt": b"T"}


def images(*names: str) -> dict[Name, Entry]:
    """Distinct images."""
    return {f"{name}.jpg": name.encode() for name in names}


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def frozen(root: Path) -> View:
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    return view


def selected(root: Path, **options: Any) -> View:
    """The view after its images were compared."""
    view = frozen(root)
    layout = layout_of(options.pop("layout", "auto").encode())
    fail_on = options.pop("fail_on", frozenset())
    dedup = replace(Dedup(same_by=SameBy.BYTES, layout=layout), **options)
    select(view, Policy(dedup=dedup, fail_on=fail_on), on_work=lambda _work: None, stop=threading.Event())
    return view


def labels(root: Path, layout: str = "auto") -> dict[str, tuple[str | None, str | None]]:
    """Split and class of every directory that holds images itself, by its path."""
    view = frozen(root)
    census = Census(view)
    found = Labels(census, layout_of(layout.encode()))

    def plain(label: Label) -> tuple[str | None, str | None]:
        split, category = (None if each is None else os.fsdecode(each) for each in label)
        return split, category

    return {
        os.fsdecode(view.path(number)): plain(found.of(number))
        for number in census.directories
        if census.holds_itself(number)
    }


@dataclass(frozen=True)
class Case:
    """A tree, what is said of it, and how many conflicts and leaks it has. `labels` need not be all of them."""

    tree: Mapping[Name, Entry]
    says: str
    labels: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    conflicts: int = 0
    leaks: int = 0
    layout: str = "auto"


CLASSES: dict[Name, Entry] = {"cat": A, "dog": A}
CASES = {
    "YOLO, COCO128": Case(
        {"images": {"train": A, "val": A}, "labels": {"train": TEXT, "val": TEXT}},
        "splits: train, val at the second level; no classes",
        {"images/train": ("train", None), "images/val": ("val", None)},
        leaks=1,
    ),
    "Roboflow": Case(
        {split: {"images": A, "labels": TEXT} for split in ("train", "valid", "test")},
        "splits: test, train, valid at the first level; no classes",
        {"train/images": ("train", None)},
        leaks=1,
    ),
    "COCO": Case(
        {"train2017": A, "val2017": A, "annotations": {"instances_train2017.json": b"{}"}},
        "splits: train, val at the first level; no classes",
        leaks=1,
    ),
    "COCO below images": Case(
        {"images": {"train2014": A, "train2017": A, "val2017": images("b")}, "annotations": {}},
        "splits: train, val at the second level; no classes",
        {"images/train2014": ("train", None), "images/train2017": ("train", None)},
    ),
    "VOC": Case(
        {"VOCdevkit": {"VOC2012": {"Annotations": TEXT, "ImageSets": {"Main": TEXT}, "JPEGImages": A,
                                   "SegmentationClass": {"a.jpg": b"A"}}}},
        "no splits and no classes were recognised",
        {"VOCdevkit/VOC2012/JPEGImages": (None, None)},
    ),
    "ImageNet": Case(
        {"ILSVRC": {"Annotations": {"CLS-LOC": {"train": {"n1": TEXT}}}, "ImageSets": {"CLS-LOC": TEXT},
                    "Data": {"CLS-LOC": {"train": {"n1": A, "n2": A}, "val": images("b"), "test": A}}}},
        "splits: test, train, val at level 4; 2 classes",
        {"ILSVRC/Data/CLS-LOC/train/n1": ("train", "n1"), "ILSVRC/Data/CLS-LOC/val": ("val", None)},
        conflicts=1,
        leaks=1,
    ),
    "Market-1501": Case(
        {"bounding_box_train": images("1"), "bounding_box_test": A, "query": A, "gt_bbox": A,
         "gt_query": {"a.mat": b""}},
        "splits: query, test, train at the first level; no classes",
        leaks=1,
    ),
    "PlantDoc": Case(
        {"TRAIN": {"Apple Scab Leaf": A, "Tomato leaf": images("t")}, "TEST": {"Apple Scab Leaf": A}},
        "splits: test, train at the first level; 2 classes",
        {"TRAIN/Apple Scab Leaf": ("train", "Apple Scab Leaf")},
        leaks=1,
    ),
    "ISIC": Case(
        {
            "ISIC2018_Task1_Training_Input": A,
            "ISIC2018_Task1_Training_GroundTruth": {"a_segmentation.png": b"M"},
            "ISIC2018_Task1_Validation_Input": A,
            "ISIC2018_Task1_Validation_GroundTruth": {"a_segmentation.png": b"M"},
        },
        "splits: training, validation at the first level; no classes",
        {"ISIC2018_Task1_Training_Input": ("training", None)},
        leaks=1,
    ),
    "Intel": Case(
        {"seg_train": {"seg_train": CLASSES}, "seg_test": {"seg_test": {"cat": A}}, "seg_pred": {"seg_pred": A}},
        "splits: test, train at the first level, and beside them: seg_pred; 2 classes",
        {"seg_train/seg_train/cat": ("train", "cat"), "seg_pred/seg_pred": ("/seg_pred", None)},
        conflicts=1,
        leaks=1,
    ),
    "chest_xray": Case(
        {
            "__MACOSX": {"chest_xray": {"train": {"._a.jpg": b""}}},
            "chest_xray": {
                **{split: {"NORMAL": images(split), "PNEUMONIA": A} for split in ("train", "test", "val")},
                "chest_xray": {split: {"NORMAL": images(split), "PNEUMONIA": A} for split in ("train", "test", "val")},
            },
        },
        "splits: test, train, val at levels 2, 3; 2 classes",
        {"chest_xray/train/NORMAL": ("train", "NORMAL"), "chest_xray/chest_xray/val/NORMAL": ("val", "NORMAL")},
        leaks=1,
    ),
    "dogs-vs-cats": Case(
        {"train": {"train": A}, "test1": {"test1": A}},
        "splits: test, train at the first level; no classes",
        {"train/train": ("train", None), "test1/test1": ("test", None)},
        leaks=1,
    ),
    "Carvana": Case(
        {"train": A, "train_masks": {"a_mask.gif": b"A"}, "test": images("b")},
        "splits: test, train at the first level; no classes",
    ),
    "MVTec": Case(
        {"bottle": {"ground_truth": {"broken": {"a_mask.png": b"A"}}, "test": {"broken": A, "good": images("g")},
                    "train": {"good": A}},
         "cable": {"ground_truth": {}, "test": {"good": A}, "train": {"good": images("c")}}},
        "splits: test, train at the second level; 2 classes",
        {"bottle/train/good": ("train", "good"), "cable/test/good": ("test", "good")},
        conflicts=1,
        leaks=1,
    ),
    "folds": Case(
        {"fold_0": CLASSES, "fold_1": {"cat": A}, "fold_02": {"cat": images("b")}},
        "splits: fold0, fold1, fold2 at the first level; 2 classes",
        {"fold_02/cat": ("fold2", "cat")},
        conflicts=1,
        leaks=1,
    ),
    "training_set": Case(
        {"training_set": {"training_set": CLASSES}, "test_set": {"test_set": {"cat": A}}},
        "splits: test, training at the first level; 2 classes",
        {"training_set/training_set/cat": ("training", "cat")},
        conflicts=1,
        leaks=1,
    ),
    "a class of its split's name": Case(
        {"train": {"train": A, "bus": images("b")}, "test": {"train": images("t"), "test": A}},
        "splits: test, train at the first level; 3 classes",
        {"train/train": ("train", "train"), "test/test": ("test", "test")},
        leaks=1,
    ),
    "one level deeper": Case(
        {"dataset": {"train": CLASSES, "val": {"cat": A}, "README.txt": b""}},
        "splits: train, val at the second level; 2 classes",
        conflicts=1,
        leaks=1,
    ),
    "the same directory in all splits": Case(
        {"train": {"data": {"v1": CLASSES}}, "val": {"v1": {"cat": A, "dog": images("d")}}},
        "splits: train, val at the first level; 2 classes",
        {"train/data/v1/cat": ("train", "cat"), "val/v1/dog": ("val", "dog")},
        conflicts=1,
        leaks=1,
    ),
    "not the same directory": Case(
        {"train": {"v1": CLASSES}, "val": {"v2": CLASSES}},
        "splits: train, val at the first level; 2 classes",
        {"train/v1/cat": ("train", "v1"), "val/v2/cat": ("val", "v2")},
        leaks=1,
    ),
    "classes": Case(CLASSES, "no splits; 2 classes at the first level", {"cat": (None, "cat")}, conflicts=1),
    "classes below data and dataset": Case(
        {"data": {"dataset": CLASSES}},
        "no splits; 2 classes at the third level",
        {"data/dataset/cat": (None, "cat")},
        conflicts=1,
    ),
    "files alone": Case({"a.jpg": b"A", "b.jpg": b"A"}, "no splits and no classes were recognised"),
    "classes beside an empty test": Case(
        {**CLASSES, "test": {}, "val": TEXT}, "no splits; 2 classes at the first level", conflicts=1
    ),
    "classes beside test": Case(
        {**CLASSES, "test": {"cat": A}},
        "splits: test at the first level, and what lies beside; 2 classes",
        {"cat": (None, "cat"), "test/cat": ("test", "cat")},
        conflicts=1,
        leaks=1,
    ),
    "a class train": Case(
        {"bus": A, "car": images("c"), "train": A},
        "no splits; 3 classes at the first level",
        {"train": (None, "train")},
        conflicts=1,
    ),
    "train alone": Case({"train": CLASSES}, "splits: train at the first level; 2 classes", conflicts=1),
    "train of two years alone": Case(
        {"train2014": A, "train2017": A}, "splits: train at the first level; no classes", {"train2014": ("train", None)}
    ),
    "val and dev": Case(
        {"val": A, "dev": A, "extra": A},
        "splits: dev, val at the first level, and what lies beside; 1 class",
        {"extra": (None, "extra")},
        leaks=1,
    ),
    "links": Case(
        {"store": A, "train": link("store"), "val": images("b")},
        "splits: train, val at the first level, and where their images lie: store; no classes",
        leaks=0,
    ),
    "many beside": Case(
        {"train": A, "test": images("b"), "a.jpg": b"A", **{f"extra{n}": A for n in range(9)}},
        "splits: test, train at the first level, and beside them: ., extra0, extra1, extra2, extra3, …; no classes",
        {"": (None, None), "extra8": ("/extra8", None)},
        leaks=1,
    ),
    "a test split beside images": Case(
        {"images": {"train": A, "val": images("b")}, "test": {"3.jpg": b"A"}},
        "splits: test, train, val at levels 1, 2; no classes",
        {"images/train": ("train", None), "test": ("test", None)},
        leaks=1,
    ),
    "two splits below data, and a test split beside it": Case(
        {"data": {"train": {"cat": A, "dog": images("b")}, "val": {"cat": images("c")}}, "test": CLASSES},
        "splits: test, train, val at levels 1, 2; 2 classes",
        {"data/train/cat": ("train", "cat"), "test/dog": ("test", "dog")},
        conflicts=1,
        leaks=1,
    ),
    "two splits in a directory that has the name of one": Case(
        {"training_data": {"train": CLASSES, "val": {"cat": A, "dog": images("b")}}},
        "splits: train, val at the second level; 2 classes",
        {"training_data/val/cat": ("val", "cat")},
        conflicts=1,
        leaks=1,
    ),
    "SVHN": Case(
        {"train": images("1"), "test": A, "extra": A},
        "splits: test, train at the first level, and beside them: extra; no classes",
        {"extra": ("/extra", None)},
        leaks=1,
    ),
    "classes beside the splits": Case(
        {"train": {"cat": images("1"), "dog": images("2")}, "val": {"cat": images("3")},
         "extra": {"v2": {"cat": A, "dog": A}}, "old": {"more": {"deep": images("4")}, "4.jpg": b"A"}},
        "splits: train, val at the first level, and beside them: extra, old; 3 classes",
        {"extra/v2/dog": ("/extra", "dog"), "old": ("/old", None), "old/more/deep": ("/old", "more")},
        conflicts=1,
        leaks=1,
    ),
    "what lies beside splits at many levels": Case(
        {"a": {"train": A, "val": images("b"), "x": {"y": images("c")}, "1.jpg": b"A"}, "b": {"dev": images("d")},
         "z": images("e")},
        "splits: dev, train, val at the second level, and beside them: a, a/x, z; 2 classes",
        {"a": (None, "a"), "a/x/y": ("/a/x", "a"), "z": ("/z", None)},
        leaks=1,
    ),
    "ISIC 2020": Case(
        {"train": A, "ISIC_2020_Test_Input": A},
        "splits: test, train at the first level; no classes",
        {"ISIC_2020_Test_Input": ("test", None)},
        leaks=1,
    ),
    "ISIC 2020 with more": Case(
        {"train": A, "ISIC_2020_Test_Input": A, "old": images("b")},
        "no splits; 3 classes at the first level",
        conflicts=1,
    ),
    "splits below classes": Case(
        {"cat": {"train": A, "test": images("1")}, "dog": {"train": A, "test": {"a.jpg": b"A", "2.jpg": b"2"}}},
        "splits: test, train at the second level; 2 classes",
        {"cat/train": ("train", "cat"), "dog/test": ("test", "dog")},
        conflicts=1,
        leaks=1,
    ),
    "splits below classes and more": Case(
        {"cat": {"train": A, "test": images("1"), "new": images("2")}, "dog": {"train": images("3"), "test": A},
         "cow": {"cow": images("4")}},
        "splits: test, train at the second level, and beside them: cat/new, cow; 2 classes",
        {"cat/new": ("/cat/new", "cat"), "cow/cow": ("/cow", None)},
        leaks=1,
    ),
    "splits below images and others": Case(
        {"images": {"train": A, "test": images("1")}, "frames": {"train": A, "test": images("2")}},
        "splits: test, train at the second level; no classes",
        {"frames/train": ("train", None)},
    ),
    "splits within splits of old": Case(
        {"new": {"train": A, "test": images("1"), "old": {"train": A, "test": images("2")}}},
        "splits: test, train at levels 2, 3; no classes",
        {"new/old/train": ("train", None)},
    ),
    "a pattern and one split beside": Case(
        {"parts": {"a": CLASSES}, "parts2": {"a": {"cat": A}}},
        "splits: a at the second level, and what lies beside; 3 classes",
        {"parts/a/cat": ("a", "cat"), "parts2/a/cat": (None, "a")},
        conflicts=1,
        leaks=1,
        layout="parts/{split}/{class}",
    ),
    "a pattern and a directory beside that is called as a split": Case(
        {"images": {"train": images("1"), "extra": A}, "extra": A},
        "splits: extra, train at the second level, and beside them: extra; no classes",
        {"images/extra": ("extra", None), "extra": ("/extra", None)},
        leaks=1,
        layout="images/{split}",
    ),
    "pattern for YOLO": Case(
        {"images": {"part1": A, "part2": A}, "labels": {"part1": TEXT}},
        "splits: part1, part2 at the second level; no classes",
        {"images/part1": ("part1", None)},
        leaks=1,
        layout="/images/{split}",
    ),
    "pattern with both": Case(
        {"x": {"Train": CLASSES, "b": A}, "y": {"Train": {"cat": A, "deep": {"er": A}}}, "z": A},
        "splits: Train, b at the second level, and beside them: z; 3 classes",
        {"x/Train/cat": ("Train", "cat"), "x/b": ("b", None), "y/Train/deep/er": ("Train", "deep"), "z": ("/z", None)},
        conflicts=1,
        leaks=1,
        layout="*/{split}/{class}",
    ),
    "images beside a test split": Case(
        {"images": {"cow": A, "dog": A}, "test": {"cow": images("1"), "dog": images("2")}},
        "splits: test at the first level, and what lies beside; 2 classes",
        {"images/cow": (None, "cow"), "test/dog": ("test", "dog")},
        conflicts=1,
    ),
    "a store beside": Case(
        {"store": {"a.jpg": b"A", "b.jpg": b"B", "unused.jpg": b"A"},
         "train": {"cat": {"1.jpg": link("../../store/a.jpg")}}, "val": {"cat": {"2.jpg": link("../../store/b.jpg")}}},
        "splits: train, val at the first level, and where their images lie: store; 1 class",
    ),
    "a store whose files have no endings": Case(
        {"blobs": {"3f2a": b"\x89PNG\r\n\x1a\n"}, "train": {"a.png": link("../blobs/3f2a")}, "val": {"b.png": b"B"}},
        "splits: train, val at the first level; no classes",
    ),
    "a leak through a store": Case(
        {"store": A, "train": {"1.jpg": link("../store/a.jpg")}, "val": {"2.jpg": link("../store/a.jpg")}},
        "splits: train, val at the first level, and where their images lie: store; no classes",
        leaks=1,
    ),
    "more images beside": Case(
        {"extra": {"cat": A}, "train": {"cat": images("1")}, "test": {"cat": A}},
        "splits: test, train at the first level, and beside them: extra; 1 class",
        leaks=1,
    ),
    "a class of photos": Case(
        {"train": {"photo": A, "sketch": A}, "test": {"photo": images("1"), "sketch": images("2")}},
        "splits: test, train at the first level; 2 classes",
        {"train/photo": ("train", "photo"), "test/sketch": ("test", "sketch")},
        conflicts=1,
    ),
    "pattern for parts of names": Case(
        {"train_images": CLASSES, "test_images": {"cat": A}, "more": {"dog": A, "cat": A}},
        "splits: test, train at the first level, and beside them: more; 2 classes",
        {"train_images/cat": ("train", "cat"), "more/dog": ("/more", "dog")},
        conflicts=1,
        leaks=1,
        layout="{split}_images/{class}",
    ),
    "split/class": Case(
        {"batch1": CLASSES, "batch2": {"cat": A}},
        "splits: batch1, batch2 at the first level; 2 classes",
        conflicts=1,
        leaks=1,
        layout="split/class",
    ),
    "class": Case(
        {"train": A, "val": A}, "no splits; 2 classes at the first level", conflicts=1, layout="class"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_taken_for_splits_and_classes(tmp_path: Path, case: Case) -> None:
    root = tree(tmp_path / "dataset", case.tree)
    found = labels(root, case.layout)
    assert {path: found[path] for path in case.labels} == case.labels
    progress = selected(root, layout=case.layout).progress()
    assert progress.layout == case.says
    assert progress.findings[Finding.CONFLICT] == case.conflicts
    assert progress.findings[Finding.LEAK] == case.leaks


def test_what_lies_beside_splits_is_one_scope_for_each_directory_or_for_all(tmp_path: Path) -> None:
    beside: dict[Name, Entry] = {"x": A, "y": A}
    everywhere = {"scope": Scope.ALL}
    counted = selected(tree(tmp_path / "counted", {**beside, "test": {"cat": A}}), **everywhere).progress()
    assert counted.hidden == {Kind.LEAK: 2}, "test comes first"
    each = selected(tree(tmp_path / "each", {**beside, "test": {}, "train": A, "val": A}), **everywhere).progress()
    assert each.hidden == {Kind.LEAK: 3}
    assert each.examples[Kind.LEAK] == ["val/a.jpg", "x/a.jpg", "y/a.jpg"]
    in_splits = selected(tree(tmp_path / "splits", {**beside, "train": A, "val": A}), scope=Scope.SPLIT).progress()
    assert not in_splits.hidden
    loose = tree(tmp_path / "loose", {"p": {"train": A, "val": A, "b.jpg": b"A"}, "a.jpg": b"A"})
    assert selected(loose, scope=Scope.SPLIT).progress().examples == {Kind.DUPLICATE: ["p/b.jpg"]}


@pytest.mark.parametrize(
    ("split", "order", "rank"),
    [
        (b"train", SPLIT_ORDER, 0),
        (b"training", SPLIT_ORDER, 0),
        (b"dev", SPLIT_ORDER, 1),
        (b"eval", SPLIT_ORDER, 3),
        (b"fold1", (b"fold_2", b"Fold1"), 1),
        (b"test", (b"seg_test", b"train"), 0),
        (b"valid", (b"dev", b"valid"), 1),
        (b"batch1", (b"batch1",), 0),
        (None, (), 1),
        (b"/extra", (b"extra", b"train"), 3),
    ],
)
def test_the_order_of_splits(split: bytes | None, order: tuple[bytes, ...], rank: int) -> None:
    assert split_rank(split, order) == rank


# -- what was asked for and cannot be done -----------------------------------------------------------------------------

FOR_SPLITS: list[dict[str, Any]] = [
    {"fail_on": frozenset({Kind.LEAK})},
    {"scope": Scope.SPLIT},
    {"split_order": (b"test", b"train")},
]
FOR_CLASSES: list[dict[str, Any]] = [
    {"fail_on": frozenset({Kind.CONFLICT})},
    {"conflicts": Conflicts.FAIL},
    {"conflicts": Conflicts.KEEP, "scope": Scope.ALL},
]
BATCHES: dict[Name, Entry] = {"batch1": A, "batch2": A, "notes": TEXT}


@pytest.mark.parametrize("same_by", [SameBy.TARGET, SameBy.BYTES])
@pytest.mark.parametrize("options", FOR_SPLITS)
def test_what_needs_splits_is_refused_where_none_is_recognised(
    tmp_path: Path, options: dict[str, Any], same_by: SameBy
) -> None:
    root = tree(tmp_path / "dataset", BATCHES)
    with pytest.raises(DatasetRefused, match=r"no split is recognised: .* are batch1, batch2: say .*--layout"):
        selected(root, same_by=same_by, **options)
    assert selected(root, layout="{split}", same_by=same_by, **options).progress().layout
    assert not (tmp_path / "cache").exists() or same_by is SameBy.BYTES


@pytest.mark.parametrize("same_by", [SameBy.TARGET, SameBy.BYTES])
@pytest.mark.parametrize("options", FOR_CLASSES)
def test_what_needs_classes_is_refused_where_no_split_has_two(
    tmp_path: Path, options: dict[str, Any], same_by: SameBy
) -> None:
    root = tree(tmp_path / "yolo", {"images": {"train": A, "val": A}, "labels": {"train": TEXT}})
    with pytest.raises(DatasetRefused, match=r"no two classes .* are images/train, images/val: leave it .*--layout$"):
        selected(root, same_by=same_by, **options)
    one = tree(tmp_path / "one", {"train": {"cat": A}, "val": {"dog": A}})
    with pytest.raises(DatasetRefused, match="no two classes of one split"):
        selected(one, same_by=same_by, **options)
    assert selected(one, layout="split/class", same_by=same_by, **options), "it was said, and so it is checked"
    with pytest.raises(DatasetRefused, match="no two classes of one split"):
        selected(one, layout="{split}", same_by=same_by, **options)


@pytest.mark.parametrize("same_by", [SameBy.TARGET, SameBy.BYTES])
@pytest.mark.parametrize(
    ("entries", "layout"),
    [
        ({"train": CLASSES}, "auto"),
        ({"train2014": A, "x": {"train": A}, "test": {}}, "auto"),
        ({"UCMerced_LandUse": {"Images": {"airplane": A, "beach": A}}}, "{split}/{class}"),
        ({"train": CLASSES, "test": {"cat": TEXT}}, "{split}"),
    ],
)
def test_no_leak_is_looked_for_in_one_split_alone(
    tmp_path: Path, entries: dict[Name, Entry], layout: str, same_by: SameBy
) -> None:
    root = tree(tmp_path / "dataset", entries)
    leak = frozenset({Kind.LEAK})
    said = (
        r"^--fail-on leak cannot be done, for only one split \(\w+\) is recognised: .*: leave it out, or say the others"
    )
    with pytest.raises(DatasetRefused, match=said):
        selected(root, layout=layout, same_by=same_by, fail_on=leak)
    assert selected(root, layout=layout, same_by=same_by, scope=Scope.SPLIT).progress().layout, "one split is a scope"


@pytest.mark.parametrize(
    ("entries", "layout"),
    [
        ({"train": CLASSES, "a.jpg": b"A"}, "auto"),
        ({"test": {"cat": A}, "cat": A}, "auto"),
        ({"a": {"x": A}, "b": A}, "a/{split}"),
    ],
)
def test_what_lies_beside_one_split_is_the_other(tmp_path: Path, entries: dict[Name, Entry], layout: str) -> None:
    view = selected(tree(tmp_path / "dataset", entries), layout=layout, fail_on=frozenset({Kind.LEAK}))
    assert view.progress().findings[Finding.LEAK] == 1


@pytest.mark.parametrize("unknown", [b"vla", b"Train_Test", b"extra"])
def test_a_name_in_the_order_of_splits_that_none_has_is_refused(tmp_path: Path, unknown: bytes) -> None:
    root = tree(tmp_path / "dataset", {"train": A, "val": A, "extra": A})
    said = f"^--split-order has {unknown.decode()}, and there is no such split: the splits are train, val$"
    with pytest.raises(DatasetRefused, match=said):
        selected(root, split_order=(b"val", unknown, b"train"))
    assert selected(root, split_order=(b"seg_test", b"fold_3", b"dev", b"train")).progress().layout
    one = tree(tmp_path / "one", {"parts": {"a": A}})
    with pytest.raises(DatasetRefused, match=r"no such split: the split is a$"):
        selected(one, split_order=(b"b",), layout="parts/{split}")
    assert selected(one, split_order=(b"a",), layout="parts/{split}").progress().layout


@pytest.mark.parametrize(
    ("entries", "options", "example"),
    [
        (BATCHES, {"fail_on": frozenset({Kind.LEAK})}, "{split}"),
        (BATCHES, {"layout": "images/{split}/{class}"}, "{split}"),
        ({"x": {"y": BATCHES}}, {"scope": Scope.SPLIT}, "*/*/{split}"),
        ({"x": {"b1": CLASSES, "b2": CLASSES}}, {"fail_on": frozenset({Kind.LEAK})}, "*/{split}/{class}"),
        ({"b1": CLASSES, "b2": CLASSES}, {"layout": "images/{split}"}, "{split}"),
        ({"train": {"cat": A}, "val": {"dog": A}}, {"fail_on": frozenset({Kind.CONFLICT})}, "{split}/{class}"),
        ({"train": A, "val": A}, {"fail_on": frozenset({Kind.CONFLICT})}, None),
        ({"x": {"y": A}}, {"fail_on": frozenset({Kind.LEAK})}, None),
        ({"a.jpg": b"A"}, {"layout": "{split}"}, None),
    ],
)
def test_a_cure_proposes_only_what_helps(
    tmp_path: Path, entries: dict[Name, Entry], options: dict[str, Any], example: str | None
) -> None:
    root = tree(tmp_path / "dataset", entries)
    with pytest.raises(DatasetRefused) as refused:
        selected(root, **options)
    if example is None:
        assert "for example" not in str(refused.value)
        assert refused.value.cure is not None and refused.value.cure.startswith("leave it out, or say which are ")
    else:
        assert str(refused.value).endswith(f" with --layout, for example --layout '{example}'")
        selected(root, **{**options, "layout": example})


@pytest.mark.parametrize("layout", ["images/{split}", "x*/{class}", "batch1/{split}/{class}"])
def test_a_pattern_that_fits_nothing_is_refused_in_any_case(tmp_path: Path, layout: str) -> None:
    root = tree(tmp_path / "dataset", BATCHES)
    with pytest.raises(DatasetRefused, match=r"fits no directory that holds images: .* are batch1, batch2: say"):
        selected(root, layout=layout)


def test_what_was_seen_is_said_of_few_directories_and_of_none(tmp_path: Path) -> None:
    leak = {"fail_on": frozenset({Kind.LEAK})}
    for name, entries, seen in (
        ("many", {"x": {f"d{n}": A for n in range(9)}}, r"are x/d0, x/d1, x/d2, x/d3, x/d4, …: "),
        ("flat", {"a.jpg": b"A"}, "only the dataset itself holds images: "),
        ("text", {"a": TEXT}, "no directory holds images: "),
        ("one", {"a": {"b": A}}, "only a/b holds images: "),
    ):
        with pytest.raises(DatasetRefused, match=seen):
            selected(tree(tmp_path / name, entries), **leak)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["img_{}", "x_train_{}", "box_{}", "cat_{}"])
def test_directories_are_looked_at_a_few_times_each_however_many_stand_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    many = 300
    root = tree(tmp_path / "dataset", {"train": {name.format(n): A for n in range(many)}, "val": {"x": A}})
    looked_at = 0

    def counted(census: Census, number: int) -> bytes:
        nonlocal looked_at
        looked_at += 1
        return name_of(census, number)

    name_of = Census.name
    monkeypatch.setattr(Census, "name", counted)
    labels(root)
    assert many < looked_at < 20 * many
