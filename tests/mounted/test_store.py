"""What holds when the dataset, or the store behind it, goes away while it is mounted."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import symfuse
from symfuse.errors import ExitStatus
from symfuse.source.reader import IDLE_S
from tests.conftest import MountMaker
from tests.support.mounting import KEYWORDS, MYSELF, TIMEOUT_S, WAYS, Mount, has_ended
from tests.support.trees import Entry, Name, link, sparse, tree
from tests.support.watching import Touched


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


@pytest.mark.parametrize("limit", ["ulimit -S -n 64", "ulimit -n 64"], ids=["soft", "hard"])
def test_few_descriptors_are_enough_for_many_large_files(fuse: None, backend: str, tmp_path: Path, limit: str) -> None:
    """More files are read in part, and kept open for the rest, than there are descriptors."""
    number = 100
    dataset = tree(tmp_path / "dataset", {str(each): sparse(4 << 20) for each in range(number)})
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    command = [MYSELF.python, "-m", "symfuse", "mount", "--io", "cached", *WAYS[backend], str(dataset), str(mountpoint)]
    MYSELF.run("sh", "-c", f"{limit}; {shlex.join(command)}")
    try:
        for each in range(number):
            with open(mountpoint / str(each), "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                assert file.read(100) == bytes(100)
    finally:
        MYSELF.symfuse("umount", mountpoint)


def test_a_source_that_nobody_reads_does_not_keep_its_file_system_mounted(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store], check=True)
    try:
        tree(store, {"large": sparse(4 << 20)})
        mount = symfuse_mount(tree(tmp_path / "dataset", {"large": link("../store/large")}), "--io", "cached")
        mount.wait_until_frozen()
        with open(mount.path / "large", "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert file.read(100) == bytes(100)
        deadline = time.monotonic() + 2 * IDLE_S
        while subprocess.run(["umount", store], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the store cannot be unmounted"
            time.sleep(0.1)
    finally:
        subprocess.run(["umount", "-l", store], capture_output=True, check=False)


def test_two_mounts_whose_links_lead_into_each_other_do_not_wait_for_each_other(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    one, two = tmp_path / "mount0", tmp_path / "mount1"
    entries: dict[Name, Entry] = {str(number): b"" for number in range(3000)}  # so that z is not frozen at once
    into: dict[Name, Entry] = {
        "a": link(str(two / "z" / "b")),
        "b": link(str(one / "z" / "a")),
        "d": link(str(two / "y")),
        "real": b"R",
    }
    dataset = tree(tmp_path / "dataset", {"y": entries, "z": into})
    first, second = symfuse_mount(dataset, at=one), symfuse_mount(dataset, at=two)
    listing = [
        subprocess.Popen(["ls", mount.path / "z"], stdout=subprocess.PIPE, text=True) for mount in (first, second)
    ]
    for each in listing:
        assert each.communicate(timeout=TIMEOUT_S)[0] == "real\n"
    hidden = second.status()["frozen"]["hidden"]
    assert hidden.get("recursive", 0) >= 2, hidden


def test_a_dataset_may_lie_on_another_mount(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    inner = symfuse_mount(tree(tmp_path / "dataset", {"store": {"a": b"A"}, "train": {"l": link("../store/a")}}))
    outer = symfuse_mount(inner.path / "train")
    assert (outer.path / "l").read_bytes() == b"A"
    outer.umount()


def test_files_that_do_not_say_their_size_are_hidden(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    """Those of the kernel without being opened: to read its log is to take it away from others."""
    kernels = [Path(path) for path in ("/proc/kmsg", "/proc/version", "/proc/1/maps", "/sys/kernel/fscaps")]
    links: dict[Name, Entry] = {f"l{number}": link(str(path)) for number, path in enumerate(kernels)}
    dataset = tree(tmp_path / "dataset", {**links, "empty": b"", "real": b"R"})
    with Touched(path for path in kernels if os.access(path, os.R_OK)) as touched:
        mount = symfuse_mount(dataset, "--eager")
        assert sorted(os.listdir(mount.path)) == ["empty", "real"]
        assert mount.status()["frozen"]["hidden"] == {"special": len(kernels)}
        why = [MYSELF.symfuse("why", mount.path / name, check=False).stdout for name in map(str, links)]
        assert all("(/proc)" in said for said in why), why
        assert touched.opened() == set()


@pytest.fixture
def renamed(symfuse_mount: MountMaker, tmp_path: Path) -> Iterator[Mount]:
    """A mount whose dataset has another name by now, and the old one leads to the mount itself."""
    dataset = tree(tmp_path / "dataset", {"d": {"a": b"A"}, "l": link("d/a")})
    mount = symfuse_mount(dataset, "--eager")
    mount.dataset_may_change()
    dataset.rename(tmp_path / "elsewhere")
    yield mount
    (tmp_path / "elsewhere").rename(dataset)


def test_a_dataset_that_was_renamed_is_no_reason_to_ask_in_vain(renamed: Mount) -> None:
    renamed.expect_in_log("l cannot be read")  # `why` looks
    assert renamed.status()["state"] in ("alive", "store-gone")
    assert str(renamed.path) in MYSELF.symfuse("status").stdout
    assert MYSELF.symfuse("why", renamed.path / "l", check=False).returncode in (ExitStatus.OK, ExitStatus.NOT_SHOWN)
    second = MYSELF.symfuse("mount", renamed.dataset.with_name("elsewhere"), renamed.path, check=False)
    assert second.returncode == ExitStatus.MOUNTPOINT
    renamed.umount()


def test_a_mount_of_a_renamed_dataset_can_be_detached(renamed: Mount) -> None:
    MYSELF.symfuse("umount", "--lazy", renamed.path)
    assert has_ended(renamed.pid)


def test_run_and_a_block_end_as_ever_when_they_rename_the_dataset(fuse: None, tmp_path: Path, backend: str) -> None:
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    moved = tmp_path / "moved"
    done = MYSELF.symfuse(
        "run", *WAYS[backend], dataset, "--", "sh", "-c", f"mv {dataset} {moved}; exit 3", check=False
    )
    assert done.returncode == 3
    assert "internal" not in done.stderr
    with symfuse.mounted(moved, **KEYWORDS[backend]) as path:
        moved.rename(dataset)
    assert not os.path.exists(path)
