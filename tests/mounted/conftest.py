"""The dataset that most tests look at, its mount, and what the mount must show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.support.mounting import Mount, mounts
from tests.support.oracle import Shown, expected_from
from tests.support.trees import Entry, Name, attributes, fifo, hardlink, link, sparse, tree, unixsocket

#: Everything that real datasets do to each other. `ROOT` in a link's text is the dataset's path.
MESSY: dict[Name, Entry] = {
    "store": {
        "a.png": attributes(b"content of a", mtime_ns=1_234_567_890_123_456_789),
        "b.png": attributes(b"content of b", mode=0o4755, mtime_ns=1),
        "empty": attributes(b"", mode=0o440),
        "deep": {"er": {"c.png": b"c" * 5000}},
        "sparse": sparse(10_000_000, at=((5_000_000, b"middle"),)),
    },
    "train": {
        "cat": {
            "link.png": link("../../store/a.png"),
            "link to link.png": link("link.png"),
            "absolute.png": link("ROOT/store/b.png"),
            "through a linked directory.png": link("../dog/deep/er/c.png"),
            "hard link.png": hardlink("store/a.png"),
            "another hard link.png": hardlink("store/a.png"),
            "real.png": b"real",
            "dangling.png": link("../../store/none.png"),
            "outside.png": link("ROOT/../outside/o.png"),
        },
        "dog": link("../store"),
        "dog again": link("dog"),
        "outside": link("../../outside"),
        "absolute": link("ROOT/store/deep"),
    },
    "loops": {"one": link("one"), "two": link("three"), "three": link("two"), "up": link(".."), "beside": b"shown"},
    "cycle": {"a": {"to b": link("../b"), "f": b"f"}, "b": {"to a": link("../a"), "g": b"g"}},
    "special": {"pipe": fifo(), "socket": unixsocket(), "to pipe": link("pipe"), "null": link("/dev/null")},
    "names": {
        b"\xff\xfe not UTF-8": b"1",
        "new\nline": b"2",
        " leading and trailing ": b"3",
        "-rf": b"4",
        "back\\slash": b"5",
        "ü": b"6",
        "ü" * 127: b"7",
        "*?[x]$(id)'\"": b"8",
        b"link \xff": link(b"\xff\xfe not UTF-8"),
    },
    ".git": {"HEAD": b""},
    "train.ipynb": b"",
    ".ipynb_checkpoints": {"x": b""},
    "empty": attributes({}, mode=0o750),
}


def make_mess(directory: Path) -> Path:
    """The messy dataset in `directory`, with the store outside of it that it links to."""
    tree(directory / "outside", {"o.png": b"outside"})
    return tree(directory / "dataset", _rooted(MESSY, str(directory / "dataset")))


def _rooted(entries: dict[Name, Entry], root: str) -> dict[Name, Entry]:
    result: dict[Name, Entry] = {}
    for name, entry in entries.items():
        if isinstance(entry, dict):
            result[name] = _rooted(entry, root)
        elif isinstance(entry, link) and isinstance(entry.text, str):
            result[name] = link(entry.text.replace("ROOT", root))
        else:
            result[name] = entry
    return result


@dataclass
class Mess:
    """A mount of the messy dataset, the dereferenced copy, and what the mount must show."""

    mount: Mount
    dataset: Path
    copy: Path
    expected: dict[bytes, Shown]

    @property
    def path(self) -> Path:
        return self.mount.path


@pytest.fixture(scope="module")
def mess(module_mount: MountMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mess]:
    directory = tmp_path_factory.mktemp("mess").resolve()
    dataset = make_mess(directory)
    expected = expected_from(dataset, directory / "copy")
    yield Mess(module_mount(dataset), dataset, directory / "copy", expected)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """An empty directory to mount on, by the command line; the test unmounts."""
    path = tmp_path / "mountpoint"
    path.mkdir()
    yield path
    assert os.fsencode(path) not in mounts()
