"""Which of the same images a real mount shows of random datasets, against the oracle from semantics.md alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, WAYS
from tests.support.pictures import shown
from tests.support.random_trees import random_options, random_tree
from tests.support.same_images import Options, answer
from tests.support.trees import Entry, Name, tree

pytestmark = pytest.mark.usefixtures("fuse")

#: Random datasets that are mounted, and that must be refused, of the numbers from 1,000,000 on.
MOUNTED, REFUSED, FIRST_SEED = 12, 3, 1_000_000


def drawn(seed: int) -> tuple[dict[Name, Entry], Options]:
    draw = random.Random(seed)
    return random_tree(draw), random_options(draw)


def words(options: Options) -> list[str]:
    """The options of the command line."""
    said = ["--dedup", options.dedup, "--dedup-scope", options.dedup_scope, "--layout", options.layout]
    said += ["--split-order", ",".join(options.split_order), "--conflicts", options.conflicts]
    said += ["--side-files", options.side_files, "--dot-entries", options.dot_entries]
    for name, values in (
        ("--hide", options.hide),
        ("--show", options.show),
        ("--prefer", options.prefer),
        ("--fail-on", options.fail_on),
    ):
        said += [word for value in values for word in (name, value)]
    return said


def seeds(directory: Path, number: int, *, refused: bool) -> list[int]:
    """The first random datasets that are refused, or that are not and have something hidden for its content."""
    found: list[int] = []
    seed = FIRST_SEED
    while len(found) < number:
        entries, options = drawn(seed)
        said = answer(str(tree(directory / str(seed), entries)), options)
        hides = any(kind in {"duplicate", "leak", "conflict"} for kind, _ in said.hidden.values())
        if bool(said.refused) == refused and (refused or hides):
            found.append(seed)
        seed += 1
    return found


def test_random_datasets_are_mounted_as_the_oracle_says(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    for seed in seeds(tmp_path / "drawn", MOUNTED, refused=False):
        entries, options = drawn(seed)
        dataset = tree(tmp_path / f"dataset {seed}", entries)
        expected = answer(str(dataset), options)
        mount = symfuse_mount(dataset, *words(options))
        assert shown(mount.path) == sorted(expected.shown), (seed, options)
        frozen = mount.status()["frozen"]
        assert frozen["hidden"] == Counter(kind for kind, _ in expected.hidden.values()), (seed, options)
        counted = (frozen["findings"].get("conflict", 0), frozen["findings"].get("leak", 0))
        assert counted == (expected.conflicts, expected.leaks), (seed, options)
        mount.umount()


@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_random_datasets_are_refused_as_the_oracle_says(backend: str, mountpoint: Path, tmp_path: Path) -> None:
    for seed in seeds(tmp_path / "drawn", REFUSED, refused=True):
        entries, options = drawn(seed)
        dataset = tree(tmp_path / f"dataset {seed}", entries)
        done = MYSELF.symfuse("mount", *WAYS[backend], *words(options), "--", dataset, mountpoint, check=False)
        assert done.returncode == ExitStatus.REFUSED, (seed, options, done.stderr)
