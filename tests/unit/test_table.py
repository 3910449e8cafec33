from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symfuse.dataset import Entry
from symfuse.policy import Kind
from symfuse.source.identity import Identity
from symfuse.table import CHUNK, Likeness, Table, Trait, Traits
from tests.support.trees import tree

NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


def status(*, mode: int = stat.S_IFREG | 0o644, size: int = 0, ino: int = 7) -> os.stat_result:
    times = {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0}
    return os.stat_result((mode, ino, 1, 1, 0, 0, size, 0, 0, 0), {"st_blocks": 0, **times})


LISTED = Identity.of(status(mode=stat.S_IFDIR | 0o755))


def frozen_table(entries: dict[bytes, Entry], traits: Traits | None = None) -> Table:
    """A table of these entries, all frozen."""
    made = Table([(name, False) for name in sorted(entries)], LISTED)
    for place in range(0, len(made), CHUNK):
        made.freeze(place, [entries[name] for name, _ in made.chunk(place)], traits or Traits())
    return made


def table(names: list[bytes]) -> Table:
    """A table of files; each one's size tells its place."""
    return frozen_table({name: Entry(status(size=place)) for place, name in enumerate(sorted(names))})


@given(st.lists(NAMES, unique=True))
def test_every_name_is_found_where_it_stands(names: list[bytes]) -> None:
    frozen = table(names)
    assert [frozen.name(place) for place in range(len(frozen))] == sorted(names)
    assert [frozen.find(name) for name in sorted(names)] == list(range(len(names)))
    assert [frozen.row(place).size for place in range(len(frozen))] == list(range(len(names)))


@given(st.lists(NAMES, unique=True), NAMES)
def test_no_other_name_is_found(names: list[bytes], other: bytes) -> None:
    assert (table(names).find(other) is not None) == (other in names)


def test_an_empty_directory_finds_nothing() -> None:
    assert len(table([])) == 0
    assert table([]).find(b"a") is None
    assert table([]).find(b"") is None


def test_attributes_come_back_as_they_were(tmp_path: Path) -> None:
    path = tree(tmp_path / "dataset", {"a": b"content"}) / "a"
    for time_ns in (0, -1, 1_700_000_000_123_456_789):
        os.utime(path, ns=(time_ns, time_ns))
        found = path.stat()
        row = frozen_table({b"a": Entry(found)}).row(0)
        assert (row.ino, row.size, row.blocks) == (found.st_ino, found.st_size, found.st_blocks)
        assert (row.atime_ns, row.mtime_ns, row.ctime_ns) == (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)


def test_the_largest_numbers_fit() -> None:
    row = frozen_table({b"a": Entry(status(size=(1 << 63) - 1, ino=(1 << 64) - 1))}).row(0)
    assert (row.size, row.ino) == ((1 << 63) - 1, (1 << 64) - 1)


def test_write_and_set_id_bits_are_never_shown() -> None:
    traits = Traits()
    frozen = frozen_table({b"a": Entry(status(mode=stat.S_IFREG | 0o7777))}, traits)
    assert traits[frozen.row(0).trait].mode == stat.S_IFREG | 0o1555


def test_what_is_hidden_is_kept_apart_with_its_reason() -> None:
    frozen = frozen_table({b"a": Entry(None, Kind.DANGLING), b"b": Entry(status())})
    assert frozen.problems == {0: Kind.DANGLING}


def test_a_huge_directory_is_frozen_a_chunk_at_a_time() -> None:
    names = [b"%06d" % number for number in range(2 * CHUNK + 5)]
    half = Table([(name, True) for name in names], LISTED)
    assert (len(half), half.unfrozen) == (len(names), 3)
    assert half.chunk(CHUNK + 7) == [(name, True) for name in names[CHUNK : 2 * CHUNK]]
    half.freeze(CHUNK + 7, [Entry(status(size=9), None, b"/t")] * CHUNK, Traits())
    assert [half.is_frozen(place) for place in (CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK)] == [
        False,
        True,
        True,
        False,
    ]
    assert (half.row(CHUNK).size, half.find(names[3]), half.unfrozen) == (9, 3, 2)


def test_a_chunk_that_cannot_be_read_is_left_unfrozen() -> None:
    def entries() -> Iterator[Entry]:
        yield Entry(status())
        raise OSError("gone")

    half = Table([(b"a", False), (b"b", False)], LISTED)
    with pytest.raises(OSError, match="gone"):
        half.freeze(0, entries(), Traits())
    assert (half.is_frozen(0), half.unfrozen, half.problems) == (False, 1, {})


def test_many_like_files_share_one_trait() -> None:
    traits = Traits()
    frozen = frozen_table({b"%d" % number: Entry(status()) for number in range(9)}, traits)
    assert {frozen.row(place).trait for place in range(9)} == {0}


def test_a_row_costs_few_bytes() -> None:
    frozen = table([b"%08d.jpg" % number for number in range(1000)])
    assert frozen.nbytes() / 1000 < 72


def test_a_trait_can_be_looked_up_as_soon_as_its_index_is_known() -> None:
    traits = Traits()

    class Watched(dict[Likeness, int]):
        def __setitem__(self, trait: Likeness, index: int) -> None:
            assert traits[index] == trait
            super().__setitem__(trait, index)

    traits._indices = Watched()
    trait = Trait(stat.S_IFREG, 0, 0, 1, is_link=False, source_mode=stat.S_IFREG, nlink=1)
    assert traits.index(trait) == traits.index(trait) == 0
