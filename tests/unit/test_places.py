"""Which mount is meant, who may have a place, and questions that get no answer: the parts that need no FUSE."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from symfuse import control, owners
from symfuse.errors import FuseUnavailable, MountpointError, NotMounted
from symfuse.mounts import bounded, channel, claim, live, preflight, probe, table, unmount
from symfuse.mounts.bounded import Report
from symfuse.mounts.claim import Claim, guarded
from symfuse.mounts.live import Look
from symfuse.mounts.table import MountEntry, State


def entry(mount_id: int, parent_id: int, mountpoint: bytes, fstype: bytes = b"ext4") -> MountEntry:
    return MountEntry(mount_id, parent_id, mount_id, b"/", mountpoint, fstype, b"/data", os.geteuid())


ROOT = entry(1, 0, b"/")
VIEW = entry(2, 1, b"/mnt/view", table.FSTYPE)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> list[MountEntry]:
    """What mountinfo says, as the test has it."""
    entries = [ROOT, VIEW]
    monkeypatch.setattr(table, "mounts", lambda: entries)
    monkeypatch.setattr("symfuse.mountinfo.mounts", lambda: entries)
    return entries


# -- which mount -------------------------------------------------------------------------------------------------------


def test_a_mount_that_was_moved_is_the_same(mounts: list[MountEntry]) -> None:
    mounts[1] = VIEW._replace(mountpoint=b"/elsewhere/view", parent_id=7)
    assert table.find_again(VIEW) == mounts[1]


@pytest.mark.parametrize("other", [{"device": 9}, {"source": b"/other"}, {"fstype": b"tmpfs"}, {"mount_id": 9}])
def test_a_mount_of_the_same_number_is_another(mounts: list[MountEntry], other: dict[str, object]) -> None:
    mounts[1] = VIEW._replace(**other)  # type: ignore[arg-type]
    assert table.find_again(VIEW) is None


def test_a_mount_left_behind_that_cannot_be_cleared_refuses_no_other(
    mounts: list[MountEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts[1] = VIEW._replace(mountpoint=b"/tmp/symfuse-%d-abc" % (1 << 30))
    tried: list[bytes] = []

    def refuse(mountpoint: bytes) -> bool:
        tried.append(mountpoint)
        raise FuseUnavailable("no helper")

    monkeypatch.setattr(unmount, "clear_dead", refuse)
    assert unmount.clear_left_behind() == []
    assert tried == [mounts[1].mountpoint]


@pytest.mark.parametrize("mountpoint", [b"/mnt/view", b"/mnt"])
def test_what_hides_a_mount_is_found_and_named(mounts: list[MountEntry], mountpoint: bytes) -> None:
    assert table.over(VIEW) is None
    parent = 2 if mountpoint == VIEW.mountpoint else 1
    mounts.append(entry(3, parent, mountpoint, b"tmpfs"))
    assert table.over(VIEW) == mounts[-1]
    with pytest.raises(NotMounted, match="tmpfs is mounted over it"):
        unmount.find(VIEW.mountpoint)
    assert unmount.find(VIEW.mountpoint, even_hidden=True) == VIEW
    assert live.look(VIEW) == Look(State.HIDDEN, {})


@pytest.mark.parametrize("us", [0, 4711])
@pytest.mark.parametrize("them", [1, 65534, None])
def test_a_mount_of_another_user_is_not_asked_not_even_by_root(
    mounts: list[MountEntry], monkeypatch: pytest.MonkeyPatch, us: int, them: int | None
) -> None:
    theirs = VIEW._replace(user=them)
    mounts[1:] = [theirs]
    monkeypatch.setattr(os, "geteuid", lambda: us)
    monkeypatch.setattr(bounded, "ask", lambda *_arguments, **_keywords: pytest.fail("asked"))
    assert live.look(theirs).state is State.ANOTHER_USER
    assert live.serving(b"/data/x") is None
    with pytest.raises(channel.NoAnswer, match="ask as that user"):
        channel.ask(theirs, control.STATUS)


@pytest.mark.parametrize(
    ("us", "theirs", "outside", "in_namespace"),
    [
        (1000, VIEW._replace(user=1000), True, True),
        # In a namespace it may be another user's outside, who lets everybody in.
        (1000, VIEW._replace(user=1000, is_open=True), True, False),
        (65534, VIEW._replace(user=65534, is_open=True), True, False),
        (1000, VIEW._replace(user=0, is_open=True), True, True),
        (0, VIEW._replace(user=0, is_open=True), True, True),
        (1000, VIEW._replace(user=None, place=b"/run/symfuse-stack-x"), True, True),
    ],
)
def test_who_is_asked(
    monkeypatch: pytest.MonkeyPatch, us: int, theirs: MountEntry, outside: bool, in_namespace: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: us)
    for has_number, is_asked in ((True, outside), (False, in_namespace)):
        monkeypatch.setattr(owners, "everybody_has_a_number", lambda has_number=has_number: has_number)
        assert table.is_trusted(theirs) == is_asked


@pytest.mark.parametrize("path", [b"/home/them/x", b"/home/them/x/deep/er", b"/home/them/x/mine/below"])
def test_nothing_is_mounted_below_another_users_fuse_mount(mounts: list[MountEntry], path: bytes) -> None:
    theirs = entry(3, 1, b"/home/them/x", b"fuse.sshfs")._replace(user=os.geteuid() + 1)
    mounts += [theirs, entry(4, 3, b"/home/them/x/mine", b"tmpfs")._replace(user=None)]
    with pytest.raises(MountpointError, match="lies on /home/them/x, a FUSE mount of another user"):
        preflight._check_not_on_strangers(path)
    mounts[2] = theirs._replace(user=os.geteuid())
    mounts[0] = ROOT._replace(user=os.geteuid() + 1, fstype=b"fuse.fuse-overlayfs")  # of a container
    preflight._check_not_on_strangers(path)


def test_outside_of_user_namespaces_nobody_is_a_user_and_inside_everybody_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(owners, "everybody_has_a_number", lambda: True)
    assert owners.trusted_uids() == {0, 65534}
    monkeypatch.setattr(owners, "everybody_has_a_number", lambda: False)
    assert owners.trusted_uids() == {0}


@pytest.mark.parametrize("state", State)
def test_every_state_says_what_it_means_and_what_helps(state: State) -> None:
    assert state.meaning
    assert bool(state.cure) == (state is not State.ALIVE)


# -- a claim -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> bytes:
    (tmp_path / "above/mnt").mkdir(parents=True)
    return os.fsencode(tmp_path / "above/mnt")


@pytest.fixture
def claimed(place: bytes) -> Iterator[Claim]:
    claimed = Claim(place)
    yield claimed
    claimed.release()


def test_a_claimed_place_is_refused_until_it_is_released(place: bytes) -> None:
    first = Claim(place)
    with pytest.raises(MountpointError, match="being mounted by another symfuse"):
        Claim(place)
    first.confirm()
    first.release()
    Claim(place).release()


def test_a_place_that_changes_is_not_confirmed(place: bytes, claimed: Claim) -> None:
    with open(os.path.join(place, b"file"), "x", encoding="ascii"):
        pass
    with pytest.raises(MountpointError, match="not empty any more"):
        claimed.confirm()
    os.rename(place, place + b".old")
    with pytest.raises(MountpointError, match="taken away"):
        claimed.confirm()
    os.mkdir(place)
    with pytest.raises(MountpointError, match="replaced"):
        claimed.confirm()


def test_a_mount_that_lies_on_another_gives_up(claimed: Claim, place: bytes) -> None:
    fd = os.open(place, os.O_PATH)
    below = probe.mount_of(fd)
    os.close(fd)
    claimed.refuse_on_top(entry(99, below, place, table.FSTYPE))
    with pytest.raises(MountpointError, match="at the same time"):
        claimed.refuse_on_top(entry(99, 98, place, table.FSTYPE))


def test_without_locks_a_place_can_still_be_claimed(place: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_fd: int, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with guarded(place):
        Claim(place).release()


def test_a_guard_waits_for_nobody_for_long(place: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "GUARD_TIMEOUT_S", 0.05)
    with guarded(place), guarded(place):
        pass


def test_a_link_is_no_place(place: bytes) -> None:
    os.symlink(b"mnt", place + b".link")
    with pytest.raises(MountpointError):
        Claim(place + b".link")


# -- questions without an answer ---------------------------------------------------------------------------------------


def test_a_question_without_an_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "probe.py"
    script.write_text("import os, struct, time\nos.write(1, struct.pack('<cI', b'W', 0))\ntime.sleep(60)\n")
    monkeypatch.setattr(probe, "__file__", str(script))
    before = {child.pid for child in psutil.Process().children()}
    started_s = time.monotonic()
    assert bounded.ask("anything", timeout_s=1) == [Report(probe.WALKED, b"")]
    assert time.monotonic() - started_s < 10
    deadline_s = time.monotonic() + 10
    while {child.pid for child in psutil.Process().children()} - before:
        assert time.monotonic() < deadline_s, "somebody takes note of its end"
        time.sleep(0.01)
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(MountpointError, match="does not respond"):
        bounded.real_path(b"/", timeout_s=0.2)


def test_a_process_that_fails_does_not_pass_for_a_path_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "probe.py"
    script.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(probe, "__file__", str(script))
    with pytest.raises(MountpointError, match="failed, with status 3"):
        bounded.real_path(b"/")


def test_what_a_child_was_killed_over_is_no_answer() -> None:
    with pytest.raises(ChildProcessError):
        bounded.in_child(lambda: os.kill(os.getpid(), signal.SIGKILL) or b"", timeout_s=None)  # type: ignore[func-returns-value]


def test_a_report_that_was_cut_short_is_none() -> None:
    whole = probe.HEAD.pack(probe.ANSWER, 3) + b"abc"
    assert list(bounded._reports(whole + whole[:-1])) == [Report(probe.ANSWER, b"abc")]


def test_a_real_path_is_what_the_kernel_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "d\udcff").mkdir()
    (tmp_path / "link").symlink_to("d\udcff")
    expected = os.path.realpath(os.fsencode(tmp_path / "link"))
    assert bounded.real_path(os.fsencode(tmp_path / "link")) == expected
    assert bounded.real_mountpoint(os.fsencode(tmp_path / "link/../link")) == expected
    assert bounded.real_mountpoint(b"//" + os.fsencode(tmp_path / "link")) == expected
    assert probe.resolve(os.fsencode(tmp_path / "link/gone/../../link/x")) == os.path.join(expected, b"x")


def test_a_real_path_is_that_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name, text in (("up", "a/b/.."), ("abs", str(tmp_path / "a")), ("a/b/back", "../../up"), ("gone", "no/where")):
        (tmp_path / name).symlink_to(text)
    for path in ("up", "abs/b/back/b", "gone", "a/./b//back", "../" + tmp_path.name, "abs/../up/b/../b"):
        asked = os.fsencode(tmp_path / "x/..") + b"/" + os.fsencode(path)
        assert probe.resolve(asked) == os.path.realpath(asked)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MountpointError, match="Too many levels"):
        bounded.real_mountpoint(os.fsencode(tmp_path / "loop"))


def test_a_machine_that_starts_no_process_is_an_answer(
    mounts: list[MountEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: object, **_keywords: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refused)
    found = live.look(VIEW)
    assert found.state is State.UNREACHABLE
    assert "no process can ask it" in found.reason
