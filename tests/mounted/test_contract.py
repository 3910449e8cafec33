"""The user's contract, clause by clause, on the messy dataset; clause 9 is in test_crash.py."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.mounted.conftest import Mess
from tests.support.oracle import seen, walk
from tests.support.trees import link, tree

# -- 1. no links -------------------------------------------------------------------------------------------------------


def test_the_mount_shows_exactly_what_cp_rl_copies_with_the_targets_attributes(mess: Mess) -> None:
    assert seen(mess.path) == mess.expected


def test_the_oracle_is_not_trivial(mess: Mess) -> None:
    assert len(mess.expected) > 60
    assert b"train/dog again/deep/er/c.png" in mess.expected
    assert b"names/\xff\xfe not UTF-8" in mess.expected
    assert b"loops/up" not in mess.expected


def test_nothing_on_the_mount_is_a_link(mess: Mess) -> None:
    for path in walk(mess.path):
        assert stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR), path
        assert not os.path.islink(path)
        with pytest.raises(OSError) as error:
            os.readlink(path)
        assert error.value.errno == errno.EINVAL


def test_a_path_on_the_mount_is_its_own_real_path(mess: Mess) -> None:
    for path in walk(mess.path):
        assert os.path.realpath(path, strict=True) == path


def test_a_listing_says_the_type_that_lstat_says(mess: Mess) -> None:
    for directory, _, _ in os.walk(mess.path):
        for entry in os.scandir(directory):
            assert not entry.is_symlink()
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(os.lstat(entry.path).st_mode)


def test_a_dataset_that_is_itself_named_by_a_link_is_mounted(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    tree(tmp_path, {"real": {"a": b"A", "b": link("a")}, "alias": link("real"), "alias of alias": link("alias")})
    assert sorted(seen(symfuse_mount(tmp_path / "alias of alias").path)) == [b"a", b"b"]


# -- 2. distinct identities --------------------------------------------------------------------------------------------


def test_every_file_has_an_inode_number_of_its_own_and_one_name(mess: Mess) -> None:
    status = {path: os.lstat(path) for path in [mess.mount.bytes, *walk(mess.path)]}
    shared = [ino for ino, number in Counter(found.st_ino for found in status.values()).items() if number > 1]
    assert not shared
    assert {found.st_nlink for found in status.values()} == {1}
    assert {found.st_dev for found in status.values()} == {os.lstat(mess.path).st_dev}
    assert all(found.st_ino >= 2 for path, found in status.items() if path != mess.mount.bytes)


def test_a_listing_gives_the_inode_numbers_that_stat_gives(mess: Mess) -> None:
    for directory, _, _ in os.walk(os.fsencode(mess.path)):
        for entry in os.scandir(directory):
            assert entry.inode() == os.lstat(entry.path).st_ino, entry.path


def test_inode_numbers_are_the_same_at_the_next_mount(mess: Mess, symfuse_mount: MountMaker) -> None:
    again = symfuse_mount(mess.dataset)
    for path in sorted(walk(mess.path), reverse=True):  # the other way round: order must not matter
        assert os.lstat(again.bytes + path[len(mess.mount.bytes) :]).st_ino == os.lstat(path).st_ino


# -- 3. the source's attributes: see the first test. What it cannot see: -----------------------------------------------


def test_no_mode_shows_write_permission_or_set_id_bits(mess: Mess) -> None:
    assert not [path for path in walk(mess.path) if os.lstat(path).st_mode & 0o6222]


def test_disk_usage_is_the_targets(mess: Mess) -> None:
    shown, target = (os.stat(root / "train/dog/sparse") for root in (mess.path, mess.dataset))
    assert (shown.st_size, shown.st_blocks) == (target.st_size, target.st_blocks)
    assert shown.st_blocks * 512 < shown.st_size


def test_no_extended_attribute_of_the_source_shows(mess: Mess, symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    try:
        os.setxattr(dataset / "a", "user.secret", b"value")
    except OSError:
        pytest.fail("the tests' directory must be on a file system with extended attributes")
    mount = symfuse_mount(dataset)
    for name in ("user.secret", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as error:
            os.getxattr(mount.path / "a", name)
        assert error.value.errno in (errno.ENOTSUP, errno.ENODATA)


# -- 4. frozen and sorted ----------------------------------------------------------------------------------------------


def test_listings_are_in_byte_order(mess: Mess) -> None:
    for directory, _, _ in os.walk(os.fsencode(mess.path)):
        names = [os.fsencode(name) for name in os.listdir(directory)]
        assert names == sorted(names)


def test_a_listing_stays_as_it_was_when_first_read(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"1": b"1", "2": b"2", "3": link("1")}})
    mount = symfuse_mount(dataset)
    before = {entry.name: (entry.stat(), entry.inode()) for entry in os.scandir(mount.path / "cat")}
    mount.dataset_may_change()
    tree(dataset / "cat", {"0": b"new", "4": b"new", "5": link("1")})
    (dataset / "cat/2").unlink()
    (dataset / "cat/3").unlink()
    (dataset / "cat/3").symlink_to("4")
    assert {entry.name: (entry.stat(), entry.inode()) for entry in os.scandir(mount.path / "cat")} == before
    assert not (mount.path / "cat/0").exists()
    assert (mount.path / "cat/1").read_bytes() == b"1"


def test_everything_is_frozen_soon_after_the_mount_is_ready(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"a": {"b": {"c": {"1": b"1"}}}})
    mount = symfuse_mount(dataset)
    mount.wait_until_frozen()
    mount.dataset_may_change()
    (dataset / "a/b/c/2").write_bytes(b"2")
    assert os.listdir(mount.path / "a/b/c") == ["1"]


def test_eager_means_frozen_when_the_command_returns(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(tree(tmp_path / "dataset", {"a": {"b": {"c": {"1": b"1"}}}}), "--eager")
    assert mount.status()["frozen"]["complete"]


# -- 5. problems are hidden: see test_problems.py ----------------------------------------------------------------------

# -- 6. links that leave the dataset -----------------------------------------------------------------------------------


def test_a_private_mount_follows_links_that_leave_the_dataset(mess: Mess) -> None:
    assert (mess.path / "train/cat/outside.png").read_bytes() == b"outside"
    assert os.listdir(mess.path / "train/outside") == ["o.png"]


def test_outside_links_are_hidden_on_request_but_for_allowed_roots(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    tree(tmp_path, {"store": {"a": b"A"}, "other": {"b": b"B"}})
    dataset = tree(tmp_path / "dataset", {"a": link("../store/a"), "b": link("../other/b"), "store": link("../store")})
    assert os.listdir(symfuse_mount(dataset, "--outside", "hide").path) == []
    mount = symfuse_mount(dataset, "--outside", "hide", "--allow-root", str(tmp_path / "store"))
    assert os.listdir(mount.path) == ["a", "store"]
    assert os.listdir(mount.path / "store") == ["a"]


def test_a_mount_for_others_follows_outside_links_only_into_allowed_roots(
    symfuse_mount: MountMaker, tmp_path: Path, backend: str
) -> None:
    tree(tmp_path, {"store": {"a": b"A"}, "other": {"b": b"B"}})
    dataset = tree(tmp_path / "dataset", {"a": link("../store/a"), "b": link("../other/b"), "in": link("c"), "c": b"C"})
    if os.geteuid() != 0:
        pytest.skip("user_allow_other is root's to give")
    closed = symfuse_mount(dataset, "--allow-other")
    assert os.listdir(closed.path) == ["c", "in"]
    closed.wait_until_frozen()
    closed.expect_in_log("2 links that leave the dataset are hidden: with --allow-other add --allow-root")
    mount = symfuse_mount(dataset, "--allow-other", "--allow-root", str(tmp_path / "store"))
    assert os.listdir(mount.path) == ["a", "c", "in"]
    mount.wait_until_frozen()
    mount.expect_in_log("1 link that leaves the dataset is hidden: with --allow-other add --allow-root")


# -- 7. verified reads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"other conten", b"much longer than it was before", b"short", b""])
def test_a_source_that_changed_is_stale_and_never_mixed_or_padded(
    symfuse_mount: MountMaker, tmp_path: Path, content: bytes
) -> None:
    dataset = tree(tmp_path / "dataset", {"store": {"a": b"the content!"}, "a": link("store/a")})
    mount = symfuse_mount(dataset)
    size = os.stat(mount.path / "a").st_size
    mount.dataset_may_change()
    mount.expect_in_log(r"\ba cannot be read")
    (dataset / "store/a").write_bytes(content)
    with pytest.raises(OSError) as error:
        (mount.path / "a").read_bytes()
    assert error.value.errno == errno.ESTALE
    assert os.stat(mount.path / "a").st_size == size


def test_a_source_that_is_gone_is_stale_and_its_neighbours_are_not(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"store": {"a": b"A", "b": b"B"}, "a": link("store/a"), "b": link("store/b")})
    mount = symfuse_mount(dataset)
    assert os.listdir(mount.path) == ["a", "b", "store"]
    mount.dataset_may_change()
    mount.expect_in_log(r"\ba cannot be read")
    (dataset / "store/a").unlink()
    with pytest.raises(OSError) as error:
        (mount.path / "a").read_bytes()
    assert error.value.errno == errno.ESTALE
    assert (mount.path / "b").read_bytes() == b"B"


# -- 8. read-only, always: see also test_posix.py ----------------------------------------------------------------------


def test_the_mount_is_read_only_nosuid_and_nodev(mess: Mess) -> None:
    flags = os.statvfs(mess.path).f_flag
    for flag in (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV):
        assert flags & flag
