"""What the levels of a dataset's directories mean: which split and which class a directory's files belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from symfuse.policy import Layout
from symfuse.view import ROOT_NODEID, View

#: The names that splits go by; those of one line mean the same.
SPLIT_NAMES = (
    (b"train", b"training"),
    (b"val", b"valid", b"validation", b"dev"),
    (b"test", b"testing"),
)
_MEANING = {name: names[0] for names in SPLIT_NAMES for name in names}
#: So many first-level directories that have names of splits make a dataset of splits, whatever lies beside them.
ENOUGH_SPLITS = 2


class Label(NamedTuple):
    """The split and the class of files; None where they have none.

    What lies beside the splits has no split, and its first-level directory for a class.
    """

    split: bytes | None
    category: bytes | None


class Labels:
    """The labels of a frozen view's directories."""

    def __init__(self, view: View, layout: Layout) -> None:
        self._view = view
        self._splits = frozenset(_splits(view, layout))
        #: False where all of the dataset is one split, which has no name.
        self.has_splits = bool(self._splits)
        self._known: dict[int, Label] = {}

    def of(self, directory: int) -> Label:
        """The label of the files in a directory, by the directory's nodeid."""
        label = self._known.get(directory)
        if label is None:
            label = self._known[directory] = self._label(self._view.path(directory).split(b"/"))
        return label

    def _label(self, names: list[bytes]) -> Label:
        if names[0] in self._splits:
            return Label(names[0], names[1] if len(names) > 1 else None)
        return Label(None, names[0] or None)


def _splits(view: View, layout: Layout) -> list[bytes]:
    """The first-level directories that are splits."""
    directories = {name: node.nodeid for name, node, _ in view.listing(ROOT_NODEID) if node.is_directory}
    if layout is Layout.SPLIT_CLASS:
        return [*directories]
    if layout is Layout.CLASS:
        return []
    found = [name for name in directories if name.lower() in _MEANING]
    if len(found) in (0, len(directories)) or len(found) >= ENOUGH_SPLITS:
        return found
    # A single one beside others may be a class, of vehicles say: then it holds images, and a split holds classes.
    return found if _holds_classes(view, directories[found[0]]) else []


def _holds_classes(view: View, directory: int) -> bool:
    try:
        return all(node.is_directory for _, node, _ in view.listing(directory))
    except OSError:  # it was counted when it could not be frozen
        return False


def split_rank(split: bytes | None, order: Sequence[bytes]) -> int:
    """Where a split stands in the user's order: behind all that it names if it names it not, last if it is none.

    A name in the order also means the others of its line in `SPLIT_NAMES`.
    """
    if split is None:
        return len(order) + 1
    if split in order:
        return order.index(split)
    meanings = [_MEANING.get(name.lower(), name) for name in order]
    meaning = _MEANING.get(split.lower(), split)
    return meanings.index(meaning) if meaning in meanings else len(order)
