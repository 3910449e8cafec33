"""Public datasets rebuilt small, as they are unpacked, and what dedup does to them, counted by hand."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from symfuse.errors import DatasetRefused
from symfuse.explain import hidden_below
from symfuse.mounts.prepare import prepare
from symfuse.mounts.request import request
from symfuse.policy import Finding
from symfuse.view import View
from tests.support.trees import Entry, Name, link, tree

A, B, C, D, E, F, G, H = (f"\xff\xd8\xffimage {letter}".encode("latin-1") for letter in "ABCDEFGH")
LABEL = b"0 0.5 0.5 1 1\n"
BLACK = b"\x89PNG\r\n\x1a\nall black"
DUPLICATE, LEAK, SIDE_FILE = "duplicate", "leak", "side-file"


@dataclass(frozen=True)
class Public:
    """A dataset, the layout that it has, and what is hidden in it by equal bytes.

    `once` is hidden in the scope of classes, `further` besides where an image is shown once in all.
    """

    name: str
    entries: dict[Name, Entry]
    layout: str
    once: dict[str, str]
    further: dict[str, str]
    conflicts: int = 0
    leaks: int = 0
    by_name: dict[str, str] = field(default_factory=dict)


YOLO = Public(
    "YOLO (Ultralytics coco8)",
    {
        "images": {
            "train": {"0009.jpg": A, "0025.jpg": B, "0030.jpg": A},
            "val": {"0036.jpg": A, "0042.jpg": C},
        },
        "labels": {
            "train": {"0009.txt": LABEL, "0025.txt": LABEL, "0030.txt": LABEL},
            "val": {"0036.txt": LABEL, "0042.txt": b""},
            "train.cache": b"numpy",
        },
        "train.txt": b"images/train/0009.jpg",
        "coco8.yaml": b"path: coco8",
        "LICENSE": b"AGPL",
    },
    "splits: train, val at the second level; no classes",
    once={"images/train/0030.jpg": DUPLICATE, "labels/train/0030.txt": SIDE_FILE},
    further={"images/val/0036.jpg": LEAK, "labels/val/0036.txt": SIDE_FILE},
    leaks=1,
)

EXPORTED: dict[Name, Entry] = {
    split: {
        "images": {f"{stem}_jpg.rf.0a1b.jpg": content for stem, content in files.items()},
        "labels": {f"{stem}_jpg.rf.0a1b.txt": LABEL for stem in files},
    }
    for split, files in {"train": {"a": A, "b": B, "c": B}, "valid": {"d": A, "e": C}, "test": {"f": B}}.items()
}
ROBOFLOW = Public(
    "Roboflow, exported for YOLO",
    {**EXPORTED, "data.yaml": b"train: ../train/images", "README.roboflow.txt": b"exported"},
    "splits: test, train, valid at the first level; no classes",
    once={"train/images/c_jpg.rf.0a1b.jpg": DUPLICATE, "train/labels/c_jpg.rf.0a1b.txt": SIDE_FILE},
    further={
        "valid/images/d_jpg.rf.0a1b.jpg": LEAK,
        "valid/labels/d_jpg.rf.0a1b.txt": SIDE_FILE,
        "test/images/f_jpg.rf.0a1b.jpg": LEAK,
        "test/labels/f_jpg.rf.0a1b.txt": SIDE_FILE,
    },
    leaks=2,
)

COCO = Public(
    "COCO 2017",
    {
        "train2017": {"000000000009.jpg": A, "000000000025.jpg": B, "000000000030.jpg": B},
        "val2017": {"000000000139.jpg": A, "000000000285.jpg": C},
        "annotations": {
            f"{what}_{split}2017.json": b"{}" for what in ("instances", "captions") for split in ("train", "val")
        },
    },
    "splits: train, val at the first level; no classes",
    once={"train2017/000000000030.jpg": DUPLICATE},
    further={"val2017/000000000139.jpg": LEAK},
    leaks=1,
)

IMAGENET = Public(
    "ImageNet (ILSVRC, as Kaggle has it)",
    {
        "ILSVRC": {
            "Data": {
                "CLS-LOC": {
                    "train": {
                        "n01440764": {"n01440764_18.JPEG": A, "n01440764_36.JPEG": A},
                        "n01443537": {"n01443537_2.JPEG": B, "n01443537_5.JPEG": A},
                    },
                    "val": {"ILSVRC2012_val_00000001.JPEG": B, "ILSVRC2012_val_00000002.JPEG": C},
                    "test": {"ILSVRC2012_test_00000001.JPEG": D},
                }
            },
            "Annotations": {
                "CLS-LOC": {
                    "train": {"n01440764": {"n01440764_18.xml": LABEL, "n01440764_36.xml": LABEL}},
                    "val": {"ILSVRC2012_val_00000001.xml": LABEL, "ILSVRC2012_val_00000002.xml": LABEL},
                }
            },
            "ImageSets": {"CLS-LOC": {"train_cls.txt": b"n01440764/n01440764_18 1", "val.txt": b""}},
        },
        "LOC_synset_mapping.txt": b"n01440764 tench",
    },
    "splits: test, train, val at level 4; 2 classes",
    once={
        "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_36.JPEG": DUPLICATE,
        "ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_36.xml": SIDE_FILE,
    },
    further={
        "ILSVRC/Data/CLS-LOC/train/n01443537/n01443537_5.JPEG": DUPLICATE,
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG": LEAK,
        "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": SIDE_FILE,
    },
    conflicts=1,
    leaks=1,
)

MARKET = Public(
    "Market-1501",
    {
        "bounding_box_train": {"0002_c1s1_000451_03.jpg": A, "0002_c1s1_000551_01.jpg": A, "0007_c2.jpg": B},
        "bounding_box_test": {"-1_c1s1_000401_03.jpg": C, "0000_c1s1_000151_01.jpg": B},
        "query": {"0001_c1s1_001051_00.jpg": D, "0003_c1s6_015971_00.jpg": E},
        "gt_bbox": {"0001_c1s1_001051_00.jpg": D, **{f"0002_c1s1_000451_0{n}.jpg": A for n in (0, 4, 5, 6)}},
        "gt_query": {"0001_c1s1_001051_00_good.mat": LABEL, "0001_c1s1_001051_00_junk.mat": LABEL},
        "readme.txt": b"Market-1501",
    },
    "splits: query, test, train at the first level; no classes",
    once={"bounding_box_train/0002_c1s1_000551_01.jpg": DUPLICATE},
    further={"bounding_box_test/0000_c1s1_000151_01.jpg": LEAK},
    leaks=1,
)

PLANTDOC = Public(
    "PlantDoc, for object detection",
    {
        "TRAIN": {"apple (1).jpg": A, "apple (1).xml": LABEL, "apple (2).jpg": A, "apple (2).xml": LABEL},
        "TEST": {"corn.jpg": A, "corn.xml": LABEL, "rust.jpg": B, "rust.xml": LABEL},
        "train_labels.csv": b"filename,width",
        "test_labels.csv": b"filename,width",
    },
    "splits: test, train at the first level; no classes",
    once={"TRAIN/apple (2).jpg": DUPLICATE, "TRAIN/apple (2).xml": SIDE_FILE},
    further={"TEST/corn.jpg": LEAK, "TEST/corn.xml": SIDE_FILE},
    leaks=1,
)

ISIC = Public(
    "ISIC 2018, task 1",
    {
        "ISIC2018_Task1-2_Training_Input": {"ISIC_0000000.jpg": A, "ISIC_0000001.jpg": A, "ATTRIBUTION.txt": b"CC"},
        "ISIC2018_Task1_Training_GroundTruth": {
            "ISIC_0000000_segmentation.png": BLACK,
            "ISIC_0000001_segmentation.png": BLACK,
        },
        "ISIC2018_Task1-2_Validation_Input": {"ISIC_0012255.jpg": A},
        "ISIC2018_Task1_Validation_GroundTruth": {"ISIC_0012255_segmentation.png": BLACK},
    },
    "splits: training, validation at the first level; no classes",
    once={
        "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg": DUPLICATE,
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png": SIDE_FILE,
    },
    further={
        "ISIC2018_Task1-2_Validation_Input/ISIC_0012255.jpg": LEAK,
        "ISIC2018_Task1_Validation_GroundTruth/ISIC_0012255_segmentation.png": SIDE_FILE,
    },
    leaks=1,
)

VOC = Public(
    "Pascal VOC 2012",
    {
        "VOCdevkit": {
            "VOC2012": {
                "JPEGImages": {"2007_000027.jpg": A, "2007_000032.jpg": A, "2007_000033.jpg": B},
                "Annotations": {f"2007_0000{number}.xml": LABEL for number in (27, 32, 33)},
                "SegmentationClass": {"2007_000032.png": BLACK, "2007_000033.png": BLACK},
                "SegmentationObject": {"2007_000032.png": BLACK, "2007_000033.png": BLACK},
                "ImageSets": {"Main": {"train.txt": b"2007_000027", "val.txt": b"2007_000032"}},
            }
        }
    },
    "no splits and no classes were recognised",
    once={
        "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg": DUPLICATE,
        "VOCdevkit/VOC2012/Annotations/2007_000032.xml": SIDE_FILE,
        "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png": SIDE_FILE,
        "VOCdevkit/VOC2012/SegmentationObject/2007_000032.png": SIDE_FILE,
    },
    further={},
)

PETS = Public(
    "Oxford-IIIT pets",
    {
        "images": {"Abyssinian_1.jpg": A, "Abyssinian_2.jpg": A, "beagle_1.jpg": B, "Abyssinian_101.mat": b"MATLAB"},
        "annotations": {
            "trimaps": {
                "Abyssinian_1.png": BLACK,
                "Abyssinian_2.png": BLACK,
                "beagle_1.png": BLACK,
                "._Abyssinian_1.png": b"macOS",
            },
            "xmls": {"Abyssinian_1.xml": LABEL, "Abyssinian_2.xml": LABEL},
            "list.txt": b"Abyssinian_1 1 1 1",
            "trainval.txt": b"Abyssinian_1 1 1 1",
        },
    },
    "no splits and no classes were recognised",
    once={
        "images/Abyssinian_2.jpg": DUPLICATE,
        "annotations/trimaps/Abyssinian_2.png": SIDE_FILE,
        "annotations/xmls/Abyssinian_2.xml": SIDE_FILE,
    },
    further={},
    by_name={"annotations/trimaps/._Abyssinian_1.png": "dot-entry"},
)

CARVANA = Public(
    "Carvana",
    {
        "train": {"0cdf5b_01.jpg": A, "0cdf5b_02.jpg": A, "1a2b_01.jpg": B},
        "train_masks": {"0cdf5b_01_mask.gif": BLACK, "0cdf5b_02_mask.gif": BLACK, "1a2b_01_mask.gif": BLACK},
        "test": {"0004d4_01.jpg": B, "0004d4_02.jpg": C},
        "train_masks.csv": b"img,rle_mask",
        "metadata.csv": b"id,year",
    },
    "splits: test, train at the first level; no classes",
    once={"train/0cdf5b_02.jpg": DUPLICATE, "train_masks/0cdf5b_02_mask.gif": SIDE_FILE},
    further={"test/0004d4_01.jpg": LEAK},
    leaks=1,
)

BUSI = Public(
    "BUSI",
    {
        "Dataset_BUSI_with_GT": {
            "benign": {
                "benign (1).png": A,
                "benign (1)_mask.png": BLACK,
                "benign (2).png": A,
                "benign (2)_mask.png": BLACK,
                "benign (2)_mask_1.png": BLACK,
                "benign (3).png": B,
                "benign (3)_mask.png": BLACK,
            },
            "malignant": {"malignant (1).png": B, "malignant (1)_mask.png": BLACK},
            "normal": {"normal (1).png": C, "normal (1)_mask.png": BLACK},
        }
    },
    "no splits; 3 classes at the second level",
    once={
        "Dataset_BUSI_with_GT/benign/benign (2).png": DUPLICATE,
        "Dataset_BUSI_with_GT/benign/benign (2)_mask.png": SIDE_FILE,
        "Dataset_BUSI_with_GT/benign/benign (2)_mask_1.png": SIDE_FILE,
    },
    further={
        "Dataset_BUSI_with_GT/malignant/malignant (1).png": DUPLICATE,
        "Dataset_BUSI_with_GT/malignant/malignant (1)_mask.png": SIDE_FILE,
    },
    conflicts=1,
)

INTEL = Public(
    "Intel image classification",
    {
        "seg_train": {"seg_train": {"forest": {"8.jpg": A, "23.jpg": A}, "sea": {"5.jpg": B, "9.jpg": A}}},
        "seg_test": {"seg_test": {"forest": {"20056.jpg": A}, "sea": {"20072.jpg": C}}},
        "seg_pred": {"seg_pred": {"3.jpg": B}},
    },
    "splits: test, train at the first level, and beside them: seg_pred; 2 classes",
    once={"seg_train/seg_train/forest/8.jpg": DUPLICATE},
    further={
        "seg_train/seg_train/sea/9.jpg": DUPLICATE,
        "seg_test/seg_test/forest/20056.jpg": LEAK,
        "seg_pred/seg_pred/3.jpg": LEAK,
    },
    conflicts=1,
    leaks=2,
)

XRAY_SPLITS: dict[Name, Entry] = {
    "train": {"NORMAL": {"IM-0115.jpeg": A, "IM-0117.jpeg": B}, "PNEUMONIA": {"person1_1.jpeg": C}},
    "val": {"NORMAL": {"NORMAL2-IM-1427.jpeg": D}, "PNEUMONIA": {"person1946.jpeg": C}},
    "test": {"NORMAL": {"IM-0001.jpeg": E}, "PNEUMONIA": {"person1_2.jpeg": F}},
}
XRAY = Public(
    "chest_xray, as Kaggle has it: with itself, and what macOS adds",
    {"chest_xray": {**XRAY_SPLITS, "chest_xray": XRAY_SPLITS, "__MACOSX": {"chest_xray": {"._x.jpeg": b"macOS"}}}},
    "splits: test, train, val at levels 2, 3; 2 classes",
    once={
        f"chest_xray/{path}": DUPLICATE
        for path in (
            "train/NORMAL/IM-0115.jpeg",
            "train/NORMAL/IM-0117.jpeg",
            "train/PNEUMONIA/person1_1.jpeg",
            "val/NORMAL/NORMAL2-IM-1427.jpeg",
            "val/PNEUMONIA/person1946.jpeg",
            "test/NORMAL/IM-0001.jpeg",
            "test/PNEUMONIA/person1_2.jpeg",
        )
    },
    further={
        "chest_xray/val/PNEUMONIA/person1946.jpeg": LEAK,
        "chest_xray/chest_xray/val/PNEUMONIA/person1946.jpeg": LEAK,
    },
    leaks=1,
    by_name={"chest_xray/__MACOSX": "clutter"},
)

MVTEC = Public(
    "MVTec AD",
    {
        "bottle": {
            "train": {"good": {"000.png": A, "001.png": A}},
            "test": {"good": {"000.png": B}, "broken_large": {"000.png": B, "001.png": C}},
            "ground_truth": {"broken_large": {"000_mask.png": BLACK, "001_mask.png": BLACK}},
        },
        "cable": {
            "train": {"good": {"000.png": D}},
            "test": {"good": {"000.png": D}, "bent_wire": {"000.png": E}},
            "ground_truth": {"bent_wire": {"000_mask.png": BLACK}},
        },
    },
    "splits: test, train at the second level; 3 classes",
    once={"bottle/train/good/001.png": DUPLICATE},
    # broken_large/000.png and its mask stay: it comes first.
    further={"bottle/test/good/000.png": DUPLICATE, "cable/test/good/000.png": LEAK},
    conflicts=1,
    leaks=1,
)

CIFAR = Public(
    "CIFAR-10 as directories",
    {
        "cifar10": {
            "train": {"airplane": {"0001.png": A, "0002.png": B}, "cat": {"0001.png": C, "0002.png": C}},
            "test": {"airplane": {"0001.png": B}, "cat": {"0001.png": D}},
            "labels.txt": b"airplane\ncat\n",
        }
    },
    "splits: test, train at the second level; 2 classes",
    once={"cifar10/train/cat/0002.png": DUPLICATE},
    further={"cifar10/test/airplane/0001.png": LEAK},
    leaks=1,
)

ALL = (
    *(YOLO, ROBOFLOW, COCO, IMAGENET, MARKET, PLANTDOC, ISIC, VOC, PETS, CARVANA, BUSI, INTEL, XRAY, MVTEC, CIFAR),
)  # fmt: skip


def looked_at(root: Path, **options: str) -> tuple[View, dict[str, str]]:
    """The view as it would be mounted, and what is hidden in it. Errors: DatasetRefused."""
    asked = request(root, root.parent / "mountpoint", **{"dedup": "bytes", **options})  # type: ignore[arg-type]
    view = prepare(asked, lambda _event: None, threading.Event())
    return view, {entry["path"]: entry["kind"] for entry in hidden_below(view, b"")["hidden"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("scope", ["class", "all"])
@pytest.mark.parametrize("public", ALL, ids=lambda public: public.name)
def test_a_public_dataset_is_understood_and_its_pairs_stay_pairs(public: Public, scope: str, tmp_path: Path) -> None:
    view, hidden = looked_at(tree(tmp_path / "dataset", public.entries), dedup_scope=scope)
    assert hidden == public.by_name | public.once | (public.further if scope == "all" else {})
    progress = view.progress()
    assert progress.layout == public.layout
    assert (progress.findings[Finding.CONFLICT], progress.findings[Finding.LEAK]) == (public.conflicts, public.leaks)
    view.close()


@pytest.mark.parametrize("public", ALL, ids=lambda public: public.name)
def test_what_was_asked_of_a_public_dataset_is_checked_or_refused(public: Public, tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", public.entries)
    for word, number in (("leak", public.leaks), ("conflict", public.conflicts)):
        cannot_be = "no splits" in public.layout if word == "leak" else "no classes" in public.layout
        if number or cannot_be:
            with pytest.raises(DatasetRefused):
                looked_at(root, fail_on=word)
        else:
            looked_at(root, fail_on=word)[0].close()


# -- links into a store of blobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dedup", ["target", "bytes"])
def test_links_into_a_store_of_blobs_are_paired_by_their_own_names(dedup: str, tmp_path: Path) -> None:
    """As DVC and Hugging Face have it: contents in one store, under their digests; the names are links."""
    tree(tmp_path / "blobs", {"0a": A, "0b": B, "0c": LABEL, "0d": b"words"})
    root = tree(
        tmp_path / "snapshot",
        {
            "train": {
                "images": {"1.jpg": link("../../../blobs/0a"), "2.jpg": link("../../../blobs/0a")},
                "labels": {"1.txt": link("../../../blobs/0c"), "2.txt": link("../../../blobs/0c")},
            },
            "test": {
                "images": {"3.jpg": link("../../../blobs/0a"), "4.jpg": link("../../../blobs/0b")},
                "labels": {"3.txt": link("../../../blobs/0c"), "4.txt": link("../../../blobs/0c")},
            },
            "README.md": link("../blobs/0d"),
            "data.yaml": link("../blobs/0d"),
        },
    )
    once = {"train/images/2.jpg": DUPLICATE, "train/labels/2.txt": SIDE_FILE}
    view, hidden = looked_at(root, dedup=dedup)
    assert hidden == once
    view.close()
    view, hidden = looked_at(root, dedup=dedup, dedup_scope="all")
    assert hidden == once | {"test/images/3.jpg": LEAK, "test/labels/3.txt": SIDE_FILE}
    assert view.progress().findings == {Finding.LEAK: 1}
    assert view.progress().layout == "splits: test, train at the first level; no classes"
    view.close()


# -- what is refused, and how to say it --------------------------------------------------------------------------------


def test_a_query_of_market_1501_is_hidden_with_its_ground_truth(tmp_path: Path) -> None:
    entries = MARKET.entries | {"query": {"0001_c1s1_001051_00.jpg": C, "0003_c1s6_015971_00.jpg": E}}
    view, hidden = looked_at(tree(tmp_path / "dataset", entries), dedup_scope="all")
    assert hidden == MARKET.once | MARKET.further | {
        "query/0001_c1s1_001051_00.jpg": LEAK,
        "gt_bbox/0001_c1s1_001051_00.jpg": SIDE_FILE,
        "gt_query/0001_c1s1_001051_00_good.mat": SIDE_FILE,
        "gt_query/0001_c1s1_001051_00_junk.mat": SIDE_FILE,
    }
    view.close()


def test_pairs_that_go_by_their_order_are_not_torn_apart(tmp_path: Path) -> None:
    entries: dict[Name, Entry] = {
        "images": {"IMG_1.png": A, "IMG_2.png": A, "IMG_3.png": B},
        "masks": {"first.png": BLACK, "second.png": BLACK, "third.png": BLACK},
    }
    root = tree(tmp_path / "dataset", entries)
    with pytest.raises(DatasetRefused, match="side-files keep"):
        looked_at(root)
    view, hidden = looked_at(root, side_files="keep")
    assert hidden == {"images/IMG_2.png": DUPLICATE}
    view.close()
