"""Where we write: only where nobody but root and we can change anything, and never into another user's home."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from symfuse import directories, mountinfo, owners
from symfuse.directories import NotOurs, made
from symfuse.mountinfo import MountEntry
from tests.conftest import NOBODY
from tests.support.readers import encoded

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_what_is_missing_is_made_and_closed_to_others(tmp_path: Path) -> None:
    assert made(str(tmp_path / "a/b/c")) == str(tmp_path / "a/b/c")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert made(f"{tmp_path}//a/./b/../b/c/") == str(tmp_path / "a/b/c")


def test_links_of_ones_own_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    (tmp_path / "disk/.cache").symlink_to(tmp_path / "disk/elsewhere")
    (tmp_path / "disk/elsewhere").mkdir(mode=0o700)
    assert made(str(tmp_path / "home/.cache/symfuse")) == str(tmp_path / "disk/elsewhere/symfuse")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        made(str(tmp_path / "loop/x"))


#: Root cannot have such a group, but may act as if it were somebody: its directories are trusted all the same.
SOMEBODY = os.geteuid() or 4242


def has_a_group(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    members: list[str],
    *,
    uid: int = SOMEBODY,
    others: Sequence[pwd.struct_passwd] = (),
) -> None:
    """What the databases say of us, of the group of all that we make, and of other users."""
    us = pwd.struct_passwd(("alice", "x", uid, os.getegid(), "", "/home/alice", "/bin/sh"))
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: us)
    monkeypatch.setattr(pwd, "getpwall", lambda: [us, *others])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((name, "x", gid, members)))


def test_a_group_of_ones_own_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems give each user a group, and let it write to all that the user makes."""
    wanted = tmp_path / "above/itself"
    wanted.mkdir(parents=True)
    wanted.parent.chmod(0o775)
    wanted.chmod(0o775)
    for name, members in (("alice", []), ("alice", ["alice"])):
        has_a_group(monkeypatch, name, members)
        assert made(str(wanted)) == str(wanted)
    for name, members in (("alice", ["bob"]), ("users", [])):
        has_a_group(monkeypatch, name, members)
        with pytest.raises(NotOurs):
            made(str(wanted))
    bob = pwd.struct_passwd(("bob", "x", SOMEBODY + 1, os.getegid(), "", "/home/bob", "/bin/sh"))
    has_a_group(monkeypatch, "alice", [], others=[bob])
    with pytest.raises(NotOurs):
        made(str(wanted))
    has_a_group(monkeypatch, "alice", [])
    nobody_named = 0xFFFFFFFF
    bob_may_write = [(0x01, 7, nobody_named), (0x02, 7, 12345), (0x04, 7, nobody_named), (0x10, 7, nobody_named)]
    os.setxattr(wanted, "system.posix_acl_access", encoded([*bob_may_write, (0x20, 5, nobody_named)]))
    with pytest.raises(NotOurs):
        made(str(wanted))


@pytest.mark.skipif(os.geteuid() != 0, reason="root's directories are root's to make")
def test_roots_group_is_never_roots_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    has_a_group(monkeypatch, "alice", [], uid=0)
    with pytest.raises(NotOurs):
        made(str(tmp_path / "cache"))


@pytest.mark.parametrize("where", ["above", "itself"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_to_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, mode: int
) -> None:
    wanted = tmp_path / "above/itself"
    wanted.mkdir(parents=True)
    opened = wanted if where == "itself" else wanted.parent
    has_a_group(monkeypatch, "users", [])
    opened.chmod(mode)
    with pytest.raises(NotOurs) as refused:
        made(str(wanted))
    assert refused.value.strerror == f"others may write to {opened}: chmod go-w it, or use another directory"


def test_only_what_lies_above_may_be_sticky(tmp_path: Path) -> None:
    (tmp_path / "tmp/mine").mkdir(parents=True, mode=0o700)
    (tmp_path / "tmp").chmod(0o1777)
    assert made(str(tmp_path / "tmp/mine")) == str(tmp_path / "tmp/mine")
    with pytest.raises(NotOurs):
        made(str(tmp_path / "tmp"))


@as_root
@pytest.mark.parametrize("theirs", ["home", "home/.cache", "home/.cache/symfuse"])
def test_what_belongs_to_another_user_is_refused_and_nothing_is_made_there(tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).mkdir(parents=True)
    os.chown(tmp_path / theirs, NOBODY, NOBODY)
    with pytest.raises(NotOurs, match=f"{tmp_path / theirs} belongs to another user"):
        made(str(tmp_path / "home/.cache/symfuse/deeper"))
    assert not any((tmp_path / theirs).iterdir())


@as_root
def test_a_link_that_another_user_planted_is_not_followed(tmp_path: Path) -> None:
    """Neither in a directory of theirs, nor in one where everybody may make something."""
    (tmp_path / "roots").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "tmp/link").symlink_to(tmp_path / "roots")
    os.lchown(tmp_path / "tmp/link", NOBODY, NOBODY)
    with pytest.raises(NotOurs):
        made(str(tmp_path / "tmp/link/symfuse"))
    os.chown(tmp_path / "tmp", NOBODY, NOBODY)
    os.lchown(tmp_path / "tmp/link", 0, 0)
    with pytest.raises(NotOurs):
        made(str(tmp_path / "tmp/link/symfuse"))
    assert not any((tmp_path / "roots").iterdir())


def test_another_users_fuse_mount_is_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.fsencode(tmp_path / "home")
    theirs = MountEntry(9, 1, 9, b"/", path, b"fuse.sshfs", b"them:", os.geteuid() + 1)
    monkeypatch.setattr(mountinfo, "mounts", lambda: [theirs])
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda at: pytest.fail("asked") if "home" in str(at) else lstat(at))
    with pytest.raises(NotOurs):
        made(str(tmp_path / "home/.cache"))


def test_in_a_user_namespace_roots_directories_may_stand_above_and_never_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There root outside is shown as the overflow number, as is everybody else."""
    monkeypatch.setattr(owners, "everybody_has_a_number", lambda: False)
    monkeypatch.setattr(owners, "_overflow_uid", os.geteuid)
    monkeypatch.setattr(owners, "trusted_uids", lambda: frozenset({4711}))
    with pytest.raises(NotOurs):
        made(str(tmp_path))
    assert directories._walk(str(tmp_path))[0] == str(tmp_path)


def test_root_has_the_home_that_the_password_database_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/them")
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: type("Entry", (), {"pw_dir": "/root"}))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories.cache() == ["/home/them/.cache/symfuse", "/root/.cache/symfuse"]
    assert directories.logs() == ["/home/them/.local/state/symfuse/log", "/root/.local/state/symfuse/log"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert directories.cache() == ["/home/them/.cache/symfuse"]


# -- temporary files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(directories, "_TEMPORARY", (str(tmp_path / "tmp"),))
    return tmp_path


def test_temporary_files_go_where_the_user_says(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directories.temporary() == str(base / "tmp")
    (base / "job").mkdir()
    monkeypatch.setenv("TMPDIR", str(base / "job"))
    assert directories.temporary() == str(base / "job")
    monkeypatch.setenv("TMPDIR", str(base / "none"))
    assert directories.temporary() == str(base / "tmp")


@as_root
def test_temporary_files_do_not_go_to_another_user(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "theirs").mkdir()
    os.chown(base / "theirs", NOBODY, NOBODY)
    monkeypatch.setenv("TMPDIR", str(base / "theirs"))
    assert directories.temporary() == str(base / "tmp")
    assert not any((base / "theirs").iterdir())


def test_an_open_directory_is_better_than_none(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an empty volume of Kubernetes, which everybody in the pod may write to, and which has no sticky bit."""
    (base / "volume").mkdir()
    (base / "volume").chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(base / "volume"))
    assert directories.temporary() == str(base / "tmp")
    (base / "tmp").rmdir()
    assert directories.temporary() == str(base / "volume")
    (base / "volume").rmdir()
    with pytest.raises(FileNotFoundError, match="can be written"):
        directories.temporary()
