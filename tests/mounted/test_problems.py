"""What cannot be shown is hidden, counted by kind and explained; it never hangs, and never hides its neighbours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.mounted.conftest import Mess
from tests.support.mounting import MYSELF, WAYS, User
from tests.support.oracle import seen
from tests.support.trees import Entry, Name, attributes, link, tree


def test_everything_hidden_is_counted_by_kind(mess: Mess) -> None:
    mess.mount.wait_until_frozen()
    frozen = mess.mount.status()["frozen"]
    assert frozen["hidden"] == {
        "cycle": 3,  # loops/up, and of the two that lead to each other: each below itself
        "dangling": 1,
        "dot-entry": 2,
        "loop": 3,
        "special": 4,
    }
    assert frozen["files"] + frozen["directories"] == len(mess.expected)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/cat/dangling.png", "dangling"),
        ("loops/one", "loop"),
        ("loops/up", "cycle"),
        ("cycle/a/to b/to a", "cycle"),
        ("special/pipe", "special"),
        ("special/null", "special"),
        (".git/HEAD", "dot-entry"),
    ],
)
def test_why_names_the_rule_that_hides_a_path(mess: Mess, path: str, reason: str) -> None:
    said = MYSELF.symfuse("why", "--", mess.path / path, check=False)
    assert said.returncode == 9
    assert reason in said.stdout
    assert not (mess.path / path).exists()


def test_neighbours_of_what_is_hidden_are_shown(mess: Mess) -> None:
    assert os.listdir(mess.path / "loops") == ["beside"]
    assert os.listdir(mess.path / "cycle/a") == ["f", "to b"]
    assert os.listdir(mess.path / "cycle/a/to b") == ["g"]
    assert os.listdir(mess.path / "special") == []


def test_dot_entries_are_shown_on_request(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {".a": b"A", ".d": {"..b": b"B"}, "c": link(".a")})
    assert sorted(seen(symfuse_mount(dataset).path)) == [b"c"]
    assert sorted(seen(symfuse_mount(dataset, "--dot-entries", "show").path)) == [b".a", b".d", b".d/..b", b"c"]


def test_directory_links_are_hidden_on_request(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"d": {"a": b"A"}, "ld": link("d"), "la": link("ld/a")})
    assert sorted(seen(symfuse_mount(dataset, "--dir-links", "hide").path)) == [b"d", b"d/a", b"la"]


@pytest.mark.parametrize("kind", ["dangling", "any", "dangling,loop"])
def test_a_dataset_with_such_problems_is_refused(fuse: None, backend: str, tmp_path: Path, kind: str) -> None:
    dataset = tree(tmp_path / "dataset", {"ok": b"", "sub": {"bad": link("nowhere")}})
    (tmp_path / "mnt").mkdir()
    said = MYSELF.symfuse("mount", *WAYS[backend], "--fail-on", kind, dataset, tmp_path / "mnt", check=False)
    assert said.returncode == 6
    assert "sub/bad" in said.stderr
    assert not os.path.ismount(tmp_path / "mnt")


def test_a_dataset_without_such_problems_is_mounted(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"ok": b"", "bad": link("nowhere")})
    assert os.listdir(symfuse_mount(dataset, "--fail-on", "loop,cycle,special").path) == ["ok"]


def test_forty_links_are_followed_as_the_kernel_does(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    chain: dict[Name, Entry] = {f"l{number:02}": link(f"l{number - 1:02}") for number in range(1, 45)}
    dataset = tree(tmp_path / "dataset", {"l00": b"end", **chain})
    shown = [name for name in sorted(os.listdir(dataset)) if os.path.exists(dataset / name)]
    assert os.listdir(symfuse_mount(dataset).path) == shown


def test_links_that_multiply_are_bounded(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    # Each level links eight times to the next: 8**10 directories behind ten.
    levels: dict[Name, Entry] = {
        f"{level}": {f"{way}": link(f"../{level + 1}") for way in range(8)} for level in range(10)
    }
    dataset = tree(tmp_path / "dataset", {**levels, "10": {"f": b"f"}})
    mount = symfuse_mount(dataset)
    mount.expect_in_log("links multiply")
    mount.wait_until_frozen()
    frozen = mount.status()["frozen"]
    assert frozen["hidden"]["multiplied"] > 0
    assert "links multiply" in frozen["error"]
    assert (mount.path / "9/0/f").read_bytes() == b"f"
    with open(f"/proc/{mount.pid}/status") as lines:
        resident_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    assert resident_kib < 400_000


# -- links into the mountpoint -----------------------------------------------------------------------------------------


def test_links_into_the_mountpoint_are_hidden_and_do_not_hang(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    tree(tmp_path, {"alias": link("mnt")})
    dataset = tree(
        tmp_path / "dataset",
        {
            "to it": link("../mnt"),
            "absolute": link(str(mountpoint)),
            "into it": link("../mnt/file"),
            "deep into it": link("../mnt/sub/file"),
            "by another link": link("../alias/sub"),
            "and out again": link("../mnt/../dataset/file"),
            "sub": {"up and in": link("../../mnt/sub"), "file": b"2"},
            "file": b"1",
        },
    )
    mount = symfuse_mount(dataset, at=mountpoint)
    assert sorted(seen(mount.path)) == [b"file", b"sub", b"sub/file"]
    mount.wait_until_frozen()
    assert mount.status()["frozen"]["hidden"] == {"recursive": 7}


def test_a_way_to_a_source_that_leads_into_the_mount_now_is_stale_and_does_not_hang(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    files: dict[Name, Entry] = {"linked": {"a": link("../store/a")}, "plain": {"b": b"B"}, "store": {"a": b"A"}}
    dataset = tree(tmp_path / "dataset", files)
    mount = symfuse_mount(dataset, "--eager")
    paths = [mount.path / "linked/a", mount.path / "plain/b"]
    assert [path.stat().st_size for path in paths] == [1, 1]
    mount.dataset_may_change()
    mount.expect_in_log("cannot be read")
    for directory, shown in (("store", "linked"), ("plain", "plain")):
        (dataset / directory).rename(tmp_path / directory)
        (dataset / directory).symlink_to(mount.path / shown)
    for path in paths:
        cat = subprocess.run(["cat", path], capture_output=True, text=True, timeout=30, check=False)
        assert "Stale file handle" in cat.stderr


def test_a_linked_directory_that_holds_the_mountpoint_does_not_show_the_view_in_itself(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    tree(tmp_path / "other", {"mnt": {}, "file": b"1"})
    dataset = tree(tmp_path / "dataset", {"link": link("../other")})
    mount = symfuse_mount(dataset, "--eager", at=tmp_path / "other/mnt")
    assert sorted(seen(mount.path)) == [b"link", b"link/file"]
    assert mount.status()["frozen"]["hidden"] == {"recursive": 1}


@pytest.fixture
def two_paths(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One directory under two paths: what is mounted below the one appears below the other (shared propagation)."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a bind mount")
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
    subprocess.run(["mount", "--bind", one, one], check=True)
    try:
        subprocess.run(["mount", "--make-shared", one], check=True)
        subprocess.run(["mount", "--bind", one, other], check=True)
        yield one, other
    finally:
        subprocess.run(["umount", "-l", other], check=False)
        subprocess.run(["umount", "-l", one], check=True)


def test_another_path_to_the_mountpoint_does_not_hang_the_server(
    symfuse_mount: MountMaker, tmp_path: Path, two_paths: tuple[Path, Path]
) -> None:
    one, other = two_paths
    dataset = tree(
        tmp_path / "dataset",
        {
            "d": {"x": link(str(other / "mnt/d/y")), "y": b"Y", "itself": link(str(other / "mnt/d/itself"))},
            "z": link(str(other / "mnt/d")),
            "root": link(str(other / "mnt")),
            "f": b"F",
        },
    )
    mount = symfuse_mount(dataset, at=one / "mnt")
    assert (mount.path / "f").read_bytes() == b"F"
    assert (mount.path / "d/y").read_bytes() == b"Y"
    mount.wait_until_frozen()
    assert set(seen(mount.path)) >= {b"d", b"d/y", b"f"}
    assert mount.status()["frozen"]["hidden"].keys() <= {"recursive", "dangling", "unreadable", "cycle"}


# -- as an ordinary user -----------------------------------------------------------------------------------------------

SECRETS: dict[Name, Entry] = {
    "shown": b"shown",
    "unreadable": attributes(b"secret", mode=0),
    "link to unreadable": link("unreadable"),
    "closed": attributes({"inside": b"secret"}, mode=0),
    "searchable only": attributes({"inside": b"known by name"}, mode=0o111),
    "listable only": attributes({"inside": b"secret"}, mode=0o444),
    "link into closed": link("closed/inside"),
    "link into searchable": link("searchable only/inside"),
    "link into listable": link("listable only/inside"),
}


def test_what_an_ordinary_user_may_not_read_is_hidden(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", SECRETS))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    shown = ordinary_user.run("find", mount.path, "-type", "f", "-printf", "%P\\n").stdout.splitlines()
    assert sorted(shown) == ["link into searchable", "shown"]
    assert ordinary_user.run("cat", mount.path / "link into searchable").stdout == "known by name"
    mount.wait_until_frozen()
    assert mount.status()["frozen"]["hidden"] == {"unreadable": 7}


def test_an_ordinary_users_mount_is_theirs_alone(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is no second user")
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A"}))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    assert ordinary_user.run("cat", mount.path / "a").stdout == "A"
    with pytest.raises(PermissionError):  # not even root
        os.listdir(mount.path)


def test_files_of_others_are_read_without_o_noatime(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is no second user")
    dataset = tree(ordinary_user.home / "dataset", {"a": b"A", "d": {"b": b"B"}, "c": link("d/b")})  # root's
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    said = ordinary_user.run("cat", mount.path / "a", mount.path / "d/b", mount.path / "c")
    assert said.stdout == "ABB"


def test_an_ordinary_user_cannot_write_either(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A"}))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    for command in (["touch", "a"], ["rm", "-f", "a"], ["mkdir", "d"], ["sh", "-c", 'echo x > "$0"', "a"]):
        said = ordinary_user.run(*command[:-1], mount.path / command[-1], check=False)
        assert said.returncode != 0
        assert "Read-only file system" in said.stderr
