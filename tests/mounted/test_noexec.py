"""Files on a mount with `noexec` cannot be executed, whoever tries and whichever way they are read."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import symfuse
from symfuse.errors import ExitStatus
from tests.conftest import MountMaker
from tests.support.mounting import KEYWORDS, MYSELF, WAYS, User, flags
from tests.support.trees import Entry, Name, attributes, link, tree

SCRIPT = "#!/bin/sh\necho ran\n"
FILES: dict[Name, Entry] = {"script": attributes(SCRIPT.encode(), mode=0o755), "link": link("script")}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", FILES)


def executed(path: Path, user: User = MYSELF) -> str | int:
    """What a script on the mount says, or the errno of executing it."""
    try:
        return user.run(path).stdout
    except PermissionError as error:
        assert error.errno is not None
        return error.errno


def mapped(path: Path) -> int:
    """0, or the errno of mapping a file to be executed."""
    with open(path, "rb") as file:
        try:
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        except OSError as error:
            assert error.errno is not None
            return error.errno
    return 0


@pytest.mark.parametrize("options", [("--noexec",), ("-o", "user"), ("-o", "exec,users")])
def test_nothing_can_be_executed(symfuse_mount: MountMaker, dataset: Path, options: tuple[str, ...]) -> None:
    mount = symfuse_mount(dataset, *options)
    assert "noexec" in flags(mount.path)
    for name in ("script", "link"):
        assert executed(mount.path / name) == errno.EACCES
        assert mapped(mount.path / name) == errno.EPERM
        assert (mount.path / name).read_text() == SCRIPT, "to read it is another matter"


@pytest.mark.parametrize("options", [(), ("-o", "user,exec"), ("-o", "noexec,ro,exec")])
def test_what_is_not_forbidden_works(symfuse_mount: MountMaker, dataset: Path, options: tuple[str, ...]) -> None:
    mount = symfuse_mount(dataset, *options)
    assert "noexec" not in flags(mount.path)
    for name in ("script", "link"):
        assert executed(mount.path / name) == "ran\n"
        assert mapped(mount.path / name) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel passes files through for root alone")
@pytest.mark.parametrize("backend", ["kernel"])
def test_a_file_that_is_passed_through_cannot_be_executed_either(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, "--io", "passthrough", "--noexec")
    assert executed(mount.path / "script") == errno.EACCES
    assert mapped(mount.path / "script") == errno.EPERM
    assert mount.status()["io"] == "passthrough"


def test_an_ordinary_users_mount_keeps_it_too(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", FILES))
    free = symfuse_mount(dataset, at=ordinary_user.home / "free", user=ordinary_user)
    assert executed(free.path / "script", ordinary_user) == "ran\n"
    mount = symfuse_mount(dataset, "-o", "user", at=ordinary_user.home / "mnt", user=ordinary_user)
    assert {"noexec", "nosuid", "nodev", "ro"} <= flags(mount.path)
    assert executed(mount.path / "script", ordinary_user) == errno.EACCES


def test_a_bind_mount_keeps_it_and_a_remount_by_root_takes_it_away(
    symfuse_mount: MountMaker, dataset: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root remounts")
    mount = symfuse_mount(dataset, "--noexec")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--bind", mount.path, elsewhere], check=True)
    try:
        assert executed(elsewhere / "script") == errno.EACCES
        subprocess.run(["mount", "-o", "remount,bind,exec", elsewhere], check=True)
        assert executed(elsewhere / "script") == "ran\n"
        assert executed(mount.path / "script") == errno.EACCES
    finally:
        subprocess.run(["umount", elsewhere], check=True)


def test_run_and_python_keep_it(fuse: None, backend: str, dataset: Path) -> None:
    done = MYSELF.symfuse("run", *WAYS[backend], dataset, "--", "{}/script")
    assert done.stdout == "ran\n"
    done = MYSELF.symfuse("run", *WAYS[backend], "--noexec", dataset, "--", "{}/script", check=False)
    assert done.returncode == ExitStatus.RUN_NOT_EXECUTABLE
    assert "script cannot be run (it is on the mount, and --noexec was given)" in done.stderr
    keywords: dict[str, Any] = KEYWORDS[backend]
    with symfuse.mounted(dataset, **keywords, noexec=True) as path:
        assert executed(Path(path) / "script") == errno.EACCES
    with symfuse.mounted(dataset, **keywords) as path:
        assert executed(Path(path) / "script") == "ran\n"
