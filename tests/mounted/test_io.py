"""`--io`: content that is passed through by the kernel, and what it falls back to. Exact, as in test_requests.py."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MountMaker, missing
from tests.mounted.conftest import make_mess
from tests.support.costs import warm_cost
from tests.support.mounting import MYSELF, Mount, User
from tests.support.oracle import expected_from, seen
from tests.support.trees import Entry, Name, hardlink, link, tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel passes files through for root alone")

FILES = 20
SIZE = 200_000
PASSTHROUGH = ("--eager", "--io", "passthrough")


@pytest.fixture
def backend() -> str:
    return "kernel"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return made_in(tmp_path)


@pytest.fixture
def flat(tmp_path: Path) -> Iterator[Path]:
    """A directory on no overlay, also where all the rest is on one: in a container."""
    with mounted("tmpfs", tmp_path / "flat") as at:
        yield at


def made_in(directory: Path) -> Path:
    store: dict[Name, Entry] = {f"{number:03}": bytes([number]) * SIZE for number in range(FILES)}
    links: dict[Name, Entry] = {f"{number:03}.png": link(f"../store/{number:03}") for number in range(FILES)}
    return tree(directory / "dataset", {"store": store, "train": links})


def io(mount: Mount) -> str:
    return str(mount.status()["io"])


def read_all(mount: Mount) -> None:
    for number in range(FILES):
        fd = os.open(mount.path / f"train/{number:03}.png", os.O_RDONLY)
        try:
            assert os.read(fd, 2 * SIZE) == bytes([number]) * SIZE
        finally:
            os.close(fd)


def descriptors(mount: Mount) -> int:
    return len(os.listdir(f"/proc/{mount.pid}/fd"))


# -- what it costs -----------------------------------------------------------------------------------------------------


@as_root
def test_each_open_costs_an_open_and_a_release_and_nothing_is_read(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    seen(mount.path)  # and the first FLUSH of a connection is answered ENOSYS
    assert warm_cost(mount, lambda: read_all(mount)) == {"open": FILES, "release": FILES}
    assert mount.status()["bytes_read"] == 0
    assert io(mount) == "passthrough"


@as_root
@pytest.mark.parametrize(("size", "way"), [(1000, "cached"), (3 << 20, "passthrough")])
def test_auto_decides_at_the_first_open(symfuse_mount: MountMaker, tmp_path: Path, size: int, way: str) -> None:
    files: dict[Name, Entry] = {str(number): bytes([number]) * size for number in range(4)}
    mount = symfuse_mount(tree(tmp_path / "dataset", files), "--eager")
    assert io(mount) == "auto: not decided yet"
    for number in range(4):
        assert (mount.path / str(number)).read_bytes() == bytes([number]) * size
    assert io(mount) == way


# -- the contract ------------------------------------------------------------------------------------------------------


@as_root
def test_the_mount_shows_exactly_what_cp_rl_copies(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = make_mess(tmp_path)
    expected = expected_from(dataset, tmp_path / "copy")
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    for _ in range(2):
        assert seen(mount.path) == expected
    assert mount.requests().get("read", 0) == 0


@as_root
def test_a_mapped_file_outlives_its_descriptor(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    with open(mount.path / "train/007.png", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = descriptors(mount)
    with mapped:
        assert mapped[:] == bytes([7]) * SIZE
        assert (mount.path / "train/007.png").read_bytes() == bytes([7]) * SIZE
    assert descriptors(mount) == before


@as_root
def test_reading_leaves_no_access_times_behind(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    # Outside the dataset, which is read before it is mounted to see that it stays what it was.
    store = tree(tmp_path / "store", {f"{number:03}.png": bytes([number]) * SIZE for number in range(FILES)})
    sources = [store / f"{number:03}.png" for number in range(FILES)]
    for source in sources:
        os.utime(source, ns=(10**18, source.stat().st_mtime_ns))
    links: dict[Name, Entry] = {source.name: link(str(source)) for source in sources}
    mount = symfuse_mount(tree(tmp_path / "dataset", {"train": links}), *PASSTHROUGH)
    read_all(mount)
    with open(mount.path / "train/007.png", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:3] == b"\7\7\7"
    assert {source.stat().st_atime_ns for source in sources} == {10**18}


@as_root
def test_who_remounts_it_writable_cannot_write_to_a_source(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    read_all(mount)
    MYSELF.run("mount", "-i", "-o", "remount,rw", mount.path)
    path = mount.path / "train/001.png"
    with open(path, "rb") as file:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            with pytest.raises(OSError) as error:
                os.open(path, flags)
            assert error.value.errno in (errno.EROFS, errno.EACCES)
        assert file.read() == bytes([1]) * SIZE
    assert (dataset / "store/001").read_bytes() == bytes([1]) * SIZE


@as_root
def test_many_processes_open_one_file_at_once(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    read_all(mount)
    before = descriptors(mount)
    script = (
        "import sys\n"
        "for _ in range(200):\n"
        "    with open(sys.argv[1], 'rb') as file:\n"
        "        assert file.read() == bytes([3]) * int(sys.argv[2])"
    )
    words: list[str | Path] = [sys.executable, "-c", script, mount.path / "train/003.png", str(SIZE)]
    readers = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(6)]
    for reader in readers:
        _, said = reader.communicate(timeout=60)
        assert reader.returncode == 0, said
    requests = mount.requests()
    assert requests["open"] == requests["release"] == FILES + 6 * 200
    assert descriptors(mount) == before


@as_root
def test_several_names_of_one_source_are_open_at_once(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    entries: dict[Name, Entry] = {"a": b"A" * 5000, "b": link("a"), "c": link("b"), "d": hardlink("a")}
    mount = symfuse_mount(tree(tmp_path / "dataset", entries), *PASSTHROUGH)
    files = [open(mount.path / name, "rb") for name in "abcdabcd"]  # noqa: SIM115 - closed below
    assert {file.read() for file in files} == {b"A" * 5000}
    for file in files:
        file.close()
    assert mount.requests().get("read", 0) == 0


@as_root
def test_a_source_is_verified_when_it_is_opened_and_not_after(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    mount.dataset_may_change()
    mount.expect_in_log(r"train/00[12]\.png cannot be read")
    path, source = mount.path / "train/001.png", dataset / "store/001"
    with open(path, "rb", buffering=0) as file:
        with open(source, "r+b") as writer:
            writer.write(b"changed")
        assert file.read(7) == b"changed", "what happens to an open file is seen"
        with pytest.raises(OSError) as error:
            path.read_bytes()
        assert error.value.errno == errno.ESTALE
        file.seek(0)
        assert file.read(8) == b"changed\1", "who has it open is not disturbed"

    path, source = mount.path / "train/002.png", dataset / "store/002"
    with open(path, "rb", buffering=0) as file:
        source.rename(dataset / "store/old")
        source.write_bytes(b"another")
        assert file.read() == bytes([2]) * SIZE, "the file that was frozen"
        with pytest.raises(OSError) as error:
            path.read_bytes()
        assert error.value.errno == errno.ESTALE


@as_root
def test_a_file_that_is_open_stays_readable_after_the_mount_is_gone(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, *PASSTHROUGH)
    with open(mount.path / "train/005.png", "rb", buffering=0) as file:
        MYSELF.symfuse("umount", "--lazy", "--", mount.path)
        assert not mount.is_mounted()
        assert file.read() == bytes([5]) * SIZE
    mount.check_nothing_left()


# -- where the source lies ---------------------------------------------------------------------------------------------


@contextmanager
def mounted(kind: str, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    MYSELF.run("mount", "-t", kind, *options, kind, at)
    try:
        yield at
    finally:
        MYSELF.run("umount", at)


@contextmanager
def overlay(directory: Path, entries: dict[Name, Entry]) -> Iterator[Path]:
    """An overlay that shows these entries, from its lower layer."""
    lower = tree(directory / "lower", entries)
    for name in ("upper", "work"):
        (directory / name).mkdir()
    layers = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
    with mounted("overlay", directory / "overlay", "-o", layers) as at:
        yield at


@as_root
def test_sources_on_another_file_system_are_passed_through(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "tmpfs") as store:
        tree(store, {"a": b"on a tmpfs"})
        mount = symfuse_mount(tree(tmp_path / "dataset", {"a": link(str(store / "a")), "b": b"here"}), *PASSTHROUGH)
        assert [(mount.path / name).read_bytes() for name in "ab"] == [b"on a tmpfs", b"here"]
        assert mount.requests().get("read", 0) == 0
        mount.umount()


@as_root
def test_a_dataset_on_an_overlay_is_passed_through(flat: Path, symfuse_mount: MountMaker) -> None:
    """As in a container, whose root is one."""
    with overlay(flat, {"dataset": {"store": {"a": b"below"}, "train": {"1": link("../store/a")}}}) as root:
        mount = symfuse_mount(root / "dataset", *PASSTHROUGH)
        assert (mount.path / "train/1").read_bytes() == b"below"
        assert mount.requests().get("read", 0) == 0
        assert io(mount) == "passthrough"
        mount.umount()
        mount.dataset_may_change()  # it goes with its overlay


@as_root
def test_what_is_stacked_too_deep_is_cached_beside_what_is_passed_through(
    flat: Path, symfuse_mount: MountMaker
) -> None:
    with overlay(flat, {"a": b"on an overlay" * 1000}) as store:
        mount = symfuse_mount(tree(flat / "dataset", {"a": link(str(store / "a")), "b": b"here"}), *PASSTHROUGH)
        mount.expect_in_log("which lies too deep in stacked file systems")
        for _ in range(2):
            assert [(mount.path / name).read_bytes() for name in "ab"] == [b"on an overlay" * 1000, b"here"]
        assert mount.requests()["read"] == 1
        assert io(mount) == "passthrough, but cached where the source lies too deep in stacked file systems"
        mount.umount()


@as_root
def test_an_overlay_can_be_made_of_the_mount(flat: Path, symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(made_in(flat), *PASSTHROUGH, "--allow-other")
    (tmp_path / "empty").mkdir()
    with mounted("overlay", tmp_path / "top", "-o", f"lowerdir={mount.path}:{tmp_path}/empty") as top:
        assert (top / "train/009.png").read_bytes() == bytes([9]) * SIZE
    assert mount.requests().get("read", 0) == 0


@as_root
@pytest.mark.parametrize("backend", ["stacked"])
def test_a_stacked_mount_passes_through(flat: Path, symfuse_mount: MountMaker) -> None:
    mount = symfuse_mount(made_in(flat), *PASSTHROUGH)
    read_all(mount)
    assert mount.requests().get("read", 0) == 0
    assert io(mount) == "passthrough"


# -- who may not -------------------------------------------------------------------------------------------------------


def test_an_ordinary_users_files_are_cached(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A" * SIZE}))
    mount = symfuse_mount(dataset, *PASSTHROUGH, at=ordinary_user.home / "mnt", user=ordinary_user)
    mount.expect_in_log("files are cached, not passed through: only root can")
    assert ordinary_user.run("cat", mount.path / "a").stdout == "A" * SIZE
    assert io(mount) == "cached (passthrough: only root can)"
    assert ordinary_user.run("cat", mount.path / "a").stdout == "A" * SIZE
    assert mount.requests()["open"] == 1


def test_root_of_a_user_namespace_falls_back(request: pytest.FixtureRequest, ordinary_user: User) -> None:
    if ordinary_user.run("unshare", "-Urm", "true", check=False).returncode != 0:
        missing(request.config, "ordinary users may not make user namespaces here")
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A" * 99, "b": link("a")}))
    script = 'cat "$1/b" "$1/a" && "$2" -m symfuse status "$1"'
    done = ordinary_user.run(
        "unshare", "-Urm", ordinary_user.python, "-m", "symfuse", "run", "--io", "passthrough", dataset, "--",
        "sh", "-c", script, "sh", "{}", ordinary_user.python,
    )  # fmt: skip
    assert done.stdout.startswith("A" * 198)
    assert "cached (passthrough: the kernel refused it (Operation not permitted))" in done.stdout
