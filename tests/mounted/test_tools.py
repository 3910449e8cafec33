"""Tools that people use on datasets find regular files of their own, and nothing to be clever about."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.conftest import MountMaker, missing
from tests.mounted.conftest import Mess
from tests.support.mounting import MYSELF
from tests.support.oracle import seen, walk
from tests.support.trees import Entry, Name, attributes, hardlink, link, tree


def lines(*command: str | bytes | Path) -> list[str]:
    """What a command prints, NUL-separated: names may hold newlines."""
    return MYSELF.run(*command).stdout.split("\0")[:-1]


def paths_of(expected: dict[bytes, object]) -> list[str]:
    return sorted(os.fsdecode(path) for path in expected)


def test_diff_finds_no_difference_to_the_dereferenced_copy(mess: Mess) -> None:
    assert MYSELF.run("diff", "-r", "--no-dereference", mess.copy, mess.path).stdout == ""


def test_diff_would_find_one(mess: Mess, tmp_path: Path) -> None:
    shutil.copytree(mess.copy, tmp_path / "copy")
    (tmp_path / "copy/train/cat/real.png").write_bytes(b"unreal")
    assert MYSELF.run("diff", "-r", tmp_path / "copy", mess.path, check=False).returncode == 1


def test_find_finds_every_name_and_no_link(mess: Mess) -> None:
    assert sorted(lines("find", mess.path, "-mindepth", "1", "-printf", "%P\\0")) == paths_of(dict(mess.expected))
    assert lines("find", mess.path, "-type", "l", "-print0") == []
    assert lines("find", "-L", mess.path, "-xtype", "l", "-print0") == []
    assert lines("find", mess.path, "-not", "-type", "f", "-not", "-type", "d", "-print0") == []


def test_find_samefile_finds_each_link_target_alone(mess: Mess) -> None:
    # In the dataset seven names lead to one file.
    assert (
        len(lines("find", "-L", mess.dataset / "train/cat", "-samefile", mess.dataset / "store/a.png", "-print0")) == 4
    )
    for name in ("store/a.png", "train/cat/link.png", "train/cat/hard link.png", "train/dog/a.png"):
        assert lines("find", mess.path, "-samefile", mess.path / name, "-printf", "%P\\0") == [name]
    assert lines("find", mess.path, "-type", "f", "-links", "+1", "-print0") == []


def test_ls_shows_plain_entries(mess: Mess) -> None:
    shown = MYSELF.run("ls", "-lR", "--quoting-style=c", mess.path)
    assert " -> " not in shown.stdout
    assert "?" not in shown.stdout.replace('"*?', "")
    assert shown.stderr == ""


@pytest.mark.parametrize("follow", [[], ["-h"]])
def test_tar_stores_each_file_as_a_regular_member(mess: Mess, tmp_path: Path, follow: list[str]) -> None:
    MYSELF.run("tar", "-cf", tmp_path / "all.tar", *follow, "-C", mess.path, ".")
    with tarfile.open(tmp_path / "all.tar", errors="surrogateescape") as archive:
        members = {os.path.normpath(member.name): member for member in archive if member.name != "."}
    assert sorted(members) == paths_of(dict(mess.expected))
    assert {member.type for member in members.values()} == {tarfile.REGTYPE, tarfile.DIRTYPE}
    for path, shown in mess.expected.items():
        assert members[os.fsdecode(path)].size == (shown.size or 0)


def test_du_counts_every_name(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    # du counts an inode once, so that links to one file would weigh nothing.
    literal: dict[Name, Entry] = {"a": attributes(b"x" * 100_000), "b": hardlink("a"), "c": link("a"), "d": link("c")}
    mount = symfuse_mount(tree(tmp_path / "dataset", literal))
    sizes = MYSELF.run("du", "-a", "--apparent-size", "-B1", mount.path).stdout.splitlines()
    files = {line.split("\t")[1]: int(line.split("\t")[0]) for line in sizes}
    for name in literal:
        assert files[str(mount.path / os.fsdecode(name))] == 100_000
    assert files[str(mount.path)] >= 400_000


def test_cp_a_makes_a_tree_without_links_or_hard_links(mess: Mess, tmp_path: Path) -> None:
    said = MYSELF.run("cp", "-a", mess.path, tmp_path / "copy")
    assert said.stderr == ""
    assert seen(tmp_path / "copy") == mess.expected
    assert {os.lstat(path).st_nlink for path in walk(tmp_path / "copy") if os.path.isfile(path)} == {1}


def test_rsync_sees_nothing_to_do_against_the_copy(mess: Mess, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        missing(request.config, "rsync is not installed (apt install rsync)")
    MYSELF.run("rsync", "-rtH", f"{mess.path}/", f"{tmp_path / 'copy'}/")
    said = MYSELF.run("rsync", "-n", "-rtHi", "--delete", "--checksum", f"{mess.path}/", f"{tmp_path / 'copy'}/")
    assert said.stdout == ""
    (tmp_path / "copy/train/cat").chmod(0o700)
    (tmp_path / "copy/train/cat/real.png").unlink()
    said = MYSELF.run("rsync", "-n", "-rtHi", "--checksum", f"{mess.path}/", f"{tmp_path / 'copy'}/")
    assert "real.png" in said.stdout


def test_shutil_and_glob_see_regular_files(mess: Mess, tmp_path: Path) -> None:
    shutil.copytree(mess.path, tmp_path / "copy", symlinks=True)
    assert sorted(seen(tmp_path / "copy")) == sorted(mess.expected)
    images = sorted(path.relative_to(mess.path) for path in mess.path.rglob("*.png"))
    assert images == sorted(Path(os.fsdecode(path)) for path in mess.expected if path.endswith(b".png"))


def test_two_tools_at_once_read_the_same(mess: Mess) -> None:
    command = f"cd '{mess.path}' && find . -type f -print0 | sort -z | xargs -0 -P 8 -n 1 sha256sum | sort"
    assert MYSELF.run("sh", "-c", command).stdout == MYSELF.run("sh", "-c", command).stdout != ""
