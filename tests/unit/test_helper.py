"""Which of several helpers is asked, and whose refusal is reported. The helpers here are scripts."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from symfuse.errors import FuseUnavailable, MountpointError
from symfuse.fuse import helper, kernelmount, refusals
from symfuse.fuse.options import MountOptions

OPTIONS = MountOptions(mountpoint=b"/nonexistent", fsname=b"/dataset")


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three directories, the only ones where helpers are looked for."""
    made = [tmp_path / name for name in ("first", "second", "usual")]
    for directory in made:
        directory.mkdir()
    monkeypatch.setenv("PATH", f"{made[0]}{os.pathsep}relative{os.pathsep}{made[1]}")
    monkeypatch.setattr(helper, "USUAL_DIRECTORIES", (str(made[2]),))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return made


def script(directory: Path, said: str = "", *, name: str = "fusermount3", status: int = 1, first: str = "") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{first}\necho '{said}' >&2\nexit {status}\n")
    path.chmod(0o755)
    return path


def refusal() -> str:
    with pytest.raises((FuseUnavailable, MountpointError)) as refused:
        kernelmount.mount(OPTIONS)
    assert refused.value.cure
    return str(refused.value)


def test_every_helper_is_found_once_and_the_newer_name_first(directories: list[Path], tmp_path: Path) -> None:
    first, second, usual = directories
    for path in (second / "fusermount3", usual / "fusermount3", first / "fusermount"):
        path.touch()
    (usual / "fusermount").symlink_to("fusermount3")
    (first / "fusermount3").mkdir()
    (second / "fusermount").symlink_to("nowhere")
    found = [second / "fusermount3", usual / "fusermount3", first / "fusermount"]
    assert list(helper.candidates()) == [str(path) for path in found]


def test_without_any_helper(directories: list[Path]) -> None:
    assert refusal().startswith("fusermount3 is not installed, and only root can")
    with pytest.raises(FuseUnavailable, match="is not installed"):
        kernelmount.unmount(b"/nonexistent")


@pytest.mark.parametrize("junk", ["", "no program\n", "#!/nonexistent/sh\n"])
def test_a_helper_that_cannot_be_run_gives_way(directories: list[Path], junk: str) -> None:
    broken = directories[0] / "fusermount3"
    broken.write_text(junk)
    broken.chmod(0o755)
    assert f"{broken} cannot be run" in refusal()
    script(directories[1], "mountpoint /x not owned by user")
    assert "not owned" in refusal()


def test_the_most_telling_refusal_is_reported(directories: list[Path]) -> None:
    first, second, usual = directories
    script(first, "mount failed: Operation not permitted")  # not setuid
    assert "first/fusermount3 is not setuid root" in refusal()
    script(second, "what the wrapper says")
    assert "what the wrapper says" in refusal()
    script(usual, "mounting over filesystem type 0x1 is forbidden")
    assert "usual/fusermount3 refused to mount (mounting over" in refusal()


def test_of_equally_telling_ones_the_first_is_reported(directories: list[Path]) -> None:
    for directory, said in zip(directories, ("could not determine username", "device not found", ""), strict=True):
        script(directory, said)
    assert "username" in refusal()


def test_a_helper_that_hands_no_connection_over_is_a_wrapper(directories: list[Path]) -> None:
    path = script(directories[0], status=0)
    assert f"{path} refused to mount (no connection came back)" in refusal()
    assert "real fusermount3" in refusal()


def test_a_helper_that_does_not_end_is_given_up(directories: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "TIMEOUT_S", 0.2)
    path = script(directories[0])
    path.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    assert f"{path} has not ended" in refusal()
    script(directories[1], "could not determine username")
    assert "username" in refusal()


def test_what_has_run_out_is_no_fault_of_a_helper(directories: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_command: object, **_options: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    script(directories[0])
    monkeypatch.setattr("subprocess.run", run)
    assert "ulimit -a" in refusal()


def test_only_programs_of_roots_are_kept_from_the_environment(
    directories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEEDED_BY_A_WRAPPER", "yes")
    path = script(directories[0], first='echo "needed: $NEEDED_BY_A_WRAPPER, $LC_ALL, ${_FUSE_COMMFD:+passed}" >&2')
    assert "needed: yes, C, passed" in refusal()
    monkeypatch.setattr(refusals, "is_setuid", lambda found: found == str(path))
    assert "needed: , C, passed" in refusal()


def test_why_an_unmounting_was_refused(directories: list[Path]) -> None:
    first, second, usual = directories
    script(first, "failed to unmount /x: Operation not permitted")
    with pytest.raises(FuseUnavailable, match="is not setuid root"):
        kernelmount.unmount(b"/x")
    for said, number in (
        ("failed to unmount /x: Device or resource busy", errno.EBUSY),
        ("failed to unmount /x: Invalid argument", errno.EINVAL),
        ("entry for /x not found in /etc/mtab", errno.EINVAL),
    ):
        script(second, said)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as refused:
            kernelmount.unmount(b"/x")
        assert refused.value.errno == number
    script(usual, status=0)
    kernelmount.unmount(b"/x")


def test_root_is_told_what_the_kernel_said_when_no_helper_can_do_more(
    directories: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(kernelmount, "DEVICE", str(tmp_path / "fuse"))
    script(directories[0], "could not determine username")
    assert re.search(r"modprobe fuse.*--device /dev/fuse", refusal())


def test_a_mode_that_makes_a_program_roots(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a program setuid root")
    path = tmp_path / "fusermount3"
    path.touch(mode=0o755)
    assert not refusals.is_setuid(str(path))
    path.chmod(0o755 | stat.S_ISUID)
    assert refusals.is_setuid(str(path))
    assert not refusals.is_setuid(str(tmp_path / "gone"))
