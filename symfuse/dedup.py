"""Which of several same images is shown.

Of the same images in one scope (a class, a split, everything) one is shown: the first by `--prefer`, then by the order
of splits, then real files before those behind links or linked directories, then by path. Nothing else decides, so the
same dataset always gives the same view. Nothing is ever deleted: what is hidden is noted in the view.

One image under several classes of one split is a conflict, one image in several splits a leak. Both are counted,
whatever the scope. What lies beside the splits counts, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from symfuse.layout import Label, Labels, split_rank
from symfuse.policy import Conflicts, Dedup, Finding, Kind, Scope
from symfuse.rules import Glob
from symfuse.view import View


class Copy(NamedTuple):
    """One file of several that are the same image. In sorted order, what is shown comes first."""

    preference: int
    split_rank: int
    is_linked: bool
    path: bytes
    label: Label
    nodeid: int


class DirectoryOfCopies(NamedTuple):
    """What the copies of one directory have in common. `prefix` makes a name a path."""

    prefix: bytes
    label: Label
    split_rank: int
    is_linked: bool


class Deduplicator:
    """Hides same images in a frozen view, before it is mounted."""

    def __init__(self, view: View, dedup: Dedup, labels: Labels) -> None:
        self._view = view
        self._dedup = dedup
        self._preferred = list(map(Glob, dedup.prefer))
        self._labels = labels
        self._directories: dict[int, DirectoryOfCopies] = {}

    def apply(self, groups: Iterable[list[int]]) -> None:
        """Hide what is to be hidden of groups of the same image, each the nodeids of two files or more."""
        for group in groups:
            copies = sorted(map(self._copy, group))
            if any(copy.label != copies[0].label for copy in copies):
                self._report(copies)
            for same in self._scopes(copies):
                self._hide(same)

    def _copy(self, nodeid: int) -> Copy:
        number, name, is_link = self._view.entry(nodeid)
        directory = self._directories.get(number)
        if directory is None:
            directory = self._directories[number] = self._directory(number)
        path = directory.prefix + name
        globs = self._preferred
        preference = next((n for n, glob in enumerate(globs) if glob.fits(path)), len(globs))
        return Copy(preference, directory.split_rank, is_link or directory.is_linked, path, directory.label, nodeid)

    def _directory(self, number: int) -> DirectoryOfCopies:
        label = self._labels.of(number)
        path = self._view.path(number)
        rank = split_rank(label.split, self._dedup.split_order)
        return DirectoryOfCopies(path and path + b"/", label, rank, self._view.directory(number).repeats)

    def _report(self, copies: list[Copy]) -> None:
        """Count what is wrong with copies of one image that are in several classes or splits."""
        conflict = self._conflict(copies)
        if conflict:
            split = conflict[0].label.split
            others = [copy for copy in copies if copy.label.category is not None and copy.label.split == split]
            self._view.report(Finding.CONFLICT, _nodeids(conflict, others), named=len(conflict))
        splits: dict[bytes | None, Copy] = {}
        counted = [copy for copy in copies if copy.label.split not in self._labels.stores]
        for copy in counted:
            splits.setdefault(copy.label.split, copy)
        if len(splits) > 1:
            self._view.report(Finding.LEAK, _nodeids(splits.values(), counted), named=len(splits))

    def _conflict(self, copies: Iterable[Copy]) -> list[Copy]:
        """A copy from each class of a split that has several of them, if there is such a split."""
        splits: defaultdict[bytes | None, dict[bytes, Copy]] = defaultdict(dict)
        for copy in copies:
            split, category = copy.label
            if category is not None and split not in self._labels.stores:
                splits[split].setdefault(category, copy)
        return next((list(classes.values()) for classes in splits.values() if len(classes) > 1), [])

    def _scopes(self, copies: list[Copy]) -> Iterable[list[Copy]]:
        """The copies of each scope, in their order."""
        scopes: defaultdict[object, list[Copy]] = defaultdict(list)
        for copy in copies:
            scopes[self._scope(copy.label)].append(copy)
        return scopes.values()

    def _scope(self, label: Label) -> object:
        if self._dedup.scope is Scope.CLASS:
            return label
        return label.split if self._dedup.scope is Scope.SPLIT else None

    def _hide(self, same: list[Copy]) -> None:
        """Hide all copies of one scope but the first, or what `--conflicts` says instead."""
        first, others = same[0], same[1:]
        split = first.label.split
        conflicts = Conflicts.FIRST if self._dedup.scope is Scope.CLASS else self._dedup.conflicts
        if conflicts is Conflicts.DROP and self._conflict(same):
            for copy in same:
                self._view.hide(copy.nodeid, Kind.CONFLICT)
            return
        if conflicts is Conflicts.KEEP and self._conflict(copy for copy in same if copy.label.split == split):
            others = [copy for copy in others if copy.label.split != split]
        for copy in others:
            is_leak = copy.label.split != split and self._labels.stores.isdisjoint((copy.label.split, split))
            kind = Kind.LEAK if is_leak else Kind.DUPLICATE
            self._view.hide(copy.nodeid, kind, stand_in=first.nodeid)


def _nodeids(first: Iterable[Copy], others: Iterable[Copy]) -> list[int]:
    """The nodeids of copies, each once; those of the first stand at the beginning."""
    return list(dict.fromkeys(copy.nodeid for copy in (*first, *others)))
