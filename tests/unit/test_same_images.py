"""Which of the same images is shown in random datasets, against an oracle that was written from semantics.md alone."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from symfuse.errors import DatasetRefused
from symfuse.explain import hidden_below
from symfuse.mounts.prepare import prepare
from symfuse.mounts.request import request
from symfuse.policy import Finding
from symfuse.view import ROOT_NODEID, View
from tests.support.random_trees import literal, random_options, random_tree, shrunk
from tests.support.same_images import DEFAULT_ORDER, Answer, Options, answer
from tests.support.trees import Entry, Name, tree

#: Trees in one test, and tests. All of them take less than a minute on two processors.
TREES, TESTS = 100, 10
#: Splits that the summary names.
MAX_NAMED = 5


def keywords(options: Options) -> dict[str, Any]:
    """The options as `symfuse.mounted` takes them."""
    return dataclasses.asdict(options)


def prepared(root: Path, options: Options) -> View:
    """The view as a mount would show it. Errors: DatasetRefused."""
    asked = request(root, root.parent / "mountpoint", **keywords(options))
    return prepare(asked, lambda _event: None, threading.Event())


def files_shown(view: View, nodeid: int = ROOT_NODEID) -> set[str]:
    found: set[str] = set()
    for _, node, _ in view.listing(nodeid):
        found |= files_shown(view, node.nodeid) if node.is_directory else {os.fsdecode(view.path(node.nodeid))}
    return found


#: The sentence of a layout that has splits.
SAID = re.compile(
    r"splits: (?P<splits>.*?) at (?:the (?P<word>first|second|third) level|levels? (?P<levels>[0-9]+(?:, [0-9]+)*))"
    r"(?P<one>, and what lies beside)?(?:, and beside them: (?P<beside>.*?))?"
    r"(?:, and where their images lie: .*)?; [^;]*"
)


def layout_said(sentence: str) -> tuple[list[str], list[int], list[str], int]:
    """The splits, their levels, what lies beside them (something without a name as one), and the number of classes."""
    classes = re.search(r"([0-9]+) class", sentence)
    number = int(classes[1]) if classes else 0
    said = SAID.fullmatch(sentence)
    if said is None:
        return [], [], [], number
    levels = said["levels"] or str({"first": 1, "second": 2, "third": 3}[said["word"]])
    beside = [""] if said["one"] else said["beside"].split(", ") if said["beside"] else []
    return said["splits"].split(", "), [*map(int, levels.split(", "))], beside, number


def got(root: Path, options: Options) -> Answer:
    """What the mount shows, in the words of the oracle."""
    try:
        view = prepared(root, options)
    except DatasetRefused as error:
        return Answer(refused={str(error)})
    findings = view.progress().findings
    hidden = {entry["path"]: (entry["kind"], entry["shown_instead"]) for entry in hidden_below(view, b"")["hidden"]}
    try:
        return Answer(
            files_shown(view),
            hidden,
            findings[Finding.CONFLICT],
            findings[Finding.LEAK],
            *layout_said(view.progress().layout or ""),
        )
    finally:
        view.close()


def differences(entries: dict[Name, Entry], options: Options) -> list[str]:
    """What the oracle says otherwise, in lines."""
    with tempfile.TemporaryDirectory() as scratch:
        root = tree(Path(scratch) / "dataset", entries)
        expected, found = answer(str(root), options), got(root, options)
    if expected.refused or found.refused:
        is_same = bool(expected.refused) == bool(found.refused)
        return [] if is_same else [f"refused: {sorted(expected.refused)} expected, got {sorted(found.refused)}"]
    lines = [f"shown and should not be: {path}" for path in sorted(found.shown - expected.shown)]
    lines += [f"not shown: {path}" for path in sorted(expected.shown - found.shown)]
    for path in sorted({*expected.hidden, *found.hidden}):
        if expected.hidden.get(path) != found.hidden.get(path):
            lines.append(f"hidden: {path}: {expected.hidden.get(path)} expected, got {found.hidden.get(path)}")
    for said, named in ((expected.splits, found.splits), (expected.beside, found.beside)):
        if named[MAX_NAMED:] == ["…"]:
            said[MAX_NAMED:] = ["…"]
    for word in ("conflicts", "leaks", "splits", "levels", "beside", "classes"):
        if getattr(expected, word) != getattr(found, word):
            lines.append(f"{word}: {getattr(expected, word)} expected, got {getattr(found, word)}")
    return lines


def mild(options: Options) -> Options:
    """The same options without those for which a mount is refused."""
    scope = "all" if options.dedup_scope == "split" else options.dedup_scope
    return dataclasses.replace(
        options, dedup_scope=scope, layout="auto", split_order=DEFAULT_ORDER, conflicts="first", fail_on=()
    )


def report(seed: int) -> str | None:
    """Nothing where a random dataset is shown as it should be, or the smallest tree like it that is not.

    What may be refused is compared once more with options that refuse nothing but what cannot be decided.
    """
    draw = random.Random(seed)
    entries, drawn = random_tree(draw), random_options(draw)
    options = next((each for each in dict.fromkeys((drawn, mild(drawn))) if differences(entries, each)), None)
    if options is None:
        return None

    def fails(smaller: dict[Name, Entry]) -> bool:
        try:
            return bool(differences(smaller, options))
        except OSError:  # a link that leads nowhere now
            return False

    smallest = shrunk(entries, fails)
    lines = [f"seed {seed}", literal(smallest), repr(options), *differences(smallest, options)]
    return "\n  ".join(lines)


@pytest.mark.parametrize("part", range(TESTS))
def test_random_datasets_are_shown_as_the_oracle_says(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = [said for seed in range(part * TREES, (part + 1) * TREES) if (said := report(seed)) is not None]
    assert not found, "\n".join([f"{len(found)} of {TREES} trees differ:", *found[:3]])
