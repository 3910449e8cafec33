"""The parts of a stacked mount that need no FUSE: its line in mountinfo, its place, and the way it is asked."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse import control
from symfuse.control import Control
from symfuse.counters import Counters
from symfuse.errors import FuseUnavailable, UsageError
from symfuse.mounts import bounded, channel, probe, stack, table
from symfuse.mounts.bounded import Report
from symfuse.mounts.channel import Listener
from symfuse.mounts.request import request
from symfuse.mounts.stack import Place
from symfuse.mounts.table import MountEntry, State
from symfuse.view import View
from tests.support.trees import link, tree

# -- mountinfo ---------------------------------------------------------------------------------------------------------

PLACE = rb"/run/symfuse-stack-a1_b2c3"


def overlay(options: bytes, *, root: bytes = b"/") -> MountEntry:
    (entry,) = table.parse(rb"45 27 0:40 %s /mnt/a\040b ro,nosuid - overlay /data/x %s" % (root, options) + b"\n")
    return entry


@pytest.mark.parametrize("options", [b"ro,%s", b"%s", b"ro,%s,redirect_dir=on"])
def test_a_stacked_mount_is_known_by_what_it_is_made_of(options: bytes) -> None:
    entry = overlay(options % (b"lowerdir=%s/fuse/view:%s/fuse/empty" % (PLACE, PLACE)))
    assert entry.is_symfuse
    assert (entry.place, entry.source, entry.mountpoint, entry.user) == (PLACE, b"/data/x", b"/mnt/a b", None)


@pytest.mark.parametrize(
    "options",
    [
        b"ro",
        b"lowerdir=/lower,upperdir=/upper,workdir=/work",
        b"lowerdir=%s/fuse/view:/run/symfuse-stack-other/fuse/empty" % PLACE,
        b"lowerdir=%s/fuse/view" % PLACE,
        b"lowerdir=/more:%s/fuse/view:%s/fuse/empty" % (PLACE, PLACE),
        b"lowerdir=%s/fuse/view:%s/fuse/empty:/more" % (PLACE, PLACE),
        b"xlowerdir=%s/fuse/view:%s/fuse/empty" % (PLACE, PLACE),
    ],
)
def test_other_overlays_are_none_of_ours(options: bytes) -> None:
    assert overlay(options).place is None
    assert not overlay(options).is_symfuse


def test_a_bind_mount_of_a_part_of_one_is_none() -> None:
    assert not overlay(b"lowerdir=%s/fuse/view:%s/fuse/empty" % (PLACE, PLACE), root=b"/cat").is_symfuse


def test_fusepy_is_refused_with_the_cure() -> None:
    with pytest.raises(UsageError, match="leave out --stack"):
        request("/", "/m", stack=True, backend="fusepy")
    assert request("/", "/m", stack=True).stack


# -- the place ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def near() -> Iterator[Path]:
    """A directory for sockets. Its path is short, as that of /run is: a socket's address has room for 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def base(near: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one directory where places are made and cleared, by whom that is allowed."""
    monkeypatch.setattr(stack, "BASES", (b"/proc/nowhere", os.fsencode(near)))
    monkeypatch.setattr(stack, "_may_clear", lambda: True)
    monkeypatch.setattr("symfuse.fuse.kernelmount.unmount", nothing_is_mounted)
    return near


def nothing_is_mounted(mountpoint: bytes, *, lazy: bool = False) -> None:
    raise OSError(errno.EINVAL, "nothing is mounted")


def test_a_place_is_closed_to_others_and_removed_as_a_whole(base: Path, answerer: Control) -> None:
    place = Place()
    place.listen(answerer)
    assert os.stat(place.path).st_mode & 0o077 == 0
    assert sorted(os.listdir(place.path)) == [b"control", b"fuse", b"top"]
    place.remove()
    assert os.listdir(base) == []


def test_without_a_place_the_bases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "BASES", (b"/proc/nowhere",))
    with pytest.raises(FuseUnavailable, match="neither /run nor /tmp"):
        Place()


def test_the_place_of_a_live_server_stays_and_a_dead_ones_is_cleared(base: Path) -> None:
    place = Place()
    stack.clear_stale()
    assert os.path.exists(place.path)
    os.close(place._lock)  # as the kernel does when a process ends
    with socket.socket(socket.AF_UNIX) as orphan:
        orphan.bind(channel.listening_at(place.path))
    stack.clear_stale()
    assert os.listdir(base) == []


def test_what_is_just_being_made_or_holds_something_else_stays(base: Path) -> None:
    for name in ("symfuse-stack-new", "symfuse-stack-full/top", "symfuse-stack-full/precious", "other/top"):
        (base / name).mkdir(parents=True)
    (base / "symfuse-stack-file").touch()
    (base / "symfuse-stack-link").symlink_to("other")
    stack.clear_stale()
    assert sorted(os.listdir(base)) == [
        *("other", "symfuse-stack-file", "symfuse-stack-full", "symfuse-stack-link", "symfuse-stack-new")
    ]
    assert os.listdir(base / "symfuse-stack-full") == ["precious"]
    assert os.listdir(base / "other") == ["top"]


def test_who_makes_a_place_waits_until_a_clearer_has_let_go(base: Path) -> None:
    path = base / "symfuse-stack-x"
    path.mkdir()
    clearer = os.open(path, os.O_RDONLY)
    fcntl.flock(clearer, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        stack._locked(os.fsencode(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(clearer)
    os.close(stack._locked(os.fsencode(path), fcntl.LOCK_EX))


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"a": b"A", "gone": link("nowhere"), b"\xff": link("a")})


@pytest.fixture
def answerer(view: View) -> Control:
    return Control(view, Counters(), backend="kernel", source=b"/data", mountpoint=b"/mnt")


@pytest.fixture
def mount(near: Path, answerer: Control) -> Iterator[MountEntry]:
    """A mount that can be asked, as far as asking goes."""
    directory = os.fsencode(near)
    listener = Listener(directory, answerer)
    fd = os.open(directory, os.O_PATH)
    yield overlay(b"ro")._replace(place=directory, mountpoint=directory, mount_id=probe.mount_of(fd))
    os.close(fd)
    listener.close()


def test_a_question_is_answered(mount: MountEntry) -> None:
    assert channel.ask(mount, control.STATUS)["pid"] == os.getpid()
    assert channel.ask(mount, control.WHY, path="gone")["kind"] == "dangling"
    assert channel.ask(mount, control.WHY, path="\udcff")["shown"] is True


def test_only_root_and_the_owner_are_answered(mount: MountEntry, answerer: Control) -> None:
    answerer._uid = os.geteuid() + 1
    if os.geteuid() == 0:
        assert channel.ask(mount, control.STATUS)
    else:
        with pytest.raises(PermissionError):
            channel.ask(mount, control.STATUS)


def test_who_asks_through_the_socket_is_told_by_the_kernel(near: Path, answerer: Control) -> None:
    """Root asks as somebody else: whoever reaches the socket is answered by their user alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    listener = Listener(os.fsencode(near), answerer)
    os.chmod(near, 0o755)
    os.chmod(channel.listening_at(os.fsencode(near)), 0o666)
    question = probe.NUMBER.pack(control.STATUS)
    numbers: list[int] = []
    for uid in (0, 65534):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            os.seteuid(uid)
            try:
                connection.connect(channel.listening_at(os.fsencode(near)))
            finally:
                os.seteuid(0)
            connection.send(question)
            numbers += probe.NUMBER.unpack_from(connection.recv(1 << 16))
    listener.close()
    assert numbers == [0, errno.EACCES]


def test_a_place_or_a_socket_of_another_users_is_not_believed(near: Path, answerer: Control) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    place = near / "place"
    place.mkdir()
    theirs = near / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    fd = os.open(near, os.O_PATH)
    mount = overlay(b"ro")._replace(place=os.fsencode(place), mountpoint=os.fsencode(near), mount_id=probe.mount_of(fd))
    os.close(fd)
    listener = Listener(os.fsencode(theirs), answerer)
    with pytest.raises(PermissionError):  # a place of theirs, though the server is ours
        channel.ask(mount._replace(place=os.fsencode(theirs)), control.STATUS)
    listener.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as impostor:
        impostor.bind(channel.listening_at(os.fsencode(place)))
        os.seteuid(65534)
        try:
            impostor.listen()
        finally:
            os.seteuid(0)
        with pytest.raises(PermissionError):  # a place of ours, where somebody else listens
            channel.ask(mount, control.STATUS)
        impostor.setblocking(False)
        connection, _ = impostor.accept()
        assert connection.recv(1) == b"", "it was told a question"
        connection.close()


def test_a_place_that_is_a_link_is_not_followed(mount: MountEntry, tmp_path: Path) -> None:
    assert mount.place is not None
    (tmp_path / "link").symlink_to(os.fsdecode(mount.place))
    with pytest.raises(channel.NoAnswer) as error:
        channel.ask(mount._replace(place=os.fsencode(tmp_path / "link")), control.STATUS)
    assert error.value.state is State.UNREACHABLE


def test_where_nobody_listens_nothing_is_known_of_the_server(mount: MountEntry, tmp_path: Path) -> None:
    with pytest.raises(channel.NoAnswer, match="cannot be reached from here") as error:
        channel.ask(mount._replace(place=os.fsencode(tmp_path / "nowhere")), control.STATUS)
    assert error.value.state is State.UNREACHABLE


def test_what_cannot_be_asked(mount: MountEntry) -> None:
    with pytest.raises(UsageError, match="longer than any path"):
        channel.ask(mount, control.WHY, path="x" * control.BUFFER_BYTES)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        channel.ask(mount, 0x5401)
    with pytest.raises(UsageError, match="malformed"):
        channel.ask(mount, control.WHY, path="a\0b")


W, E, N = (Report(probe.WALKED, b""), probe.FAILED, probe.NO_LISTENER)
MEANINGS: list[tuple[list[Report], State | type[OSError]]] = [
    ([], State.UNREACHABLE),
    ([Report(E, b"2")], State.UNREACHABLE),
    ([Report(E, b"107")], State.UNREACHABLE),  # the file system that it lies on is dead
    ([Report(probe.OTHER, b"")], State.HIDDEN),
    ([W], TimeoutError),
    ([W, Report(E, b"107")], State.DEAD),
    ([W, Report(E, b"103")], State.DEAD),
    ([W, Report(N, b"2")], State.UNREACHABLE),
    ([W, Report(E, b"13")], PermissionError),
]


@pytest.mark.parametrize(("reports", "meaning"), MEANINGS)
def test_what_the_probe_reports_has_a_meaning(
    mount: MountEntry, monkeypatch: pytest.MonkeyPatch, reports: list[Report], meaning: State | type[OSError]
) -> None:
    monkeypatch.setattr(bounded, "ask", lambda *_arguments, **_keywords: reports)
    expected = channel.NoAnswer if isinstance(meaning, State) else meaning
    with pytest.raises(expected) as error:
        channel.ask(mount, control.STATUS)
    if isinstance(error.value, channel.NoAnswer):
        assert error.value.state is meaning
        assert error.value.path_hangs == (not reports)


@pytest.mark.parametrize("question", [b"", b"\0", b"\xff" * 100])
def test_a_malformed_question_gets_an_errno_and_ends_nothing(
    mount: MountEntry, question: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert mount.place is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(channel.listening_at(mount.place))
        connection.send(question)
        (number,) = struct.unpack("<I", connection.recv(100))
    assert number in (errno.EINVAL, errno.ENOTTY)
    assert not caplog.records
    assert channel.ask(mount, control.STATUS)
