"""What must hold of a view at any time."""

from __future__ import annotations

import itertools

from symfuse.inos import ROOT_INO
from symfuse.view import PLACE_BITS, ROOT_NODEID, View


def check(view: View) -> None:
    """Assert the invariants over all that is frozen."""
    seen: set[int] = {ROOT_INO}
    for number in itertools.count(ROOT_NODEID):
        try:
            directory = view.directory(number)
        except KeyError:
            return
        if not directory.is_frozen:
            continue
        names = []
        for name, node, place in view.listing(number):
            assert node.ino not in seen, f"inode number {node.ino} twice"
            assert view.node(node.nodeid) == node, name
            assert view.lookup(number, name) == node, name
            assert node.nodeid >> PLACE_BITS in (0, number), name
            assert place not in directory.absent, name
            seen.add(node.ino)
            names.append(name)
        assert names == sorted(set(names))
