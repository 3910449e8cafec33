"""What the levels of a dataset's directories mean: which split and which class a directory's files belong to.

Read from the names of directories that hold images, or as a pattern says, before anything is hidden.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple, TypeGuard

from symfuse.census import Census
from symfuse.errors import DatasetRefused
from symfuse.pattern import Pattern
from symfuse.policy import SPLIT_ORDER, Conflicts, Kind, Layout, Policy, Scope
from symfuse.view import ROOT_NODEID
from symfuse.words import FOLD, SPLIT_MEANINGS, SPLIT_WORDS, is_for_images, rest_of_split, split_of, split_words

_MEANING = {name: names[0] for names in SPLIT_MEANINGS for name in names}
#: Where one of several splits is called so, what lies beside them is likely not to be what is trained on, and
#: each directory there is a split of its own.
_COMPLETE = frozenset({b"train", b"training", b"trainval", b"query", b"gallery"})
#: What a name must have to be a split's; most have none of it.
_HINT = re.compile(b"|".join([*SPLIT_WORDS, FOLD]), re.IGNORECASE)
_LEVELS = {1: "the first level", 2: "the second level", 3: "the third level"}
#: Names said of many.
_MAX_NAMED = 5


class Label(NamedTuple):
    """The split and the class of files; None where they have none.

    A directory beside the splits that is one of its own has its path for its name, behind a slash: no other split can
    be called so.
    """

    split: bytes | None
    category: bytes | None


_NO_LABEL = Label(None, None)


class _Reading(NamedTuple):
    """The labels of all directories, by nodeid; the levels, from 1, of splits and of classes, if there are any."""

    labels: dict[int, Label]
    split_levels: Collection[int]
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
        #: The splits that have names, in their order.
        self.splits = sorted({label.split for label in self._found if _is_named(label.split)})
        #: What lies beside the splits, and links of splits lead into. It counts for nothing.
        self.stores: set[bytes | None] = set()
        if self._pattern is not None and not (self.splits if self._pattern.has_split else self._classes()):
            text = os.fsdecode(layout.pattern or b"")
            cause = f"--layout {text} fits no directory that holds images: {_seen(census)}"
            raise DatasetRefused(cause, _cure("splits and classes", _example(census, self._pattern.has_class)))

    def of(self, directory: int) -> Label:
        """The label of the files in a directory, by the directory's nodeid."""
        return self._reading.labels[directory]

    def find_stores(self, sources: Iterable[Iterable[tuple[int, bool]]]) -> None:
        """Know what lies beside the splits and is where their images lie.

        `sources` has, for each source with several files, the directory of each file and whether it is seen through a
        link.
        """
        if not self.splits or _is_one_beside(self.splits):
            return
        # Only of what has files there is something to find; most often the root, which has no split, has none.
        left = {
            label.split
            for number, label in self._reading.labels.items()
            if not _is_named(label.split) and any(True for _ in self._census.files(number))
        }
        for files in sources:
            if not left:
                return
            seen = [(self.of(directory).split, is_linked) for directory, is_linked in files]
            if any(is_linked and _is_named(split) for split, is_linked in seen):
                found = {split for split, is_linked in seen if split in left and not is_linked}
                left -= found
                self.stores |= found

    @property
    def number_of_splits(self) -> int:
        """How many splits there are, with those that lie beside."""
        return len({label.split for label in self._found} - self.stores) if self.splits else 0

    @property
    def most_classes(self) -> int:
        """How many classes the split has that has most of them."""
        return max(Counter(label.split for label in self._classes()).values(), default=0)

    def _classes(self) -> set[Label]:
        return {label for label in self._found if label.category is not None and label.split not in self.stores}

    def describe(self) -> str:
        """Which layout was taken: one line for the user."""
        categories = {label.category for label in self._classes()}
        classes = _counted(len(categories))
        if not self.splits:
            if not categories:
                return "no splits and no classes were recognised"
            return f"no splits; {classes}{_at(self._reading.class_levels)}"
        return f"splits: {_listed(self.splits)}{_at(self._reading.split_levels)}{self._and_beside()}; {classes}"

    def _and_beside(self) -> str:
        """What is said of what lies beside the splits."""
        paths = sorted(_path(split) for split in self.stores if _lies_beside(split))
        stores = f", and where their images lie: {_listed(paths)}" if paths else ""
        if self.number_of_splits == len(self.splits):
            return stores
        if _is_one_beside(self.splits):
            return ", and what lies beside"
        census = self._census
        beside = {_path(split) for split in {label.split for label in self._found} - self.stores if _lies_beside(split)}
        for number in census.directories:
            if census.holds_itself(number) and self.of(number).split is None and None not in self.stores:
                beside.add(census.path(number) or b".")
        return f", and beside them: {_listed(sorted(beside))}{stores}"


def _is_named(split: bytes | None) -> TypeGuard[bytes]:
    """Whether a split has a name of its own, not that of a path."""
    return split is not None and not _lies_beside(split)


def _lies_beside(split: bytes | None) -> TypeGuard[bytes]:
    """Whether a split is a directory beside the others."""
    return split is not None and split.startswith(b"/")


def _path(split: bytes) -> bytes:
    """Of a split that is called by its path."""
    return split.removeprefix(b"/")


def _is_one_beside(splits: Collection[bytes]) -> bool:
    """Whether what lies beside splits is one split without a name, for it is likely to be what is trained on."""
    meant = [split_of(split) or split for split in splits]
    return not any(split in _COMPLETE or split.startswith(FOLD) for split in meant)


def _topmost_beside(census: Census, in_splits: Collection[int]) -> dict[int, bytes]:
    """The topmost directories that hold images, none in a split, and as which splits they count."""
    with_splits: set[int] = set()
    for number in reversed(census.directories):
        is_in_split = census.holds_itself(number) and number in in_splits
        if is_in_split or not with_splits.isdisjoint(census.children(number)):
            with_splits.add(number)
    return {
        number: b"/" + census.path(number)
        for number in census.directories[1:]
        if number not in with_splits
        and number not in in_splits
        and (census.parent(number) in with_splits or census.parent(number) in in_splits)
        and census.holds_images(number)
    }


def _at(levels: Collection[int]) -> str:
    """Where splits or classes were found."""
    if len(levels) > 1:
        return f" at levels {', '.join(map(str, sorted(levels)))}"
    level = next(iter(levels))
    return f" at {_LEVELS.get(level, f'level {level}')}"


# -- by names --------------------------------------------------------------------------------------------------------


def _by_names(census: Census) -> _Reading:
    splits, level = _first_level(census, _are_several)
    if not splits:
        splits, level = _first_level(census, _is_one_alone)
    if not splits:
        return _Classes(census, {ROOT_NODEID: None}).read()
    in_splits = _spread(census, splits)
    if _is_one_beside({*splits.values()}):
        return _with_classes_above(census, splits, _Classes(census, {**splits}, level_beside=level).read())
    return _with_classes_above(census, splits, _Classes(census, {**splits}, _topmost_beside(census, in_splits)).read())


def _first_level(
    census: Census, has_splits: Callable[[Census, Sequence[int], Mapping[int, bytes]], bool]
) -> tuple[dict[int, bytes], int]:
    """The splits of the directories that are splits, and their level from 1; level 0 where there are none."""
    parents, level = [ROOT_NODEID], 1
    while parents:
        found: dict[int, bytes] = {}
        for parent in parents:
            holders = [each for each in census.children(parent) if census.holds_images(each)]
            named = {number: split for number in holders if (split := _split_named(census.name(number))) is not None}
            if named and has_splits(census, holders, named):
                found |= named
        if found:
            return found, level
        parents = [each for parent in parents for each in census.children(parent) if census.holds_below(each)]
        level += 1
    return {}, 0


def _split_named(name: bytes) -> bytes | None:
    return split_of(name) if _HINT.search(name) else None


def _are_several(census: Census, holders: Sequence[int], named: Mapping[int, bytes]) -> bool:
    """Whether directories are splits for there are several of a kind, or nothing else beside them."""
    if len({*named.values()}) == 1:
        return False
    if len(named) == len(holders):
        return True
    kinds: dict[frozenset[bytes], bytes] = {}
    return any(kinds.setdefault(rest_of_split(census.name(n)), split) != split for n, split in named.items())


def _is_one_alone(census: Census, holders: Sequence[int], named: Mapping[int, bytes]) -> bool:
    """Whether directories, of which no two are a kind, are one split for it is certain to be one."""
    is_alone = len(named) == len(holders) and len({*named.values()}) == 1
    return any(
        not rest_of_split(census.name(number)) and (is_alone or not census.holds_itself(number)) for number in named
    )


def _spread(census: Census, splits: dict[int, bytes]) -> set[int]:
    """Add to splits all directories elsewhere whose names say so and nothing else. All directories in splits."""
    above = _above(census, splits)
    found = set(splits)
    for number in census.directories[1:]:
        if census.parent(number) in found:
            found.add(number)
        elif number not in found and number not in above and census.holds_images(number):
            name = census.name(number)
            split = _split_named(name)
            if split is not None and not rest_of_split(name):
                splits[number] = split
                found.add(number)
    return found


def _above(census: Census, numbers: Iterable[int]) -> set[int]:
    """The directories in which some lie, at whatever depth; the root among them."""
    found = {ROOT_NODEID}
    for number in numbers:
        parent = census.parent(number)
        while parent not in found:
            found.add(parent)
            parent = census.parent(parent)
    return found


def _with_classes_above(census: Census, splits: Mapping[int, bytes], reading: _Reading) -> _Reading:
    """The directories that splits lie in as classes, where they are: `cat/train`, `dog/train`."""
    labels, names = reading.labels, {*splits.values()}
    levels = {_level(census, number) for number in splits}
    reading = _Reading(labels, levels, reading.class_levels)
    above = {census.parent(number) for number in splits}
    if len(above) == 1 or not above.isdisjoint(_above(census, above)):
        return reading
    if any(is_for_images(census.name(number)) for number in above) or any(
        label.category is not None and label.split in names and census.holds_itself(number)
        for number, label in labels.items()
    ):
        return reading
    classes: dict[int, bytes] = {}
    for number in census.directories[1:]:
        category = census.name(number) if number in above else classes.get(census.parent(number))
        if category is not None:
            classes[number] = category
            labels[number] = Label(labels[number].split, category)
    return reading


def _level(census: Census, number: int) -> int:
    """How deep a directory lies, from 1."""
    level = 0
    while number != ROOT_NODEID:
        number, level = census.parent(number), level + 1
    return level


class _Holders(NamedTuple):
    """What is known of the directories that hold images in some directory."""

    #: The one, where there is one alone, and no image beside it.
    single: int | None
    #: True where all of them are splits, or have words for images and no others.
    are_for_images: bool


class _Classes:
    """The classes below splits and beside them, or below the root where there are no splits."""

    def __init__(
        self,
        census: Census,
        splits: Mapping[int, bytes | None],
        beside: Mapping[int, bytes] = MappingProxyType({}),
        *,
        level_beside: int = 0,
    ) -> None:
        """Splits by their directories, or the root alone; those that lie beside, or else the level of classes there."""
        self._census = census
        self._splits = splits
        self._level_beside = level_beside
        self._holders: dict[int, _Holders] = {}  # asked for once: a directory may have a hundred thousand others
        self._tops: dict[int, bytes | None] = {**splits, **beside}
        self._between = self._singles(splits)
        for top, split in beside.items():
            self._between |= self._singles({top: split})
        self._open = {*self._tops}  # directories that have a split, or need none, and no class

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
        return _Reading(labels, (), class_levels)

    def _label(self, number: int, above: Label, level: int) -> Label:
        """The label of a directory, by that of the one above it."""
        if number in self._tops:
            return Label(self._tops[number], None)
        is_beside = above.split is None and level == self._level_beside
        if not is_beside and self._census.parent(number) not in self._open:
            return above
        if number in self._between or self._is_wrapper(number, above.split):
            self._open.add(number)
            return above
        return Label(above.split, self._census.name(number))

    def _singles(self, tops: Mapping[int, bytes | None]) -> set[int]:
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
        is_again = split is not None and (
            name == split.rpartition(b"/")[2] if _lies_beside(split) else split in split_words(name)
        )
        return is_again and self._holders_in(parent).single == number

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


# -- by a pattern ----------------------------------------------------------------------------------------------------


def _by_pattern(census: Census, pattern: Pattern) -> _Reading:
    labels = {ROOT_NODEID: _NO_LABEL}
    levels = {ROOT_NODEID: 0}
    class_levels: set[int] = set()
    fitting = {ROOT_NODEID}
    for number in census.directories[1:]:
        parent = census.parent(number)
        level = levels[number] = levels[parent] + 1
        match = pattern.match(level, census.name(number)) if parent in fitting else None
        if match is None:
            labels[number] = _NO_LABEL
            continue
        fitting.add(number)
        above = labels[parent]
        labels[number] = Label(match.split or above.split, match.category or above.category)
        if match.category and census.holds_images(number):
            class_levels.add(level)
    if pattern.has_split:
        _label_beside(census, pattern, labels, levels)
    return _Reading(labels, [pattern.split_level], class_levels)


def _label_beside(census: Census, pattern: Pattern, labels: dict[int, Label], levels: Mapping[int, int]) -> None:
    """Say of what lies beside the splits that a pattern finds what splits and classes are there."""
    in_splits = {number for number, label in labels.items() if label.split is not None}
    splits = {labels[number].split or b"" for number in in_splits if census.holds_itself(number)}
    is_one = _is_one_beside(splits)
    tops = {} if is_one else _topmost_beside(census, in_splits)
    categories: dict[int, bytes] = {}  # where the pattern finds none
    for number in census.directories[1:]:
        label, parent = labels[number], census.parent(number)
        is_class = levels[number] == pattern.split_level if is_one else parent in tops
        category = census.name(number) if is_class else categories.get(parent)
        if category is not None and pattern.has_class:
            categories[number] = category
        if number in in_splits:
            continue
        above = labels[parent]
        split = tops.get(number, above.split if _lies_beside(above.split) else None)
        labels[number] = Label(split, label.category or above.category or categories.get(number))


# -- what was asked for and cannot be done ---------------------------------------------------------------------------


def refuse_unchecked(labels: Labels, census: Census, policy: Policy) -> None:
    """Errors: DatasetRefused when something was asked for that needs splits or classes that were not recognised."""
    dedup = policy.dedup
    leak = f"--fail-on {Kind.LEAK}"
    for_splits = {
        leak: Kind.LEAK in policy.fail_on,
        f"--dedup-scope {Scope.SPLIT}": dedup.scope is Scope.SPLIT,
        "--split-order": dedup.split_order != SPLIT_ORDER,
    }
    for_classes = {
        f"--fail-on {Kind.CONFLICT}": Kind.CONFLICT in policy.fail_on,
        f"--conflicts {dedup.conflicts}": dedup.conflicts is not Conflicts.FIRST,
    }
    seen = _seen(census)
    if not labels.splits:
        _refuse(for_splits, f"no split is recognised: {seen}", _cure("splits", _example(census)))
    if labels.number_of_splits == 1:
        cause = f"only one split ({_listed(labels.splits)}) is recognised: {seen}"
        _refuse({leak: for_splits[leak]}, cause, "leave it out, or say the others with --layout")
    _refuse_unknown(dedup.split_order, labels.splits)
    if labels.most_classes < (1 if dedup.layout.pattern is not None else 2):
        cause = f"no two classes of one split are recognised: {seen}"
        _refuse(for_classes, cause, _cure("classes", _example(census, needs_classes=True)))


def _refuse(asked: dict[str, bool], cause: str, cure: str) -> None:
    option = next((option for option, is_asked in asked.items() if is_asked), None)
    if option is not None:
        raise DatasetRefused(f"{option} cannot be done, for {cause}", cure)


def _refuse_unknown(order: Sequence[bytes], splits: Sequence[bytes]) -> None:
    """Errors: DatasetRefused when a name in the order of splits is neither a split's nor means one."""
    unknown = next((name for name in order if name not in splits and split_of(name) is None), None)
    if unknown is not None:
        named = f"the splits are {_listed(splits)}" if len(splits) > 1 else f"the split is {_listed(splits)}"
        raise DatasetRefused(f"--split-order has {os.fsdecode(unknown)}, and there is no such split", named)


def _cure(what: str, example: str) -> str:
    say = f"say which are {what} with --layout"
    return f"{say}, for example --layout '{example}'" if example else f"leave it out, or {say}"


def _example(census: Census, has_class: bool = True, *, needs_classes: bool = False) -> str:
    """A pattern that fits the directories that hold images; empty where none would help."""
    above, holders = _first_holders(census)
    has_below = any(map(census.holds_below, holders))
    if len(holders) < 2 or (needs_classes and not has_below):
        return ""
    names = ["*"] * _level(census, above) + ["{split}"] + ["{class}"] * (has_class and has_below)
    return "/".join(names)


def _seen(census: Census) -> str:
    """Which directories hold images: those of the first level where there are several."""
    above, holders = _first_holders(census)
    if not holders:
        where = os.fsdecode(census.path(above)) or "the dataset itself"
        return f"only {where} holds images" if census.holds_itself(above) else "no directory holds images"
    names = _listed([census.path(number) for number in holders])
    if len(holders) == 1:
        return f"the directory that holds images is {names}"
    return f"the directories that hold images are {names}"


def _first_holders(census: Census) -> tuple[int, list[int]]:
    """The first directory in which not a single one holds images, and those that do."""
    above = ROOT_NODEID
    while True:
        holders = [number for number in census.children(above) if census.holds_images(number)]
        if len(holders) != 1 or census.holds_itself(above):
            return above, holders
        (above,) = holders


def _listed(names: Sequence[bytes]) -> str:
    """Some names, and a sign where they are not all."""
    shown = [os.fsdecode(name) for name in names[:_MAX_NAMED]]
    return ", ".join([*shown, "…"] if len(names) > _MAX_NAMED else shown)


def _counted(classes: int) -> str:
    return "no classes" if classes == 0 else f"{classes:,} {'class' if classes == 1 else 'classes'}"


# -- the order of splits ---------------------------------------------------------------------------------------------


def split_rank(split: bytes | None, order: Sequence[bytes]) -> int:
    """Where a split stands in the user's order: behind all that it names if it names it not, last if it lies beside.

    A name of a split in the order also means the others of its line in `SPLIT_MEANINGS`.
    """
    if not _is_named(split):
        return len(order) + 1
    if split in order:
        return order.index(split)
    meanings = [_meaning(name) for name in order]
    return meanings.index(_meaning(split)) if _meaning(split) in meanings else len(order)


def _meaning(name: bytes) -> bytes:
    split = split_of(name) or name
    return _MEANING.get(split, split)
