"""With `--allow-other` the kernel judges other users by the sources' owners and modes, whatever lies in its caches."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.control import BUFFER_BYTES, COMMANDS, encode
from tests.conftest import NOBODY, MountMaker
from tests.support.mounting import LET_GO, MYSELF, Mount, User, flags, public_directory
from tests.support.trees import Entry, Name, attributes, link, tree

SOMEBODY = User(uid=NOBODY, gid=NOBODY)

#: Whose file or directory it is, which mode it has, and that of links the target's count.
FILES: dict[Name, Entry] = {
    "open": b"open",
    "closed": attributes(b"secret", mode=0o600),
    "link to closed": link("closed"),
    "group's": attributes(b"secret", mode=0o640),
    "somebody's": attributes(b"theirs", mode=0o600, owner=(NOBODY, NOBODY)),
    "not even somebody's": attributes(b"secret", mode=0o044, owner=(NOBODY, NOBODY)),
    "directory": attributes({"inside": b"secret"}, mode=0o700),
    "link to directory": link("directory"),
    "known by name": attributes({"inside": b"by name"}, mode=0o711),
    "listed only": attributes({"inside": b"secret"}, mode=0o744),
}
DENIED_FILES = ("closed", "link to closed", "group's", "not even somebody's")
DENIED_DIRECTORIES = ("directory", "link to directory", "known by name")
DENIED_WITHIN = ("directory/inside", "link to directory/inside", "listed only/inside")


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory("public") as directory:
        yield directory


@pytest.fixture(params=["asked for by nobody", "cached"])
def mount(request: pytest.FixtureRequest, public: Path, symfuse_mount: MountMaker) -> Mount:
    """Root's mount for all; root, who may read everything, has done so before, or has not."""
    mount = symfuse_mount(tree(public / "dataset", FILES), "--allow-other", "--eager", at=public / "mnt")
    if request.param == "cached":
        MYSELF.run("grep", "-r", "", mount.path)
    return mount


def _is_denied(*command: str | Path) -> bool:
    done = SOMEBODY.run(*command, check=False)
    denied = os.strerror(errno.EACCES) in done.stderr
    assert denied == (done.returncode != 0), done.stderr
    assert not (denied and done.stdout)
    return denied


def test_others_are_denied_what_the_owner_closed(mount: Mount) -> None:
    for name in (*DENIED_FILES, *DENIED_WITHIN):
        assert _is_denied("cat", mount.path / name), name
    for name in DENIED_DIRECTORIES:
        assert _is_denied("ls", mount.path / name), name


def test_others_read_what_is_open_to_them(mount: Mount) -> None:
    names = ("open", "somebody's", "known by name/inside")
    assert SOMEBODY.run("cat", *(mount.path / name for name in names)).stdout == "opentheirsby name"
    assert SOMEBODY.run("ls", mount.path / "listed only", check=False).stdout == "inside\n"


def test_nobody_but_the_kernel_is_asked(mount: Mount) -> None:
    """What is denied costs no request for content or for a listing: no server's mistake can hand it out."""
    for name in DENIED_FILES:
        os.stat(mount.path / name)
    before = mount.requests()
    for name in DENIED_FILES:
        assert _is_denied("cat", mount.path / name)
    for name in DENIED_DIRECTORIES:
        assert _is_denied("ls", mount.path / name)
    after = mount.requests()
    content = ("open", "read", "opendir", "readdir", "readdirplus")
    assert {name: after.get(name) for name in content} == {name: before.get(name) for name in content}


def test_access_says_the_same(mount: Mount) -> None:
    for name in ("open", "somebody's"):
        SOMEBODY.run("test", "-r", mount.path / name)
    for name in DENIED_FILES:
        assert SOMEBODY.run("test", "-r", mount.path / name, check=False).returncode == 1


# -- who is asked, and who may ask -------------------------------------------------------------------------------------


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """This thread has another user's rights for a moment. Root's groups stay, which are none of the questions here."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("backend", ["kernel", "fusepy"], indirect=True)  # an overlay passes no ioctl on: test_stack.py
def test_only_root_and_the_owner_get_an_answer(public: Path, symfuse_mount: MountMaker) -> None:
    """An answer names paths outside of the view."""
    mount = symfuse_mount(tree(public / "dataset", {"a": b"A"}), "--allow-other", at=public / "mnt")
    question = encode({"path": "a"}).ljust(BUFFER_BYTES, b"\0")
    for command in COMMANDS:
        root = os.open(mount.path, os.O_RDONLY)
        try:
            assert fcntl.ioctl(root, command, bytearray(question)) == 0
            with acting_as(NOBODY), pytest.raises(PermissionError):
                fcntl.ioctl(root, command, bytearray(question))
        finally:
            os.close(root)


# -- an ordinary user's mount ------------------------------------------------------------------------------------------


def test_an_ordinary_users_mount_is_as_restricted_as_roots(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A"}))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= flags(mount.path)
    assert "allow_other" not in flags(mount.path)


#: As root, who lets users let others in, in a mount namespace of its own: USER mounts, and OTHER looks.
FOR_OTHERS = """
mount --bind "$CONFIGURATION" /etc/fuse.conf
as() { who=$1; shift; setpriv --reuid=$who --regid=$who --clear-groups -- "$@"; }
as $USER_ID "$PYTHON" -m symfuse mount --allow-other --backend $BACKEND "$DATASET" "$MOUNTPOINT" >&2
as $USER_ID cat "$MOUNTPOINT/closed"
as $OTHER_ID cat "$MOUNTPOINT/open"
as $OTHER_ID cat "$MOUNTPOINT/closed" || true
as $OTHER_ID ls "$MOUNTPOINT/directory" || true
as $USER_ID "$PYTHON" -m symfuse umount "$MOUNTPOINT"
"""


@pytest.mark.parametrize("backend", ["kernel", "fusepy"], indirect=True)
def test_an_ordinary_users_mount_for_others_hands_out_nothing_closed(ordinary_user: User, backend: str) -> None:
    if ordinary_user.uid is None:
        pytest.skip("only root can set up a second user, and /etc/fuse.conf")
    home = ordinary_user.home
    files: dict[Name, Entry] = {
        "open": b"open",
        "closed": attributes(b"secret", mode=0o600),
        "directory": attributes({"inside": b"secret"}, mode=0o700),
    }
    dataset = ordinary_user.owns(tree(home / "dataset", files))
    mountpoint = ordinary_user.owns(tree(home / "mnt", {}))
    home.chmod(0o711)
    (home / "fuse.conf").write_text("user_allow_other\n")
    variables = {
        "CONFIGURATION": home / "fuse.conf",
        "USER_ID": ordinary_user.uid,
        "OTHER_ID": ordinary_user.uid - 1,
        "PYTHON": ordinary_user.python,
        "BACKEND": backend,
        "DATASET": dataset,
        "MOUNTPOINT": mountpoint,
    }
    environment = {**ordinary_user.environment, **{name: str(value) for name, value in variables.items()}}
    done = User(environment=environment).run("unshare", "-m", "sh", "-ec", f"{LET_GO}\n{FOR_OTHERS}", check=False)
    assert (done.returncode, done.stdout) == (0, "secretopen"), done.stderr
    assert done.stderr.count(os.strerror(errno.EACCES)) == 2
