"""`--io auto` decides by the dataset, and not by how quickly that was listed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.filesystems.source import Source
from tests.support.mounting import MYSELF
from tests.support.pictures import mounted_at
from tests.support.trees import Entry, Name, sparse, tree

SMALL: dict[Name, Entry] = {f"{number}.png": b"small" for number in range(10)}
LARGE: dict[Name, Entry] = {f"{number}.png": sparse(32 << 20) for number in range(10)}


@pytest.mark.parametrize("slow", ["small", "large"])
def test_auto_decides_the_same_on_every_mount(makes_filesystems: None, tmp_path: Path, slow: str) -> None:
    directory = tree(tmp_path / "directory", {"large": LARGE, "small": SMALL})
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    first = tmp_path / "mount" / ("small" if slow == "large" else "large") / "0.png"
    with Source(directory, tmp_path / "source") as source:
        source.rules({"do": "block", "op": "OPENDIR", "name": slow})
        with mounted_at(source.mountpoint, tmp_path / "mount"):
            release = threading.Timer(1, source.release)  # for who waits until all is known
            release.start()
            at_once = _opened(first)
            release.join()
        with mounted_at(source.mountpoint, tmp_path / "mount", "--eager"):
            assert _opened(first) == at_once


def _opened(path: Path) -> str:
    """How content is read, once a file was opened."""
    with open(path, "rb") as file:
        file.read(1)
        return str(json.loads(MYSELF.symfuse("status", "--json", "--", path.parents[1]).stdout)["io"])
