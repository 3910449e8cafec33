"""Whatever arrives, the server answers in form and never raises: names, counts and lengths are untrusted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symfuse.control import STATUS, WHY, Control
from symfuse.counters import Counters
from symfuse.dataset import Dataset
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
    raw = wire.request(opcode, nodeid, body, uid=uid, unique=77)
    server.may_block(raw)
    reply = wire.check(server.handle(raw), 77)
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
@given(st.binary(max_size=120))
def test_any_bytes_at_all_do_not_end_the_server(server: Server, raw: bytes) -> None:
    server.may_block(raw)
    server.handle(raw)


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
