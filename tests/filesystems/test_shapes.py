"""What a mount shows of links, linked directories and hard links on each file system: what `cp -rL` makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.filesystems.table import KINDS, FileSystem, drop_inodes
from tests.support.mounting import MYSELF
from tests.support.oracle import Shown, expected_from, seen, walk
from tests.support.pictures import mounted_at, shown

pytestmark = pytest.mark.parametrize(
    "filesystem", [pytest.param(kind, id=kind.name) for kind in KINDS], indirect=True, scope="module"
)


@pytest.mark.parametrize("backend", ["kernel", "stacked"])
def test_a_mount_shows_what_a_dereferencing_copy_does(backend: str, filesystem: FileSystem, tmp_path: Path) -> None:
    """Every name once, with its type, size and content; every directory's own entries; and no cycle."""
    list(walk(filesystem.path))  # cp finds no cycle through a directory that is mounted while it looks
    expected = expected_from(filesystem.path, tmp_path / "copy")
    filesystem.rest()
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    with mounted_at(filesystem.path, mountpoint, backend=backend):
        drop_inodes()  # what is not frozen yet may have other numbers from now on
        found = seen(mountpoint)
        hidden = json.loads(MYSELF.symfuse("status", "--json", "--", mountpoint).stdout)["frozen"]["hidden"]
    assert _comparable(found, filesystem) == _comparable(expected, filesystem)
    clutter = {"clutter": 1} if (filesystem.path / "lost+found").exists() else {}
    assert hidden == clutter | ({"cycle": 4} if filesystem.has_links else {})


def _comparable(found: dict[bytes, Shown], filesystem: FileSystem) -> dict[bytes, Shown]:
    if not filesystem.times_move:
        return found
    second = 1_000_000_000
    return {path: replace(each, mtime_ns=each.mtime_ns // second * second) for path, each in found.items()}


def test_one_file_behind_many_names_is_one_and_different_files_are_not(filesystem: FileSystem, tmp_path: Path) -> None:
    if not filesystem.has_links:
        pytest.skip("there are no links to look at")
    filesystem.rest()
    filesystem.freshen("shapes")
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    with mounted_at(filesystem.path / "shapes", mountpoint, "--dedup", "target"):
        found = [path for path in shown(mountpoint / "train") if path.startswith(("apart", "hard", "link"))]
    apart = [f"apart/store{number} {name}.png" for number in (1, 2) for name in ("other", "twin")]
    hard = ["hard/1.png"] if filesystem.tells_hard_links else ["hard/1.png", "hard/2.png", "hard/3.png"]
    assert found == [*apart, *hard, "link/1.png"]
