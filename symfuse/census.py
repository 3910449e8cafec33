"""Which directories of a frozen view hold images, which hold what belongs to them, and which are array stores.

By names alone, in one pass over the directories: a directory's files are looked at until one has the name of an image.
Only those of directories with words for labels, and of those beside them, may be looked at once more.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from symfuse.names import is_image_name
from symfuse.policy import Kind
from symfuse.table import Table
from symfuse.view import PLACE_BITS, ROOT_NODEID, View
from symfuse.words import (
    FILLERS,
    LABEL_WORDS,
    has_image_word,
    has_label_word,
    numbers,
    split_of,
    split_words,
    stems_before_labels,
    stems_before_signs,
    words,
)

#: What labels and captions beside an image end in.
SIDE_ENDINGS = (
    *(b".txt", b".json", b".xml", b".npy", b".npz", b".mat", b".pts", b".csv", b".yaml", b".yml"),
    *(b".caption", b".tags", b".cls", b".geojson", b".xmp", b".aae"),
)
#: Why an image is hidden for its content; what belongs to it follows.
HIDDEN_FOR_CONTENT = frozenset({Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT, Kind.BROKEN})
#: Among so many directories that hold images is looked for the one whose images labels have the names of.
MAX_COMPARED = 20

STORE_ENDINGS = (b".zarr", b".n5")
STORE_FILES = (b".zarray", b".zgroup", b"zarr.json")

# What is known of a directory, as bits.
_HOLDS_ITSELF = 1  # images in the directory itself
_HOLDS_BELOW = 2  # images in directories below, but for label directories and array stores
_IN_LABELS = 4
_IN_STORE = 8
_HASH = (1 << 32) - 1


#: The words of a name that say neither images nor labels, and its numbers, or none where these do not count.
_Rest = tuple[frozenset[bytes], tuple[int, ...]]


class Counterparts(NamedTuple):
    """The directories, by nodeid, whose images a label directory's files belong to.

    `is_own` is False where they are all that stands beside it, or several together: then the place below the label
    directory may have one more name, that of the counterpart.
    """

    directories: tuple[int, ...]
    is_own: bool


def stem_of(name: bytes) -> bytes:
    """A name without its last ending."""
    return name.rpartition(b".")[0] or name


def is_side_name(name: bytes) -> bool:
    """Whether a name ends as those of labels and captions do that stand beside their images."""
    return name.lower().endswith(SIDE_ENDINGS)


def may_be_label(name: bytes) -> bool:
    """Whether a file of a label directory is an image, or a side file and no list of a split, by its name."""
    return is_image_name(name) or (is_side_name(name) and not split_words(name))


def stems_meant(stem: bytes) -> set[bytes]:
    """The stems of images that a label with this stem may be of."""
    return {stem, *stems_before_labels(stem), *stems_before_signs(stem)}


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
        self._endings: dict[int, list[bytes]] = {}  # directory -> the endings of its images
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

    # -- label directories --------------------------------------------------------------------------------------

    def _label_directories(self, siblings: Sequence[int], *, above: int | None) -> dict[int, Counterparts]:
        """Those of one's directories that are label directories; `above` is that one where it has images itself."""
        for_labels = [
            number for number in siblings if has_label_word(self.name(number)) and not self.is_in_store(number)
        ]
        if not for_labels:
            return {}
        holders = [number for number in siblings if self.holds_images(number)]
        for_images = [number for number in holders if not has_label_word(self.name(number))]
        found = self._by_words(for_labels, for_images)
        found |= self._by_names([number for number in for_labels if number not in found], for_images)
        alone = [number for number in for_labels if number not in found and not _rest(self.name(number))]
        beside = tuple(number for number in holders if number not in found and number not in alone)
        if beside:
            of_all = self._of_all(alone, beside)
            found |= dict.fromkeys(of_all, Counterparts(beside, is_own=False))
        elif above is not None:
            found |= dict.fromkeys(alone, Counterparts((above,), is_own=False))
        return found | self._by_splits([number for number in for_labels if number not in found], for_images)

    def _by_words(self, for_labels: Iterable[int], for_images: Iterable[int]) -> dict[int, Counterparts]:
        """Those that say of which images they are: `train_masks` beside `train`."""
        by_rest = _by_rest({number: self.name(number) for number in for_images})
        found: dict[int, Counterparts] = {}
        for number in for_labels:
            rest = _rest(self.name(number))
            own = by_rest.get((rest, numbers(self.name(number)))) or by_rest.get((rest, ()))
            if own is not None:
                found[number] = own
        return found

    def _by_names(self, for_labels: Sequence[int], for_images: Sequence[int]) -> dict[int, Counterparts]:
        """Those whose files have the names of the images of one directory, or of those that theirs are named as."""
        if not for_labels or not for_images:
            return {}
        by_name = {self.name(number): number for number in for_images}
        numbered: dict[tuple[int, ...], list[int]] = {}
        for number in for_images:
            numbered.setdefault(numbers(self.name(number)), []).append(number)
        found: dict[int, Counterparts] = {}
        for label in for_labels:
            files = sum(1 for number in self.below(label) for _ in self._labels_in(number))
            inner = {child: by_name[name] for child in self.children(label) if (name := self.name(child)) in by_name}
            if inner:
                if self._correspond(label, files, inner):
                    found[label] = Counterparts(tuple(sorted(inner.values())), is_own=False)
                continue
            of = numbers(self.name(label))
            others = numbered.get(of, for_images) if of else for_images
            if len(others) <= MAX_COMPARED:
                fitting = [other for other in others if self._correspond(label, files, {label: other})]
                if len(fitting) == 1:
                    found[label] = Counterparts((fitting[0],), is_own=True)
        return found

    def _of_all(self, alone: Sequence[int], beside: Collection[int]) -> Iterator[int]:
        """Of directories with words for labels alone those that are no class of that name (`mask` beside `no_mask`).

        `beside` is what stands beside them, for all of which they are.
        """
        splits = {split_of(self.name(number)) for number in beside} if alone else set()
        stems: Index | None = None
        for number in alone:
            if None not in splits or not self.holds_images(number):
                yield number
            elif any(split_of(self.name(child)) in splits - {None} for child in self.children(number)):
                if stems is None:
                    stems = self._stems(beside)
                if self._are_named_as(number, stems):
                    yield number

    def _by_splits(self, for_labels: Sequence[int], for_images: Sequence[int]) -> dict[int, Counterparts]:
        """Those with directories of the same splits as one directory beside them: `gtFine` beside `leftImg8bit`."""
        found: dict[int, Counterparts] = {}
        with_split: dict[bytes, list[int]] = {}
        for other in for_images if for_labels else ():
            for child in self.children(other):
                if split_of(name := self.name(child)) is not None:
                    with_split.setdefault(name, []).append(other)
        for label in for_labels if with_split else ():
            fitting: set[int] = set()
            for child in self.children(label):
                fitting.update(with_split.get(self.name(child), ())[:2])
            if len(fitting) == 1:
                found[label] = Counterparts((fitting.pop(),), is_own=True)
        return found

    def _correspond(self, label: int, files: int, pairs: Mapping[int, int]) -> bool:
        """Whether nine in ten of so many labels below a directory have images' names, and nine in ten of those a label.

        `pairs` are directories in it, or itself, each with the one whose images it may have the labels of.
        """
        marks: dict[int, bytearray] = {}
        misses = 0
        todo: list[tuple[int, int | None]] = [(label, pairs.get(label))]
        for number, other in todo:  # which grows meanwhile
            for name in self._labels_in(number):
                misses += other is None or not self._mark(other, name, marks)
                if misses * 10 > files:
                    return False
            names = {self.name(child): child for child in self.children(other)} if other is not None else {}
            for child in self.children(number):
                if not self.is_in_store(child):
                    opposite = pairs.get(child, names.get(self.name(child)))
                    todo.append((child, opposite if opposite is not None and self._counts(opposite) else None))
        if not files or all(has_image_word(self.name(other)) for other in pairs.values()):
            return files > 0
        images = sum(1 for other in pairs.values() for number in self.below_images(other) for _ in self.images(number))
        return (images - sum(map(sum, marks.values()))) * 10 <= images

    def _mark(self, number: int, name: bytes, marks: dict[int, bytearray]) -> bool:
        """Mark the images of a directory that a label may be of by its name; False where there is none."""
        table = self.table(number)
        if table is None:
            return False
        places = [place for stem in stems_meant(stem_of(name)) for place in self.images_of_stem(number, stem)]
        marked = marks.setdefault(number, bytearray(len(table)))
        for place in places:
            marked[place] = 1
        return bool(places)

    def _stems(self, directories: Iterable[int]) -> Index:
        return Index(
            (stem_of(name), nodeid)
            for directory in directories
            for number in self.below_images(directory)
            for nodeid, name in self.images(number)
        )

    def _are_named_as(self, label: int, stems: Index) -> bool:
        """Whether nine in ten of a label directory's files have the name for an image of one of these stems."""
        files = misses = 0
        for number in self.below(label):
            for name in self._labels_in(number):
                files += 1
                misses += not any(True for stem in stems_meant(stem_of(name)) for _ in stems.find(stem))
        return files > 0 and misses * 10 <= files

    def _labels_in(self, number: int) -> Iterator[bytes]:
        return (name for _nodeid, name in self.files(number) if may_be_label(name))

    # -- files --------------------------------------------------------------------------------------------------

    def table(self, number: int) -> Table | None:
        """A directory's table; None where it could not be frozen."""
        try:
            return self._view.table(number) if self._view.directory(number).is_frozen else None
        except OSError:
            return None

    def is_file(self, number: int, table: Table, place: int) -> bool:
        """Whether a file is shown at a place, or was before it was hidden for its content."""
        if place in table.problems or place in table.subdirectories:
            return False
        kind = self._view.directory(number).absent.get(place)
        return kind is None or kind in HIDDEN_FOR_CONTENT or kind is Kind.SIDE_FILE

    def files(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Nodeid and name of all files of a directory."""
        table = self.table(number)
        for place in range(len(table) if table is not None else 0):
            assert table is not None, "its length was asked for"
            if self.is_file(number, table, place):
                yield number << PLACE_BITS | place, table.name(place)

    def images(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Nodeid and name of all files of a directory that are images by their names."""
        return ((nodeid, name) for nodeid, name in self.files(number) if is_image_name(name))

    def images_of_stem(self, number: int, stem: bytes) -> Iterator[int]:
        """The places of the images of a stem in a directory; no other names are looked at."""
        table = self.table(number)
        if table is None:
            return
        for ending in self._endings_in(number, table):
            place = table.find(stem + ending)
            if place is not None and self.is_file(number, table, place):
                yield place

    def _endings_in(self, number: int, table: Table) -> list[bytes]:
        """With what names of images end in a directory, dot and all."""
        found = self._endings.get(number)
        if found is None:
            names = map(table.name, range(len(table)))
            endings = {b"." + name.rpartition(b".")[2] for name in names}
            found = self._endings[number] = sorted(filter(is_image_name, endings))
        return found

    def below(self, number: int) -> Iterator[int]:
        """A directory and all below it, array stores left out."""
        found = [number]
        for each in found:  # which grows meanwhile
            if not self.is_in_store(each):
                yield each
                found += self.children(each)

    def below_images(self, number: int) -> Iterator[int]:
        """As `below`; label directories are left out, too."""
        found = [number]
        for each in found:  # which grows meanwhile
            if self._counts(each):
                yield each
                found += self.children(each)

    def _counts(self, number: int) -> bool:
        return not self._flags[number] & (_IN_LABELS | _IN_STORE)


def _rest(name: bytes) -> frozenset[bytes]:
    """What a name says beside that it is for labels or images."""
    return frozenset(words(name)) - FILLERS - LABEL_WORDS


def _by_rest(names: Mapping[int, bytes]) -> dict[_Rest, Counterparts]:
    """Directories by what their names say beside that they hold images, with their numbers and without.

    Only those that say images, or a split. One tuple for all labels of each: thousands may stand beside thousands of
    images.
    """
    found: dict[_Rest, list[int]] = {}
    for number, name in names.items():
        if has_image_word(name) or split_words(name):
            for key in {(_rest(name), ()), (_rest(name), numbers(name))}:
                found.setdefault(key, []).append(number)
    return {key: Counterparts(tuple(each), is_own=True) for key, each in found.items()}


class Index:
    """Nodeids by a name, packed, for there may be a million; now and then one of another name is found, too."""

    def __init__(self, entries: Iterable[tuple[bytes, int]]) -> None:
        self._nodeids = array("Q")
        hashes: list[int] = []
        for name, nodeid in entries:
            hashes.append((hash(name) & _HASH) << 32 | len(self._nodeids))
            self._nodeids.append(nodeid)
        hashes.sort()
        self._hashes = array("Q", hashes)

    def find(self, name: bytes) -> Iterator[int]:
        """The nodeids of a name, in the order of the view, and few others."""
        first = (hash(name) & _HASH) << 32
        for place in range(bisect.bisect_left(self._hashes, first), len(self._hashes)):
            if self._hashes[place] >> 32 != first >> 32:
                return
            yield self._nodeids[self._hashes[place] & _HASH]
