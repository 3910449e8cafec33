"""What an overlay is made of: the view and an empty directory side by side (`fuse/layers.py`)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from symfuse.control import Control
from symfuse.counters import Counters
from symfuse.fuse.layers import Layers
from symfuse.fuse.server import Server
from symfuse.view import View
from tests.support import wire
from tests.support.wire import ATTR, Attr, Kernel


def connected(view: View, counters: Counters, *, is_private: bool) -> Kernel:
    control = Control(view, counters, backend="kernel", source=b"/dataset", mountpoint=b"/mnt")
    kernel = Kernel(Layers(Server(view, control), view, counters, is_private=is_private))
    kernel.init()
    return kernel


@pytest.fixture
def layers(view: View, counters: Counters) -> Kernel:
    return connected(view, counters, is_private=False)


def attributes(kernel: Kernel, nodeid: int) -> Attr:
    return Attr._make(ATTR.unpack_from(kernel.payload(wire.GETATTR, nodeid, bytes(16)), 16))


def test_the_root_holds_the_two_layers_and_nothing_else(layers: Kernel) -> None:
    view, _ = layers.lookup(b"view")
    empty, _ = layers.lookup(b"empty")
    assert len({0, 1, view, empty}) == 4
    for name in (b"train", b"store", b"", b"view\xff", b"n" * 300):
        assert layers.lookup(name)[0] == 0


def test_the_view_layer_is_the_view(layers: Kernel, kernel: Kernel) -> None:
    root = layers.walk(b"view")
    for plus in (False, True):
        assert list(layers.list(root, plus=plus)) == list(kernel.list(1, plus=plus))
    assert layers.lookup(b"train", root) == kernel.lookup(b"train")
    assert layers.walk(b"view/train/cat/1.png") == kernel.walk(b"train/cat/1.png")
    assert layers.read(layers.walk(b"view/store/a.png"), 0, 100) == b"content of a"
    assert attributes(layers, root) == attributes(kernel, 1)
    assert layers.payload(wire.STATFS, root)


def test_the_other_layer_is_empty_whatever_is_asked(layers: Kernel) -> None:
    empty = layers.walk(b"empty")
    for plus in (False, True):
        assert list(layers.list(empty, plus=plus)) == []
    for name in (b"train", b"view", b"empty"):
        assert layers.lookup(name, empty)[0] == 0
    assert stat.S_ISDIR(attributes(layers, empty).mode)


@pytest.mark.parametrize("layer", [b"view", b"empty"])
def test_a_layer_can_be_neither_changed_nor_read_nor_resolved(layers: Kernel, layer: bytes) -> None:
    root = layers.walk(layer)
    assert layers.errno(wire.MKDIR, root, bytes(8) + b"new\0") == errno.EROFS
    assert layers.errno(wire.UNLINK, root, b"train\0") == errno.EROFS
    assert layers.errno(wire.READLINK, root) == errno.EINVAL
    assert layers.errno(wire.GETXATTR, root, bytes(8) + b"trusted.overlay.opaque\0") == errno.ENOSYS


def test_a_private_view_is_closed_to_others_at_its_root_and_nowhere_else(view: View, counters: Counters) -> None:
    private = connected(view, counters, is_private=True)
    open_to_all = connected(view, counters, is_private=False)
    root, looked_up = private.lookup(b"view")
    for found in (looked_up, attributes(private, root), attributes(private, 1)):
        assert stat.S_IMODE(found.mode) & 0o077 == 0
        assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
    assert stat.S_IMODE(open_to_all.lookup(b"view")[1].mode) & 0o055
    assert private.lookup(b"train", root) == open_to_all.lookup(b"train", root)


def test_what_the_layers_answer_themselves_is_counted_once(layers: Kernel, counters: Counters) -> None:
    before = counters.requests()
    view = layers.walk(b"view")
    layers.lookup(b"train", view)
    attributes(layers, view)
    after = counters.requests()
    assert {name: number - before.get(name, 0) for name, number in after.items() if number != before.get(name, 0)} == {
        "lookup": 2,
        "getattr": 1,
    }


def test_only_the_view_may_wait_for_the_dataset(layers: Kernel) -> None:
    view, empty = layers.walk(b"view"), layers.walk(b"empty")
    may_block = layers.server.may_block
    assert may_block(wire.request(wire.READDIRPLUS, view))
    assert not may_block(wire.request(wire.READDIRPLUS, empty))
    assert not may_block(wire.request(wire.LOOKUP, 1, b"view\0"))


def test_a_malformed_request_ends_nothing(layers: Kernel) -> None:
    for nodeid in (0, 1, *((1 << 64) - distance for distance in range(1, 6))):
        for opcode in range(1, 60):
            layers.ask(opcode, nodeid)
    assert layers.lookup(b"view")[0]
