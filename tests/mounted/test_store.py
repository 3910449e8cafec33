"""What holds when the dataset, or the store behind it, goes away while it is mounted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.conftest import MountMaker
from tests.support.trees import link, tree


def test_the_numbers_of_the_file_system_are_frozen_with_the_view(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"d": {"a": b"A"}, "l": link("d/a")})
    mount = symfuse_mount(dataset, "--eager")
    mount.dataset_may_change()
    before = os.statvfs(mount.path)
    shutil.move(dataset, tmp_path / "elsewhere")
    (tmp_path / "dataset").symlink_to(mount.path)  # the question must not come back to the mount itself
    after = os.statvfs(mount.path)
    assert (after.f_blocks, after.f_bsize, after.f_namemax) == (before.f_blocks, before.f_bsize, before.f_namemax)
    os.unlink(tmp_path / "dataset")
    shutil.move(tmp_path / "elsewhere", dataset)
