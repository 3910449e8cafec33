"""Which files belong to an image: its labels, masks and captions, which are hidden with it and never compared.

Known by names alone (docs/semantics.md, "Files that belong to an image"). Nothing is looked up before it is asked for,
and then for one file at a time: a million images with a million labels need no table of pairs.
"""

from __future__ import annotations

import bisect
import functools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from symfuse.census import Census
from symfuse.errors import DatasetRefused
from symfuse.names import IMAGE_ENDINGS, is_image_name
from symfuse.policy import Kind
from symfuse.table import Table
from symfuse.view import PLACE_BITS, PLACE_MASK, View
from symfuse.words import LABEL_WORDS, split_words, stems_before_labels, stems_before_signs

#: What labels and captions beside an image end in.
SIDE_ENDINGS = (
    *(b".txt", b".json", b".xml", b".npy", b".npz", b".mat", b".pts", b".csv", b".yaml", b".yml"),
    *(b".caption", b".tags", b".cls", b".geojson", b".xmp", b".aae"),
)
#: Why an image is hidden for its content; what belongs to it follows.
HIDDEN_FOR_CONTENT = frozenset({Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT, Kind.BROKEN})
#: Where so many files stand beside images, and none belongs to any by its name, they may be pairs by their order.
ENOUGH_FOR_PAIRS = 0.5

#: What a file is by its name: never compared, an image, or one if its content begins so.
NEVER, IMAGE, PERHAPS = 0, 1, 2
#: What the file at a place of a directory's table is by its name.
Role = Callable[[int, bytes], int]
#: The roles of a directory's files; None where all are never compared.
Roles = Callable[[int], Role | None]

_SIDE_ENDINGS = frozenset(SIDE_ENDINGS)
#: No ending of an image's name is longer.
_ENDING_BYTES = max(map(len, IMAGE_ENDINGS))
#: Words that are in every name that has a word for labels.
_MENTIONS = [word for word in LABEL_WORDS if not any(other in word for other in LABEL_WORDS - {word})]
#: Signs as ranges: the first, and what comes behind the last.
_SIGNS = ((b"\x01", b"0"), (b":", b"A"), (b"[", b"a"), (b"{", b"\x80"))
_HASH = (1 << 32) - 1
#: Where more names than these begin with a stem and a dot, images are found otherwise than by looking at each.
MANY_OF_A_STEM = 16


class Facing(NamedTuple):
    """A label directory, and where below it what belongs to the images of some directory has its place."""

    label: int
    names: tuple[bytes, ...]


def stem_of(name: bytes) -> bytes:
    """A name without its last ending."""
    return name.rpartition(b".")[0] or name


def is_side_name(name: bytes) -> bool:
    """Whether a name ends as those of labels and captions do that stand beside their images."""
    return name.lower().endswith(SIDE_ENDINGS)


def _is_label_of(name: bytes, image: bytes) -> bool:
    """True for a name with the stem of an image's and the ending of a label."""
    stem, dot, ending = name.rpartition(b".")
    return stem == image.rpartition(b".")[0] and stem != b"" and dot + ending.lower() in _SIDE_ENDINGS


def _is_behind_stem_of_mask(rest: bytes) -> bool:
    """Whether a name with this behind a stem is a mask of that stem's image, whatever the stem is: `_mask.png`."""
    first = rest[:1]
    is_sign = first != b"" and first.isascii() and not first.isalnum()
    return is_sign and b"x" in stems_before_labels(stem_of(b"x" + rest))


class Pairs:
    """What belongs to the images of a frozen view."""

    def __init__(self, view: View, census: Census) -> None:
        self._view = view
        self._census = census
        self._facing: dict[int, list[int]] = {}  # counterpart -> label directories
        for label, counterparts in census.labels.items():
            for number in counterparts.directories:
                self._facing.setdefault(number, []).append(label)
        self._label_above: dict[int, int] = {}  # directory -> the label directory that it is, or lies in
        self._by_place: dict[int, bool] = {}  # label directory -> whether files there go by their places
        self._decided: set[int] = set()  # label directories whose files are known to belong to images by their names
        self._opposite: dict[int, list[int]] = {}  # directory of labels -> those with their images
        self._company: dict[int, bool] = {}  # directory -> whether anything may belong to its images
        self._faces: dict[int, list[Facing]] = {}  # directory of images -> the places of their labels
        self._images: dict[int, _Index] = {}  # label directory -> the images of its counterparts, by stem
        self._labels: dict[int, _Index] = {}  # label directory -> its files, by stem
        self._beside: dict[int, _Index] = {}  # directory -> files with words for labels behind their stems
        self._places: dict[int, _Index] = {}  # directory -> the places of its images, by stem
        # Remembered, or a mask of a mask of a mask… would be asked for once for each way there is to the image.
        self._meant = functools.lru_cache(maxsize=4096)(self._meant_by)

    # -- what is compared ---------------------------------------------------------------------------------------

    def roles(self, *, by_content: bool) -> Roles:
        """What is compared; without `by_content` what has no image's name is not."""
        census = self._census
        has_image_ending = functools.lru_cache(maxsize=4096)(is_image_name)
        is_behind_mask = functools.lru_cache(maxsize=4096)(_is_behind_stem_of_mask)

        def of_directory(number: int) -> Role | None:
            table = self._table(number)
            if table is None or census.is_in_labels(number) or census.is_in_store(number):
                return None
            may_have_masks = self._mentions_labels(number)
            has_image = functools.lru_cache(maxsize=4096)(lambda stem: self._has_image_at(number, table, stem))
            last = last_stem = b""  # image, by name

            def role(place: int, name: bytes) -> int:  # a million times
                nonlocal last, last_stem
                if has_image_ending(name[-_ENDING_BYTES:]):
                    last = name
                    if may_have_masks:
                        if last_stem and name.startswith(last_stem) and is_behind_mask(name[len(last_stem) :]):
                            return NEVER  # of the last image: at once, for as many as there are images
                        last_stem = name.rpartition(b".")[0]
                        if self._is_mask_beside(table, place, last_stem, has_image):
                            return NEVER
                    return IMAGE
                if by_content and not (_is_label_of(name, last) or self._is_just_before(number, table, place, name)):
                    return PERHAPS
                return NEVER

            return role

        return of_directory

    def _is_mask_beside(self, table: Table, place: int, stem: bytes, has_image: Callable[[bytes], bool]) -> bool:
        """Whether the image of a stem, at a place, belongs to another of its directory, by which stems have images.

        Names stand in their order: where any begins with a stem of this one's, the one before or behind it does.
        """
        stems = stems_before_labels(stem)
        if not stems:
            return False
        near = [table.name(at) for at in (place - 1, place + 1) if 0 <= at < len(table)]
        return any(has_image(each) for each in stems if any(name.startswith(each) for name in near))

    def _has_image_at(self, number: int, table: Table, stem: bytes) -> bool:
        return any(True for _place in self._images_at(number, table, stem))

    def _mentions_labels(self, number: int) -> bool:
        """False where no name in a directory has a word for labels."""
        table = self._table(number)
        return table is not None and table.mentions(_MENTIONS)

    def _is_just_before(self, number: int, table: Table, place: int, name: bytes) -> bool:
        """True for side files whose image comes next in their directory. `is_side_file` knows all others."""
        near = place + 1
        return (
            near < len(table)
            and _is_label_of(name, other := table.name(near))
            and (is_image_name(other) and self._is_file(number, table, near))
        )

    def is_side_file(self, nodeid: int) -> bool:
        """Whether a file belongs to an image of its own directory."""
        number, name, _is_link = self._view.entry(nodeid)
        return bool(self._owners_beside(number, name))

    # -- to which images a file belongs -------------------------------------------------------------------------

    def owners(self, nodeid: int) -> set[int]:
        """The images that a file belongs to, by their nodeids."""
        number, name, _is_link = self._view.entry(nodeid)
        label = self._label_directory(number)
        if not label:
            return self._owners_beside(number, name)
        if self._goes_by_place(label):
            return self._owners_at_place(number, name)
        return self._owners_by_name(label, name)

    def _owners_beside(self, number: int, name: bytes) -> set[int]:
        """In its own directory."""
        stem = stem_of(name)
        if is_image_name(name):
            return self._images_of(number, stems_before_labels(stem))
        if is_side_name(name):
            return self._images_of(number, [stem, *stems_before_labels(stem)], name=stem)
        return set()

    def _owners_at_place(self, number: int, name: bytes) -> set[int]:
        stem = stem_of(name)
        stems = [stem, *stems_before_labels(stem)]
        found: set[int] = set()
        for each in self._opposites(number):
            found |= self._images_of(each, stems, name=stem) | self._owners_of_longer(each, stem)
        return found

    def _owners_of_longer(self, number: int, stem: bytes) -> set[int]:
        """The images of a directory with the longest stem that another begins with, where a sign follows in that."""
        table = self._table(number)
        if table is None:
            return set()
        for before in stems_before_signs(stem):
            if any(True for _place in self._images_at(number, table, before)):
                longer = (stem[:end] for end in range(len(before) + 1, len(stem) + 1))
                if any(True for each in longer for _place in self._images_at(number, table, each)):
                    return set()
                return self._images_of(number, [before])
        return set()

    def _owners_by_name(self, label: int, name: bytes) -> set[int]:
        stem = stem_of(name)
        found: set[int] = set()
        for key in (stem, *stems_before_labels(stem)):
            found |= self._images_named(label, key)
        if is_image_name(stem):
            found |= {image for image in self._images_below(label).find(stem_of(stem)) if self._name(image) == stem}
        for before in stems_before_signs(stem):
            if images := self._images_named(label, before):
                longer = (stem[:end] for end in range(len(before) + 1, len(stem) + 1))
                if not any(self._images_named(label, each) for each in longer):
                    found |= images
                break
        return {owner for image in found for owner in self._meant(image)}

    def _images_named(self, label: int, stem: bytes) -> set[int]:
        """The images of a stem in a label directory's counterparts, wherever they lie."""
        return {image for image in self._images_below(label).find(stem) if stem_of(self._name(image)) == stem}

    def _images_of(self, number: int, stems: Iterable[bytes], *, name: bytes = b"") -> set[int]:
        """The images of a directory with one of these stems, or this name; instead of a mask those it belongs to."""
        table = self._table(number)
        if table is None:
            return set()
        # From the shortest on: what the shorter belong to is remembered for the longer, which belong to the same.
        shortest_first = sorted(stems, key=len)
        places = [place for stem in shortest_first for place in self._images_at(number, table, stem)]
        if is_image_name(name) and (place := table.find(name)) is not None and self._is_file(number, table, place):
            places.append(place)
        return {owner for place in places for owner in self._meant(number << PLACE_BITS | place)}

    def _images_at(self, number: int, table: Table, stem: bytes) -> Iterator[int]:
        """The places of the images of a stem."""
        index, places = self._places.get(number), list[int]()
        if index is None:
            places = [*islice(table.beginning_with(stem + b"."), MANY_OF_A_STEM + 1)]
            if len(places) > MANY_OF_A_STEM:
                index = self._places[number] = self._image_places(number)
        for place in places if index is None else index.find(stem):
            name = table.name(place)
            if name.rpartition(b".")[0] == stem and is_image_name(name) and self._is_file(number, table, place):
                yield place

    def _image_places(self, number: int) -> _Index:
        """The images of a directory, by stem: places, not nodeids."""
        names = ((nodeid & PLACE_MASK, name) for nodeid, name in self._files(number) if is_image_name(name))
        return _Index((name.rpartition(b".")[0], place) for place, name in names)

    def _meant_by(self, image: int) -> set[int]:
        """An image, or those that it belongs to."""
        number, name, _is_link = self._view.entry(image)
        return (stems_before_labels(stem_of(name)) and self._owners_beside(number, name)) or {image}

    # -- label directories --------------------------------------------------------------------------------------

    def _label_directory(self, number: int) -> int:
        """The label directory that a directory is or lies in, or 0."""
        if not self._census.is_in_labels(number):
            return 0
        found = self._label_above.get(number)
        if found is None:
            found = number if number in self._census.labels else self._label_directory(self._view.parent(number))
            self._label_above[number] = found
        return found

    def _goes_by_place(self, label: int) -> bool:
        """Whether some file below a label directory is at the place of an image that it belongs to."""
        found = self._by_place.get(label)
        if found is None:
            found = self._by_place[label] = any(
                self._owners_at_place(number, name)
                for number in self._below(label)
                if self._opposites(number)
                for name in self._names(number)
            )
        return found

    def _opposites(self, number: int) -> list[int]:
        """The directories that have the same place below the counterparts as this one below its label directory."""
        found = self._opposite.get(number)
        if found is None:
            label = self._label_directory(number)
            counterparts = self._census.labels[label]
            names = self._names_between(label, number)
            if counterparts.is_own:
                ends = [self._descend(each, names) for each in counterparts.directories]
            else:
                beside = self._view.parent(label)
                top = self._descend(beside, names[:1])
                ends = [self._descend(beside, names)] if top in counterparts.directories else []
            found = self._opposite[number] = [end for end in ends if end is not None and self._counts(end)]
        return found

    def _faced(self, number: int) -> list[Facing]:
        """Where the labels of a directory's images have their places."""
        found = self._faces.get(number)
        if found is None:
            found = []
            above = number
            while True:
                for label in self._facing.get(above, ()):
                    base = above if self._census.labels[label].is_own else self._view.parent(label)
                    names = self._names_between(base, number)
                    if (label, names) not in found:
                        found.append(Facing(label, names))
                parent = self._view.parent(above)
                if parent == above:
                    break
                above = parent
            self._faces[number] = found
        return found

    def _counts(self, number: int) -> bool:
        return not self._census.is_in_labels(number) and not self._census.is_in_store(number)

    def _names_between(self, above: int, number: int) -> tuple[bytes, ...]:
        """The names on the way from a directory down to another."""
        names: list[bytes] = []
        while number != above:
            names.append(self._census.name(number))
            number = self._view.parent(number)
        return tuple(reversed(names))

    def _descend(self, number: int, names: Iterable[bytes]) -> int | None:
        """The directory that is shown there, if one is."""
        for name in names:
            table = self._table(number)
            place = None if table is None else table.find(name)
            child = None if place is None else self._view.child(number, place)
            if child is None:
                return None
            number = child
        return number

    def _below(self, number: int) -> Iterator[int]:
        """A directory and all below it, array stores left out."""
        found = [number]
        for each in found:  # which grows meanwhile
            if not self._census.is_in_store(each):
                yield each
                found += self._census.children(each)

    def _counterparts_below(self, label: int) -> Iterator[int]:
        """All directories whose images a label directory's files may belong to."""
        for counterpart in self._census.labels[label].directories:
            if counterpart == self._view.parent(label):
                yield counterpart  # only what stands there itself is beside the labels
            else:
                yield from filter(self._counts, self._below(counterpart))

    # -- hiding what belongs to hidden images -------------------------------------------------------------------

    def follow(self, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Hide what belongs to images that are hidden for their content, where all its images are.

        Ends early when `stop` says so. Errors: DatasetRefused when it cannot be decided.
        """
        for image in self._view.hidden_files(HIDDEN_FOR_CONTENT):
            if stop():
                return
            # to what is an image by its content alone nothing belongs
            if self._has_company(image >> PLACE_BITS) and is_image_name(self._name(image)):
                self._refuse_undecidable(image)
                self._follow(image)

    def _has_company(self, number: int) -> bool:
        """False where nothing can belong to the images of a directory, as in most; at once, for a million images."""
        found = self._company.get(number)
        if found is None:
            table = self._table(number)
            mentions = table is not None and table.mentions([*_MENTIONS, *SIDE_ENDINGS])
            found = self._company[number] = mentions or bool(self._faced(number)) or bool(self._label_directory(number))
        return found

    def _follow(self, image: int) -> None:
        images = [image]
        for each in images:  # which grows meanwhile: a mask that is hidden may have files of its own
            for nodeid in self._candidates(each):
                if self._is_hidden(nodeid):
                    continue
                owners = self.owners(nodeid)
                if owners and all(map(self._is_hidden, owners)):
                    self._view.hide(nodeid, Kind.SIDE_FILE, stand_in=min(owners))
                    images.append(nodeid)

    def _candidates(self, image: int) -> list[int]:
        """Files that may belong to an image by their names and places."""
        number, name, _is_link = self._view.entry(image)
        stem = stem_of(name)
        found = [*self._of_stem(number, stem)]
        if not self._label_directory(number):
            for label, names in self._faced(number):
                if not self._goes_by_place(label):
                    for key in (stem, name):
                        found += self._labels_below(label).find(key)
                elif (place := self._descend(label, names)) is not None:
                    found += [*self._of_stem(place, stem), *self._with_sign_behind(place, stem)]
        return [nodeid for nodeid in dict.fromkeys(found) if nodeid != image]

    def _of_stem(self, number: int, stem: bytes) -> Iterator[int]:
        """The files of a directory whose name is a stem, with whatever behind a dot or with words for labels."""
        table = self._table(number)
        if table is None:
            return
        alone = table.find(stem)
        for place in [*([] if alone is None else [alone]), *table.beginning_with(stem + b".")]:
            if self._is_file(number, table, place):
                yield number << PLACE_BITS | place
        index = self._beside.get(number)
        if index is None:
            index = self._beside[number] = _Index(
                (key, nodeid)
                for nodeid, name in (self._files(number) if self._mentions_labels(number) else ())
                for key in stems_before_labels(stem_of(name))
            )
        yield from index.find(stem)

    def _with_sign_behind(self, number: int, stem: bytes) -> Iterator[int]:
        """The files of a directory whose names go on with a sign behind a stem."""
        table = self._table(number)
        for first, end in _SIGNS if table is not None else ():
            assert table is not None, "or there are no signs to look for"
            for place in range(table.first_from(stem + first), table.first_from(stem + end)):
                if self._is_file(number, table, place):
                    yield number << PLACE_BITS | place

    def _refuse_undecidable(self, image: int) -> None:
        """Errors: DatasetRefused when an image goes with files that are known by their order alone."""
        for label, _names in self._faced(image >> PLACE_BITS):
            if self._census.labels[label].is_own and label not in self._decided:
                if not self._goes_by_place(label) and not self._has_names_of_images(label) and self._may_pair(label):
                    counterpart = next(
                        each for each in self._census.labels[label].directories if self._has(each, image)
                    )
                    images, labels, path = (os.fsdecode(self._view.path(each)) for each in (counterpart, label, image))
                    raise DatasetRefused(
                        f"{path} would be hidden, and what belongs to it in {labels} cannot be known: no name there "
                        f"is that of an image in {images}, so they may go by their order, which hiding would shift",
                        "hide images alone with --side-files keep",
                    )
                self._decided.add(label)

    def _has(self, directory: int, image: int) -> bool:
        number = image >> PLACE_BITS
        while number != directory and number != self._view.parent(number):
            number = self._view.parent(number)
        return number == directory

    def _has_names_of_images(self, label: int) -> bool:
        return any(self._owners_by_name(label, name) for number in self._below(label) for name in self._names(number))

    def _may_pair(self, label: int) -> bool:
        """Whether a label directory has enough files for one of each image; lists of a split are none."""
        names = (name for number in self._below(label) for name in self._names(number))
        labels = sum((is_image_name(name) or is_side_name(name)) and not split_words(name) for name in names)
        images = sum(is_image_name(name) for each in self._counterparts_below(label) for name in self._names(each))
        return labels > 0 and labels >= ENOUGH_FOR_PAIRS * images

    # -- the view -----------------------------------------------------------------------------------------------

    def _table(self, number: int) -> Table | None:
        """A directory's table; None where it could not be frozen."""
        try:
            return self._view.table(number) if self._view.directory(number).is_frozen else None
        except OSError:
            return None

    def _is_file(self, number: int, table: Table, place: int) -> bool:
        """Whether a file is shown at a place, or was before it was hidden for its content."""
        if place in table.problems or place in table.subdirectories:
            return False
        kind = self._view.directory(number).absent.get(place)
        return kind is None or kind in HIDDEN_FOR_CONTENT or kind is Kind.SIDE_FILE

    def _files(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Nodeid and name of all files of a directory."""
        table = self._table(number)
        for place in range(len(table) if table is not None else 0):
            assert table is not None, "its length was asked for"
            if self._is_file(number, table, place):
                yield number << PLACE_BITS | place, table.name(place)

    def _names(self, number: int) -> Iterator[bytes]:
        return (name for _nodeid, name in self._files(number))

    def _name(self, nodeid: int) -> bytes:
        return self._view.entry(nodeid)[1]

    def _is_hidden(self, nodeid: int) -> bool:
        return (nodeid & PLACE_MASK) in self._view.directory(nodeid >> PLACE_BITS).absent

    def _images_below(self, label: int) -> _Index:
        index = self._images.get(label)
        if index is None:
            index = self._images[label] = _Index(
                (stem_of(name), nodeid)
                for number in self._counterparts_below(label)
                for nodeid, name in self._files(number)
                if is_image_name(name)
            )
        return index

    def _labels_below(self, label: int) -> _Index:
        index = self._labels.get(label)
        if index is None:
            index = self._labels[label] = _Index(
                (key, nodeid)
                for number in self._below(label)
                for nodeid, name in self._files(number)
                for key in {stem_of(name), *stems_before_labels(stem_of(name)), *stems_before_signs(stem_of(name))}
            )
        return index


class _Index:
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
