"""Which directories of a frozen view hold images, which hold what belongs to them, and which are array stores.

By names alone, in one pass over the directories: a directory's files are looked at until one has the name of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from symfuse.names import is_image_name
from symfuse.view import PLACE_BITS, ROOT_NODEID, View
from symfuse.words import FILLERS, LABEL_WORDS, numbers, split_of, words

STORE_ENDINGS = (b".zarr", b".n5")
STORE_FILES = (b".zarray", b".zgroup", b"zarr.json")

# What is known of a directory, as bits.
_HOLDS_ITSELF = 1  # images in the directory itself
_HOLDS_BELOW = 2  # images in directories below, but for label directories and array stores
_IN_LABELS = 4
_IN_STORE = 8


#: The words of a name that say neither images nor labels, and its numbers, or none where these do not count.
_Rest = tuple[frozenset[bytes], tuple[int, ...]]


class Counterparts(NamedTuple):
    """The directories, by nodeid, whose images a label directory's files belong to.

    `is_own` is False where they are all that stands beside it: then the place below the label directory has one more
    name, that of the counterpart.
    """

    directories: tuple[int, ...]
    is_own: bool


class Census:
    """What each directory of a frozen view holds, by nodeid."""

    def __init__(self, view: View) -> None:
        self._view = view
        #: All directories; parents come before what stands in them.
        self.directories: list[int] = [ROOT_NODEID]
        self._names = {ROOT_NODEID: b""}
        for number in self.directories:  # which grows meanwhile
            children = view.directory(number).children
            if children:
                table = view.table(number)
                self._names |= {child: table.name(place) for place, child in children.items()}
                self.directories += children.values()
        self._flags = bytearray(max(self.directories) + 1)
        #: Label directories that lie in no other.
        self.labels: dict[int, Counterparts] = {}
        for number in reversed(self.directories):
            self._count(number)
        for number in self.directories:
            self._hand_down(number)

    def holds_itself(self, number: int) -> bool:
        """Whether a directory itself holds images, and is no label directory and no part of an array store."""
        return self._flags[number] & (_HOLDS_ITSELF | _IN_LABELS | _IN_STORE) == _HOLDS_ITSELF

    def holds_below(self, number: int) -> bool:
        """Whether there is any such directory below this one."""
        return self._flags[number] & (_HOLDS_BELOW | _IN_LABELS | _IN_STORE) == _HOLDS_BELOW

    def holds_images(self, number: int) -> bool:
        """Whether a directory holds images that count, at whatever depth."""
        return self.holds_itself(number) or self.holds_below(number)

    def is_in_labels(self, number: int) -> bool:
        """Whether a directory is a label directory, or lies in one."""
        return bool(self._flags[number] & _IN_LABELS)

    def is_in_store(self, number: int) -> bool:
        """Whether a directory is an array store, or lies in one."""
        return bool(self._flags[number] & _IN_STORE)

    def children(self, number: int) -> Iterable[int]:
        """The directories that stand in one."""
        return self._view.directory(number).children.values()

    def parent(self, number: int) -> int:
        """The directory that one stands in; the root in itself."""
        return self._view.parent(number)

    def path(self, number: int) -> bytes:
        """A directory's path, relative to the view's root."""
        return self._view.path(number)

    def name(self, number: int) -> bytes:
        """A directory's name; the root has none."""
        return self._names[number]

    def _count(self, number: int) -> None:
        """Say of a directory what it holds, when that is said of all below it, and which of those are for labels."""
        if self._is_store(number):
            self._flags[number] = _IN_STORE
            return
        children = [*self.children(number)]
        holds_itself = self._holds_images_itself(number)
        found = self._label_directories(children, above=number if holds_itself else None) if children else {}
        for child in found:
            self._flags[child] |= _IN_LABELS
        self.labels |= found
        if any(map(self.holds_images, children)):
            self._flags[number] |= _HOLDS_BELOW
        if holds_itself:
            self._flags[number] |= _HOLDS_ITSELF

    def _hand_down(self, number: int) -> None:
        """What lies in a label directory or an array store is part of it."""
        inherited = self._flags[number] & (_IN_LABELS | _IN_STORE)
        if inherited:
            for child in self.children(number):
                self._flags[child] |= inherited
                self.labels.pop(child, None)

    def _holds_images_itself(self, number: int) -> bool:
        try:
            rows = self._view.rows(number)
            return any(nodeid >> PLACE_BITS and is_image_name(name) for _, name, nodeid, *_ in rows)
        except OSError:  # it was counted when it could not be frozen
            return False

    def _is_store(self, number: int) -> bool:
        if self.name(number).lower().endswith(STORE_ENDINGS):
            return True
        try:
            table = self._view.table(number)
        except OSError:
            return False
        return any(table.may_have(name) and table.find(name) is not None for name in STORE_FILES)

    def _label_directories(self, siblings: Sequence[int], *, above: int | None) -> dict[int, Counterparts]:
        """Those of one's directories that are label directories; `above` is that one where it has images itself."""
        names = {number: frozenset(words(self.name(number))) for number in siblings}
        for_labels = [number for number in siblings if not LABEL_WORDS.isdisjoint(names[number])]
        if not for_labels:
            return {}
        found: dict[int, Counterparts] = {}
        holders = [number for number in siblings if self.holds_images(number)]
        for_images = {number: names[number] for number in holders if LABEL_WORDS.isdisjoint(names[number])}
        by_rest = _by_rest(for_images, self.name)
        alone: list[int] = []  # whose names say nothing of whose labels they are
        for number in for_labels:
            rest = names[number] - FILLERS - LABEL_WORDS
            own = by_rest.get((rest, numbers(self.name(number)))) or by_rest.get((rest, ()))
            if own is not None:
                found[number] = own
            elif not rest:
                alone.append(number)
        are_labels = {*found, *alone}
        beside = tuple(number for number in holders if number not in are_labels)
        if not beside and above is not None:
            return found | dict.fromkeys(alone, Counterparts((above,), is_own=False))
        of_all = self._of_all(alone, {self.name(number) for number in beside})
        return found | dict.fromkeys(of_all, Counterparts(beside, is_own=False))

    def _of_all(self, alone: Sequence[int], beside: Collection[bytes]) -> Iterator[int]:
        """Of directories with words for labels alone those that are no class of that name (`mask` beside `no_mask`).

        `beside` are the names of what stands beside them, for one of which at least they are.
        """
        if not beside:
            return
        are_splits = all(split_of(name) is not None for name in beside)
        for number in alone:
            if (
                are_splits
                or not self.holds_images(number)
                or any(self.name(each) in beside for each in self.children(number))
            ):
                yield number


def _by_rest(names: Mapping[int, frozenset[bytes]], of: Callable[[int], bytes]) -> dict[_Rest, Counterparts]:
    """Directories by what their names say beside that they hold images, with their numbers and without.

    Names without words are left out. One tuple for all labels of each: thousands may stand beside thousands of images.
    """
    found: dict[_Rest, list[int]] = {}
    for number, name in names.items():
        if name:
            for key in {(name - FILLERS, ()), (name - FILLERS, numbers(of(number)))}:
                found.setdefault(key, []).append(number)
    return {key: Counterparts(tuple(each), is_own=True) for key, each in found.items()}
