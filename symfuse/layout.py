"""What the levels of a dataset's directories mean: which split and which class a directory's files belong to.

Read from the names of directories that hold images, or as a pattern says, before anything is hidden.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from symfuse.census import Census
from symfuse.errors import DatasetRefused
from symfuse.pattern import Pattern
from symfuse.policy import SPLIT_ORDER, Conflicts, Kind, Layout, Policy, Scope
from symfuse.view import ROOT_NODEID
from symfuse.words import FOLD, SPLIT_MEANINGS, SPLIT_WORDS, is_for_images, rest_of_split, split_of, split_words

_MEANING = {name: names[0] for names in SPLIT_MEANINGS for name in names}
#: Where one of several splits is called so, what lies beside them is likely to be neither trained on nor held back.
_COMPLETE = frozenset({b"train", b"training", b"trainval", b"query", b"gallery"})
#: What a name must have to be a split's; most have none of it.
_HINT = re.compile(b"|".join([*SPLIT_WORDS, FOLD]), re.IGNORECASE)
_LEVELS = {1: "the first level", 2: "the second level", 3: "the third level"}
#: Names said of many.
_MAX_NAMED = 5


class Label(NamedTuple):
    """The split and the class of files; None where they have none.

    What lies beside the splits has no split, and the directory at their level for a class.
    """

    split: bytes | None
    category: bytes | None


_NO_LABEL = Label(None, None)


class _Reading(NamedTuple):
    """The labels of all directories, by nodeid; the levels, from 1, of splits (0: there are none) and of classes."""

    labels: dict[int, Label]
    split_level: int
    class_levels: Collection[int]


class Labels:
    """The labels of a frozen view's directories.

    Errors: DatasetRefused when a pattern fits nothing.
    """

    def __init__(self, census: Census, layout: Layout) -> None:
        self._census = census
        self._pattern = None if layout.pattern is None else Pattern(layout.pattern)
        self._reading = _by_names(census) if self._pattern is None else _by_pattern(census, self._pattern)
        self._found = {self.of(number) for number in census.directories if census.holds_itself(number)}
        self._splits = sorted({label.split for label in self._found if label.split is not None})
        #: False where all of the dataset is one split, which has no name.
        self.has_splits = bool(self._splits)
        self._counts_beside = self.has_splits and _counts_beside(self._splits)
        classes = {label for label in self._found if label.category is not None and self.counts(label.split)}
        self._categories = {label.category for label in classes}
        #: How many classes the split has that has most of them.
        self.most_classes = max(Counter(label.split for label in classes).values(), default=0)
        if self._pattern is not None and not (self.has_splits if self._pattern.has_split else classes):
            text = os.fsdecode(layout.pattern or b"")
            raise DatasetRefused(f"--layout {text} fits no directory that holds images: {_seen(census)}", _CURE)

    def of(self, directory: int) -> Label:
        """The label of the files in a directory, by the directory's nodeid."""
        return self._reading.labels[directory]

    def counts(self, split: bytes | None) -> bool:
        """Whether conflicts in a split count, and leaks into it: of what has no split it depends."""
        return split is not None or self._counts_beside or not self.has_splits

    def describe(self) -> str:
        """Which layout was taken: one line for the user."""
        classes = _counted(len(self._categories))
        if not self.has_splits:
            if not self._categories:
                return "no splits and no classes were recognised"
            return f"no splits; {classes}{self._at(self._reading.class_levels)}"
        beside = _listed(self._beside())
        also = ", and what lies beside" if beside and self._counts_beside else ""
        unchecked = f"; not checked for conflicts and leaks: {beside}" if beside and not self._counts_beside else ""
        return f"splits: {_listed(self._splits)}{self._at([self._reading.split_level])}{also}; {classes}{unchecked}"

    def _at(self, levels: Collection[int]) -> str:
        """Where splits or classes were found, if all of them are at one level."""
        level = next(iter(levels), 0)
        return f" at {_LEVELS.get(level, f'level {level}')}" if len(levels) == 1 else ""

    def _beside(self) -> list[bytes]:
        """The paths of the topmost directories that hold images and no split."""
        census, labels = self._census, self._reading.labels
        with_splits: set[int] = set()
        for number in reversed(census.directories):
            is_split = census.holds_itself(number) and labels[number].split is not None
            if is_split or not with_splits.isdisjoint(census.children(number)):
                with_splits.add(number)
        found = []
        for number in census.directories:
            if number not in with_splits:
                is_topmost = census.parent(number) in with_splits
                if is_topmost and census.holds_images(number):
                    found.append(census.path(number))
            elif census.holds_itself(number) and labels[number].split is None:
                found.append(census.path(number) or b".")
        return sorted(found)


# -- by names --------------------------------------------------------------------------------------------------------


def _by_names(census: Census) -> _Reading:
    splits, level = _split_directories(census)
    return _Classes(census, splits, level).read()


def _split_directories(census: Census) -> tuple[dict[int, bytes], int]:
    """The splits of the directories that are splits, and their level from 1; level 0 where there are none."""
    parents, level = [ROOT_NODEID], 1
    while parents:
        found: dict[int, bytes] = {}
        for parent in parents:
            found |= _splits_among(census, [each for each in census.children(parent) if census.holds_images(each)])
        if found:
            return found, level
        parents = [each for parent in parents for each in census.children(parent) if census.holds_below(each)]
        level += 1
    return {}, 0


def _splits_among(census: Census, siblings: Sequence[int]) -> dict[int, bytes]:
    """The splits of some directories, all that hold images in one, if any of them is certain to be one."""
    splits: dict[int, bytes] = {}
    for number in siblings:
        name = census.name(number)
        if _HINT.search(name) and (split := split_of(name)) is not None:
            splits[number] = split
    rests = {number: rest_of_split(census.name(number)) for number in splits}
    kinds: dict[frozenset[bytes], set[bytes]] = {}
    for number, split in splits.items():
        kinds.setdefault(rests[number], set()).add(split)
    if any(len(kind) > 1 for kind in kinds.values()):
        return splits
    is_alone = len(splits) == len(siblings) and len(set(splits.values())) == 1
    if any(not rests[number] and (is_alone or not census.holds_itself(number)) for number in splits):
        return splits
    return {}


class _Holders(NamedTuple):
    """What is known of the directories that hold images in some directory."""

    #: The one, where there is one alone, and no image beside it.
    single: int | None
    #: True where all of them are splits, or have words for images and no others.
    are_for_images: bool


class _Classes:
    """The classes below splits and beside them, or below the root where there are no splits."""

    def __init__(self, census: Census, splits: dict[int, bytes], split_level: int) -> None:
        self._census = census
        self._splits = splits
        self._split_level = split_level
        self._holders: dict[int, _Holders] = {}  # asked for once: a directory may have a hundred thousand others
        tops: dict[int, bytes | None] = {**splits} if splits else {ROOT_NODEID: None}
        self._between = self._singles(tops)
        self._open = {*tops}  # directories that have a split, or need none, and no class

    def read(self) -> _Reading:
        """The labels of all directories."""
        census = self._census
        labels = {ROOT_NODEID: _NO_LABEL}
        levels = {ROOT_NODEID: 0}
        class_levels: set[int] = set()
        for number in census.directories[1:]:
            parent = census.parent(number)
            level = levels[number] = levels[parent] + 1
            labels[number] = self._label(number, labels[parent], level)
            if parent in self._open and number not in self._open and census.holds_images(number):
                class_levels.add(level)
        return _Reading(labels, self._split_level, class_levels)

    def _label(self, number: int, above: Label, level: int) -> Label:
        """The label of a directory, by that of the one above it."""
        if number in self._splits:
            return Label(self._splits[number], None)
        is_below_open = self._census.parent(number) in self._open
        if not is_below_open and (not self._splits or level != self._split_level):
            return above
        if number in self._between or self._is_wrapper(number, above.split):
            self._open.add(number)
            return above
        return Label(above.split, self._census.name(number))

    def _singles(self, tops: dict[int, bytes | None]) -> set[int]:
        """Directories between splits and classes that are alone, called the same in all splits, and hold no images."""
        census = self._census
        found: set[int] = set()
        inner = {top: top for top in tops}
        while True:
            alone: dict[int, int] = {}
            for top, split in tops.items():
                match list(islice(self._at_class_level(inner[top], split), 2)):
                    case [number] if number != inner[top] and not census.holds_itself(number):
                        alone[top] = number
            if len(alone) < len(tops) or len({census.name(number) for number in alone.values()}) > 1:
                return found
            found.update(alone.values())
            inner = alone

    def _at_class_level(self, top: int, split: bytes | None) -> Iterator[int]:
        """The directories below one that may be classes, and the one itself where there are images beside these."""
        census = self._census
        numbers = [top]
        for number in numbers:  # which grows meanwhile
            if census.holds_itself(number):
                yield top
            for child in census.children(number):
                if census.holds_images(child):
                    if self._is_wrapper(child, split):
                        numbers.append(child)
                    else:
                        yield child

    def _is_wrapper(self, number: int, split: bytes | None) -> bool:
        """Whether a directory below a split, or beside splits, is no class by its name."""
        name, parent = self._census.name(number), self._census.parent(number)
        if is_for_images(name):  # beside others it is a class, of photos and sketches say
            return self._holders_in(parent).are_for_images
        return split is not None and split in split_words(name) and self._holders_in(parent).single == number

    def _holders_in(self, parent: int) -> _Holders:
        found = self._holders.get(parent)
        if found is None:
            census = self._census
            holders = [number for number in census.children(parent) if census.holds_images(number)]
            found = self._holders[parent] = _Holders(
                holders[0] if len(holders) == 1 and not census.holds_itself(parent) else None,
                all(is_for_images(census.name(number)) for number in holders if number not in self._splits),
            )
        return found


def _counts_beside(splits: Collection[bytes]) -> bool:
    """Whether what lies beside splits is likely to be what is trained on, or held back."""
    meant = [split_of(split) or split for split in splits]
    return len(splits) == 1 or not any(split in _COMPLETE or split.startswith(FOLD) for split in meant)


# -- by a pattern ----------------------------------------------------------------------------------------------------


def _by_pattern(census: Census, pattern: Pattern) -> _Reading:
    labels = {ROOT_NODEID: _NO_LABEL}
    levels = {ROOT_NODEID: 0}
    class_levels: set[int] = set()
    unfit: set[int] = set()
    at_split_level: dict[int, bytes] = {}
    for number in census.directories[1:]:
        parent, name = census.parent(number), census.name(number)
        level = levels[number] = levels[parent] + 1
        beside = name if level == pattern.split_level else at_split_level.get(parent)
        if beside is not None:
            at_split_level[number] = beside
        match = None if parent in unfit else pattern.match(level, name)
        if match is None:
            unfit.add(number)
            labels[number] = Label(None, beside if pattern.has_class else None)
            continue
        above = labels[parent]
        labels[number] = Label(match.split or above.split, match.category or above.category)
        if match.category and census.holds_images(number):
            class_levels.add(level)
    return _Reading(labels, pattern.split_level, class_levels)


# -- what was asked for and cannot be done ---------------------------------------------------------------------------


_CURE = "say which are splits and classes with --layout, for example --layout '{split}/{class}'"


def refuse_unchecked(labels: Labels, census: Census, policy: Policy) -> None:
    """Errors: DatasetRefused when something was asked for that needs splits or classes that were not recognised."""
    dedup = policy.dedup
    for_splits = {
        f"--fail-on {Kind.LEAK}": Kind.LEAK in policy.fail_on,
        f"--dedup-scope {Scope.SPLIT}": dedup.scope is Scope.SPLIT,
        "--split-order": dedup.split_order != SPLIT_ORDER,
    }
    for_classes = {
        f"--fail-on {Kind.CONFLICT}": Kind.CONFLICT in policy.fail_on,
        f"--conflicts {dedup.conflicts}": dedup.conflicts is not Conflicts.FIRST,
    }
    if not labels.has_splits:
        _refuse(for_splits, "no split is recognised", census)
    if labels.most_classes < (1 if dedup.layout.pattern is not None else 2):
        _refuse(for_classes, "no two classes of one split are recognised", census)


def _refuse(asked: dict[str, bool], cause: str, census: Census) -> None:
    option = next((option for option, is_asked in asked.items() if is_asked), None)
    if option is not None:
        raise DatasetRefused(f"{option} cannot be done, for {cause}: {_seen(census)}", _CURE)


def _seen(census: Census) -> str:
    """Which directories hold images: those of the first level where there are several."""
    parent = ROOT_NODEID
    while True:
        holders = [number for number in census.children(parent) if census.holds_images(number)]
        if len(holders) != 1 or census.holds_itself(parent):
            break
        (parent,) = holders
    if not holders:
        where = os.fsdecode(census.path(parent)) or "the dataset itself"
        return f"only {where} holds images" if census.holds_itself(parent) else "no directory holds images"
    names = _listed([census.path(number) for number in holders])
    return f"the {'directory' if len(holders) == 1 else 'directories'} that hold images are {names}"


def _listed(names: Sequence[bytes]) -> str:
    """Some names, and a sign where they are not all."""
    shown = [os.fsdecode(name) for name in names[:_MAX_NAMED]]
    return ", ".join([*shown, "…"] if len(names) > _MAX_NAMED else shown)


def _counted(classes: int) -> str:
    return "no classes" if classes == 0 else f"{classes:,} {'class' if classes == 1 else 'classes'}"


# -- the order of splits ---------------------------------------------------------------------------------------------


def split_rank(split: bytes | None, order: Sequence[bytes]) -> int:
    """Where a split stands in the user's order: behind all that it names if it names it not, last if it is none.

    A name of a split in the order also means the others of its line in `SPLIT_MEANINGS`.
    """
    if split is None:
        return len(order) + 1
    if split in order:
        return order.index(split)
    meanings = [_meaning(name) for name in order]
    return meanings.index(_meaning(split)) if _meaning(split) in meanings else len(order)


def _meaning(name: bytes) -> bytes:
    split = split_of(name) or name
    return _MEANING.get(split, split)
