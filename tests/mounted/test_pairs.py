"""Pairs of images and labels on a real mount, counted without symfuse: no label without its image, no image without."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, WAYS
from tests.support.pictures import CUT, A, B, C, D, mounted_at, shown
from tests.support.trees import Entry, Name, link, tree
from tests.support.watching import Opens, settle

pytestmark = pytest.mark.usefixtures("fuse")

BLACK = b"P5\n1 1\n255\n\0"


def names(root: Path, directory: str) -> set[str]:
    """The stems in a directory and below it, with their places."""
    return {os.path.splitext(path)[0] for path in shown(root / directory)}


def yolo(root: Path) -> tuple[set[str], set[str]]:
    return names(root, "images"), names(root, "labels")


def carvana(root: Path) -> tuple[set[str], set[str]]:
    return names(root, "train"), {name.removesuffix("_mask") for name in names(root, "train_masks")}


def busi(root: Path) -> tuple[set[str], set[str]]:
    stems = names(root, "benign")
    masks = {name for name in stems if "_mask" in name}
    return stems - masks, {name.partition("_mask")[0] for name in masks}


def captions(root: Path) -> tuple[set[str], set[str]]:
    files = shown(root)
    return tuple({os.path.splitext(name)[0] for name in files if name.endswith(end)} for end in (".png", ".txt"))  # type: ignore[return-value]


DATASETS: dict[str, tuple[dict[Name, Entry], Callable[[Path], tuple[set[str], set[str]]], int]] = {
    "yolo": (
        {
            "images": {
                "train": {"1.png": A, "2.png": A, "3.png": B, "4.png": link("3.png"), "5.png": CUT},
                "val": {"6.png": B, "7.png": C},
            },
            "labels": {
                "train": {f"{number}.txt": b"0 0.5 0.5 1 1" for number in range(1, 6)},
                "val": {f"{number}.txt": b"0 0.5 0.5 1 1" for number in (6, 7)},
            },
        },
        yolo,
        3,
    ),
    "carvana": (
        {
            "train": {"a_01.png": A, "a_02.png": A, "b_01.png": B, "b_02.png": CUT},
            "train_masks": {f"{name}_mask.pgm": BLACK for name in ("a_01", "a_02", "b_01", "b_02")},
        },
        carvana,
        2,
    ),
    "busi": (
        {
            "benign": {
                **{f"benign ({number}).png": image for number, image in enumerate((A, B, A, C, CUT))},
                **{f"benign ({number})_mask.png": BLACK for number in range(5)},
                "benign (2)_mask_1.png": BLACK,
            }
        },
        busi,
        3,
    ),
    "captions": (
        {
            "x": {
                **{f"{number}.png": image for number, image in enumerate((A, B, A, D, CUT))},
                **{f"{number}.txt": b"a cat" for number in range(5)},
            }
        },
        captions,
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("dedup", ["bytes", "pixels"])
def test_every_label_has_its_image_and_the_reverse(
    symfuse_mount: MountMaker, tmp_path: Path, dataset: str, dedup: str
) -> None:
    entries, pairs, left = DATASETS[dataset]
    root = tree(tmp_path / "dataset", entries)
    images, labels = pairs(root)
    assert images == labels, "or this would show nothing"
    mounted = symfuse_mount(root, "--dedup", dedup, "--dedup-scope", "all", "--broken-images", "hide")
    images, labels = pairs(mounted.path)
    assert images == labels
    assert len(images) == left


@pytest.mark.parametrize("dedup", ["target", "bytes", "pixels"])
def test_equal_labels_are_all_there(symfuse_mount: MountMaker, tmp_path: Path, dedup: str) -> None:
    labels: Mapping[Name, Entry] = {"1.txt": b"0", "2.txt": b"0", "3.txt": link("1.txt")}
    root = tree(tmp_path / "dataset", {"images": {"1.png": A, "2.png": B, "3.png": C}, "labels": labels})
    mounted = symfuse_mount(root, "--dedup", dedup, "--dedup-scope", "all")
    assert shown(mounted.path) == shown(root)
    frozen = mounted.status()["frozen"]
    assert (frozen["compared"], frozen["left_alone"]) == (3, 3)


def test_what_was_compared_and_why_a_label_is_hidden_is_said(backend: str, tmp_path: Path, mountpoint: Path) -> None:
    root = tree(tmp_path / "dataset", DATASETS["yolo"][0])
    with mounted_at(root, mountpoint, "--dedup", "bytes", "--dedup-scope", "all", backend=backend) as done:
        assert "compared 7 images; 7 other files left alone\n" in done.stdout
        assert "3 side-file (the image that it belongs to is hidden): labels/train/2.txt, " in done.stdout
        status = MYSELF.symfuse("status", mountpoint).stdout
        assert "  compared    7 images; 7 other files left alone\n" in status
        said = MYSELF.symfuse("why", mountpoint / "labels/train/2.txt", check=False)
        assert said.returncode == ExitStatus.NOT_SHOWN
        assert said.stdout.splitlines()[:3] == [
            f"{mountpoint}/labels/train/2.txt: not shown: the image that it belongs to is hidden (side-file)",
            "  image:  images/train/2.png",
            "  note:   its image is hidden: the same image is shown at another place (duplicate): images/train/1.png",
        ]
        listed = MYSELF.symfuse("status", "--all", mountpoint).stdout
        assert "side-file   labels/train/2.txt (belongs to: images/train/2.png)\n" in listed


def test_pairs_by_their_order_are_refused_and_kept_on_request(backend: str, tmp_path: Path, mountpoint: Path) -> None:
    pairs: dict[Name, Entry] = {
        "images": {f"img_{number}.png": image for number, image in enumerate((A, A, B))},
        "masks": {f"mask_{number}.png": BLACK for number in range(3)},
    }
    root = tree(tmp_path / "dataset", pairs)
    refused = MYSELF.symfuse("mount", *WAYS[backend], "--dedup", "bytes", root, mountpoint, check=False)
    assert refused.returncode == ExitStatus.REFUSED
    assert "images/img_1.png would be hidden, and what belongs to it in masks cannot be known" in refused.stderr
    assert "--side-files keep" in refused.stderr
    with mounted_at(root, mountpoint, "--dedup", "bytes", "--side-files", "keep", backend=backend):
        assert shown(mountpoint) == [path for path in shown(root) if path != "images/img_1.png"]
        status = json.loads(MYSELF.symfuse("status", "--json", mountpoint).stdout)
        assert status["frozen"]["hidden"] == {"duplicate": 1}


def test_a_second_mount_opens_nothing_to_know_an_image_by_its_content(
    backend: str, tmp_path: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tree(tmp_path / "dataset", {"x": {"0a": A, "1b": A, "2.bin": bytes(len(A)), "3.bin": b"alone"}})
    settle(root)
    opened = []
    for _mount in range(2):
        with Opens(root) as opens, mounted_at(root, mountpoint, "--dedup", "bytes", backend=backend):
            assert shown(mountpoint) == ["x/0a", "x/2.bin", "x/3.bin"]
        opened.append(set(opens.counts()))
    assert opened == [{"x/0a", "x/1b", "x/2.bin"}, set()]
