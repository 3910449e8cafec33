"""Which of the same images is shown, against an oracle that compares every file with every other."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import os
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symfuse.census import Census
from symfuse.dataset import Dataset
from symfuse.dedup import Deduplicator
from symfuse.identity.verdict import DIGEST_BYTES
from symfuse.layout import Labels
from symfuse.policy import BrokenImages, Conflicts, Dedup, Finding, Kind, Policy, SameBy, Scope
from symfuse.sameness import Sources, same_bytes
from symfuse.selection import select
from symfuse.view import ROOT_NODEID, View
from tests.support.invariants import check
from tests.support.trees import Entry, Name, hardlink, link, tree


def frozen(root: Path) -> View:
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    return view


def deduplicated(root: Path, dedup: Dedup) -> View:
    view = frozen(root)
    sources = Sources(view)

    def digests(nodeids: Sequence[int]) -> bytearray:
        found = bytearray()
        for nodeid in nodeids:
            content = (root / os.fsdecode(view.path(nodeid))).read_bytes()
            found += hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
        return found

    same = same_bytes(sources, sources.rest(), digests) if dedup.same_by is SameBy.BYTES else ()
    Deduplicator(view, dedup, Labels(Census(view), dedup.layout)).apply(sources.groups(same))
    return view


def shown(view: View, nodeid: int = ROOT_NODEID) -> Iterator[str]:
    for _, node, _ in view.listing(nodeid):
        if node.is_directory:
            yield from shown(view, node.nodeid)
        else:
            yield os.fsdecode(view.path(node.nodeid))


def what_is_shown(root: Path, dedup: Dedup) -> list[str]:
    view = deduplicated(root, dedup)
    check(view)
    return sorted(shown(view))


BYTES = Dedup(same_by=SameBy.BYTES)
TARGET = Dedup(same_by=SameBy.TARGET)

# -- what is the same --------------------------------------------------------------------------------------------------


def test_links_and_hard_links_are_the_same_target_and_copies_are_not(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset",
        {
            "cat": {
                "real.jpg": b"A",
                "link.jpg": link("real.jpg"),
                "hard.jpg": hardlink("cat/real.jpg"),
                "copy.jpg": b"A",
                "other.jpg": b"B",
            }
        },
    )
    assert what_is_shown(root, TARGET) == ["cat/copy.jpg", "cat/hard.jpg", "cat/other.jpg"], (
        "hard comes before real, by path"
    )
    assert what_is_shown(root, BYTES) == ["cat/copy.jpg", "cat/other.jpg"]


def test_a_file_in_a_linked_directory_is_the_same_as_in_the_directory_itself(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": link("b"), "b": {"f.jpg": b"A"}})
    assert what_is_shown(root, replace(TARGET, scope=Scope.ALL)) == ["b/f.jpg"], "the real one stays"


# -- scopes and layouts ------------------------------------------------------------------------------------------------

SPLITS: dict[Name, Entry] = {
    "train": {"cat": {"1.jpg": b"A", "2.jpg": b"A"}, "dog": {"3.jpg": b"A"}},
    "val": {"cat": {"4.jpg": b"A", "5.jpg": b"A"}},
}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope.CLASS, ["train/cat/1.jpg", "train/dog/3.jpg", "val/cat/4.jpg"]),
        (Scope.SPLIT, ["train/cat/1.jpg", "val/cat/4.jpg"]),
        (Scope.ALL, ["train/cat/1.jpg"]),
    ],
)
def test_of_the_same_images_in_a_scope_one_is_shown(tmp_path: Path, scope: Scope, expected: list[str]) -> None:
    root = tree(tmp_path / "dataset", SPLITS)
    assert what_is_shown(root, replace(BYTES, scope=scope)) == expected


def test_what_lies_beside_the_splits_comes_last_and_leaks(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset",
        {
            "store": {"a.jpg": b"A", "b.jpg": b"B"},
            "train": {"cat": {"a.jpg": link("../../store/a.jpg")}},
            "val": {"cat": {"c.jpg": b"C"}},
        },
    )
    view = deduplicated(root, replace(TARGET, scope=Scope.ALL))
    assert sorted(shown(view)) == ["store/b.jpg", "train/cat/a.jpg", "val/cat/c.jpg"]
    assert view.progress().findings == {Finding.LEAK: 1}
    assert view.progress().hidden == {Kind.LEAK: 1}


# -- which one stays ---------------------------------------------------------------------------------------------------


def test_real_files_come_before_links_and_then_the_path_decides(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset",
        {"cat": {"a.jpg": link("z.jpg"), "y.jpg": b"A", "z.jpg": b"A", "b": {"x.jpg": b"B", "w.jpg": b"B"}}},
    )
    assert what_is_shown(root, BYTES) == ["cat/b/w.jpg", "cat/y.jpg"]


def test_preferred_globs_come_first_in_their_order(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"cat": {"a.jpg": b"A", "b.png": b"A", "c.bmp": b"A"}})
    assert what_is_shown(root, replace(BYTES, prefer=(b"*.webp", b"*.bmp", b"*.png"))) == ["cat/c.bmp"]
    assert what_is_shown(root, replace(BYTES, prefer=(b"cat/b*",))) == ["cat/b.png"]
    assert what_is_shown(root, replace(BYTES, prefer=(b"b*", b"/cat/c*"))) == ["cat/c.bmp"]


def test_splits_come_in_their_order_by_any_of_their_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {name: {"cat": {"f.jpg": b"A"}} for name in ("testing", "training", "valid")})
    everywhere = replace(BYTES, scope=Scope.ALL)
    assert what_is_shown(root, everywhere) == ["training/cat/f.jpg"]
    assert what_is_shown(root, replace(everywhere, split_order=(b"test", b"val"))) == ["testing/cat/f.jpg"]
    assert what_is_shown(root, replace(everywhere, split_order=(b"valid",))) == ["valid/cat/f.jpg"]


# -- conflicts and leaks -----------------------------------------------------------------------------------------------

CONFLICT: dict[Name, Entry] = {
    "train": {"cat": {"1.jpg": b"A", "2.jpg": b"B"}, "dog": {"3.jpg": b"A", "4.jpg": b"C"}},
    "val": {"cat": {"5.jpg": b"A", "6.jpg": b"D"}},
}


@pytest.mark.parametrize(
    ("conflicts", "scope", "expected"),
    [
        (
            Conflicts.FIRST,
            Scope.CLASS,
            ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "train/dog/4.jpg", "val/cat/5.jpg"],
        ),
        (Conflicts.FIRST, Scope.SPLIT, ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/4.jpg", "val/cat/5.jpg"]),
        (
            Conflicts.KEEP,
            Scope.SPLIT,
            ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "train/dog/4.jpg", "val/cat/5.jpg"],
        ),
        (Conflicts.DROP, Scope.SPLIT, ["train/cat/2.jpg", "train/dog/4.jpg", "val/cat/5.jpg"]),
        (Conflicts.FIRST, Scope.ALL, ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/4.jpg"]),
        (Conflicts.KEEP, Scope.ALL, ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "train/dog/4.jpg"]),
        (Conflicts.DROP, Scope.ALL, ["train/cat/2.jpg", "train/dog/4.jpg"]),
    ],
)
def test_an_image_under_several_classes(
    tmp_path: Path, conflicts: Conflicts, scope: Scope, expected: list[str]
) -> None:
    root = tree(tmp_path / "dataset", CONFLICT)
    view = deduplicated(root, replace(BYTES, scope=scope, conflicts=conflicts))
    assert sorted(shown(view)) == [*expected, "val/cat/6.jpg"]
    progress = view.progress()
    assert progress.findings == {Finding.CONFLICT: 1, Finding.LEAK: 1}, "whatever is hidden"
    assert progress.finding_examples == {
        Finding.CONFLICT: ["train/cat/1.jpg, train/dog/3.jpg"],
        Finding.LEAK: ["train/cat/1.jpg, val/cat/5.jpg"],
    }


def test_what_is_hidden_has_its_kind_and_what_stands_for_it(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "dataset", {"train": {"cat": {"1.jpg": b"A", "2.jpg": b"A"}}, "val": {"cat": {"3.jpg": b"A"}}}
    )
    view = deduplicated(root, replace(BYTES, scope=Scope.ALL))
    assert view.progress().examples == {Kind.DUPLICATE: ["train/cat/2.jpg"], Kind.LEAK: ["val/cat/3.jpg"]}
    assert view.progress().hidden == {Kind.DUPLICATE: 1, Kind.LEAK: 1}
    val = view.lookup(ROOT_NODEID, b"val")
    assert val is not None
    cat = view.lookup(val.nodeid, b"cat")
    assert cat is not None, "a class stays even when all of it is hidden"
    place = view.find(cat.nodeid, b"3.jpg")
    assert place is not None
    assert view.path(view.stand_in(cat.nodeid, place)) == b"train/cat/1.jpg"


# -- random trees ------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file as the oracle sees it: through the kernel, by its path."""

    path: str
    is_linked: bool
    target: tuple[int, int]
    content: bytes


def files_of(root: Path) -> list[File]:
    found = []
    for directory, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(directory) / name
            status = path.stat()
            is_linked = os.path.realpath(path) != os.path.join(os.path.realpath(root), path.relative_to(root))
            relative = str(path.relative_to(root))
            found.append(File(relative, is_linked, (status.st_dev, status.st_ino), path.read_bytes()))
    return found


def oracle(files: list[File], dedup: Dedup) -> list[str]:
    """What must be shown of a dataset whose first level is train, val and test."""

    def same(one: File, other: File) -> bool:
        return one.target == other.target or (dedup.same_by is SameBy.BYTES and one.content == other.content)

    def scope(file: File) -> Sequence[str]:
        return file.path.split("/")[: {Scope.CLASS: 2, Scope.SPLIT: 1, Scope.ALL: 0}[dedup.scope]]

    def rank(file: File) -> tuple[int, int, bool, bytes]:
        globs = [number for number, glob in enumerate(dedup.prefer) if fnmatch.fnmatchcase(file.path, glob.decode())]
        split = dedup.split_order.index(file.path.split("/")[0].encode())
        return min(globs, default=len(dedup.prefer)), split, file.is_linked, os.fsencode(file.path)

    def conflicts(copies: list[File], split: str | None = None) -> bool:
        labels = {tuple(copy.path.split("/")[:2]) for copy in copies}
        return any(
            one[0] == other[0] and one[1] != other[1] and split in (None, one[0])
            for one, other in itertools.combinations(labels, 2)
        )

    kept = []
    for file in files:
        copies = [other for other in files if same(file, other) and scope(file) == scope(other)]
        first = min(copies, key=rank)
        split = first.path.split("/")[0]
        if dedup.scope is not Scope.CLASS and dedup.conflicts is Conflicts.DROP and conflicts(copies):
            continue
        if dedup.scope is not Scope.CLASS and dedup.conflicts is Conflicts.KEEP and conflicts(copies, split):
            kept += [file.path] if file.path.startswith(f"{split}/") else []
        elif file is first:
            kept.append(file.path)
    return sorted(kept)


SOURCES = [f"store{number}" for number in range(4)]
FILES = st.sampled_from([b"A", b"B", b"CC", b""]) | st.sampled_from(
    [link(f"../../../outside/{name}") for name in SOURCES] + [hardlink(f"../outside/{name}") for name in SOURCES]
)
CLASSES = st.dictionaries(st.sampled_from(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]), FILES, max_size=4)
TREES = st.fixed_dictionaries(
    {split: st.fixed_dictionaries({"cat": CLASSES, "dog": CLASSES}) for split in ("train", "val", "test")}
)
POLICIES = st.builds(
    Dedup,
    same_by=st.sampled_from([SameBy.TARGET, SameBy.BYTES]),
    scope=st.sampled_from(Scope),
    prefer=st.lists(st.sampled_from([b"*/dog/*", b"*/b.jpg", b"val/*"]), max_size=2, unique=True).map(tuple),
    split_order=st.permutations([b"train", b"val", b"test"]).map(tuple),
    conflicts=st.sampled_from([Conflicts.FIRST, Conflicts.KEEP, Conflicts.DROP]),
)


@settings(max_examples=150, deadline=None)
@given(TREES, POLICIES, st.randoms(use_true_random=False))
def test_random_datasets_are_shown_as_the_oracle_says_in_whatever_order_they_were_made(
    drawn: dict[Name, Entry], dedup: Dedup, order: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        outside: dict[Name, Entry] = {"store0": b"A", "store1": b"A", "store2": b"CC", "store3": b"D"}
        tree(Path(scratch) / "outside", outside)
        root = tree(Path(scratch) / "dataset", drawn)
        expected = oracle(files_of(root), dedup)
        assert what_is_shown(root, dedup) == expected
        again = tree(Path(scratch) / "again", shuffled(drawn, order))
        assert what_is_shown(again, dedup) == expected


def shuffled(entry: Entry, order: random.Random) -> Any:
    """The same tree, made in another order, so that the disk lists it in another."""
    if not isinstance(entry, dict):
        return entry
    names = list(entry)
    order.shuffle(names)
    return {name: shuffled(entry[name], order) for name in names}


# -- broken images -----------------------------------------------------------------------------------------------------


def test_a_file_is_an_image_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of garbage that is shown as `blob` and as `a.jpg`, the latter alone ends an epoch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tree(
        tmp_path / "dataset",
        {
            "cat": {"blob": b"garbage", "text": b"words"},
            "dog": {"a.jpg": link("../cat/blob"), "b.txt": link("../cat/text")},
        },
    )
    view = frozen(root)
    policy = Policy(broken_images=BrokenImages.HIDE)
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    assert sorted(shown(view)) == ["cat/blob", "cat/text", "dog/b.txt"]
    view.close()
