"""fusermount3 as ordinary users meet it: several of them, wrong ones, and each of its refusals, from the real program.

What belongs to the machine (the helper in /usr/bin, /etc/fuse.conf, /dev/fuse) is replaced in a mount namespace of the
test's own.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, Run, User, mounts
from tests.support.trees import link, tree

REAL = Path("/usr/bin/fusermount3")
NAMES = ("fusermount3", "fusermount")


@pytest.fixture
def user(ordinary_user: User) -> User:
    if ordinary_user.uid is None:
        pytest.skip("only root can make helpers of other owners and modes, and a mount namespace")
    return ordinary_user


@pytest.fixture
def dataset(user: User) -> Path:
    return user.owns(tree(user.home / "dataset", {"cat": {"1.jpg": b"one", "2.jpg": link("1.jpg")}}))


@pytest.fixture
def at(user: User) -> Path:
    directory = user.home / "mnt"
    directory.mkdir()
    return user.owns(directory)


# -- one that is no good gives way to the next -------------------------------------------------------------------------


def not_setuid(path: Path) -> None:
    shutil.copy(REAL, path)


def for_a_group(path: Path) -> None:
    shutil.copy(REAL, path)
    path.chmod(0o4750)


def not_executable(path: Path) -> None:
    path.touch(mode=0o644)


def empty(path: Path) -> None:
    path.touch(mode=0o755)


def script(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(0o755)

    return write


#: What may stand in PATH before the good one.
BAD = {
    "not setuid": not_setuid,
    "for a group": for_a_group,
    "not executable": not_executable,
    "empty": empty,
    "without its interpreter": script("#!/nonexistent/sh\n"),
    "does nothing": script("#!/bin/sh\n"),
    "refuses": script("#!/bin/sh\necho 'ask my administrator' >&2\nexit 1\n"),
    "a wrapper": script(f'#!/bin/sh\nexec {REAL} "$@"\n'),
    "closes descriptors": script(f'#!/bin/sh\nexec {REAL} "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-\n'),
    "clears the environment": script(f'#!/bin/sh\nexec env -i {REAL} "$@"\n'),
}


def with_first(user: User, make: Callable[[Path], None]) -> User:
    """The same user with such a helper before all others in PATH."""
    directory = user.home / "bin"
    directory.mkdir()
    for name in NAMES:
        make(directory / name)
    path = os.pathsep.join([str(directory), os.environ["PATH"]])
    return User(user.uid, user.gid, user.python, {**user.environment, "PATH": path}, user.home)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_helper_gives_way_to_a_good_one(
    user: User, dataset: Path, at: Path, symfuse_mount: MountMaker, bad: str
) -> None:
    user = with_first(user, BAD[bad])
    mount = symfuse_mount(dataset, at=at, user=user)
    assert user.run("cat", at / "cat/2.jpg").stdout == "one"
    mount.umount()
    assert not mount.is_mounted(), "a second one below it was left by the bad helper"
    done = user.symfuse("run", "--dedup", "bytes", dataset, "--", "cat", "{}/cat/1.jpg")
    assert done.stdout == "one"
    assert bytes(dataset) not in mounts().values()


def test_a_service_without_any_path_finds_the_usual_ones(user: User, dataset: Path, fuse: None) -> None:
    environment = {**user.environment, "PATH": "/nonexistent"}
    user = User(user.uid, user.gid, user.python, environment, user.home)
    assert user.symfuse("run", dataset, "--", "/bin/cat", "{}/cat/1.jpg").stdout == "one"


# -- the refusals of the real one --------------------------------------------------------------------------------------


def on_a_changed_machine(user: User, changes: str, *command: str | Path, through: str = "") -> Run:
    """Run symfuse as this user in a mount namespace of its own, after root changed something there.

    `through` is put before the command, after the user has become what they are.
    """
    become = f"setpriv --reuid={user.uid} --regid={user.gid} --clear-groups {through} --"
    words = shlex.join([str(word) for word in (user.python, "-m", "symfuse", *command)])
    elsewhere = User(environment=user.environment)
    return elsewhere.run("unshare", "-m", "sh", "-ec", f"{changes}\nexec {become} {words}", check=False)


def replaced(what: Path | str, by: Path) -> str:
    return f"mount --bind {by} {what}"


def a_copy_of_the_helper(user: User, mode: int) -> Path:
    path = user.home / "copy"
    shutil.copy(REAL, path)
    path.chmod(mode)
    return path


def a_configuration(user: User, text: str) -> str:
    path = user.home / "fuse.conf"
    path.write_text(text)
    return replaced("/etc/fuse.conf", path)


def a_device(user: User, mode: int, numbers: str = "10 229") -> str:
    """A device node of our own instead of /dev/fuse; by udev's usual numbers unless told otherwise."""
    directory = user.home / "dev"
    directory.mkdir()
    return (
        f"mount -t tmpfs -o dev none {directory}\nmknod -m {mode:o} {directory}/fuse c {numbers}\n"
        f"mount --bind {directory}/fuse /dev/fuse"
    )


Machine = Callable[[User, Path], str]

#: Another machine, what is said, a part of the cure, and the exit status.
MACHINES: dict[str, tuple[Machine, str, str, ExitStatus]] = {
    "not setuid": (
        lambda user, _at: replaced(REAL, a_copy_of_the_helper(user, 0o755)),
        f"{REAL} is not setuid root",
        "--reinstall fuse3",
        ExitStatus.FUSE,
    ),
    "for a group": (
        lambda user, _at: replaced(REAL, a_copy_of_the_helper(user, 0o4750)),
        f"you have no permission to execute {REAL}",
        "by the group",
        ExitStatus.FUSE,
    ),
    "nosuid": (
        lambda user, _at: f"{replaced(REAL, a_copy_of_the_helper(user, 0o4755))}\nmount -o remount,bind,nosuid {REAL}",
        f"{REAL} lies on a file system that is mounted nosuid",
        "another file system",
        ExitStatus.FUSE,
    ),
    "not installed": (
        lambda _user, _at: replaced(REAL, Path("/dev/null")),
        "fusermount3 is not installed",
        "apt-get install fuse3",
        ExitStatus.FUSE,
    ),
    "mount_max": (
        lambda user, _at: a_configuration(user, "mount_max = 0\n"),
        "too many FUSE filesystems mounted",
        "symfuse umount --dead",
        ExitStatus.FUSE,
    ),
    "forbidden file system": (
        lambda user, at: f"mount -t ramfs none {at}\nchown {user.uid} {at}",
        "mounting over filesystem type 0x858458f6 is forbidden",
        "another file system",
        ExitStatus.MOUNTPOINT,
    ),
    "not owned": (
        lambda _user, at: f"chown root {at}; chmod 1777 {at}",
        "not owned by user",
        "a directory that you own",
        ExitStatus.MOUNTPOINT,
    ),
    "no write access": (
        lambda _user, at: f"chown root {at}",
        "no write access",
        "that you may write to",
        ExitStatus.MOUNTPOINT,
    ),
    "closed device": (
        lambda user, _at: a_device(user, 0o600),
        "failed to open /dev/fuse: Permission denied",
        "chmod 666 /dev/fuse",
        ExitStatus.FUSE,
    ),
    "no device": (
        lambda user, _at: a_device(user, 0o666, "10 254"),
        "device not found",
        "modprobe fuse",
        ExitStatus.FUSE,
    ),
}


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("machine", MACHINES)
def test_each_refusal_is_passed_on_with_its_cure(
    user: User, dataset: Path, at: Path, backend: str, machine: str
) -> None:
    change, cause, cure, status = MACHINES[machine]
    done = on_a_changed_machine(user, change(user, at), "mount", "--backend", backend, dataset, at)
    assert done.returncode == status, done.stderr
    if backend == "fusepy":  # libfuse 2 knows the helper by its old name, and does not look for it
        cause = cause.replace(str(REAL), "/bin/fusermount").replace("fusermount3 is not installed", "exec fusermount")
    assert cause in done.stderr
    assert cure in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_new_privileges_no_helper_helps(user: User, dataset: Path, at: Path, fuse: None, backend: str) -> None:
    done = on_a_changed_machine(
        user, "true", "mount", "--backend", backend, dataset, at, through="--no-new-privs"
    )  # fmt: skip
    assert done.returncode == ExitStatus.FUSE
    assert "may not become root: no new privileges" in done.stderr
    assert "NoNewPrivileges=" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_user_whom_nobody_knows_is_told_so(user: User, at: Path, dataset: Path, fuse: None, backend: str) -> None:
    stranger = User(54321, user.gid, user.python, user.environment, user.home)
    user.home.chmod(0o777)
    stranger.owns(at)
    done = stranger.symfuse("mount", "--backend", backend, dataset, at, check=False)
    assert done.returncode == ExitStatus.FUSE
    assert "could not determine username" in done.stderr
    assert "useradd" in done.stderr


# -- --allow-other -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["user_allow_other  # for the trainers\n", "  user_allow_other\n", "user_allow_other\n"]
)
def test_what_the_helper_takes_for_permission_is_permission(
    user: User, dataset: Path, fuse: None, backend: str, text: str
) -> None:
    done = on_a_changed_machine(
        user, a_configuration(user, text),
        "run", "--backend", backend, "--allow-other", dataset, "--", "cat", "{}/cat/2.jpg",
    )  # fmt: skip
    assert done.stdout == "one", done.stderr


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("text", ["", "#user_allow_other\n", "user_allow_others\n"])
def test_without_it_the_file_is_named(user: User, dataset: Path, at: Path, backend: str, text: str) -> None:
    done = on_a_changed_machine(
        user, a_configuration(user, text), "mount", "--backend", backend, "--allow-other", dataset, at
    )
    assert done.returncode == ExitStatus.FUSE
    assert "'user_allow_other' is set in /etc/fuse.conf" in done.stderr
    assert "leave out --allow-other" in done.stderr
    assert done.stderr.count("\n") == 1


# -- the question comes before the work --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scan", [("--fail-on", "any"), ("--dedup", "bytes", "--fail-on", "any")], ids=["freeze", "dedup"]
)
def test_nobody_waits_for_a_scan_to_be_refused(
    user: User, at: Path, fuse: None, backend: str, scan: tuple[str, ...]
) -> None:
    """The dataset would be refused, too: what is refused first says which was asked first."""
    dataset = user.owns(tree(user.home / "dangling", {"a": link("nowhere")}))
    options = ("mount", "--backend", backend, *scan)
    done = on_a_changed_machine(user, a_configuration(user, "mount_max = 0\n"), *options, dataset, at)
    assert done.returncode == ExitStatus.FUSE
    assert "too many FUSE filesystems" in done.stderr
    done = user.symfuse(*options, dataset, at, check=False)
    assert done.returncode == ExitStatus.REFUSED
    assert bytes(at) not in mounts()


def test_root_without_the_capability_does_not_wait_either(user: User, at: Path, fuse: None) -> None:
    dataset = user.owns(tree(user.home / "dangling", {"a": link("nowhere")}))
    done = MYSELF.run(
        "setpriv", "--bounding-set=-sys_admin",
        MYSELF.python, "-m", "symfuse", "mount", "--fail-on", "any", dataset, at, check=False,
    )  # fmt: skip
    assert done.returncode == ExitStatus.FUSE
    assert "--cap-add SYS_ADMIN" in done.stderr
    assert done.stderr.count("\n") == 1


# -- unmounting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["not setuid", "for a group", "nosuid", "not installed"])
def test_ones_own_mount_is_never_said_to_be_anothers(
    user: User, dataset: Path, at: Path, symfuse_mount: MountMaker, machine: str
) -> None:
    mount = symfuse_mount(dataset, at=at, user=user)
    change, cause, cure, status = MACHINES[machine]
    done = on_a_changed_machine(user, change(user, at), "umount", at)
    assert done.returncode == status
    assert cause in done.stderr
    assert cure in done.stderr
    assert "another user" not in done.stderr
    mount.umount()


def test_without_new_privileges_nothing_is_unmounted(
    user: User, dataset: Path, at: Path, symfuse_mount: MountMaker
) -> None:
    symfuse_mount(dataset, at=at, user=user)
    done = on_a_changed_machine(user, "true", "umount", at, through="--no-new-privs")
    assert done.returncode == ExitStatus.FUSE
    assert "no new privileges" in done.stderr


# -- root, whom the kernel refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("propagation", "shown"), [("unchanged", True), ("private", False)])
def test_root_without_a_device_asks_the_helper(
    user: User, dataset: Path, at: Path, propagation: str, *, shown: bool
) -> None:
    """As in a container whose fusermount3 has the mount made by a process outside of it, which has the device."""
    proxy = user.home / "bin"
    proxy.mkdir()
    outside = f'umount /dev/fuse; exec {REAL} "$@"'
    script(f"#!/bin/sh\nexec unshare -m --propagation {propagation} sh -c '{outside}' sh \"$@\"\n")(
        proxy / "fusermount3"
    )
    root = User(environment={**MYSELF.environment, "PATH": f"{proxy}{os.pathsep}{os.environ['PATH']}"})
    command = [MYSELF.python, "-m", "symfuse", "run", "--at", str(at), str(dataset), "--", "cat", "{}/cat/2.jpg"]
    inside = f"{a_device(user, 0o666, '10 254')}\nmount --make-private /dev/fuse\n{shlex.join(command)}"
    done = root.run(
        "unshare", "-m", "--propagation", "shared", "sh", "-c", f"{inside}\ngrep {at} /proc/mounts", check=False
    )
    assert done.stdout == ("one" if shown else ""), done.stderr
    assert shown == ("modprobe fuse" not in done.stderr)
