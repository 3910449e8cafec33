"""`--stack`: what an overlay over the mount adds, and that the two live and end as one.

That all of the contract holds through it is shown by the other modules, for which "stacked" is one more backend.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from tests.conftest import MountMaker, missing
from tests.mounted.test_requests import images, open_as_python_does, read_all, walk
from tests.mounted.test_requests import mount as many  # noqa: F401 - a fixture
from tests.support.costs import cost, difference, warm_cost
from tests.support.mounting import MYSELF, Mount, User, has_ended, mounts
from tests.support.pythons import with_server_patched
from tests.support.trees import link, tree

pytestmark = pytest.mark.usefixtures("fuse")
stacked = pytest.mark.parametrize("backend", ["stacked"], indirect=True)
kernel = pytest.mark.parametrize("backend", ["kernel"], indirect=True)
BASES = (Path("/run"), Path("/tmp"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"cat": {"1.jpg": b"one", "2.jpg": link("1.jpg")}, "store": link("cat")})


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mountpoint"
    path.mkdir()
    return path


def places() -> set[Path]:
    return {path for base in BASES for path in base.glob("symfuse-stack-*")}


@pytest.fixture
def no_new_place() -> Iterator[None]:
    """Nothing of this test's is left where stacked mounts are made. Other runs' may come and go."""
    before = places()
    yield
    assert not [path for path in places() - before if is_nobodys(path)]


def is_nobodys(place: Path) -> bool:
    """Nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        return connection.connect_ex(str(place / "control")) == errno.ECONNREFUSED


# -- what it is for ----------------------------------------------------------------------------------------------------


@stacked
def test_a_warm_open_in_python_costs_nothing_at_all(many: Mount) -> None:  # noqa: F811
    read_all(many)
    assert warm_cost(many, lambda: open_as_python_does(many)) == {}


@stacked
def test_a_cold_small_file_costs_one_read_and_a_warm_walk_nothing(many: Mount) -> None:  # noqa: F811
    walk(many)
    (many.path / "store/000").read_bytes()
    assert cost(many, lambda: read_all(many)) == {"read": len(images(many))}
    assert warm_cost(many, lambda: walk(many)) == {}


@stacked
def test_a_first_walk_costs_the_listings_and_two_lookups_for_each_directory_at_the_top(many: Mount) -> None:  # noqa: F811
    spent = cost(many, lambda: walk(many))
    assert spent.keys() <= {"readdirplus", "lookup", "opendir", "getattr", "getxattr", "statx"}
    assert spent.get("lookup", 0) <= 5


@stacked
def test_names_that_are_absent_at_the_top_are_looked_for_in_both_layers_once(many: Mount) -> None:  # noqa: F811
    def look() -> None:
        for number in range(10):
            assert not os.path.lexists(many.path / f"absent {number}")

    assert cost(many, look) == {"lookup": 20}
    assert cost(many, look) == {}


@stacked
def test_asking_costs_the_view_no_more_than_its_size(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, "--eager")
    mount.requests()
    assert difference(mount.requests(), mount.requests()).keys() <= {"statfs"}


# -- the contract, where only a stack could break it -------------------------------------------------------------------


@kernel
def test_inode_numbers_are_those_of_the_mount_without_it(
    symfuse_mount: MountMaker, dataset: Path, mountpoint: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    plain = symfuse_mount(dataset)
    MYSELF.symfuse("mount", "--stack", dataset, mountpoint)
    try:
        for path in ("", "cat", "cat/1.jpg", "store/2.jpg"):
            assert os.lstat(plain.path / path).st_ino == os.lstat(mountpoint / path).st_ino
        assert os.lstat(plain.path).st_dev != os.lstat(mountpoint).st_dev
    finally:
        MYSELF.symfuse("umount", mountpoint)


@stacked
def test_a_wide_directory_at_the_top_is_listed_in_order_with_its_inode_numbers(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    names = [f"{number:04}.png" for number in range(3000)]
    mount = symfuse_mount(tree(tmp_path / "wide", {"a": b"A", **{name: link("a") for name in names}}))
    for _ in range(2):
        entries = list(os.scandir(mount.path))
        assert [entry.name for entry in entries] == [*names, "a"]
        assert all(entry.inode() == os.lstat(entry.path).st_ino for entry in entries[::50])


@stacked
def test_not_even_root_can_make_it_writable(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    done = MYSELF.run("mount", "-i", "-o", "remount,rw", mount.path, check=False)
    assert done.returncode != 0
    assert os.statvfs(mount.path).f_flag & os.ST_RDONLY


# -- who may look in ---------------------------------------------------------------------------------------------------

LOOK = """
import os, sys
path = sys.argv[1]
for look in (os.listdir, lambda path: os.stat(path + "/cat"), lambda path: open(path + "/cat/1.jpg").read(), os.chdir):
    try:
        print(look(path))
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def somebody(ordinary_user: User) -> User:
    """Another user than root, who mounts."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    return ordinary_user


def mount_for(somebody: User, *options: str) -> Path:
    """Root's stacked mount of a dataset that all may read, where somebody else could reach it."""
    dataset = tree(somebody.home / "dataset", {"cat": {"1.jpg": b"one", "closed": b"secret"}})
    os.chmod(dataset / "cat/closed", 0o600)
    mountpoint = somebody.home / "mnt"
    mountpoint.mkdir()
    MYSELF.symfuse("mount", "--stack", *options, dataset, mountpoint)
    return mountpoint


def test_without_allow_other_nobody_else_may_look_in(somebody: User) -> None:
    mountpoint = mount_for(somebody)
    assert somebody.script(LOOK, mountpoint).stdout.split() == [str(errno.EACCES)] * 4
    assert stat.S_IMODE(os.stat(mountpoint).st_mode) & 0o077 == 0
    assert os.listdir(mountpoint / "cat") == ["1.jpg", "closed"]
    MYSELF.symfuse("umount", mountpoint)


def test_with_allow_other_each_files_own_mode_counts(somebody: User) -> None:
    mountpoint = mount_for(somebody, "--allow-other")
    assert somebody.run("cat", mountpoint / "cat/1.jpg").stdout == "one"
    denied = somebody.run("cat", mountpoint / "cat/closed", check=False)
    assert "Permission denied" in denied.stderr
    assert denied.stdout == ""
    MYSELF.symfuse("umount", mountpoint)


def test_others_may_neither_ask_nor_unmount(somebody: User) -> None:
    mountpoint = mount_for(somebody, "--allow-other")
    assert json.loads(somebody.symfuse("status", "--json", mountpoint).stdout)["state"] == "another-user"
    for command in ("umount", "why"):
        done = somebody.symfuse(command, mountpoint, check=False)
        assert done.returncode == ExitStatus.MOUNTPOINT
        assert "another user" in done.stderr
    MYSELF.symfuse("umount", mountpoint)


def test_an_ordinary_user_is_told_what_to_leave_out(ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A"}))
    done = ordinary_user.symfuse("run", "--stack", dataset, "--", "true", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert done.stderr.count("\n") == 1
    assert "mount without --stack" in done.stderr


def test_root_of_a_user_namespace_may_stack(request: pytest.FixtureRequest, ordinary_user: User) -> None:
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", {"a": b"A", "b": link("a")}))
    if ordinary_user.run("unshare", "-Urm", "true", check=False).returncode != 0:
        missing(request.config, "ordinary users may not make user namespaces here")
    python = str(ordinary_user.python)
    done = ordinary_user.run(
        "unshare", "-Urm", python, "-m", "symfuse", "run", "--stack", dataset, "--",
        "sh", "-c", 'cat "$1"/b; ls -l "$1"; stat -f -c %T "$1"', "sh", "{}",
    )  # fmt: skip
    assert done.stdout.startswith("A")
    assert "->" not in done.stdout
    assert done.stdout.split()[-1] == "overlayfs"


# -- one life ----------------------------------------------------------------------------------------------------------


@stacked
def test_it_is_told_like_any_other_mount(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    assert mounts()[mount.bytes] == os.fsencode(dataset)
    assert "kernel, under an overlay" in MYSELF.symfuse("status", mount.path).stdout
    listed = json.loads(MYSELF.symfuse("status", "--json").stdout)
    assert [status["source"] for status in listed if status["mountpoint"] == str(mount.path)] == [str(dataset)]
    assert MYSELF.symfuse("why", dataset / "cat/2.jpg").stdout.endswith(f"in:     the mount {mount.path}\n")


@stacked
@pytest.mark.parametrize("command", [["umount"], ["umount", "-l"]])
def test_after_a_crash_the_mount_is_dead_and_any_umount_clears_all(
    symfuse_mount: MountMaker, dataset: Path, command: list[str]
) -> None:
    mount = symfuse_mount(dataset)
    assert mount.place is not None
    mount.kill_server()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(mount.path / "cat")
    subprocess.run([*command, mount.path], check=True)
    assert mount.bytes not in mounts()
    assert os.listdir(mount.path) == []
    assert os.path.exists(mount.place), "it takes a symfuse command to remove the directory"
    symfuse_mount(dataset)
    assert not os.path.exists(mount.place)


@stacked
def test_a_copy_of_the_overlay_keeps_the_server_and_the_last_one_ends_it(
    symfuse_mount: MountMaker, dataset: Path, tmp_path: Path
) -> None:
    mount = symfuse_mount(dataset)
    alias = tmp_path / "alias"
    alias.mkdir()
    subprocess.run(["mount", "--bind", mount.path, alias], check=True)
    mount.umount()
    assert (alias / "cat/2.jpg").read_bytes() == b"one"
    assert json.loads(MYSELF.symfuse("status", "--json", alias).stdout)["pid"] == mount.pid
    MYSELF.symfuse("umount", alias)
    assert has_ended(mount.pid, within_s=0.1)


@stacked
def test_where_its_socket_cannot_be_seen_it_is_alive_but_unreachable(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    script = (
        'mount -t tmpfs none /run && "$1" -m symfuse status --json "$2" && "$1" -m symfuse umount "$2" '
        '&& test -z "$(ls -A "$2")"'
    )
    done = MYSELF.run("unshare", "-m", "sh", "-c", script, "sh", sys.executable, mount.path)
    assert json.loads(done.stdout)["state"] == "unreachable"
    assert (mount.path / "cat/1.jpg").read_bytes() == b"one", "what another namespace unmounts stays here"


def server_patched(tmp_path: Path, *lines: str) -> User:
    return with_server_patched(tmp_path, "import errno, os, signal", "from symfuse.fuse import kernelmount", *lines)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("ENODEV", "the kernel has no overlayfs"),
        ("EPERM", "does not let you mount an overlay"),
        ("ELOOP", "mount without --stack"),
    ],
)
@pytest.mark.usefixtures("no_new_place")
def test_a_kernel_that_refuses_is_told_and_nothing_is_left(
    dataset: Path, mountpoint: Path, tmp_path: Path, number: str, said: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    user = server_patched(
        tmp_path,
        "from symfuse import libc; call = libc.call",
        f"error = OSError(errno.{number}, os.strerror(errno.{number}))",
        "fail = lambda: (_ for _ in ()).throw(error)",
        "libc.call = lambda name, *words: fail() if b'overlay' in words else call(name, *words)",
    )
    done = user.symfuse("mount", "--stack", dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.FUSE
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert os.fsencode(mountpoint) not in mounts()


@pytest.mark.usefixtures("no_new_place")
def test_a_server_that_is_killed_before_the_overlay_is_shown_leaves_nothing(
    dataset: Path, mountpoint: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    user = server_patched(tmp_path, "kernelmount.bind = lambda *words: os.kill(os.getpid(), signal.SIGKILL)")
    done = user.symfuse("mount", "--stack", dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.INTERNAL
    assert "was killed" in done.stderr
    assert not [path for path, source in mounts().items() if source == os.fsencode(dataset)]


@pytest.mark.usefixtures("no_new_place")
def test_a_mountpoint_that_goes_away_meanwhile(dataset: Path, mountpoint: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    user = server_patched(
        tmp_path,
        "bind = kernelmount.bind",
        "kernelmount.bind = lambda one, other, via: (os.rmdir(other), bind(one, other, via))",
    )
    done = user.symfuse("mount", "--stack", dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.MOUNTPOINT
    assert "No such file or directory" in done.stderr


def test_fusepy_cannot_be_stacked(dataset: Path, mountpoint: Path) -> None:
    done = MYSELF.symfuse("mount", "--stack", "--backend", "fusepy", dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.USAGE
    assert "leave out --stack or --backend fusepy" in done.stderr


@stacked
def test_a_dataset_on_a_stacked_mount_can_be_mounted_and_stacked(
    symfuse_mount: MountMaker, dataset: Path, tmp_path: Path
) -> None:
    first = symfuse_mount(dataset)
    second = symfuse_mount(first.path)
    assert (second.path / "store/2.jpg").read_bytes() == b"one"
    second.umount()
