"""How files are opened, with backing ids that no kernel gave out."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import Counter as Tally
from pathlib import Path

import pytest

from symfuse.control import Control
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.fuse import kernelmount
from symfuse.fuse.passthrough import LARGE_BYTES, Backing, Opens
from symfuse.fuse.server import Server
from symfuse.policy import Io, Policy
from symfuse.view import ROOT_NODEID, View
from tests.support import wire
from tests.support.trees import link, sparse, tree
from tests.support.wire import Kernel

KEEP_CACHE, PASSTHROUGH = 1 << 1, 1 << 7
OPEN_BODY = bytes(8)
RELEASE_BODY = bytes(24)


class FakeBacking(Backing):
    """Gives ids out as a kernel does, until it is told to refuse."""

    def __init__(self) -> None:
        self.refusal = 0
        self.asked = 0
        self.ids: dict[int, int] = {}  # what is open: id -> inode number of the source
        self._lock = threading.Lock()

    def open(self, source: int) -> int:
        with self._lock:
            self.asked += 1
            if self.refusal:
                raise OSError(self.refusal, os.strerror(self.refusal))
            assert not os.get_inheritable(source)
            self.ids[self.asked] = os.fstat(source).st_ino
            return self.asked

    def close(self, backing_id: int) -> None:
        with self._lock:
            del self.ids[backing_id]


class Connection:
    """A server of one view, after its INIT."""

    def __init__(self, view: View, io: Io, backing: FakeBacking | None, *, body: bytes, depth: int = 1) -> None:
        opens = Opens(view, io=io, backing=backing, max_stack_depth=depth)
        self.control = Control(view, Counters(), backend="kernel", source=b"/dataset", mountpoint=b"/mnt")
        self.server = Server(view, self.control, opens)
        self.kernel = Kernel(self.server)
        self.init = self.kernel.init(body)

    def open(self, nodeid: int) -> tuple[int, int]:
        """The flags and the backing id of an OPEN's reply."""
        payload = self.kernel.payload(wire.OPEN, nodeid, OPEN_BODY)
        assert len(payload) == wire.OPEN_OUT
        fh, flags, backing_id = struct.unpack("<QIi", payload)
        assert fh == 0
        return flags, backing_id

    def open_errno(self, nodeid: int) -> int:
        return self.kernel.errno(wire.OPEN, nodeid, OPEN_BODY)

    def release(self, nodeid: int) -> None:
        assert self.kernel.payload(wire.RELEASE, nodeid, RELEASE_BODY) == b""

    @property
    def io(self) -> str:
        return str(self.control.status()["io"])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "dataset",
        {
            "store": {"a": b"content of a", "b": b"content of b"},
            "train": {"1": link("../store/a"), "2": link("../store/a")},
            "large": {"l": sparse(6 * LARGE_BYTES)},
        },
    )


@pytest.fixture
def backing(monkeypatch: pytest.MonkeyPatch) -> FakeBacking:
    def refuse(_fd: int) -> int:
        raise OSError(errno.EPERM, "no clone of a mount here")

    monkeypatch.setattr(kernelmount, "reopened_read_only", refuse)
    return FakeBacking()


@pytest.fixture
def passing(view: View, backing: FakeBacking) -> Connection:
    """A connection of `--io passthrough`."""
    return Connection(view, Io.PASSTHROUGH, backing, body=wire.INIT_BODY_WITH_FLAGS2)


def connect(view: View, io: Io, backing: FakeBacking | None = None, *, depth: int = 1) -> Connection:
    return Connection(view, io, backing, body=wire.INIT_BODY_WITH_FLAGS2, depth=depth)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- INIT --------------------------------------------------------------------------------------------------------------


def negotiated(connection: Connection) -> tuple[bool, int]:
    """Whether passthrough was agreed on, and the stack depth."""
    (flags,) = struct.unpack_from("<I", connection.init, 12)
    flags2, depth = struct.unpack_from("<II", connection.init, 32)
    assert flags & ~wire.EVERY_FLAG == 0
    assert bool(flags & 1 << 30) == bool(flags2), "flags2 is read only beside INIT_EXT"
    assert flags2 in (0, 1 << 5)
    return bool(flags2), depth


def test_passthrough_is_agreed_on_only_where_it_may_be_used(view: View, backing: FakeBacking) -> None:
    assert negotiated(connect(view, Io.CACHED, backing)) == (False, 0)
    assert negotiated(connect(view, Io.PASSTHROUGH, None)) == (False, 0)
    assert negotiated(connect(view, Io.AUTO, None)) == (False, 0)
    for io in (Io.PASSTHROUGH, Io.AUTO):
        assert negotiated(connect(view, io, backing)) == (True, 1)
        assert negotiated(connect(view, io, backing, depth=2)) == (True, 2)


@pytest.mark.parametrize("body", [wire.INIT_BODY, struct.pack("<IIII", 7, 31, 131072, 1 << 24 | 1 << 17)])
def test_a_kernel_that_has_no_passthrough_is_not_asked_for_it(view: View, backing: FakeBacking, body: bytes) -> None:
    connection = Connection(view, Io.PASSTHROUGH, backing, body=body)
    assert negotiated(connection) == (False, 0)
    assert connection.open_errno(connection.kernel.walk(b"store/a")) == errno.ENOSYS
    assert connection.io == "cached (passthrough: this kernel cannot, Linux 6.9 can)"


# -- opening and releasing ---------------------------------------------------------------------------------------------


def test_an_open_hands_the_source_to_the_kernel(passing: Connection, backing: FakeBacking, dataset: Path) -> None:
    before = open_descriptors()
    flags, backing_id = passing.open(passing.kernel.walk(b"train/1"))
    assert flags == PASSTHROUGH, "any other flag beside it is EIO"
    assert backing.ids == {backing_id: (dataset / "store/a").stat().st_ino}
    assert open_descriptors() == before
    assert passing.io == "passthrough"


def test_an_inode_has_one_id_until_its_last_release(passing: Connection, backing: FakeBacking) -> None:
    nodeid = passing.kernel.walk(b"store/a")
    assert len({passing.open(nodeid) for _ in range(3)}) == 1
    assert backing.asked == 1
    for left in (2, 1, 0):
        passing.release(nodeid)
        assert len(backing.ids) == (left > 0)


def test_a_file_that_was_closed_is_opened_anew(passing: Connection, backing: FakeBacking) -> None:
    nodeid = passing.kernel.walk(b"store/a")
    first = passing.open(nodeid)
    passing.release(nodeid)
    second = passing.open(nodeid)
    assert first != second
    assert list(backing.ids) == [second[1]]


def test_two_names_of_one_source_have_an_id_each(passing: Connection, backing: FakeBacking, dataset: Path) -> None:
    one, two = passing.kernel.walk(b"train/1"), passing.kernel.walk(b"train/2")
    passing.open(one)
    passing.open(two)
    assert list(backing.ids.values()) == [(dataset / "store/a").stat().st_ino] * 2
    passing.release(one)
    assert len(backing.ids) == 1


def test_a_reply_that_nobody_took_opens_nothing(passing: Connection, backing: FakeBacking) -> None:
    nodeid = passing.kernel.walk(b"store/a")
    passing.open(nodeid)
    passing.open(nodeid)
    opened, refused = (struct.pack("<IiQ", 16, error, 1) for error in (0, -errno.ESTALE))
    passing.server.undelivered(wire.request(wire.OPEN, nodeid, OPEN_BODY), (opened, b""))
    passing.server.undelivered(wire.request(wire.READ, nodeid, bytes(40)), (opened, b""))
    passing.server.undelivered(wire.request(wire.OPEN, nodeid, OPEN_BODY), (refused,))
    assert len(backing.ids) == 1
    passing.release(nodeid)
    assert not backing.ids


def test_a_release_of_what_is_not_open_does_nothing(passing: Connection, backing: FakeBacking) -> None:
    passing.release(passing.kernel.walk(b"store/a"))
    passing.release(9999)
    assert passing.kernel.payload(wire.RELEASEDIR, 1, RELEASE_BODY) == b""
    passing.open(passing.kernel.walk(b"store/a"))
    assert len(backing.ids) == 1


def test_opens_of_many_threads_are_counted_right(passing: Connection, backing: FakeBacking) -> None:
    nodes = [passing.kernel.walk(path) for path in (b"store/a", b"store/b")]
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for turn in range(200):
                nodeid = nodes[turn % 2]
                _, backing_id = passing.open(nodeid)
                assert backing_id in backing.ids, "the kernel would find no such id"
                with backing._lock:
                    assert max(Tally(backing.ids.values()).values()) <= 2, "one, and one that is just being closed"
                passing.release(nodeid)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not backing.ids


# -- what is verified --------------------------------------------------------------------------------------------------


def test_a_source_that_was_replaced_cannot_be_opened(
    passing: Connection, backing: FakeBacking, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodeid = passing.kernel.walk(b"train/1")
    passing.open(nodeid)
    (dataset / "store/a").rename(dataset / "store/old")
    (dataset / "store/a").write_bytes(b"CONTENT OF A")
    before = open_descriptors()
    assert [passing.open_errno(nodeid) for _ in range(3)] == [errno.ESTALE] * 3
    assert open_descriptors() == before
    assert ["cannot be read" in record.message for record in caplog.records] == [True]
    passing.release(nodeid)
    assert not backing.ids, "only the open that succeeded counts"


def test_only_files_are_opened(passing: Connection) -> None:
    assert passing.open_errno(passing.kernel.walk(b"store")) == errno.EISDIR
    assert passing.open_errno(1 << 32 | 9999) == errno.ESTALE


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
@pytest.mark.parametrize(("io", "error"), [(Io.PASSTHROUGH, errno.EROFS), (Io.CACHED, errno.ENOSYS)])
def test_nothing_is_passed_through_for_writing(
    view: View, backing: FakeBacking, io: Io, error: int, flags: int
) -> None:
    """With a backing id, the kernel would write to the source; what is cached is refused when it is written."""
    connection = connect(view, io, backing)
    nodeid = connection.kernel.walk(b"store/a")
    assert connection.kernel.errno(wire.OPEN, nodeid, struct.pack("<II", flags, 0)) == error
    assert backing.asked == 0


def test_opening_may_block_and_what_is_cached_may_not(view: View, backing: FakeBacking) -> None:
    for io, may_block in ((Io.CACHED, False), (Io.PASSTHROUGH, True), (Io.AUTO, True)):
        server = connect(view, io, backing).server
        for opcode in (wire.OPEN, wire.RELEASE):
            assert server.may_block(wire.request(opcode, 1, RELEASE_BODY)) == may_block


# -- what the kernel refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP])
def test_what_is_refused_for_good_is_asked_for_once(
    passing: Connection, backing: FakeBacking, caplog: pytest.LogCaptureFixture, refusal: int
) -> None:
    nodeid = passing.kernel.walk(b"store/a")
    backing.refusal = refusal
    assert [passing.open_errno(nodeid) for _ in range(3)] == [errno.ENOSYS] * 3
    assert passing.kernel.read(nodeid, 0, 99) == b"content of a"
    assert backing.asked == 1
    assert passing.io == f"cached (passthrough: the kernel refused it ({os.strerror(refusal)}))"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_after_something_was_passed_through_files_stay_to_be_opened(passing: Connection, backing: FakeBacking) -> None:
    """ENOSYS would take the RELEASE of what is open, too."""
    one, two = passing.kernel.walk(b"store/a"), passing.kernel.walk(b"store/b")
    passing.open(one)
    backing.refusal = errno.EPERM
    assert passing.open(two) == (KEEP_CACHE, 0)
    assert passing.open(one)[0] == PASSTHROUGH, "as it is open already"
    for nodeid in (one, one, two):
        passing.release(nodeid)
    assert not backing.ids
    assert passing.open(one) == (KEEP_CACHE, 0)


def test_a_device_that_is_stacked_too_deep_is_asked_for_once(
    passing: Connection, backing: FakeBacking, caplog: pytest.LogCaptureFixture
) -> None:
    backing.refusal = errno.ELOOP
    for path in (b"store/a", b"store/b", b"train/1"):
        assert passing.open(passing.kernel.walk(path)) == (KEEP_CACHE, 0)
    assert backing.asked == 1
    assert len(caplog.records) == 1
    assert passing.io == "passthrough, but cached where the source lies too deep in stacked file systems"


def test_an_inode_is_never_open_in_both_ways(passing: Connection, backing: FakeBacking) -> None:
    nodeid = passing.kernel.walk(b"store/a")
    backing.refusal = errno.ENOMEM
    assert passing.open(nodeid) == (KEEP_CACHE, 0)
    backing.refusal = 0
    assert passing.open(nodeid) == (KEEP_CACHE, 0)
    assert passing.open(passing.kernel.walk(b"store/b"))[0] == PASSTHROUGH
    passing.release(nodeid)
    passing.release(nodeid)
    assert passing.open(nodeid)[0] == PASSTHROUGH


@pytest.mark.parametrize(("io", "level"), [(Io.PASSTHROUGH, "WARNING"), (Io.AUTO, "DEBUG")])
def test_without_privileges_files_are_cached(view: View, io: Io, level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    connection = connect(view, io)
    assert connection.open_errno(connection.kernel.walk(b"large/l")) == errno.ENOSYS
    assert connection.io == "cached (passthrough: only root can)"
    assert [record.levelname for record in caplog.records] == [level]


# -- auto --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"store/a", b"large/l"])
def test_auto_decides_by_the_mean_size_whatever_is_opened_first(
    view: View, backing: FakeBacking, first: bytes, tmp_path: Path
) -> None:
    """6 MiB in 5 files are large; with five more small ones they are not."""
    connection = connect(view, Io.AUTO, backing)
    assert connection.io == "auto: not decided yet"
    assert connection.open(connection.kernel.walk(first))[0] == PASSTHROUGH
    assert connection.open(connection.kernel.walk(b"store/b"))[0] == PASSTHROUGH
    assert connection.io == "passthrough"
    tree(tmp_path / "dataset", {"more": {str(number): b"small" for number in range(5)}})
    smaller = View(Dataset(os.fsencode(tmp_path / "dataset"), Policy()))
    connection = connect(smaller, Io.AUTO, FakeBacking())
    assert connection.open_errno(connection.kernel.walk(first)) == errno.ENOSYS
    assert connection.io == "cached"
    smaller.close()


@pytest.mark.parametrize("frozen", [b"store", b"large", b"train"])
def test_auto_decides_by_the_view_whatever_is_frozen(view: View, backing: FakeBacking, frozen: bytes) -> None:
    node = view.lookup(ROOT_NODEID, frozen)
    assert node is not None
    list(view.listing(node.nodeid))
    assert view.sample() == (5, 6 * LARGE_BYTES + 4 * 12)


def test_auto_is_refused_like_passthrough(view: View, backing: FakeBacking) -> None:
    connection = connect(view, Io.AUTO, backing)
    backing.refusal = errno.EPERM
    assert connection.open_errno(connection.kernel.walk(b"large/l")) == errno.ENOSYS
    assert connection.io == "cached (passthrough: the kernel refused it (Operation not permitted))"
