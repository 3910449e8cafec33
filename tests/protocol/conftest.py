from __future__ import annotations

from pathlib import Path

import pytest

from symfuse.control import Control
from symfuse.counters import Counters
from symfuse.fuse.server import Server
from symfuse.view import View
from tests.support.trees import link, sparse, tree
from tests.support.wire import Kernel


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "dataset",
        {
            "store": {"a.png": b"content of a", "large": sparse((1 << 40) + 5, at=((1 << 40, b"tail!"),))},
            "train": {"cat": {"1.png": link("../../store/a.png"), "gone": link("nowhere")}, "dog": link("../store")},
            "many": {f"{number:04}": b"" for number in range(1000)},
            b"\xff\n": b"",
            "n" * 255: b"",
        },
    )


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def kernel(view: View, counters: Counters) -> Kernel:
    """A connection after its INIT."""
    control = Control(view, counters, backend="kernel", source=b"/dataset", mountpoint=b"/mnt")
    kernel = Kernel(Server(view, control))
    kernel.init()
    return kernel
