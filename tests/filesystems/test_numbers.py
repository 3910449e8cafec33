"""Different files with the same device and inode number, and times that are out of all range."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.filesystems.conftest import made
from tests.filesystems.source import Source
from tests.filesystems.table import Bindfs, Btrfs, Ext4, FileSystem, Tmpfs, Xfs
from tests.support.pictures import picture, shown
from tests.support.trees import Entry, Name, attributes, link, tree

with_kernel = pytest.mark.parametrize("backend", ["kernel"], indirect=True)
SPLITS = ("train", "val", "test")
#: An image that does not decode, as long as those that do, and that is written in the turn of one.
BROKEN = picture(99)[:60] + bytes(len(picture(99)) - 60)


class Pool(Bindfs):
    """A file system at each entry of a directory, and one more within another, all on one device through bindfs."""

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._backing = self._directory("below")
        self._disks: list[Ext4] = []
        for name, entries in datasets.items():
            at = self._backing / os.fsdecode(name)
            at.mkdir()
            assert isinstance(entries, Mapping)
            self._disks.append(Ext4(self._directory(f"disk{len(self._disks)}"), at=at))
            self._disks[-1].build(entries)
            (at / "lost+found").rmdir()
        self.mount()

    def close(self) -> None:
        super().close()
        for disk in reversed(self._disks):
            disk.close()


def _split(name: str, first: int, last: bytes) -> Mapping[Name, Entry]:
    """Seven images, all with the size and the mtime of those that have their numbers in other splits."""
    images: dict[Name, Entry] = {
        f"{name} {number}.bmp": attributes(picture(number, "BMP"), mtime_ns=10**18)
        for number in range(first, first + 6)
    }
    return {"cat": images, "dog": {f"{name}.png": attributes(last, mtime_ns=10**18)}}


POOL: dict[Name, Entry] = {
    "train": _split("train", 0, picture(99)),
    "val": _split("val", 10, BROKEN),
    "test": _split("test", 20, picture(98)),
    "val/more": {"cat": {"more.bmp": picture(50, "BMP")}},
}


@pytest.fixture(scope="module")
def pool(
    request: pytest.FixtureRequest, makes_filesystems: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FileSystem]:
    yield from made(request.config, Pool, POOL, tmp_path_factory)


def test_the_pool_has_equal_numbers_for_different_files(pool: FileSystem) -> None:
    """Else the tests below would show nothing."""
    first = {(os.stat(path).st_dev, os.stat(path).st_ino) for path in pool.path.glob("*/cat/* ?.bmp")}
    assert len(first) < 18
    assert {os.stat(pool.path / name).st_ino for name in ("train", "val", "test", "val/more")} == {2}


@with_kernel
@pytest.mark.parametrize("by", ["target", "bytes", "pixels"])
def test_different_images_with_equal_numbers_are_different(
    symfuse_mount: MountMaker, pool: FileSystem, by: str
) -> None:
    mount = symfuse_mount(pool.path, "--dedup", by, "--dedup-scope", "all", "--fail-on", "duplicate,leak,conflict")
    assert shown(mount.path) == shown(pool.path)
    assert mount.status()["frozen"]["findings"] == {}


@with_kernel
def test_a_broken_image_is_hidden_though_its_numbers_twin_decodes(symfuse_mount: MountMaker, pool: FileSystem) -> None:
    mount = symfuse_mount(pool.path, "--broken-images", "hide")
    assert set(shown(pool.path)) - set(shown(mount.path)) == {"val/dog/val.png"}


@with_kernel
@pytest.mark.parametrize("again", [False, True], ids=["first", "from the cache"])
def test_the_cache_takes_no_image_for_its_numbers_twin(
    symfuse_mount: MountMaker, pool: FileSystem, again: bool
) -> None:
    """The second mount reads verdicts that the first wrote."""
    options = ("--dedup", "pixels", "--dedup-scope", "all", "--broken-images", "hide")
    for _ in range(1 + again):
        mount = symfuse_mount(pool.path, *options)
        assert set(shown(pool.path)) - set(shown(mount.path)) == {"val/dog/val.png"}


def test_linked_directories_with_equal_numbers_show_their_own_names(
    symfuse_mount: MountMaker, pool: FileSystem, tmp_path: Path
) -> None:
    links: dict[Name, Entry] = {name: link(str(pool.path / name / "cat")) for name in SPLITS}
    dataset = tree(tmp_path / "dataset", {"train": links})
    mount = symfuse_mount(dataset)
    assert {name: os.listdir(mount.path / "train" / name) for name in SPLITS} == {
        name: sorted(os.listdir(pool.path / name / "cat")) for name in SPLITS
    }


def test_the_root_of_a_disk_below_the_root_of_another_is_no_cycle(symfuse_mount: MountMaker, pool: FileSystem) -> None:
    mount = symfuse_mount(pool.path, "--eager", "--fail-on", "any")
    assert shown(mount.path) == shown(pool.path)


# -- what is listed twice ----------------------------------------------------------------------------------------------


def test_a_name_that_is_listed_twice_is_shown_once(
    makes_filesystems: None, symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    directory = tree(tmp_path / "directory", {"cat": {"1.png": b"one", "2.png": link("1.png")}, "dog": link("cat")})
    (tmp_path / "source").mkdir()
    with Source(directory, tmp_path / "source", twice=True) as source:
        assert sorted(os.listdir(source.mountpoint)) == ["cat", "cat", "dog", "dog"]
        mount = symfuse_mount(source.mountpoint, "--eager")
        mount.dataset_may_change()  # it is gone when that is looked at
        assert os.listdir(mount.path) == ["cat", "dog"]
        assert os.listdir(mount.path / "dog") == ["1.png", "2.png"]
        assert mount.status()["frozen"]["files"] == 4
        mount.umount()


# -- times -------------------------------------------------------------------------------------------------------------

#: 2446-05-10 22:38:55, the last second of ext4 and the last whose nanoseconds fit into 64 bits with a sign; 2486, which
#: XFS can hold; and a time before 1901.
LATE_S, LATER_S, EARLY_S = 15_032_385_535, 16_299_260_424, -2_208_988_800


@pytest.mark.parametrize("kind", [Tmpfs, Btrfs, Xfs, Ext4], ids=lambda kind: kind.name)
def test_files_and_directories_of_any_time_are_shown(
    request: pytest.FixtureRequest,
    makes_filesystems: None,
    symfuse_mount: MountMaker,
    tmp_path_factory: pytest.TempPathFactory,
    kind: type[FileSystem],
) -> None:
    times = {
        f"{which} {seconds}": (seconds, 10**9) if which == "access" else (10**9, seconds)
        for which in ("access", "modification")
        for seconds in (LATE_S, LATER_S, EARLY_S)
    }
    entries: dict[Name, Entry] = {
        name: {"file": b"content", "directory": {"inside": b"inside"}, "link": link("file")} for name in times
    }
    for filesystem in made(request.config, kind, {"dataset": entries}, tmp_path_factory):
        dataset = filesystem.path / "dataset"
        for name, both in times.items():
            for path in ("directory", "file", ""):
                os.utime(dataset / name / path, times=both)
        before = {path.relative_to(dataset): os.stat(path).st_mtime_ns for path in dataset.rglob("*")}
        mount = symfuse_mount(dataset, "--eager")
        mount.dataset_may_change()  # it is gone when that is looked at
        assert {each: os.stat(mount.path / each).st_mtime_ns for each in before} == before
        for name in times:
            assert (mount.path / name / "link").read_bytes() == b"content"
            assert (mount.path / name / "directory/inside").read_bytes() == b"inside"
        mount.umount()


@with_kernel
@pytest.mark.parametrize("seconds", [LATE_S, EARLY_S, 2**62, -(2**62), 2**63 - 1])
def test_times_that_no_disk_holds_harm_nobody(
    makes_filesystems: None, symfuse_mount: MountMaker, tmp_path: Path, seconds: int
) -> None:
    """A server of files can say what it likes."""
    directory = tree(tmp_path / "directory", {"cat": {"1.png": b"one"}})
    (tmp_path / "source").mkdir()
    with Source(directory, tmp_path / "source", times=seconds) as source:
        mount = symfuse_mount(source.mountpoint, "--eager")
        mount.dataset_may_change()  # it is gone when that is looked at
        assert (mount.path / "cat/1.png").read_bytes() == b"one"
        if abs(seconds) < 2**33:
            assert os.stat(mount.path / "cat/1.png").st_mtime == seconds
        mount.umount()
