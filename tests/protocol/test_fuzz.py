"""Whatever arrives, the server answers in form and never raises: names, counts and lengths are untrusted."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symfuse.control import STATUS, WHY, Control
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.fuse import server as server_module
from symfuse.fuse.abi import Request
from symfuse.fuse.server import Server
from symfuse.policy import Policy
from symfuse.view import View
from tests.support import wire
from tests.support.trees import link, tree

#: Operations whose reply has one size, or none. Source: the `out` arguments in fs/fuse/*.c.
EXACT = {
    wire.INIT: wire.INIT_OUT,
    wire.LOOKUP: wire.ENTRY_OUT,
    wire.GETATTR: wire.ATTR_OUT,
    wire.STATFS: wire.STATFS_OUT,
    wire.OPEN: wire.OPEN_OUT,
    wire.OPENDIR: wire.OPEN_OUT,
    wire.RELEASE: 0,
    wire.RELEASEDIR: 0,
    wire.DESTROY: 0,
}
SIZE_AT = slice(16, 20)  # of fuse_read_in.size


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as scratch:
        root = tree(
            Path(scratch) / "dataset", {"d": {"a": b"content"}, "l": link("d/a"), "m": link("d"), "x": link("x")}
        )
        view = View(Dataset(os.fsencode(root), Policy()))
        yield Server(view, Control(view, Counters(), backend="kernel", source=b"/d", mountpoint=b"/m"))
        view.close()


NODEIDS = st.sampled_from([0, 1, 2, 3, 4, 1 << 32, 1 << 32 | 1, 2 << 32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
NUMBERS = st.sampled_from([0, 1, 7, 8, 255, 4096, 2**31, 2**32 - 1, 2**63, 2**64 - 1, STATUS, WHY])
NUMBER_BYTES = st.tuples(NUMBERS, st.sampled_from([4, 8])).map(
    lambda n: (n[0] % (1 << 8 * n[1])).to_bytes(n[1], "little")
)
BODIES = st.binary(max_size=200) | st.lists(NUMBER_BYTES | st.sampled_from([b"d\0", b"a\0", b"..\0", b"."])).map(
    b"".join
)


@settings(max_examples=1500, deadline=None)
@given(opcode=st.integers(0, 60) | st.integers(0, 2**32 - 1), nodeid=NODEIDS, body=BODIES, uid=st.integers(0, 2))
def test_any_request_is_answered_in_form(server: Server, opcode: int, nodeid: int, body: bytes, uid: int) -> None:
    request = wire.request(opcode, nodeid, body, uid=uid, unique=77)
    server.may_block(request)
    reply = wire.check(server.handle(request), 77)
    if opcode in (wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT, 41):
        assert reply is None
        return
    assert reply is not None
    if reply.error:
        return
    if opcode in EXACT:
        assert len(reply.payload) == EXACT[opcode]
    if opcode in (wire.READDIR, wire.READDIRPLUS, wire.READ):
        assert len(reply.payload) <= int.from_bytes(body[SIZE_AT], "little")
    if opcode in (wire.READDIR, wire.READDIRPLUS):
        list(wire.dirents(reply.payload, plus=opcode == wire.READDIRPLUS))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([wire.READDIR, wire.READDIRPLUS]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, 2, 3, 4, 5, 9, 2**63]) | st.integers(0, 2**64 - 1),
    st.integers(0, 2000),
)
def test_a_listing_fits_and_ends_only_where_it_ends(
    server: Server, opcode: int, nodeid: int, offset: int, size: int
) -> None:
    """An empty reply means the end of the directory: where there is no room for one entry it must be an error."""

    def listed(size: int) -> wire.Reply:
        body = struct.pack("<QQIIQII", 0, offset, size, 0, 0, 0, 0)
        reply = wire.check(server.handle(wire.request(opcode, nodeid, body, unique=5)), 5)
        assert reply is not None
        return reply

    reply, whole = listed(size), list(wire.dirents(listed(1 << 16).payload, plus=opcode == wire.READDIRPLUS))
    assert len(reply.payload) <= size
    if whole and not reply.payload:
        assert reply.error == errno.EINVAL
    else:
        assert reply.error == 0
        entries = list(wire.dirents(reply.payload, plus=opcode == wire.READDIRPLUS))
        assert entries == whole[: len(entries)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_at_all_do_not_end_the_server(server: Server, raw: bytes) -> None:
    try:
        request = Request.parse(raw)
    except ValueError:
        assert len(raw) < wire.IN_HEADER.size
        return
    server.may_block(request)
    server.handle(request)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*EXACT, wire.READ, wire.READDIR, wire.READDIRPLUS, wire.IOCTL]), st.integers(0, 63))
def test_a_request_cut_short_is_an_error_or_no_matter(server: Server, opcode: int, length: int) -> None:
    reply = wire.check(server.handle(wire.request(opcode, 1, bytes(64)[:length], unique=9)), 9)
    assert reply is not None


def test_nothing_of_all_that_was_a_bug(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """EIO with a traceback is for bugs: the smallest malformed requests must have an errno of their own."""
    for opcode in range(60):
        for body in (b"", b"\0", bytes(7), bytes(40)):
            server.handle(wire.request(opcode, 1, body))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_question_nested_without_end_is_malformed(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for question in (b"[" * 15_000, b'{"path":' * 1_800):
        body = struct.pack("<QIIQII", 0, 0, WHY, 0, len(question), 16_000) + question
        reply = wire.check(server.handle(wire.request(wire.IOCTL, 1, body, unique=3)), 3)
        assert reply is not None
        assert b"malformed question" in reply.payload
    assert not caplog.records


def test_a_fault_of_our_own_is_no_malformed_request(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into a reply is a bug here, and must be found."""
    monkeypatch.setattr(server_module, "attr", lambda _node: (-1,) * 16)
    reply = wire.check(server.handle(wire.request(wire.GETATTR, 1, bytes(16), unique=3)), 3)
    assert reply is not None
    assert reply.error == errno.EIO
    assert [record.exc_info is not None for record in caplog.records] == [True]
