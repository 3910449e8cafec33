"""Which files are compared, which belong to an image, and what becomes of them where it is hidden."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

import pytest

from symfuse.dataset import Dataset
from symfuse.errors import DatasetRefused, ExitStatus
from symfuse.explain import explain, hidden_below
from symfuse.policy import BrokenImages, Dedup, Finding, Kind, Policy, SameBy, Scope, SideFiles
from symfuse.selection import select
from symfuse.table import Table
from symfuse.view import View
from tests.support.pictures import CUT, A, B, C
from tests.support.trees import Entry, Name, hardlink, link, tree

BLACK = b"P5\n1 1\n255\n\0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def selected(root: Path, policy: Policy) -> View:
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    return view


def by(same_by: SameBy, scope: Scope = Scope.ALL, side_files: SideFiles = SideFiles.FOLLOW) -> Policy:
    return Policy(dedup=Dedup(same_by, scope), side_files=side_files)


BYTES = by(SameBy.BYTES)


def hidden(tmp_path: Path, entries: Mapping[Name, Entry], policy: Policy = BYTES) -> dict[str, str]:
    """What is hidden for its content, and its kind."""
    view = selected(tree(tmp_path / "dataset", entries), policy)
    found = {os.fsdecode(path): str(kind) for kind, path, *_ in view.hidden_entries() if kind is not Kind.DOT_ENTRY}
    view.close()
    return found


# -- what is compared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_by", [SameBy.TARGET, SameBy.BYTES, SameBy.PIXELS])
def test_what_is_no_image_is_never_hidden(tmp_path: Path, same_by: SameBy) -> None:
    dataset: dict[Name, Entry] = {
        "train": {"a.txt": b"1", "b.txt": b"1", "c.bin": hardlink("train/a.txt"), "d.npy": b"1", "E": b""},
        "val": {"a.txt": b"1", "F": b""},
    }
    assert hidden(tmp_path, dataset, by(same_by)) == {}


@pytest.mark.parametrize("same_by", [SameBy.BYTES, SameBy.PIXELS])
def test_an_image_is_known_by_its_name_or_by_what_it_begins_with(tmp_path: Path, same_by: SameBy) -> None:
    dataset: dict[Name, Entry] = {"x": {"0a1b": A, "1.png": A, "2c3d": A, "3.dat": b"1", "4.dat": b"1"}}
    assert hidden(tmp_path, dataset, by(same_by)) == {"x/1.png": "duplicate", "x/2c3d": "duplicate"}


def test_by_target_the_name_alone_counts(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "x": {"0a1b": A, "1.png": hardlink("x/0a1b"), "2.png": link("1.png"), "3": link("0a1b")}
    }
    assert hidden(tmp_path, dataset, by(SameBy.TARGET)) == {"x/2.png": "duplicate"}


def test_blobs_behind_links_are_compared_as_what_they_are(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "blobs": {"5f3a": A, "77aa": b"words"},
        "train": {"a.png": link("../blobs/5f3a"), "b.png": link("../blobs/5f3a"), "c.txt": link("../blobs/77aa")},
    }
    assert hidden(tmp_path, dataset, by(SameBy.BYTES, Scope.CLASS)) == {"train/b.png": "duplicate"}


def test_a_link_with_an_image_s_name_makes_no_image_of_a_text(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {"x": {"note.txt": b"words", "x.png": link("note.txt"), "y.txt": link("note.txt")}}
    assert hidden(tmp_path, dataset) == {}
    policy = Policy(broken_images=BrokenImages.HIDE)
    assert hidden(tmp_path / "again", dataset, policy) == {"x/x.png": "broken"}


@pytest.mark.parametrize("store", [{"data.zarr": {}}, {"data": {".zgroup": b"{}"}}, {"data.n5": {}}])
def test_nothing_in_an_array_store_is_compared(tmp_path: Path, store: dict[str, dict[Name, Entry]]) -> None:
    (name, marks), *_ = store.items()
    dataset: dict[Name, Entry] = {name: {**marks, "0.0": A, "0.1": A, "x.png": A}, "images": {"1.png": A, "2.png": A}}
    assert hidden(tmp_path, dataset) == {"images/2.png": "duplicate"}


def test_how_many_were_compared_and_left_alone_is_counted(tmp_path: Path) -> None:
    dataset = tree(
        tmp_path / "dataset",
        {
            "images": {"1.png": A, "2.png": B, "blob": A, "notes.txt": b"1", "3.png": CUT},
            "labels": {"1.txt": b"1", "2.txt": b"1", "3.txt": b"1"},
        },
    )
    progress = selected(dataset, BYTES).progress()
    assert (progress.compared, progress.decoded, progress.left_alone) == (4, 0, 4)
    progress = selected(dataset, Policy(broken_images=BrokenImages.HIDE)).progress()
    assert (progress.compared, progress.decoded, progress.left_alone) == (0, 4, 4)
    assert progress.hidden == {Kind.BROKEN: 1, Kind.SIDE_FILE: 1}


# -- pairs stay pairs --------------------------------------------------------------------------------------------------

YOLO: dict[Name, Entry] = {
    "images": {"train": {"1.jpg": A, "2.jpg": A, "3.jpg": B}, "val": {"4.jpg": C}},
    "labels": {"train": {"1.txt": b"0 1", "2.txt": b"0 1", "3.txt": b"0 1"}, "val": {"4.txt": b"0 1"}},
}
PAIRS: dict[str, tuple[dict[Name, Entry], dict[str, str]]] = {
    "YOLO, equal labels": (
        {"images": {"1.jpg": A, "2.jpg": B, "3.jpg": C}, "labels": {"1.txt": b"0", "2.txt": b"0", "3.txt": b"0"}},
        {},
    ),
    "YOLO": (
        YOLO,
        {
            "images/train/2.jpg": "duplicate",
            "labels/train/2.txt": "side-file",
        },
    ),
    "YOLO, a leak": (
        {
            "images": {"train": {"1.jpg": A}, "val": {"2.jpg": A, "3.jpg": B}},
            "labels": {"train": {"1.txt": b"0"}, "val": {"2.txt": b"0", "3.txt": b"0"}},
        },
        {"images/val/2.jpg": "leak", "labels/val/2.txt": "side-file"},
    ),
    "Roboflow": (
        {
            "train": {"images": {"a.jpg": A, "b.jpg": A}, "labels": {"a.txt": b"0", "b.txt": b"0"}},
            "valid": {"images": {"a.jpg": B}, "labels": {"a.txt": b"0"}},
        },
        {"train/images/b.jpg": "duplicate", "train/labels/b.txt": "side-file"},
    ),
    "black masks": (
        {
            "images": {"1.png": A, "2.png": B, "3.png": A},
            "masks": {"1.png": BLACK, "2.png": BLACK, "3.png": BLACK},
        },
        {"images/3.png": "duplicate", "masks/3.png": "side-file"},
    ),
    "BUSI": (
        {
            "benign": {
                "benign (1).png": A,
                "benign (1)_mask.png": BLACK,
                "benign (1)_mask_1.png": BLACK,
                "benign (2).png": A,
                "benign (2)_mask.png": BLACK,
            }
        },
        {"benign/benign (2).png": "duplicate", "benign/benign (2)_mask.png": "side-file"},
    ),
    "VOC": (
        {
            "VOC2012": {
                "JPEGImages": {"1.jpg": A, "2.jpg": A, "3.jpg": B},
                "Annotations": {"1.xml": b"<>", "2.xml": b"<>", "3.xml": b"<>"},
                "SegmentationClass": {"1.png": BLACK, "2.png": BLACK},
                "SegmentationObject": {"1.png": BLACK, "2.png": BLACK},
                "ImageSets": {"Main": {"train.txt": b"1\n2", "val.txt": b"1\n2"}},
            }
        },
        {
            "VOC2012/JPEGImages/2.jpg": "duplicate",
            "VOC2012/Annotations/2.xml": "side-file",
            "VOC2012/SegmentationClass/2.png": "side-file",
            "VOC2012/SegmentationObject/2.png": "side-file",
        },
    ),
    "Carvana": (
        {
            "train": {"fff_01.jpg": A, "fff_02.jpg": A},
            "train_masks": {"fff_01_mask.gif": BLACK, "fff_02_mask.gif": BLACK},
        },
        {"train/fff_02.jpg": "duplicate", "train_masks/fff_02_mask.gif": "side-file"},
    ),
    "ISIC": (
        {
            "ISIC_Training_Input": {"ISIC_1.jpg": A, "ISIC_2.jpg": A},
            "ISIC_Training_GroundTruth": {"ISIC_1_segmentation.png": BLACK, "ISIC_2_segmentation.png": BLACK},
        },
        {
            "ISIC_Training_Input/ISIC_2.jpg": "duplicate",
            "ISIC_Training_GroundTruth/ISIC_2_segmentation.png": "side-file",
        },
    ),
    "COCO, one list for all": (
        {
            "images": {"train2017": {"1.jpg": A, "2.jpg": A}},
            "annotations": {"instances_train2017.json": b"{}", "captions_train2017.json": b"{}"},
        },
        {"images/train2017/2.jpg": "duplicate"},
    ),
    "annotations beside splits": (
        {
            "train": {"a.jpg": A, "b.jpg": A},
            "val": {"c.jpg": B},
            "annotations": {"train": {"a.xml": b"<>", "b.xml": b"<>"}, "val": {"c.xml": b"<>"}},
        },
        {"train/b.jpg": "duplicate", "annotations/train/b.xml": "side-file"},
    ),
    "labels that lie flat": (
        {
            "images": {"cat": {"a.jpg": A}, "dog": {"b.jpg": A, "c.jpg": B}},
            "labels": {"a.txt": b"0", "b.txt": b"0", "c.txt": b"0"},
        },
        {"images/dog/b.jpg": "duplicate", "labels/b.txt": "side-file"},
    ),
    "side files in the images' directory": (
        {
            "x": {
                "a.jpg": A,
                "a.txt": b"0",
                "a.jpg.json": b"{}",
                "a_bbox.json": b"{}",
                "b.jpg": A,
                "b.txt": b"0",
                "b.JPG.json": b"{}",
                "b.jpg.json": b"{}",
                "b_bbox.json": b"{}",
                "c.txt": b"0",
                "b.zip": b"0",
                "b_mask.png": A,
                "b_mask.png.json": b"0",
            }
        },
        {
            "x/b.jpg": "duplicate",
            "x/b.txt": "side-file",
            "x/b.jpg.json": "side-file",
            "x/b_bbox.json": "side-file",
            "x/b_mask.png": "side-file",
            "x/b_mask.png.json": "side-file",
        },
    ),
    "a stem that two images share": (
        {
            "x": {"a.jpg": A, "b.jpg": A, "b.png": C, "b.txt": b"0"},
            "y": {"c.jpg": B, "d.jpg": B, "d.png": B, "d.txt": b"0"},
        },
        {"x/b.jpg": "duplicate", "y/d.jpg": "duplicate", "y/d.png": "duplicate", "y/d.txt": "side-file"},
    ),
    "numbers are not cut": (
        {"x": {"img1.png": A, "img10.png": B, "img10_mask.png": BLACK, "img2.png": B}, "y": {"0.png": A}},
        {"x/img2.png": "duplicate", "y/0.png": "duplicate"},
    ),
    "masks below their images": (
        {
            "cat": {"1.png": A, "2.png": B, "3.png": A, "masks": {"1.png": BLACK, "2.png": BLACK, "3.png": BLACK}},
            "dog": {"1.png": C, "labels": {"1.txt": b"0"}},
        },
        {"cat/3.png": "duplicate", "cat/masks/3.png": "side-file"},
    ),
    "good and junk of a query": (
        {
            "query": {"1_c1.jpg": A, "1_c1_2.jpg": B, "1_c1s.jpg": C, "2_c1.jpg": A, "2_c1_2.jpg": B, "3.jpg": A},
            "gt_query": {
                "1_c1_good.mat": b"0",
                "1_c1_2_good.mat": b"0",
                "1_c1s.mat": b"0",
                "2_c1_good.mat": b"0",
                "2_c1.junk.mat": b"0",
                "2_c1_2_good.mat": b"0",
                "3good.mat": b"0",
                "3 good.mat": b"0",
            },
        },
        {
            **dict.fromkeys(("query/2_c1.jpg", "query/2_c1_2.jpg", "query/3.jpg"), "duplicate"),
            **dict.fromkeys(("gt_query/2_c1_good.mat", "gt_query/2_c1.junk.mat"), "side-file"),
            **dict.fromkeys(("gt_query/2_c1_2_good.mat", "gt_query/3 good.mat"), "side-file"),
        },
    ),
    "labels of whole names": (
        {
            "img": {"a.jpg": A, "b.jpg": A},
            "ann": {"a.jpg.json": b"{}", "b.jpg.json": b"{}"},
        },
        {"img/b.jpg": "duplicate", "ann/b.jpg.json": "side-file"},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("same_by", [SameBy.BYTES, SameBy.PIXELS])
def test_what_belongs_to_a_hidden_image_is_hidden_with_it(tmp_path: Path, name: str, same_by: SameBy) -> None:
    dataset, expected = PAIRS[name]
    assert hidden(tmp_path, dataset, by(same_by)) == expected


@pytest.mark.parametrize("name", PAIRS)
def test_on_request_images_are_hidden_alone(tmp_path: Path, name: str) -> None:
    dataset, expected = PAIRS[name]
    images = {path: kind for path, kind in expected.items() if kind != "side-file"}
    assert hidden(tmp_path, dataset, by(SameBy.BYTES, side_files=SideFiles.KEEP)) == images


def test_side_files_of_links_follow_by_target(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "images": {"1.jpg": A, "2.jpg": link("1.jpg")},
        "labels": {"1.txt": b"0", "2.txt": link("1.txt")},
    }
    assert hidden(tmp_path, dataset, by(SameBy.TARGET)) == {"images/2.jpg": "duplicate", "labels/2.txt": "side-file"}


def test_side_files_of_broken_images_follow_and_broken_masks_are_left_alone(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "images": {"1.png": A, "2.png": CUT, "3.png": B},
        "masks": {"1.png": CUT, "2.png": BLACK, "3.png": BLACK},
    }
    policy = Policy(broken_images=BrokenImages.HIDE)
    assert hidden(tmp_path, dataset, policy) == {"images/2.png": "broken", "masks/2.png": "side-file"}


def test_a_side_file_names_its_image(tmp_path: Path) -> None:
    view = selected(tree(tmp_path / "dataset", YOLO), BYTES)
    assert view.progress().hidden == {Kind.DUPLICATE: 1, Kind.SIDE_FILE: 1}
    assert not view.progress().findings[Finding.EMPTIED]
    said = explain(view, b"labels/train/2.txt")
    assert (said.shown, said.kind, said.shown_instead) == (False, Kind.SIDE_FILE, None)
    assert said.belongs_to == b"images/train/2.jpg"
    assert said.notes == [
        "its image is hidden: the same image is shown at another place (duplicate): images/train/1.jpg"
    ]
    (listed,) = [entry for entry in hidden_below(view, b"")["hidden"] if entry["kind"] == "side-file"]
    assert (listed["path"], listed["shown_instead"]) == ("labels/train/2.txt", None)
    assert listed["belongs_to"] == "images/train/2.jpg"
    view.close()


# -- where it cannot be decided ----------------------------------------------------------------------------------------

BY_ORDER: dict[Name, Entry] = {
    "images": {"img_1.png": A, "img_2.png": A, "img_3.png": B},
    "masks": {"mask_1.png": BLACK, "mask_2.png": BLACK, "mask_3.png": BLACK},
}


@pytest.mark.parametrize("same_by", [SameBy.BYTES, SameBy.PIXELS])
def test_pairs_that_go_by_their_order_refuse_the_mount(tmp_path: Path, same_by: SameBy) -> None:
    with pytest.raises(DatasetRefused) as refused:
        hidden(tmp_path, BY_ORDER, by(same_by))
    assert refused.value.status is ExitStatus.REFUSED
    for said in ("images/img_2.png", "masks", "--side-files keep"):
        assert said in str(refused.value)
    kept = by(same_by, side_files=SideFiles.KEEP)
    assert hidden(tmp_path / "again", BY_ORDER, kept) == {"images/img_2.png": "duplicate"}


def test_pairs_that_go_by_their_order_are_no_trouble_where_nothing_is_hidden(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {**BY_ORDER, "images": {"img_1.png": A, "img_2.png": B, "img_3.png": C}}
    assert hidden(tmp_path, dataset) == {}


def test_nothing_belongs_to_what_is_an_image_by_its_content_alone(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "images": {"img_1.png": A, "img_2": A, "img_2.txt": b"0"},
        "masks": {"img_2": BLACK, "mask_3.png": BLACK},
    }
    assert hidden(tmp_path, dataset) == {"images/img_2": "duplicate"}


def test_a_few_files_without_the_names_of_images_are_no_pairs(tmp_path: Path) -> None:
    dataset: dict[Name, Entry] = {
        "images": {"img_1.png": A, "img_2.png": A, "img_3.png": B},
        "annotations": {"boxes.json": b"{}", "license.md": b"", "classes.zip": b""},
    }
    assert hidden(tmp_path, dataset) == {"images/img_2.png": "duplicate"}


# -- names that somebody chose to keep a mount busy --------------------------------------------------------------------


@pytest.mark.parametrize("word", ["_mask", "Gt"])
def test_masks_of_masks_are_no_trouble_however_long_their_row(tmp_path: Path, word: str) -> None:
    """There are 2^40 ways from the last mask of forty to their image."""
    row = range(1, 41 if word == "_mask" else 120)
    names: dict[Name, Entry] = {f"{image}{word * n}.png": A for image in "ab" for n in row}
    expected = {"b.png": "duplicate"} | {f"b{word * n}.png": "side-file" for n in row}
    assert hidden(tmp_path, {**names, "a.png": A, "b.png": A}) == expected


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["{n:03}.png", "{n:03}_mask.png"], 300),
        (["{n:03}.png", "{n:03}-mask.png"], 300),
        (["a.mask{n:03}.png"], 0),
        (["mask-mask-mask-mask-mask-{n:03}.png"], 300),
        (["{n:03}_mask_mask_mask_mask_mask.png"], 300),
    ],
)
def test_names_are_looked_at_a_few_times_each_however_many_stand_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], images: int
) -> None:
    many = 300
    policy = by(SameBy.TARGET)
    entries: dict[Name, Entry] = {name.format(n=n): A for name in names for n in range(many)}
    root = tree(tmp_path / "dataset", {"0.png": A, **entries, "a.png": hardlink("0.png")})
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    looked_at = 0

    def counted(table: Table, place: int) -> bytes:
        nonlocal looked_at
        looked_at += 1
        return name_of(table, place)

    name_of = Table.name
    monkeypatch.setattr(Table, "name", counted)
    monkeypatch.setattr(Table, "first_from", lambda table, name: bisect_left(range(len(table)), name, key=table.name))
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    assert view.progress().compared == images + 2, "with those that are the same, one of which is hidden"
    assert looked_at < 50 * many
    view.close()


def test_masks_just_behind_their_images_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a million may stand in a directory of a million, which takes little longer than to list it."""
    entries: dict[Name, Entry] = {name: A for n in range(100) for name in (f"{n:02}.png", f"{n:02}_mask.png")}
    monkeypatch.setattr(Table, "beginning_with", lambda _table, prefix: pytest.fail(f"looked for {prefix!r}"))
    view = selected(tree(tmp_path / "dataset", entries), by(SameBy.TARGET))
    assert view.progress().compared == 100
    view.close()
