"""What fusermount and libfuse say, and what is made of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from symfuse.errors import FuseUnavailable, MountpointError, SymfuseError
from symfuse.fuse import refusals
from symfuse.fuse.refusals import REFUSALS, explained

HELPER = "/usr/bin/fusermount3"

#: What is said, word for word, and a part of the cure. `%s` is the name that the program calls itself by.
SAID: list[tuple[str, str, type[SymfuseError]]] = [
    (
        "%s: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
        "leave out",
        FuseUnavailable,
    ),
    (
        "%s: too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf",
        "symfuse umount --dead",
        FuseUnavailable,
    ),
    ("%s: mounting over filesystem type 0x0bd00bd0 is forbidden", "another file system", MountpointError),
    ("%s: mount failed: Permission denied", "below your home, /mnt, /media or /tmp", FuseUnavailable),
    ("%s: failed to unmount /mnt/clean: Permission denied", "as root", FuseUnavailable),
    ("%s: mount failed: No such device", "modprobe fuse", FuseUnavailable),
    ("%s: mount failed: No space left on device", "fs.mount-max", FuseUnavailable),
    ("%s: mountpoint /tmp not owned by user", "a directory that you own", MountpointError),
    ("%s: user has no write access to mountpoint /usr", "that you may write to", MountpointError),
    ("%s: failed to open /dev/fuse: Permission denied", "chmod 666 /dev/fuse", FuseUnavailable),
    ("%s: failed to open /dev/fuse: Operation not permitted", "--device /dev/fuse", FuseUnavailable),
    ("%s: fuse device not found, try 'modprobe fuse' first", "modprobe fuse", FuseUnavailable),
    ("fuse: device not found, try 'modprobe fuse' first", "modprobe fuse", FuseUnavailable),
    ("%s: could not determine username", "useradd", FuseUnavailable),
    ("%s: unable to open fuse lock file: Read-only file system", "ln -sf /proc/self/mounts", FuseUnavailable),
    ("%s: error getting lock: No locks available", "ln -sf /proc/self/mounts", FuseUnavailable),
    ("%s: failed to open /etc/mtab: No such file or directory", "ln -sf /proc/self/mounts", FuseUnavailable),
    ("%s: failed to execute /bin/mount: Permission denied", "ln -sf /proc/self/mounts", FuseUnavailable),
    ("fuse: mountpoint is not empty", "an empty directory", MountpointError),
    ("%s: failed to open mountpoint for reading: Permission denied", "an empty directory", MountpointError),
    ("%s: failed to access mountpoint /x: No such file or directory", "an empty directory", MountpointError),
    ("%s: bad mount point /x/y: Permission denied", "an empty directory", MountpointError),
    ("fuse: bad mount point `/x': Transport endpoint is not connected", "an empty directory", MountpointError),
    ("%s: failed to chdir to mountpoint: Permission denied", "an empty directory", MountpointError),
    ("%s: mountpoint /x is not a directory or a regular file", "an empty directory", MountpointError),
    ("%s: mountpoint moved (/a -> /b)", "an empty directory", MountpointError),
    ("%s: mount failed: No such file or directory", "an empty directory", MountpointError),
    ("fuse: failed to exec fusermount: No such file or directory", "apt-get install fuse3", FuseUnavailable),
    ("%s: old style mounting not supported", "real fusermount3 first", FuseUnavailable),
    ("sending file descriptor: Bad file descriptor", "real fusermount3 first", FuseUnavailable),
    ("%s: unknown option 'nodev'", "update fuse3", FuseUnavailable),
    ("%s: invalid option -- 'z'", "update fuse3", FuseUnavailable),
    ("%s: fork: Resource temporarily unavailable", "ulimit -a", FuseUnavailable),
    ("%s: failed to allocate memory", "ulimit -a", FuseUnavailable),
    ("%s: failed to clone namespace: Operation not permitted", "--cap-add SYS_ADMIN", FuseUnavailable),
]


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)


@pytest.mark.parametrize("program", [HELPER, None], ids=["helper", "libfuse"])
@pytest.mark.parametrize(("said", "cure", "kind"), SAID)
def test_each_refusal_has_a_cure_and_one_line(
    said: str, cure: str, kind: type[SymfuseError], program: str | None
) -> None:
    words = said.replace("%s", program or "fusermount")
    error = explained(f"\n{words}\n", program)
    assert type(error) is kind
    assert cure in error.cure
    name = program or "libfuse"
    assert error.cause == f"{name} refused to mount ({re.sub(r'^(%s|fuse): ', '', said)})"
    assert refusals.is_known(words)


def test_each_line_of_the_table_is_tried() -> None:
    tried = {next(row for row in REFUSALS if re.search(row.words, said)) for said, _cure, _kind in SAID}
    assert tried == set(REFUSALS)


def test_a_warning_before_the_refusal_hides_no_cure() -> None:
    warning = f"{HELPER}: unknown parameter in /etc/fuse.conf at line 3: 'user_allow_others'"
    error = explained(f"{warning}\n{HELPER}: mountpoint /tmp not owned by user\n", HELPER)
    assert isinstance(error, MountpointError)
    assert str(error).count("\n") == 0


@pytest.mark.parametrize("said", ["", "Segmentation fault", "mount failed: Invalid argument"])
def test_what_nobody_knows_is_passed_on(said: str) -> None:
    error = explained(said, HELPER)
    assert said in error.cause
    assert "gave no reason" in error.cause or said
    assert "fusermount3(1)" in error.cure


# -- a helper that the kernel does not let -----------------------------------------------------------------------------

NOT_PERMITTED = [
    ("mount", "mount failed: Operation not permitted"),
    ("unmount", "failed to unmount /x: Operation not permitted"),
]


@pytest.mark.parametrize(("deed", "said"), NOT_PERMITTED)
def test_a_helper_without_its_mode(tmp_path: Path, deed: str, said: str) -> None:
    path = tmp_path / "fusermount3"
    path.touch(mode=0o755)
    error = explained(f"{path}: {said}", str(path), deed=deed)
    assert error.cause == f"{path} is not setuid root"
    assert "--reinstall fuse3" in error.cure


@pytest.mark.parametrize(("deed", "said"), NOT_PERMITTED)
def test_a_helper_without_the_capability(monkeypatch: pytest.MonkeyPatch, deed: str, said: str) -> None:
    monkeypatch.setattr(refusals, "is_setuid", lambda _path: True)
    monkeypatch.setattr(refusals, "_has_no_new_privileges", lambda: False)
    monkeypatch.setattr("os.statvfs", lambda _path: os.statvfs_result((0,) * 10))
    error = explained(said, HELPER, deed=deed)
    assert f"does not let {HELPER} {deed}" in error.cause
    assert "--cap-add SYS_ADMIN" in error.cure


def test_root_whom_the_kernel_refuses_needs_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """libfuse 2 tries fusermount where mount(2) is refused, and then complains of that alone."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    error = explained("fuse: failed to exec fusermount: No such file or directory", None)
    assert "--cap-add SYS_ADMIN" in error.cure
