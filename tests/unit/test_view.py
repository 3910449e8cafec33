from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symfuse import inos, repeats
from symfuse import table as table_module
from symfuse import view as view_module
from symfuse.dataset import Dataset
from symfuse.explain import explain
from symfuse.inos import ROOT_INO
from symfuse.links import Links
from symfuse.nodes import Node
from symfuse.policy import Dedup, Kind, Policy, SameBy
from symfuse.source.identity import Identity
from symfuse.source.volumes import Volumes
from symfuse.view import ROOT_NODEID, View
from tests.support.invariants import check
from tests.support.readers import encoded
from tests.support.trees import Entry, Name, attributes, fifo, hardlink, link, tree

MESS: dict[Name, Entry] = {
    "store": {"a.png": b"A", "b.png": b"BB", "deep": {"er": {"c.png": b"CCC"}}},
    "train": {
        "cat": {"1.png": link("../../store/a.png"), "2.png": hardlink("store/b.png"), "gone.png": link("nowhere")},
        "dog": link("../store"),
    },
    "loop": link("loop"),
    "again": {"up": link(".."), "self": link(".")},
    ".git": {"HEAD": b""},
    "pipe": fifo(),
    b"\xff": b"",
}


def opened(root: Path, policy: Policy | None = None) -> View:
    return View(Dataset(os.fsencode(root), policy or Policy()))


@pytest.fixture
def mess(tmp_path: Path) -> Iterator[View]:
    view = opened(tree(tmp_path / "dataset", MESS))
    yield view
    check(view)
    view.close()


def walk(view: View, nodeid: int = ROOT_NODEID, prefix: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    for name, node, _ in view.listing(nodeid):
        yield prefix + name, node
        if node.is_directory:
            yield from walk(view, node.nodeid, prefix + name + b"/")


def at(view: View, path: bytes) -> Node:
    """The node at a path; fails where there is none."""
    node = view.node(ROOT_NODEID)
    for name in path.split(b"/"):
        found = view.lookup(node.nodeid, name)
        assert found is not None, path
        node = found
    return node


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_view_is_a_tree_of_files_and_directories_in_byte_order(mess: View) -> None:
    assert [path for path, _ in walk(mess)] == [
        b"again",
        b"store", b"store/a.png", b"store/b.png", b"store/deep", b"store/deep/er", b"store/deep/er/c.png",
        b"train", b"train/cat", b"train/cat/1.png", b"train/cat/2.png",
        b"train/dog", b"train/dog/a.png", b"train/dog/b.png",
        b"train/dog/deep", b"train/dog/deep/er", b"train/dog/deep/er/c.png",
        b"\xff",
    ]  # fmt: skip
    assert {stat.S_IFMT(node.mode) for _, node in walk(mess)} == {stat.S_IFREG, stat.S_IFDIR}


def test_attributes_are_the_targets(mess: View, tmp_path: Path) -> None:
    for path, node in walk(mess):
        target = os.stat(os.path.join(os.fsencode(tmp_path / "dataset"), path))
        assert (node.size, node.uid, node.gid) == (target.st_size, target.st_uid, target.st_gid)
        assert (node.mtime_ns, node.ctime_ns) == (target.st_mtime_ns, target.st_ctime_ns)
        assert node.mode == target.st_mode & ~0o6222
        assert node.nlink == 1


def test_no_mode_lets_anybody_write_or_become_somebody_else(tmp_path: Path) -> None:
    files: dict[Name, Entry] = {
        "file": attributes(b"", mode=0o6777),
        "directory": attributes({"inside": attributes(b"", mode=0o6770)}, mode=0o7777),
        "link": link("file"),
        "link to a directory": link("directory"),
    }
    root = tree(tmp_path / "dataset", files)
    root.chmod(0o7775)
    view = opened(root)
    nodes = {path: stat.S_IMODE(node.mode) for path, node in walk(view)}
    assert {**nodes, b"": stat.S_IMODE(view.node(ROOT_NODEID).mode)} == {
        b"": 0o1555,
        b"file": 0o555,
        b"link": 0o555,
        b"directory": 0o1555,
        b"directory/inside": 0o550,
        b"link to a directory": 0o1555,
        b"link to a directory/inside": 0o550,
    }
    view.close()


def test_making_a_view_reads_no_directory(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": b""})
    view = opened(root)
    (root / "b").touch()
    assert view.lookup(ROOT_NODEID, b"b") is not None
    view.close()


def test_a_listing_is_frozen_when_first_read(mess: View, tmp_path: Path) -> None:
    before = list(mess.listing(ROOT_NODEID))
    tree(tmp_path / "dataset", {"new": b""})
    (tmp_path / "dataset" / "store").rename(tmp_path / "dataset" / "shop")
    assert list(mess.listing(ROOT_NODEID)) == before
    assert mess.lookup(ROOT_NODEID, b"new") is None


def test_a_listing_can_be_resumed_at_any_place(mess: View) -> None:
    whole = list(mess.listing(ROOT_NODEID))
    for _, _, place in whole:
        assert list(mess.listing(ROOT_NODEID, place)) == [entry for entry in whole if entry[2] >= place]


def test_two_threads_freeze_one_listing(tmp_path: Path) -> None:
    more: dict[Name, Entry] = {f"{number}": link("0") for number in range(1, 300)}
    view = opened(tree(tmp_path / "dataset", {"0": b"", **more}))
    listings: list[object] = []
    threads = [threading.Thread(target=lambda: listings.append(list(view.listing(ROOT_NODEID)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listings) == 8
    assert all(table == listings[0] for table in listings)
    assert view.progress().files == 300
    view.close()


def test_a_nodeid_that_was_never_given_is_a_key_error(mess: View) -> None:
    mess.freeze_all()
    for nodeid in (0, 99, 1 << 32 | 99, 77 << 32, (1 << 64) - 1):
        with pytest.raises(KeyError):
            mess.node(nodeid)


# -- identities --------------------------------------------------------------------------------------------------------


def test_every_file_has_an_inode_number_of_its_own(mess: View) -> None:
    inos = [node.ino for _, node in walk(mess)]
    assert len(set(inos)) == len(inos)
    assert min(inos) > ROOT_INO
    assert max(inos) < 1 << 53


def test_inode_numbers_do_not_depend_on_who_looks_first(mess: View, tmp_path: Path) -> None:
    expected = {path: node.ino for path, node in walk(mess)}
    for seed in range(10):
        view = opened(tmp_path / "dataset")
        paths = list(expected)
        random.Random(seed).shuffle(paths)
        assert {path: at(view, path).ino for path in paths} == expected
        view.close()


def test_inode_numbers_are_stable_in_a_deep_tree_with_branches(tmp_path: Path) -> None:
    literal: dict[Name, Entry] = {"file": b""}
    for _ in range(70):  # the shares of inode numbers run out after some 52
        literal = {"down": literal, "beside": {"file": b""}, "file": b""}
    root = tree(tmp_path / "dataset", literal)
    first, second, third = opened(root), opened(root), opened(root)
    second.freeze_all()  # breadth first; a walk goes depth first
    at(third, b"down/" * 70 + b"file")  # and this straight down
    expected = [(path, node.ino) for path, node in walk(first)]
    assert [(path, node.ino) for path, node in walk(second)] == expected
    assert [(path, node.ino) for path, node in walk(third)] == expected
    for view in (first, second, third):
        check(view)
        view.close()


NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
TREES = st.recursive(
    st.just(b""), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=25
).filter(lambda drawn: isinstance(drawn, dict))  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(TREES, st.integers(1, 40), st.randoms(use_true_random=False))
def test_inode_numbers_stay_distinct_where_the_space_is_too_small(
    drawn: dict[Name, Entry], space: int, order: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inos, "INO_SPACE", space + 2)
        patch.setattr(inos, "INO_END", space + 2 + 64)  # so that ranges by hash overlap
        view = opened(tree(Path(scratch) / "dataset", drawn))
        directories = [ROOT_NODEID]
        while directories:
            nodeid = directories.pop(order.randrange(len(directories)))
            directories += [node.nodeid for _, node, _ in view.listing(nodeid) if node.is_directory]
        check(view)


# -- huge directories --------------------------------------------------------------------------------------------------


@pytest.fixture
def huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[View]:
    """One directory of ten chunks: every third entry leads nowhere, every tenth is a directory."""
    for module in (table_module, view_module):
        monkeypatch.setattr(module, "CHUNK", 8)
    literal: dict[Name, Entry] = {f"{number:02}": link("../store/f") for number in range(80)}
    literal |= {f"{number:02}": link("nowhere") for number in range(0, 80, 3)}
    literal |= {f"{number:02}": {"inside": b""} for number in range(0, 80, 10)}
    view = opened(tree(tmp_path / "dataset", {"huge": literal, "store": {"f": b"F"}}))
    yield view
    check(view)
    view.close()


def seen_by(view: View, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names that are resolved from here on."""
    seen: list[bytes] = []
    resolve = Dataset.entries

    def entries(self: Dataset, path: bytes, names: list[tuple[bytes, bool]], **where: Any) -> Iterator[Any]:
        seen.extend(name for name, _ in names)
        return resolve(self, path, names, **where)

    monkeypatch.setattr(Dataset, "entries", entries)
    return seen


def test_a_lookup_in_a_huge_directory_freezes_that_name_only(huge: View, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = at(huge, b"huge").nodeid
    seen = seen_by(huge, monkeypatch)
    assert huge.lookup(directory, b"43") is not None
    assert seen == [b"43"]
    assert huge.lookup(directory, b"absent") is None
    assert huge.lookup(directory, b"42") is None, "hidden"
    assert seen == [b"43", b"42"]
    assert not huge.is_frozen(directory)


def test_the_first_entries_of_a_huge_directory_wait_for_no_others(huge: View, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = at(huge, b"huge").nodeid
    seen = seen_by(huge, monkeypatch)
    listing = huge.listing(directory)
    assert next(listing)[0] == b"00"
    assert len(seen) == 8
    assert len([next(listing) for _ in range(6)]) == 6
    assert len(seen) == 16


def test_a_huge_directory_is_the_same_in_whatever_order_it_is_frozen(huge: View, tmp_path: Path) -> None:
    piecemeal = {name: at(huge, b"huge/%02d" % number) for number in (43, 70, 1) for name in [b"%02d" % number]}
    inside = at(huge, b"huge/50/inside").ino
    at_once = opened(tmp_path / "dataset")
    assert at_once.freeze_all() == huge.freeze_all()
    shown = {name: node for name, node, _ in at_once.listing(at(at_once, b"huge").nodeid)}
    assert {name: node.ino for name, node in piecemeal.items()} == {name: shown[name].ino for name in piecemeal}
    assert at(at_once, b"huge/50/inside").ino == inside
    assert len(shown) == 80 - len({*range(0, 80, 3)} - {*range(0, 80, 10)})
    at_once.close()


def test_a_nodeid_of_what_is_hidden_or_not_frozen_yet_is_a_key_error(huge: View) -> None:
    directory = at(huge, b"huge").nodeid
    huge.lookup(directory, b"43")
    assert huge.node(directory << 32 | 43).size == 1
    for place in (42, 60, 80):
        with pytest.raises(KeyError):
            huge.node(directory << 32 | place)


# -- problems ----------------------------------------------------------------------------------------------------------


def test_what_is_hidden_is_counted_by_kind_with_examples(mess: View) -> None:
    progress = mess.freeze_all()
    assert progress.complete
    assert progress.hidden == {Kind.DANGLING: 1, Kind.LOOP: 1, Kind.CYCLE: 2, Kind.SPECIAL: 1, Kind.DOT_ENTRY: 1}
    assert [example.split(" -> ")[0] for example in progress.examples[Kind.DANGLING]] == ["train/cat/gone.png"]
    assert (progress.directories, progress.files) == (9, 9)


def test_progress_is_a_snapshot(mess: View) -> None:
    before = mess.progress()
    mess.freeze_all()
    assert (before.directories, before.files, before.complete) == (0, 0, False)


def test_a_directory_is_a_cycle_only_below_itself(tmp_path: Path) -> None:
    view = opened(tree(tmp_path / "dataset", {"a": {"b": link("../b")}, "b": {"a": link("../a"), "f": b""}}))
    assert [path for path, _ in walk(view)] == [b"a", b"a/b", b"a/b/f", b"b", b"b/a", b"b/f"]
    check(view)
    view.close()


@pytest.mark.timeout(60)
def test_links_that_multiply_are_bounded_and_the_culprit_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "REPEATS_ALLOWED", 1000)
    # Each level links twice to the next: 2**30 paths out of 30 directories.
    levels: dict[Name, Entry] = {
        f"{n:02}": {"x": link(f"../{n + 1:02}"), "y": link(f"../{n + 1:02}")} for n in range(30)
    }
    view = opened(tree(tmp_path / "dataset", {**levels, "30": {"f": b""}}))
    progress = view.freeze_all()
    assert progress.hidden[Kind.MULTIPLIED] > 0
    assert progress.directories < 5000
    assert progress.error is not None
    assert "links multiply" in progress.error
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    check(view)
    view.close()


def test_many_links_to_one_directory_are_no_multiplication(tmp_path: Path) -> None:
    more: dict[Name, Entry] = {f"{number}": link("0") for number in range(1, 500)}
    view = opened(tree(tmp_path / "dataset", {"0": {"f": b""}, **more}))
    progress = view.freeze_all()
    assert (progress.files, dict(progress.hidden)) == (500, {})
    view.close()


def test_freezing_can_be_stopped(mess: View) -> None:
    assert not mess.freeze_all(keep_on=lambda: False).complete
    assert mess.freeze_all().complete, "and be taken up again"


def test_where_images_are_compared_a_directory_that_could_not_be_read_stays_closed(tmp_path: Path) -> None:
    """Else what comes back would be shown without having been compared."""
    root = tree(tmp_path / "dataset", {"a": {"f": b""}, "b": {"g": b""}})
    view = opened(root, Policy(dedup=Dedup(same_by=SameBy.TARGET)))
    list(view.listing(ROOT_NODEID))
    (root / "a").rename(tmp_path / "elsewhere")
    assert view.freeze_all().hidden == {Kind.UNREADABLE: 1}
    (tmp_path / "elsewhere").rename(root / "a")
    directory = at(view, b"a").nodeid
    for look in (lambda: list(view.listing(directory)), lambda: view.lookup(directory, b"f")):
        with pytest.raises(OSError, match="not compared"):
            look()
    assert [view.path(nodeid) for nodeid, _, _ in view.files()] == [b"b/g"]
    view.close()


def test_a_directory_that_went_away_before_it_was_frozen_is_counted_not_fatal(
    mess: View, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(mess.listing(ROOT_NODEID))
    (tmp_path / "dataset" / "again").rename(tmp_path / "elsewhere")
    progress = mess.freeze_all()
    assert progress.hidden[Kind.UNREADABLE] == 1
    assert "again cannot be listed" in caplog.text
    assert mess.freeze_all().hidden[Kind.UNREADABLE] == 1, "counted once, however often it is tried"

    (tmp_path / "elsewhere").rename(tmp_path / "dataset" / "again")
    progress = mess.freeze_all()
    assert Kind.UNREADABLE not in progress.hidden, "it came back, and is shown"
    assert Kind.UNREADABLE not in progress.examples
    assert progress.complete


# -- reading -----------------------------------------------------------------------------------------------------------


def test_reads_end_where_the_file_ends(mess: View) -> None:
    nodeid = at(mess, b"train/dog/deep/er/c.png").nodeid
    assert mess.read(nodeid, 0, 100) == b"CCC"
    assert mess.read(nodeid, 1, 1) == b"C"
    assert mess.read(nodeid, 3, 10) == b""
    assert mess.read(nodeid, 1 << 40, 10) == b""


def test_a_directory_cannot_be_read(mess: View) -> None:
    for nodeid in (at(mess, b"store").nodeid, at(mess, b"train/dog").nodeid):
        with pytest.raises(OSError) as error:
            mess.read(nodeid, 0, 1)
        assert error.value.errno == errno.EISDIR


def test_reading_large_files_in_pieces_keeps_few_descriptors(tmp_path: Path) -> None:
    view = opened(tree(tmp_path / "dataset", {f"{number:03}": b"x" * 100 for number in range(200)}))
    nodes = [node.nodeid for _, node, _ in view.listing(ROOT_NODEID)]
    before = len(os.listdir("/proc/self/fd"))
    for nodeid in nodes:
        view.read(nodeid, 0, 10)
    assert len(os.listdir("/proc/self/fd")) <= before + 64
    for nodeid in nodes:
        assert view.read(nodeid, 10, 1000) == b"x" * 90
    view.close()
    assert len(os.listdir("/proc/self/fd")) < before, "it no longer watches mounts either"


def rename_away(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


CHANGES: dict[str, list[Callable[[Path], object]]] = {
    "other content": [lambda path: path.write_bytes(b"B")],
    "longer": [lambda path: path.write_bytes(b"more")],
    "empty": [lambda path: path.write_bytes(b"")],
    "gone": [Path.unlink],
    "another file under the name": [rename_away, lambda path: path.write_bytes(b"A")],
    "a directory": [Path.unlink, Path.mkdir],
    "a fifo": [Path.unlink, os.mkfifo],
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("way", [b"store/a.png", b"train/cat/1.png", b"train/dog/a.png"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_is_stale_by_every_way_to_it(
    tmp_path: Path, change: str, way: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    literal: dict[Name, Entry] = {
        "store": {"a.png": attributes(b"A", mtime_ns=1)},
        "train": {"cat": {"1.png": link("../../store/a.png")}, "dog": link("../store")},
    }
    view = opened(tree(tmp_path / "dataset", literal))
    nodeid = at(view, way).nodeid
    for step in CHANGES[change]:
        step(tmp_path / "dataset" / "store" / "a.png")
    for _ in range(3):
        with pytest.raises(OSError) as error:
            view.read(nodeid, 0, 1)
        assert error.value.errno == errno.ESTALE
    assert len(caplog.records) == 1, "logged once, not at each read"
    view.close()


def test_a_link_that_leads_elsewhere_now_is_stale(mess: View, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodeid = at(mess, b"train/cat/1.png").nodeid
    changed = tmp_path / "dataset" / "train" / "cat" / "1.png"
    changed.unlink()
    changed.symlink_to("../../store/b.png")
    with pytest.raises(OSError) as error:
        mess.read(nodeid, 0, 1)
    assert error.value.errno == errno.ESTALE
    assert "train/cat/1.png" in caplog.text


# -- explaining --------------------------------------------------------------------------------------------------------


def test_a_link_is_explained_hop_by_hop(mess: View, tmp_path: Path) -> None:
    top = os.fsdecode((tmp_path / "dataset").resolve())
    why = explain(mess, b"train/dog/a.png")
    assert (why.shown, why.kind, why.source) == (True, None, os.fsencode(f"{top}/store/a.png"))
    assert why.steps == [f"{top}/train/dog -> ../store"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"train/cat/gone.png", Kind.DANGLING),
        (b"loop", Kind.LOOP),
        (b"again/up", Kind.CYCLE),
        (b"again/self/up", Kind.CYCLE),
        (b"pipe", Kind.SPECIAL),
        (b".git/HEAD", Kind.DOT_ENTRY),
    ],
)
def test_what_is_hidden_is_explained_by_its_kind(mess: View, path: bytes, kind: Kind) -> None:
    why = explain(mess, path)
    assert (why.shown, why.kind, why.source) == (False, kind, None)
    assert kind.meaning in why.reason


def test_a_name_that_does_not_exist_is_explained_so(mess: View, tmp_path: Path) -> None:
    assert explain(mess, b"nothing").reason == "the dataset has no such entry"
    (tmp_path / "dataset" / "late").touch()
    assert "after this directory was frozen" in explain(mess, b"late").reason
    assert "not a directory" in explain(mess, b"store/a.png/x").reason


def test_the_root_is_explained(mess: View, tmp_path: Path) -> None:
    for path in (b"", b".", b"/"):
        assert explain(mess, path).source == os.fsencode((tmp_path / "dataset").resolve())


def test_of_a_dataset_that_moved_only_a_link_is_said_to_lead_nowhere_and_once(tmp_path: Path) -> None:
    inner: dict[Name, Entry] = {"plain": {"second": link("../inner"), "empty": {}}, "inner": {"empty": {}}}
    root = tree(tmp_path / "dataset", {"first": link("outer"), "outer": inner})
    with contextlib.closing(opened(root)) as view:
        view.freeze_all()
        root.rename(tmp_path / "elsewhere")
        assert explain(view, b"outer/plain/empty").notes == []
        (note,) = explain(view, b"first/plain/second/empty").notes
        assert note.startswith("the link leads nowhere by now")


# -- what is hidden on request -----------------------------------------------------------------------------------------


def test_a_hidden_file_is_gone_from_the_view_and_stands_in_the_count(mess: View) -> None:
    mess.freeze_all()
    files, hidden, shown = mess.progress().files, at(mess, b"store/b.png"), at(mess, b"store/a.png")
    mess.hide(hidden.nodeid, Kind.DUPLICATE, stand_in=shown.nodeid)
    assert mess.lookup(at(mess, b"store").nodeid, b"b.png") is None
    assert b"store/b.png" not in dict(walk(mess))
    assert at(mess, b"train/dog/b.png"), "its directory is shown at another place, too, and there it stays"
    progress = mess.progress()
    assert (progress.files, progress.hidden[Kind.DUPLICATE]) == (files - 1, 1)
    assert progress.examples[Kind.DUPLICATE] == ["store/b.png"]
    directory = at(mess, b"store").nodeid
    place = mess.find(directory, b"b.png")
    assert place is not None
    assert mess.hidden(directory, place) is Kind.DUPLICATE
    assert mess.path(mess.stand_in(directory, place)) == b"store/a.png"


def test_hiding_moves_no_inode_number(mess: View, tmp_path: Path) -> None:
    mess.freeze_all()
    before = {path: node.ino for path, node in walk(mess)}
    mess.hide(at(mess, b"store/a.png").nodeid, Kind.DUPLICATE)
    after = {path: node.ino for path, node in walk(mess)}
    assert after == {path: ino for path, ino in before.items() if path != b"store/a.png"}


def test_the_files_of_a_view_are_those_that_it_shows(mess: View) -> None:
    mess.freeze_all()
    expected = sorted(path for path, node in walk(mess) if not node.is_directory)
    assert sorted(mess.path(nodeid) for nodeid, _, _ in mess.files()) == expected
    linked = {mess.path(nodeid) for nodeid, _, _ in mess.files() if mess.entry(nodeid)[2]}
    assert linked == {b"train/cat/1.png"}


def test_a_linked_directory_is_frozen_when_its_source_was_frozen_by_way_of_another_link(tmp_path: Path) -> None:
    view = opened(tree(tmp_path / "d", {"store": {"x": b""}, "v": link("store"), "w": link("store")}))
    first, second = (node.nodeid for name, node, _ in view.listing(ROOT_NODEID) if name in (b"v", b"w"))
    for nodeid in (first, second):
        view.table(nodeid)  # names only
    assert [name for name, _, _ in view.listing(first)] == [name for name, _, _ in view.listing(second)] == [b"x"]
    assert view.is_frozen(first)
    assert view.is_frozen(second)


# -- where others may look ---------------------------------------------------------------------------------------------


def exchange(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_where_others_may_look_no_directory_is_listed_under_the_mode_of_another(tmp_path: Path) -> None:
    """Whoever may rename in the dataset could else open a directory to all that somebody else has closed."""
    root = tree(tmp_path / "dataset", {"open": {"a.png": b"a"}, "closed": attributes({"a.png": b"secret"}, mode=0o700)})
    with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
        node = view.lookup(ROOT_NODEID, b"open")
        assert node is not None
        assert stat.S_IMODE(node.mode) == 0o555
        exchange(root / "open", root / "closed")
        with pytest.raises(OSError, match="closed to some who may read it here") as failure:
            list(view.listing(node.nodeid))
        assert failure.value.errno == errno.ESTALE


def test_where_others_may_look_a_directory_on_the_way_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link's target is looked at in the directory whose guards were read, or not at all."""
    root = tree(
        tmp_path / "dataset",
        {
            "open": {"train": {"1.png": link("../val/a.png")}, "val": {"a.png": b"a"}},
            "closed": attributes({"val": {"a.png": b"secret"}}, mode=0o700),
        },
    )
    follow = Links.guarded

    def exchanging(*arguments: Any) -> Any:
        exchange(root / "open", root / "closed")
        try:
            return follow(*arguments)
        finally:
            exchange(root / "open", root / "closed")

    monkeypatch.setattr(Links, "guarded", exchanging)
    with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
        view.freeze_all()
        assert b"open/train/1.png" not in {path for path, _node in walk(view)}
        assert view.progress().hidden == {Kind.UNREADABLE: 1}


def twins(one: Path, other: Path) -> None:
    """Give two files of equal size the same modification and change time, as all have that change in one tick."""
    for _ in range(1000):
        for path in (one, other):
            os.utime(path, ns=(1, 1))
        if one.stat().st_ctime_ns == other.stat().st_ctime_ns:
            return
    pytest.fail("no two files were changed in one tick")


def nodeid_at(view: View, path: str) -> int:
    return at(view, os.fsencode(path)).nodeid


def is_stale(view: View, nodeid: int) -> bool:
    try:
        view.read(nodeid, 0, 100)
    except OSError as error:
        assert error.errno == errno.ESTALE
        return True
    return False


STORE: dict[Name, Entry] = {
    "open": {"a.png": b"open  "},
    "closed": attributes({"a.png": b"secret"}, mode=0o700),
    "link.png": link("open/a.png"),
}


@pytest.mark.parametrize("are_stable", [True, False])
def test_where_others_may_look_a_link_leads_to_no_twin_in_a_closed_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, are_stable: bool
) -> None:
    """Equal size, times, owner and mode do not make it the file that is shown; nor do numbers that may move."""
    root = tree(tmp_path / "dataset", STORE)
    twins(root / "open/a.png", root / "closed/a.png")
    if not are_stable:
        monkeypatch.setattr(Volumes, "is_stable", lambda *_: False)
    with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
        nodeid = nodeid_at(view, "link.png")
        assert view.read(nodeid, 0, 100) == b"open  "
        (root / "link.png").unlink()
        (root / "link.png").symlink_to("closed/a.png")
        assert is_stale(view, nodeid)
        (root / "link.png").unlink()
        (root / "link.png").symlink_to("open/a.png")
        assert view.read(nodeid, 0, 100) == b"open  "


def test_where_others_may_look_a_file_has_no_twin_in_an_exchanged_directory(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", STORE)
    twins(root / "open/a.png", root / "closed/a.png")
    with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
        nodeid = nodeid_at(view, "open/a.png")
        exchange(root / "open", root / "closed")
        assert is_stale(view, nodeid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a second file system")
def test_where_others_may_look_no_file_system_lies_about_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who serves a FUSE file system can say of a file all that is said of another's; tmpfs stands for it here."""
    root = tree(tmp_path / "dataset", {**STORE, "liar": {}, "link.png": link("liar/a.png")})
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "liar"], check=True)
    try:
        (root / "liar/a.png").write_bytes(b"forged")
        twins(root / "liar/a.png", root / "open/a.png")
        numbers = Volumes.is_stable
        liar = os.stat(root / "liar").st_dev

        def is_stable(volumes: Volumes, fd: int, status: os.stat_result) -> bool:
            if status.st_dev == liar:
                volumes.movable.add(liar)
            return status.st_dev != liar and numbers(volumes, fd, status)

        monkeypatch.setattr(Volumes, "is_stable", is_stable)
        inode = os.stat(root / "open/a.png").st_ino
        with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
            nodeid = nodeid_at(view, "link.png")
            assert view.read(nodeid, 0, 100) == b"forged"
            forge = view.dataset.identity

            def forged(found: Identity, shown: int) -> Identity:
                return forge(found._replace(ino=inode), shown)

            monkeypatch.setattr(view.dataset, "identity", forged)
            (root / "link.png").unlink()
            (root / "link.png").symlink_to("open/a.png")
            assert is_stale(view, nodeid)
    finally:
        subprocess.run(["umount", root / "liar"], check=True)


def give_acl(path: Path) -> None:
    """Deny a user whom nothing else names."""
    mode = path.stat().st_mode
    entries = [(0x01, mode >> 6 & 7, -1), (0x02, 0, 5), (0x04, mode >> 3 & 7, -1), (0x10, 5, -1), (0x20, mode & 7, -1)]
    os.setxattr(path, "system.posix_acl_access", encoded([(tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries]))


def test_where_others_may_look_an_access_list_that_came_later_counts(tmp_path: Path) -> None:
    """Also where another name that went away explains the change time, and for directories that are not listed yet."""
    root = tree(tmp_path / "dataset", {"a.png": b"a", "again.png": hardlink("a.png"), "class": {"b.png": b"b"}})
    with contextlib.closing(View(Dataset(os.fsencode(root), Policy(), confined=True))) as view:
        nodeid, class_nodeid = nodeid_at(view, "a.png"), nodeid_at(view, "class")
        give_acl(root / "a.png")
        (root / "again.png").unlink()
        assert is_stale(view, nodeid)
        give_acl(root / "class")
        with pytest.raises(OSError, match="closed to some"):
            list(view.listing(class_nodeid))


@pytest.mark.parametrize(
    ("dataset", "allowed", "text"),
    [
        ("data/set", ["data", "data/alice/images"], "../alice/diary.png"),  # beside another directory that is named
        ("data/alice/set", ["data"], "../diary.png"),  # above the dataset
    ],
)
def test_where_others_may_look_what_is_named_opens_the_way_to_itself_alone(
    tmp_path: Path, dataset: str, allowed: list[str], text: str
) -> None:
    """Whoever names a directory for others opens the way to what is in it, and to nothing beside it."""
    tree(
        tmp_path,
        {"data": {"alice": {"images": {"a.png": b"a"}, "set": {}, "diary.png": b"secret"}, "set": {}}},
    )
    (tmp_path / dataset / "link.png").symlink_to(text)
    (tmp_path / dataset / "image.png").symlink_to(tmp_path / "data/alice/images/a.png")
    (tmp_path / "data/alice").chmod(0o700)
    policy = Policy(allow_roots=tuple(os.fsencode(tmp_path / each) for each in allowed))
    view = View(Dataset(os.fsencode(tmp_path / dataset), policy, confined=True))
    with contextlib.closing(view):
        assert stat.S_IMODE(at(view, b"link.png").mode) & 0o044 == 0
        assert (stat.S_IMODE(at(view, b"image.png").mode) & 0o044 != 0) == ("data/alice/images" in allowed)
