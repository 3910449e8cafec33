"""Who may read a mount: nobody who may not read the source, and whoever mounts all that they may read there.

By brute force: 500 random trees, six users, every way to the kernel. `tests/support/readers.py` has the trees and the
rules. SYMFUSE_SEED begins with another tree.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MountMaker, missing
from tests.support import readers
from tests.support.mounting import MYSELF, Mount, User, clear, public_directory
from tests.support.readers import PEOPLE, Shown
from tests.support.trees import attributes, link, tree

TREES = 500
SEED = int(os.environ.get("SYMFUSE_SEED", "0"))


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    with public_directory("readers") as directory:
        yield directory


@pytest.fixture(scope="module")
def forest(public: Path) -> Path:
    """500 random trees, in a directory that is open to all."""
    root = public / "dataset"
    root.mkdir()
    for number in range(TREES):
        readers.grow(root / f"{number:03}", SEED + number, modes=(*readers.MODES, readers.STICKY))
    return root


@pytest.fixture(scope="module")
def nodes(forest: Path) -> dict[str, Shown]:
    return readers.expected(forest)


@pytest.fixture(scope="module")
def mount(public: Path, forest: Path, module_mount: MountMaker) -> Mount:
    return module_mount(forest, "--allow-other", "--eager", at=public / "mnt")


def test_modes_say_what_all_users_of_a_class_may(mount: Mount, nodes: dict[str, Shown]) -> None:
    assert set(readers.names_below(mount.path)) == set(nodes)
    wrong = {
        path: f"{status.st_mode & 0o777:o} instead of {node.bits:o}"
        for path, node in nodes.items()
        if (status := os.lstat(mount.path / path)).st_mode & 0o777 != node.bits
        or (status.st_uid, status.st_gid) != (node.uid, node.gid)
    }
    assert not wrong


@pytest.mark.parametrize("name", PEOPLE)
def test_users_open_exactly_what_is_promised_and_never_more_than_at_the_source(
    mount: Mount, forest: Path, nodes: dict[str, Shown], name: str
) -> None:
    who, paths = PEOPLE[name], list(nodes)
    on_mount = dict(zip(paths, readers.opens(who, [str(mount.path / path) for path in paths]), strict=True))
    at_source = dict(zip(paths, readers.opens(who, [str(forest / path) for path in paths]), strict=True))
    assert {path for path in paths if not on_mount[path] and at_source[path]} == set()
    assert {path for path in paths if not on_mount[path]} == {
        path for path in paths if readers.may_open(who, path, nodes)
    }
    assert set(on_mount.values()) <= {0, errno.EACCES}
    assert {not error for error in on_mount.values()} == ({True} if who.is_almighty else {True, False})


# -- a private mount ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private_forest(public: Path) -> Path:
    """As `forest`. Sticky directories are left out: whom they let follow a link is no matter of who may read it."""
    root = public / "private"
    root.mkdir()
    for number in range(TREES):
        readers.grow(root / f"{number:03}", SEED + number, modes=readers.MODES)
    return root


@pytest.fixture(scope="module")
def private_nodes(private_forest: Path) -> dict[str, Shown]:
    return readers.expected(private_forest)


@pytest.mark.parametrize("name", [name for name, who in PEOPLE.items() if who.uid])
def test_whoever_mounts_reads_all_that_they_may_at_the_source_and_sees_nothing_else(
    private_forest: Path,
    private_nodes: dict[str, Shown],
    ordinary_user: User,
    symfuse_mount: MountMaker,
    name: str,
) -> None:
    who = PEOPLE[name]
    user = dataclasses.replace(ordinary_user, uid=who.uid, gid=max(who.groups), groups=tuple(sorted(who.groups)))
    user.owns(user.home)
    mount = symfuse_mount(private_forest, "--eager", at=user.home / "mnt", user=user)

    shown = json.loads(user.script(LIST, mount.path).stdout)
    assert set(shown.values()) == {""}, "something is shown that cannot be read"
    paths = sorted(private_nodes)
    errors = readers.opens(who, [str(private_forest / path) for path in paths], enter=True)
    readable = {path for path, error in zip(paths, errors, strict=True) if not error}
    # What lies in a directory that cannot be listed, no loader finds at the source either.
    assert set(shown) == {path for path in readable if _ways(path) <= readable}
    assert len(shown) > 2 * TREES


#: Reads all that a tree shows to this user; says of each path what is wrong with it.
LIST = """
import json, os, sys
found, root = {}, sys.argv[1]
def look(path):
    for entry in os.scandir(os.path.join(root, path)):
        name = os.path.normpath(os.path.join(path, entry.name))
        found[name] = ""
        try:
            if entry.is_dir():
                look(name)
            else:
                open(entry.path, "rb").read()
        except OSError as error:
            found[name] = str(error)
found["."] = ""
look(".")
print(json.dumps(found))
"""


def _ways(path: str) -> set[str]:
    """The directories on the way to a path of a view."""
    return {str(above) for above in Path(path).parents}


# -- single cases ------------------------------------------------------------------------------------------------------

#: Somebody else than root, and than the owner of anything.
SOMEBODY = PEOPLE["a stranger"]


@pytest.fixture
def place(public: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="case-", dir=public) as name:
        os.chmod(name, 0o755)
        yield Path(name)
        clear([os.fsencode(name) + b"/mnt"])


@pytest.fixture
def mount_for_all(place: Path, symfuse_mount: MountMaker) -> Callable[..., Mount]:
    """Mounts a dataset for all users."""

    def mount(dataset: Path, *options: str) -> Mount:
        return symfuse_mount(dataset, "--allow-other", *options, at=place / "mnt")

    return mount


def may_open(path: Path, who: readers.Person = SOMEBODY) -> bool:
    (error,) = readers.opens(who, [str(path)])
    assert error in (0, errno.EACCES)
    return not error


def give_acl(path: Path, *entries: tuple[int, int, int]) -> None:
    """An access list with these entries for users and groups, and those that the mode has."""
    mode = os.stat(path).st_mode
    own = [(readers.USER_OBJ, mode >> 6 & 7, NOBODY_NAMED), (readers.GROUP_OBJ, mode >> 3 & 7, NOBODY_NAMED)]
    rest = [(readers.MASK, 7, NOBODY_NAMED), (readers.OTHER, mode & 7, NOBODY_NAMED)]
    os.setxattr(path, readers.ACL, readers.encoded(sorted([*own, *entries, *rest])))


NOBODY_NAMED = 0xFFFFFFFF


def test_a_directory_on_the_way_to_a_target_counts(place: Path, mount_for_all: Callable[..., Mount]) -> None:
    dataset = tree(
        place / "dataset",
        {
            "closed": attributes({"open.png": b"1", "deep": {"open.png": b"2"}}, mode=0o700),
            "train": {
                "direct": link("../closed/open.png"),
                "through a detour": link("../closed/../train/real.png"),
                "directory": link("../closed/deep"),
                "another link": link("../closed/link"),
                "real.png": b"3",
            },
        },
    )
    os.symlink("../train/real.png", dataset / "closed/link")
    mount = mount_for_all(dataset)
    for name in ("direct", "through a detour", "directory/open.png", "another link"):
        assert not may_open(mount.path / "train" / name), name
        assert may_open(mount.path / "train" / name, PEOPLE["root"]), name
    assert may_open(mount.path / "train/real.png")


def test_directories_count_from_an_allowed_root_on(place: Path, mount_for_all: Callable[..., Mount]) -> None:
    store = tree(
        place / "above" / "store",
        {"a.png": b"a", "closed": attributes({"b.png": b"b"}, mode=0o700)},
    )
    (place / "above").chmod(0o700)
    dataset = tree(place / "dataset", {"a.png": link(f"{store}/a.png"), "b.png": link(f"{store}/closed/b.png")})
    mount = mount_for_all(dataset, "--allow-root", str(store))
    assert may_open(mount.path / "a.png")
    assert not may_open(mount.path / "b.png")


def test_an_allowed_root_that_is_closed_itself_is_closed(place: Path, mount_for_all: Callable[..., Mount]) -> None:
    store = tree(place / "store", {"a.png": b"a", "cat": {"b.png": b"b"}})
    store.chmod(0o700)
    dataset = tree(place / "dataset", {"a.png": link(f"{store}/a.png"), "cat": link(f"{store}/cat")})
    mount = mount_for_all(dataset, "--allow-root", str(store))
    for name in ("a.png", "cat", "cat/b.png"):
        assert not may_open(mount.path / name), name
        assert may_open(mount.path / name, PEOPLE["root"]), name


def test_what_an_access_list_denies_is_denied_and_what_it_grants_is_said(
    place: Path, mount_for_all: Callable[..., Mount]
) -> None:
    dataset = tree(
        place / "dataset",
        {"denied.png": b"1", "granted.png": attributes(b"2", mode=0o600), "plain.png": b"3", "class": {"x.png": b"4"}},
    )
    give_acl(dataset / "denied.png", (readers.USER, 0, SOMEBODY.uid))
    give_acl(dataset / "granted.png", (readers.USER, 4, SOMEBODY.uid))
    give_acl(dataset / "class", (readers.GROUP, 0, max(SOMEBODY.groups)))
    mount = mount_for_all(dataset, "--eager")
    assert {name for name in ("denied.png", "granted.png", "plain.png", "class") if may_open(mount.path / name)} == {
        "plain.png"
    }
    frozen = mount.status()["frozen"]
    assert frozen["findings"] == {"narrowed": 3}
    assert frozen["finding_examples"]["narrowed"] == ["class", "denied.png", "granted.png"]
    said = MYSELF.symfuse("why", mount.path / "denied.png").stdout
    assert "access control list" in said
    refused = MYSELF.symfuse(
        "mount", "--allow-other", "--fail-on", "narrowed", dataset, tree(place / "other", {}), check=False
    )
    assert (refused.returncode, "3 narrowed" in refused.stderr) == (6, True)


def test_the_root_of_the_view_is_judged_as_everything_else(place: Path, mount_for_all: Callable[..., Mount]) -> None:
    dataset = tree(place / "dataset", {"a.png": b"a"})
    give_acl(dataset, (readers.USER, 0, SOMEBODY.uid))
    mount = mount_for_all(dataset)
    assert not may_open(mount.path)
    assert not may_open(mount.path / "a.png")
    assert may_open(mount.path / "a.png", PEOPLE["root"])


def test_links_in_a_sticky_directory_are_followed_by_their_owner_alone(
    place: Path, mount_for_all: Callable[..., Mount]
) -> None:
    dataset = tree(place / "dataset", {"a.png": b"a", "shared": {"mine": link("../a.png"), "root's": link("../a.png")}})
    (dataset / "shared").chmod(0o1777)
    os.chown(dataset / "shared/mine", 3, 3, follow_symlinks=False)
    mount = mount_for_all(dataset)
    assert may_open(mount.path / "shared/root's")  # the directory's owner's
    assert not may_open(mount.path / "shared/mine")


@pytest.mark.parametrize("change", ["chmod", "access list", "chmod of a directory"])
def test_permissions_that_are_taken_away_later(place: Path, mount_for_all: Callable[..., Mount], change: str) -> None:
    """What was not read yet of a file that lost permissions cannot be read any more; directories stay as frozen."""
    dataset = tree(place / "dataset", {"class": {"a.png": b"a", "b.png": b"b"}})
    mount = mount_for_all(dataset, "--eager")
    mount.dataset_may_change()
    assert may_open(mount.path / "class/b.png")
    if change == "chmod":
        (dataset / "class/a.png").chmod(0o600)
    elif change == "access list":
        give_acl(dataset / "class/a.png", (readers.USER, 0, SOMEBODY.uid))
    else:
        (dataset / "class").chmod(0o700)
    (error,) = readers.opens(SOMEBODY, [str(mount.path / "class/a.png")])
    if change == "chmod of a directory":
        assert error == 0
    else:
        assert error == errno.ESTALE
        mount.expect_in_log("class/a.png cannot be read: source changed")


def test_a_file_system_for_one_user_alone_is_not_for_others(
    request: pytest.FixtureRequest, place: Path, mount_for_all: Callable[..., Mount]
) -> None:
    """A FUSE mount without allow_other keeps everybody out but its owner, whatever its modes say."""
    if shutil.which("bindfs") is None:
        missing(request.config, "bindfs is not installed (apt install bindfs)")
    store = tree(place / "store", {"a.png": b"a", "b.png": b"b"})
    private = tree(place / "private", {})
    MYSELF.run("mount", "-t", "tmpfs", "none", private)  # whatever fails, nothing of the store is removed
    try:
        (private / "mine").mkdir()
        MYSELF.run("bindfs", "-o", "no-allow-other", store, private / "mine")
        (private / "l.png").symlink_to("mine/a.png")
        mount = mount_for_all(private)
        mount.dataset_may_change()  # it is unmounted
        for name in ("l.png", "mine", "mine/b.png"):
            assert not may_open(private / name), "bindfs lets others in"
            assert not may_open(mount.path / name), name
            assert may_open(mount.path / name, PEOPLE["root"]), name
        mount.umount()
        MYSELF.run("umount", private / "mine")
    finally:
        MYSELF.run("umount", "-R", "-l", private)


def test_what_the_mounters_capabilities_do_not_open_is_hidden(
    request: pytest.FixtureRequest, place: Path, ordinary_user: User, symfuse_mount: MountMaker
) -> None:
    """Root is kept out of other users' FUSE mounts, as NFS keeps it out of what it squashes."""
    if shutil.which("bindfs") is None:
        missing(request.config, "bindfs is not installed (apt install bindfs)")
    theirs = ordinary_user.owns(tree(ordinary_user.home / "theirs", {"a.png": b"a"}))
    mine = ordinary_user.owns(tree(ordinary_user.home / "mine", {}))
    ordinary_user.run("bindfs", "--no-allow-other", theirs, mine)
    try:
        dataset = tree(place / "dataset", {"a.png": link(str(mine / "a.png")), "b.png": b"b"})
        mount = symfuse_mount(dataset, "--eager", at=tree(place / "mnt", {}))
        assert os.listdir(mount.path) == ["b.png"]
        assert mount.status()["frozen"]["hidden"] == {"unreadable": 1}
        mount.umount()
    finally:
        ordinary_user.run("fusermount3", "-u", mine)
