"""How many links a path may lead through: as many as the kernel follows, for equal links alike, whoever comes first."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.dataset import Dataset
from symfuse.policy import Kind, Policy
from symfuse.view import ROOT_NODEID, View
from tests.support.trees import Entry, Name, link, tree

#: Where it is decided. Source: path_resolution(7): 40 links are followed, and the next is ELOOP.
AROUND = range(38, 43)
#: Of equal links the first is resolved, the next find its directory remembered, and a third a descriptor kept open.
COPIES = range(3)


def _chain(name: str, length: int) -> dict[Name, Entry]:
    return {f"{name}{number}": link(f"{name}{number - 1}") for number in range(1, length + 1)}


def _dataset(links: dict[Name, Entry]) -> dict[Name, Entry]:
    """`links` beside directories/d0 … d42, each a link to the one before, and files/f0 … f42 likewise."""
    files: dict[Name, Entry] = {"f0": b"the end", "sub": {"f0": b"the end of sub"}}
    return {
        "links": links,
        "directories": {"d0": {**files, **_chain("f", 42)}, **_chain("d", 42)},
    }


def _copies(links: dict[str, str]) -> dict[Name, Entry]:
    return {f"{name} {copy}": link(text) for name, text in links.items() for copy in COPIES}


CHAINS: dict[str, dict[Name, Entry]] = {
    "files": _copies({f"f{hops:02}": f"../directories/d0/f{hops - 1}" for hops in AROUND}),
    "directories": _copies({f"d{hops:02}": f"../directories/d{hops - 1}/f0" for hops in AROUND}),
    "both": _copies(
        {
            f"{directories:02} {hops:02}": f"../directories/d{directories}/f{hops - 1 - directories}"
            for directories in (1, 5, 20, 37)
            for hops in AROUND
        }
    ),
    "through two of them": _copies(
        {
            f"{first:02} {hops:02}": f"../directories/d{first}/../d{hops - 1 - first}/sub/f0"
            for first in (1, 20, 36)
            for hops in AROUND
        }
    ),
    "linked directories": _copies({f"l{hops:02}": f"../directories/d{hops - 1}" for hops in AROUND}),
    "with a slash": _copies({f"s{hops:02}": f"../directories/d{hops - 1}/" for hops in AROUND}),
    "with a dot": _copies({f"t{hops:02}": f"../directories/d{hops - 1}/." for hops in AROUND}),
    "subdirectories": _copies({f"b{hops:02}": f"../directories/d{hops - 1}/sub" for hops in AROUND}),
}


@pytest.fixture(params=CHAINS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tree(tmp_path.resolve() / "dataset", _dataset(CHAINS[request.param]))


def _kernel_follows(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        assert error.errno == errno.ELOOP
        return False
    return True


@pytest.fixture(params=["in order", "backwards"])
def looked_at(request: pytest.FixtureRequest, dataset: Path) -> Iterator[View]:
    """A view in which the directories were looked at in one order or the other."""
    view = View(Dataset(os.fsencode(dataset), Policy()))
    names = [name for name, _, _ in view.listing(ROOT_NODEID)]
    for name in names if request.param == "in order" else reversed(names):
        node = view.lookup(ROOT_NODEID, name)
        assert node is not None
        list(view.listing(node.nodeid))
    yield view
    view.close()


def test_what_the_kernel_follows_is_shown_and_nothing_else(looked_at: View, dataset: Path) -> None:
    links = looked_at.lookup(ROOT_NODEID, b"links")
    assert links is not None
    names = sorted(os.listdir(dataset / "links"))
    followed = [name for name in names if _kernel_follows(dataset / "links" / name)]
    assert 0 < len(followed) < len(names)
    assert [os.fsdecode(name) for name, _, _ in looked_at.listing(links.nodeid)] == followed
    for name, node, _ in looked_at.listing(links.nodeid):
        path = dataset / "links" / os.fsdecode(name)
        if path.is_file():
            assert looked_at.read(node.nodeid, 0, 100) == path.read_bytes()
    for refused in set(names) - set(followed):
        place = looked_at.find(links.nodeid, os.fsencode(refused))
        assert place is not None
        assert looked_at.hidden(links.nodeid, place) is Kind.LOOP
