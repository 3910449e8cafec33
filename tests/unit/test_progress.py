from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from symfuse.dataset import Dataset
from symfuse.policy import Finding, Kind, NonUtf8, Policy
from symfuse.progress import MAX_EXAMPLES, MAX_NAMED, Findings, Progress, hidden_line
from symfuse.view import HiddenEntry, View
from tests.support.trees import Entry, Name, link, tree

findings = st.lists(
    st.tuples(st.sampled_from(Finding), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6)), max_size=30
)


@given(findings)
def test_findings_are_kept_whole_and_in_order(added: list[tuple[Finding, list[int]]]) -> None:
    kept = Findings()
    for finding, nodeids in added:
        kept.add(finding, nodeids)
    assert list(kept) == sorted(added, key=lambda each: each[0])


@given(findings, st.integers(0, 2**64 - 1))
def test_a_finding_is_taken_back_alone(added: list[tuple[Finding, list[int]]], nodeid: int) -> None:
    kept = Findings()
    for finding, nodeids in [*added, (Finding.EMPTIED, [nodeid])]:
        kept.add(finding, nodeids)
    before = list(kept)
    assert kept.remove(Finding.EMPTIED, nodeid)
    before.remove((Finding.EMPTIED, [nodeid]))
    assert list(kept) == before
    assert not kept.remove(Finding.UNREAD, 2**64)


def test_an_example_names_few_copies_and_there_are_few_examples() -> None:
    progress = Progress()
    for _ in range(10):
        progress.report(Finding.LEAK, (b"%d" % number for number in range(100)))
    assert progress.findings == {Finding.LEAK: 10}
    assert progress.finding_examples == {Finding.LEAK: [", ".join(map(str, range(MAX_NAMED)))] * MAX_EXAMPLES}


def test_what_is_hidden_in_one_line() -> None:
    progress = Progress()
    assert hidden_line(progress.as_dict()) is None
    progress.note(Kind.DOT_ENTRY, b".x")
    assert hidden_line(progress.as_dict()) == "1 entry hidden (1 dot-entry)"
    for number in range(1200):
        progress.note(Kind.DANGLING, b"%d" % number)
    assert hidden_line(progress.as_dict()) == "1,201 entries hidden (1,200 dangling, 1 dot-entry)"


def frozen(root: Path, entries: dict[Name, Entry], policy: Policy | None = None) -> View:
    view = View(Dataset(os.fsencode(tree(root, entries)), policy or Policy()))
    view.freeze_all()
    view.conclude()
    return view


def emptied(view: View) -> list[bytes]:
    return [path for finding, (path, *_) in view.found() if finding is Finding.EMPTIED]


def test_nine_in_ten_entries_are_nearly_all(tmp_path: Path) -> None:
    links: dict[Name, Entry] = {f"{number:02}": link("no") for number in range(9)}
    other: dict[Name, Entry] = {f"{number:02}": b"x" for number in range(99)}
    view = frozen(tmp_path / "d", {"cat": {**links, "x": b"x"}, "dog": {**links, "x": b"x", "y": b"y"}, "other": other})
    assert emptied(view) == [b"cat"]
    assert len(list(view.hidden_entries())) == 18


def test_what_dedup_and_broken_images_leave_empty_is_emptied(tmp_path: Path) -> None:
    copies: dict[Name, Entry] = {f"{number:02}": b"x" for number in range(20)}
    names: dict[Name, Entry] = {"copies": copies, "leaked": {"a": b"", "b": b""}, "broken": copies}
    view = View(Dataset(os.fsencode(tree(tmp_path / "d", names)), Policy()))
    view.freeze_all()
    nodeids = {view.path(nodeid): nodeid for nodeid, *_ in view.files()}
    shown = nodeids[b"copies/00"]
    for path, nodeid in nodeids.items():
        kind = {b"c": Kind.DUPLICATE, b"l": Kind.LEAK, b"b": Kind.BROKEN}[path[:1]]
        if path not in (b"copies/00", b"broken/00", b"broken/01"):
            view.hide(nodeid, kind, stand_in=shown)
    view.conclude()
    assert emptied(view) == [b"broken", b"leaked"]
    assert HiddenEntry(Kind.LEAK, b"leaked/a", b"copies/00") in list(view.hidden_entries())


def test_a_dataset_is_judged_as_a_whole(tmp_path: Path) -> None:
    few: dict[Name, Entry] = {f"{number:02}": link("no") for number in range(8)}
    many: dict[Name, Entry] = {f"{number:03}": link("no") for number in range(100)}
    view = frozen(tmp_path / "d", {"cat": {**few, "x": b"x", "y": b"y"}, "dog": many})
    assert emptied(view) == [b"dog", b""]
    view.conclude()
    assert emptied(view) == [b"dog", b""], "once"


def test_names_that_are_utf8_together_are_told_apart(tmp_path: Path) -> None:
    """In byte order the two bytes of an ü stand side by side."""
    names: dict[Name, Entry] = {b"\xc3": b"1", b"\xc3\xbc": b"2", b"\xbc": b"3"}
    view = frozen(tmp_path / "shown", names)
    assert [paths for finding, paths in view.found() if finding is Finding.NOT_UTF8] == [[b"\xbc"], [b"\xc3"]]
    view = frozen(tmp_path / "hidden", names, Policy(non_utf8=NonUtf8.HIDE))
    assert [entry.path for entry in view.hidden_entries()] == [b"\xbc", b"\xc3"]
    assert list(view.found()) == []
