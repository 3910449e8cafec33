"""On which file systems a second mount reads no image again, and where another content is never taken for the first."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from symfuse.dataset import Dataset
from symfuse.policy import Dedup, Kind, Policy, SameBy
from symfuse.selection import select
from symfuse.view import View
from tests.filesystems.conftest import made
from tests.filesystems.table import (
    KINDS,
    Erofs,
    Ext4,
    FileSystem,
    OldExt4,
    Overlay,
    OwnWithEqualNumbers,
    Squashfs,
    Sshfs,
    change,
    run,
)  # fmt: skip
from tests.support.mounting import MYSELF
from tests.support.pictures import mounted_at, picture
from tests.support.trees import Entry, Name, attributes
from tests.support.watching import settle

WEEK_NS = 7 * 86_400 * 1_000_000_000
#: Images of one size: two are alike. The last was written by a program that puts the time of writing back, as `cp -p`
#: does; its change time is therefore another.
A, B = picture(1, "BMP"), picture(2, "BMP")
FILES: dict[Name, Entry] = {"1.bmp": A, "2.bmp": A, "old.bmp": attributes(B, mtime_ns=10**18 + 5)}
DATASETS: dict[Name, Entry] = {"dataset": {"store": FILES}}
WRITTEN = {"store/1.bmp", "store/2.bmp"}
ALL = WRITTEN | {"store/old.bmp"}
#: What is read again at each mount, where that is anything.
READ_AGAIN: Mapping[str, set[str]] = {
    "sshfs": ALL,
    "rclone": ALL,
    "fuse with times that lose their nanoseconds": ALL,
    "bindfs": WRITTEN,
    "mergerfs": WRITTEN,
    "mergerfs with use_ino": WRITTEN,
    "fuse with numbers that move": WRITTEN,
    "fuse with equal numbers": WRITTEN,
    "fuse without types": WRITTEN,
}


class Seen(NamedTuple):
    """What was read to mount a dataset, how many files are not remembered, and how many are duplicates."""

    opened: set[str]
    unremembered: int
    duplicates: int


Look = Callable[[Path], Seen]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Mount a dataset, as far as that opens files, with a cache of the test's own and a week after all was written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + WEEK_NS)
    policy = Policy(dedup=Dedup(SameBy.BYTES))

    def look(dataset: Path) -> Seen:
        view = View(Dataset(os.fsencode(dataset), policy))
        view.freeze_all()
        opened, open_file = set(), view.open_unverified

        def note(nodeid: int) -> int:
            opened.add(os.fsdecode(view.path(nodeid)))
            return open_file(nodeid)

        monkeypatch.setattr(view, "open_unverified", note)
        select(view, policy, on_work=lambda _work: None, stop=threading.Event())
        progress = view.progress()
        view.close()
        return Seen(opened, progress.unremembered, progress.hidden[Kind.DUPLICATE])

    return look


@pytest.fixture
def filesystem(
    request: pytest.FixtureRequest, makes_filesystems: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FileSystem]:
    yield from made(request.config, request.param, DATASETS, tmp_path_factory)


def on(*kinds: type[FileSystem]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("filesystem", kinds, ids=[kind.name for kind in kinds], indirect=True)


@on(*(kind for kind in KINDS if "autofs" not in kind.name))
def test_a_second_mount_reads_only_what_could_have_changed_unnoticed(filesystem: FileSystem, look: Look) -> None:
    again = READ_AGAIN.get(filesystem.name, set())
    filesystem.freshen("dataset")
    assert look(filesystem.path / "dataset") == Seen(ALL, len(again), 1)
    assert look(filesystem.path / "dataset") == Seen(again, len(again), 1)


# Not where the kernel keeps attributes for a second: it has the old ones at the second look.
@on(*(each for each in KINDS if "autofs" not in each.name and not each.cannot_tell and each is not OwnWithEqualNumbers))
def test_a_change_in_place_whose_time_was_put_back_is_read(filesystem: FileSystem, look: Look) -> None:
    assert look(filesystem.path / "dataset").duplicates == 1
    filesystem.change({"dataset/store/2.bmp": "in place"}, B)
    seen = look(filesystem.path / "dataset")
    assert "store/2.bmp" in seen.opened
    assert "store/old.bmp" not in seen.opened or filesystem.name in READ_AGAIN
    assert seen.duplicates == 1, "it is like the other now"


@on(Sshfs)
def test_a_change_that_the_file_system_does_not_show_is_read(filesystem: FileSystem, look: Look) -> None:
    dataset = filesystem.path / "dataset"
    assert look(dataset).duplicates == 1
    filesystem.change({"dataset/store/2.bmp": "in place", "dataset/store/old.bmp": "in place"}, b"other" * len(A))
    assert look(dataset) == Seen(ALL, 3, 1)
    filesystem.change({"dataset/store/old.bmp": "in place"}, B)
    assert look(dataset) == Seen(ALL, 3, 0)


# -- images ------------------------------------------------------------------------------------------------------------

images = on(Squashfs, Erofs)


@images
def test_an_image_that_is_mounted_again_at_another_device_is_remembered(filesystem: FileSystem, look: Look) -> None:
    look(filesystem.path / "dataset")
    filesystem.mount_again()
    assert look(filesystem.path / "dataset") == Seen(set(), 0, 1)


@images
@pytest.mark.parametrize("keeps_time", [False, True], ids=["new", "as old as the first"])
def test_an_image_that_differs_in_nothing_but_contents_is_read(
    filesystem: Squashfs | Erofs, look: Look, keeps_time: bool
) -> None:
    """At the same path and, as nobody else takes a loop device meanwhile, mostly at the same device."""
    before, image = os.stat(filesystem.image), filesystem.image
    assert look(filesystem.path / "dataset").duplicates == 1
    filesystem.unmount()
    change(filesystem.path.parent / "content/dataset/store/2.bmp", "in place", bytes(len(A)))
    filesystem.image = image.with_name("new")
    filesystem.format()
    if keeps_time:
        os.utime(filesystem.image, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(filesystem.image, image)
    filesystem.image = image
    filesystem.mount()
    assert look(filesystem.path / "dataset") == Seen(ALL, 0, 0)


@images
def test_an_image_that_was_deleted_or_replaced_while_it_is_mounted_is_read_each_time(
    filesystem: Squashfs | Erofs, look: Look
) -> None:
    shutil.copy(filesystem.image, filesystem.work / "copy")
    os.replace(filesystem.work / "copy", filesystem.image)
    for _ in range(2):
        assert look(filesystem.path / "dataset") == Seen(ALL, 3, 1)


@images
def test_an_image_that_is_replaced_while_it_is_read_is_not_remembered(
    filesystem: Squashfs | Erofs, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = View.open_unverified

    def replace_first(view: View, nodeid: int) -> int:
        os.utime(filesystem.image)
        return open_file(view, nodeid)

    monkeypatch.setattr(View, "open_unverified", replace_first)
    assert look(filesystem.path / "dataset") == Seen(ALL, 3, 1)


class OverlayOfImage(Overlay):
    """What is in the image has no change time there either; what is written to the overlay has one."""

    name = "overlay over erofs"
    tools = ("mkfs.erofs",)

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._inner = Erofs(self._directory("inner"))
        self._inner.build({"dataset": {"store": {"1.bmp": A, "old.bmp": FILES["old.bmp"]}}})
        self._layers = [self._inner.path, self._directory("links"), self._directory("upper")]
        run("mount", "-t", "tmpfs", "layer", self._layers[2])
        for part in ("changed", "work"):
            (self._layers[2] / part).mkdir()
        self.mount()
        (self.path / "dataset/store/2.bmp").write_bytes(A)

    def close(self) -> None:
        super().close()
        self._inner.close()


@on(OverlayOfImage)
def test_of_an_overlay_is_remembered_what_does_not_come_from_an_image(filesystem: FileSystem, look: Look) -> None:
    assert look(filesystem.path / "dataset") == Seen(ALL, 2, 1)
    assert look(filesystem.path / "dataset") == Seen(ALL - {"store/2.bmp"}, 2, 1)


# -- disks of whole seconds --------------------------------------------------------------------------------------------


@on(OldExt4)
def test_another_disk_with_the_same_numbers_and_seconds_is_read(filesystem: OldExt4, look: Look) -> None:
    look(filesystem.path / "dataset")
    assert look(filesystem.path / "dataset").opened == set()
    filesystem.unmount()
    run("tune2fs", "-U", "random", filesystem.image)  # a disk like the first in everything but what it is
    filesystem.mount()
    assert look(filesystem.path / "dataset").opened == ALL


# -- what the user is told ---------------------------------------------------------------------------------------------


@on(Ext4, Sshfs)
def test_status_says_how_many_files_are_not_remembered(filesystem: FileSystem, tmp_path: Path) -> None:
    settle(filesystem.path)
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    number = len(READ_AGAIN.get(filesystem.name, set()))
    with mounted_at(filesystem.path / "dataset", mountpoint, "--dedup", "bytes") as _done:
        status = MYSELF.symfuse("status", mountpoint).stdout
    assert (f"{number} files are not remembered" in status) == (number > 0)
