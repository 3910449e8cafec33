"""Which files belong to an image: its labels, masks and captions, which are hidden with it and never compared.

Known by names alone (docs/semantics.md, "Files that belong to an image"). Nothing is looked up before it is asked for,
and then for one file at a time: a million images with a million labels need no table of pairs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, NoReturn

from symfuse.census import HIDDEN_FOR_CONTENT, SIDE_ENDINGS, Census, Index, is_side_name, may_be_label, stem_of
from symfuse.errors import DatasetRefused
from symfuse.names import IMAGE_ENDINGS, is_image_name
from symfuse.policy import Kind
from symfuse.table import Table
from symfuse.view import PLACE_BITS, PLACE_MASK, View
from symfuse.words import STEM_LABEL_WORDS, stems_before_labels, stems_before_signs

#: Where so many labels are there for images, and less of them have the names of any, they may be pairs by their order.
ENOUGH_FOR_PAIRS = 0.5
ENOUGH_NAMES = 0.5
#: More directories that face one of labels than these have an index in common.
FEW_OPPOSITES = 8

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
_MENTIONS = [word for word in STEM_LABEL_WORDS if not any(other in word for other in STEM_LABEL_WORDS - {word})]
#: Signs as ranges: the first, and what comes behind the last.
_SIGNS = ((b"\x01", b"0"), (b":", b"A"), (b"[", b"a"), (b"{", b"\x80"))


class Facing(NamedTuple):
    """A label directory, and where below it what belongs to the images of some directory has its place."""

    label: int
    names: tuple[bytes, ...]


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
        self._decided: dict[int, bool] = {}  # label directory -> whether its files are known to go by their names
        self._opposite: dict[int, list[int]] = {}  # directory of labels -> those with their images
        self._beneath: dict[int, dict[bytes, list[int]]] = {}  # directory of labels -> what its directories may be of
        self._opposite_images: dict[int, Index] = {}  # `_face_of` a directory of labels -> the images there, by stem
        self._at_place: dict[int, dict[bytes, set[int]]] = {}  # `_face_of` one -> the images of a label's stem
        self._by_name: dict[int, dict[bytes, set[int]]] = {}  # label directory -> the images of a label's stem
        self._named_hidden: dict[
            tuple[int, bytes], bool
        ] = {}  # (label directory, stem) -> whether all these are hidden
        self._named: dict[tuple[int, bytes], bool] = {}  # (label directory, name) -> whether such images have labels
        self._company: dict[int, bool] = {}  # directory -> whether anything may belong to its images
        self._faces: dict[int, dict[Facing, None]] = {}  # directory of images -> the places of their labels
        self._images: dict[int, Index] = {}  # id of counterparts -> their images, by stem
        self._labels: dict[int, Index] = {}  # label directory -> its files, by stem
        self._beside: dict[int, Index] = {}  # directory -> files with words for labels behind their stems
        # Remembered, or a mask of a mask of a mask… would be asked for once for each way there is to the image.
        self._meant = functools.lru_cache(maxsize=4096)(self._meant_by)

    # -- what is compared ---------------------------------------------------------------------------------------

    def roles(self, *, by_content: bool) -> Roles:
        """What is compared; without `by_content` what has no image's name is not."""
        census = self._census
        has_image_ending = functools.lru_cache(maxsize=4096)(is_image_name)
        is_behind_mask = functools.lru_cache(maxsize=4096)(_is_behind_stem_of_mask)

        def of_directory(number: int) -> Role | None:
            table = self._census.table(number)
            if table is None or census.is_in_labels(number) or census.is_in_store(number):
                return None
            may_have_masks = self._mentions_labels(number)
            has_image = functools.lru_cache(maxsize=4096)(
                lambda stem: any(True for _ in census.images_of_stem(number, stem))
            )
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

    def _mentions_labels(self, number: int) -> bool:
        """False where no name in a directory has a word for labels."""
        table = self._census.table(number)
        return table is not None and table.mentions(_MENTIONS)

    def _is_just_before(self, number: int, table: Table, place: int, name: bytes) -> bool:
        """True for side files whose image comes next in their directory. `is_side_file` knows all others."""
        near = place + 1
        return (
            near < len(table)
            and _is_label_of(name, other := table.name(near))
            and (is_image_name(other) and self._census.is_file(number, table, near))
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
        return self._owners_by_name(label, stem_of(name))

    def _owners_beside(self, number: int, name: bytes) -> set[int]:
        """In its own directory."""
        stem = stem_of(name)
        if is_image_name(name):
            return self._images_of(number, stems_before_labels(stem))
        if is_side_name(name):
            return self._images_of(number, [stem, *stems_before_labels(stem)], name=stem)
        return set()

    def _owners_at_place(self, number: int, name: bytes) -> set[int]:
        opposites = self._opposites(number)
        if not opposites:
            return set()
        if len(opposites) <= FEW_OPPOSITES:
            return self._owners_among(stem_of(name), lambda stem: self._images_at_place(number, stem))
        known = self._at_place.setdefault(self._face_of(number), {})  # each of many images may ask for it
        stem = stem_of(name)
        if stem not in known:
            known[stem] = self._owners_among(stem, lambda stem: self._images_at_place(number, stem))
        return known[stem]

    def _owners_by_name(self, label: int, stem: bytes) -> set[int]:
        """Wherever they lie; found once for all labels of a stem, which may be many."""
        known = self._by_name.setdefault(label, {})
        found = known.get(stem)
        if found is None:
            found = known[stem] = self._owners_among(stem, lambda stem: self._images_named(label, stem))
        return found

    def _owners_among(self, stem: bytes, images: Callable[[bytes], set[int]]) -> set[int]:
        """The images that a label with this stem belongs to, of those that `images` knows by their stems."""
        found: set[int] = set()
        for key in (stem, *stems_before_labels(stem)):
            found |= images(key)
        if is_image_name(stem):
            found |= {image for image in images(stem_of(stem)) if self._name(image) == stem}
        for before in stems_before_signs(stem):
            if of_longer := images(before):
                if not any(images(stem[:end]) for end in range(len(before) + 1, len(stem) + 1)):
                    found |= of_longer
                break
        return {owner for image in found for owner in self._meant(image)}

    def _images_at_place(self, number: int, stem: bytes) -> set[int]:
        """The images of a stem in the directories that face a directory of labels."""
        opposites = self._opposites(number)
        if len(opposites) <= FEW_OPPOSITES:
            places = ((each, place) for each in opposites for place in self._census.images_of_stem(each, stem))
            return {each << PLACE_BITS | place for each, place in places}
        key = self._face_of(number)
        index = self._opposite_images.get(key)
        if index is None:
            images = (image for each in opposites for image in self._census.images(each))
            index = self._opposite_images[key] = Index((stem_of(name), nodeid) for nodeid, name in images)
        return {image for image in index.find(stem) if stem_of(self._name(image)) == stem}

    def _face_of(self, number: int) -> int:
        """A number for the directories that face a directory of labels: many label directories may be of the same."""
        return id(self._census.labels[number]) if number in self._census.labels else -number

    def _images_named(self, label: int, stem: bytes) -> set[int]:
        """The images of a stem in a label directory's counterparts, wherever they lie."""
        return {image for image in self._images_below(label).find(stem) if stem_of(self._name(image)) == stem}

    def _images_of(self, number: int, stems: Iterable[bytes], *, name: bytes = b"") -> set[int]:
        """The images of a directory with one of these stems, or this name; instead of a mask those it belongs to."""
        # From the shortest on: what the shorter belong to is remembered for the longer, which belong to the same.
        shortest_first = sorted(stems, key=len)
        places = [place for stem in shortest_first for place in self._census.images_of_stem(number, stem)]
        if is_image_name(name):
            places += [
                place
                for place in self._census.images_of_stem(number, stem_of(name))
                if self._name(number << PLACE_BITS | place) == name
            ]
        return {owner for place in places for owner in self._meant(number << PLACE_BITS | place)}

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
                for number in self._census.below(label)
                if self._opposites(number)
                for name in self._names(number)
            )
        return found

    def _opposites(self, number: int) -> list[int]:
        """The directories that have the same place below the counterparts as this one below its label directory."""
        found = self._opposite.get(number)
        if found is None:
            label = self._label_directory(number)
            if number == label:
                found = [*self._census.labels[label].directories]
            else:
                found = self._opposites_beneath(self._view.parent(number)).get(self._census.name(number), [])
            self._opposite[number] = found
        return found

    def _opposites_beneath(self, number: int) -> dict[bytes, list[int]]:
        """The same for the directories in one, by their names: asked for once, for there may be many of them."""
        found = self._beneath.get(number)
        if found is None:
            label = self._label_directory(number)
            counterparts = self._census.labels[label]
            above = self._view.parent(label)
            found = {}
            if number == label and not counterparts.is_own:
                for each in counterparts.directories:
                    found.setdefault(self._census.name(each), []).append(each)
            for each in self._opposites(number):
                for child in self._census.children(each) if each != above else ():
                    if self._counts(child):
                        found.setdefault(self._census.name(child), []).append(child)
            self._beneath[number] = found
        return found

    def _faced(self, number: int) -> Iterable[Facing]:
        """Where the labels of a directory's images have their places."""
        found = self._faces.get(number)
        if found is None:
            found = {}
            above, names = number, tuple[bytes, ...]()
            while True:
                for label in self._facing.get(above, ()):
                    found[Facing(label, names)] = None
                    if not self._census.labels[label].is_own and above != self._view.parent(label):
                        found[Facing(label, (self._census.name(above), *names))] = None
                parent = self._view.parent(above)
                if parent == above:
                    break
                names = (self._census.name(above), *names)
                above = parent
            self._faces[number] = found
        return found

    def _counts(self, number: int) -> bool:
        return not self._census.is_in_labels(number) and not self._census.is_in_store(number)

    def _descend(self, number: int, names: Iterable[bytes]) -> int | None:
        """The directory that is shown there, if one is."""
        for name in names:
            table = self._census.table(number)
            place = None if table is None else table.find(name)
            child = None if place is None else self._view.child(number, place)
            if child is None:
                return None
            number = child
        return number

    def _counterparts_below(self, label: int) -> Iterator[int]:
        """All directories whose images a label directory's files may belong to."""
        for counterpart in self._census.labels[label].directories:
            if counterpart == self._view.parent(label):
                yield counterpart  # only what stands there itself is beside the labels
            else:
                yield from filter(self._counts, self._census.below(counterpart))

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
                self._follow(image)
                self._follow_to_labels(image)

    def _has_company(self, number: int) -> bool:
        """False where nothing can belong to the images of a directory, as in most; at once, for a million images."""
        found = self._company.get(number)
        if found is None:
            table = self._census.table(number)
            mentions = table is not None and table.mentions([*_MENTIONS, *SIDE_ENDINGS])
            found = self._company[number] = mentions or bool(self._faced(number)) or bool(self._label_directory(number))
        return found

    def _follow(self, image: int) -> None:
        """Hide what belongs to an image in its own directory."""
        number, name, _is_link = self._view.entry(image)
        stems = [stem_of(name)]
        while stems:
            hidden = [nodeid for nodeid in self._of_stem(number, stems.pop()) if self._hide_with_owners(nodeid)]
            stems += [stem_of(self._name(nodeid)) for nodeid in hidden]  # a hidden mask may have files of its own

    def _follow_to_labels(self, image: int) -> None:
        """Hide what belongs to an image in label directories. Errors: DatasetRefused when it cannot be known."""
        number, name, _is_link = self._view.entry(image)
        has_labels: dict[int, bool] = {}
        for label, names in self._faced(number):
            if self._goes_by_place(label):
                place = self._descend(label, names)
                found = place is not None and self._follow_at_place(image, place, stem_of(name))
            else:
                found = self._follow_by_name(image, label, name)
            has_labels[label] = has_labels.get(label, False) or found
        for label, found in has_labels.items():
            if not found and not self._is_decided(label):
                self._refuse(image, label)

    def _follow_at_place(self, image: int, place: int, stem: bytes) -> bool:
        """Hide the labels of an image in a directory; False where it has none there."""
        found = False
        for nodeid in dict.fromkeys([*self._of_stem(place, stem), *self._with_sign_behind(place, stem)]):
            found = found or image in self.owners(nodeid)
            self._hide_with_owners(nodeid)
        return found

    def _follow_by_name(self, image: int, label: int, name: bytes) -> bool:
        """The same for the labels of all images of a name, wherever they are: done once for all these images."""
        found = self._named.get((label, name))
        if found is None:
            found = False
            for key in {stem_of(name), name}:
                for nodeid in self._labels_below(label).find(key):
                    stem = stem_of(self._name(nodeid))
                    owners = self._owners_by_name(label, stem)
                    found = found or image in owners
                    is_hidden = self._named_hidden.get((label, stem))
                    if is_hidden is None:
                        is_hidden = self._named_hidden[label, stem] = all(map(self._is_hidden, owners))
                    if owners and is_hidden and not self._is_hidden(nodeid):
                        self._view.hide(nodeid, Kind.SIDE_FILE, stand_in=min(owners))
            self._named[label, name] = found
        return found

    def _hide_with_owners(self, nodeid: int) -> bool:
        """Hide a file where all images that it belongs to are hidden; False where it is hidden already, or stays."""
        if self._is_hidden(nodeid):
            return False
        owners = self.owners(nodeid)
        if not owners or not all(map(self._is_hidden, owners)):
            return False
        self._view.hide(nodeid, Kind.SIDE_FILE, stand_in=min(owners))
        return True

    def _of_stem(self, number: int, stem: bytes) -> Iterator[int]:
        """The files of a directory whose name is a stem, with whatever behind a dot or with words for labels."""
        table = self._census.table(number)
        if table is None:
            return
        alone = table.find(stem)
        for place in [*([] if alone is None else [alone]), *table.beginning_with(stem + b".")]:
            if self._census.is_file(number, table, place):
                yield number << PLACE_BITS | place
        index = self._beside.get(number)
        if index is None:
            index = self._beside[number] = Index(
                (key, nodeid)
                for nodeid, name in (self._census.files(number) if self._mentions_labels(number) else ())
                for key in stems_before_labels(stem_of(name))
            )
        yield from index.find(stem)

    def _with_sign_behind(self, number: int, stem: bytes) -> Iterator[int]:
        """The files of a directory whose names go on with a sign behind a stem."""
        table = self._census.table(number)
        for first, end in _SIGNS if table is not None else ():
            assert table is not None, "or there are no signs to look for"
            for place in range(table.first_from(stem + first), table.first_from(stem + end)):
                if self._census.is_file(number, table, place):
                    yield number << PLACE_BITS | place

    def _refuse(self, image: int, label: int) -> NoReturn:
        """Errors: DatasetRefused, as labels may go by their order."""
        labels, path = (os.fsdecode(self._view.path(each)) for each in (label, image))
        raise DatasetRefused(
            f"{path} would be hidden, and what belongs to it in {labels} cannot be known: few names there are those of "
            f"images, so they may go by their order, which hiding would shift",
            "hide images alone with --side-files keep",
        )

    def _is_decided(self, label: int) -> bool:
        """Whether the files of a label directory belong to images by their names, or are too few to be pairs."""
        found = self._decided.get(label)
        if found is None:
            labels = sum(1 for _ in self._labels_in(label))
            images = sum(is_image_name(name) for each in self._counterparts_below(label) for name in self._names(each))
            found = self._decided[label] = (
                labels < ENOUGH_FOR_PAIRS * images
                or not labels
                or self._holds_other_images(label)
                or self._has_owners(label, labels * ENOUGH_NAMES)
            )
        return found

    def _holds_other_images(self, label: int) -> bool:
        """Whether a label directory of all that stands beside it holds images: in Market-1501 further crops."""
        is_own = self._census.labels[label].is_own
        return not is_own and any(is_image_name(self._name(nodeid)) for nodeid in self._labels_in(label))

    def _has_owners(self, label: int, enough: float) -> bool:
        """Whether so many files of a label directory belong to images."""
        known = 0
        for nodeid in self._labels_in(label):
            known += bool(self.owners(nodeid))
            if known >= enough:
                return True
        return False

    def _labels_in(self, label: int) -> Iterator[int]:
        for number in self._census.below(label):
            yield from (nodeid for nodeid, name in self._census.files(number) if may_be_label(name))

    # -- the view -----------------------------------------------------------------------------------------------

    def _names(self, number: int) -> Iterator[bytes]:
        return (name for _nodeid, name in self._census.files(number))

    def _name(self, nodeid: int) -> bytes:
        return self._view.entry(nodeid)[1]

    def _is_hidden(self, nodeid: int) -> bool:
        return (nodeid & PLACE_MASK) in self._view.directory(nodeid >> PLACE_BITS).absent

    def _images_below(self, label: int) -> Index:
        known = id(self._census.labels[label])  # many may be of the same images
        index = self._images.get(known)
        if index is None:
            index = self._images[known] = Index(
                (stem_of(name), nodeid)
                for number in self._counterparts_below(label)
                for nodeid, name in self._census.files(number)
                if is_image_name(name)
            )
        return index

    def _labels_below(self, label: int) -> Index:
        index = self._labels.get(label)
        if index is None:
            index = self._labels[label] = Index(
                (key, nodeid)
                for number in self._census.below(label)
                for nodeid, name in self._census.files(number)
                for key in {stem_of(name), *stems_before_labels(stem_of(name)), *stems_before_signs(stem_of(name))}
            )
        return index
