"""Names that nobody trains on, and the globs of --hide and --show: what a view shows with them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symfuse.dataset import Dataset
from symfuse.explain import explain
from symfuse.policy import DirLinks, DotEntries, Finding, Kind, NameRule, NonUtf8, Policy
from symfuse.rules import CLUTTER, Glob
from symfuse.view import ROOT_NODEID, View
from tests.support.invariants import check
from tests.support.mounting import REPOSITORY
from tests.support.trees import Entry, Name, link, tree
from tests.support.watching import Touched


def rules(text: str | bytes) -> tuple[NameRule, ...]:
    """`-raw/* +*.txt` is `--hide 'raw/*' --show '*.txt'`."""
    words = os.fsencode(text).split(b" ")
    return tuple(NameRule(word[:1] == b"-", word[1:]) for word in words if word)


def frozen(root: Path, text: str | bytes = "", **choices: Any) -> View:
    view = View(Dataset(os.fsencode(root), Policy(name_rules=rules(text), **choices)))
    view.freeze_all()
    check(view)
    return view


def shown(root: Path, text: str | bytes = "", **choices: Any) -> list[str]:
    """The files that are shown, in byte order."""
    with closing(frozen(root, text, **choices)) as view:
        return [os.fsdecode(path) for path in sorted(view.path(nodeid) for nodeid, _trait, _row in view.files())]


def hidden(root: Path, text: str | bytes = "", **choices: Any) -> dict[str, str]:
    """The kind of each path that is hidden."""
    with closing(frozen(root, text, **choices)) as view:
        return {os.fsdecode(entry.path): str(entry.kind) for entry in view.hidden_entries()}


# -- clutter ---------------------------------------------------------------------------------------------------------


def test_what_systems_and_tools_leave_behind_is_hidden_files_and_directories(tmp_path: Path) -> None:
    left: dict[Name, Entry] = {name: {"a.png": b""} for name in ("__MACOSX", "lost+found", "@eaDir", "__pycache__")}
    left |= dict.fromkeys(("Thumbs.db", "desktop.ini", "Icon\r", "#recycle", "System Volume Information"), b"")
    root = tree(tmp_path / "dataset", {**left, "cat": {**left, "1.png": b""}})
    assert shown(root) == ["cat/1.png"]
    expected = {f"{within}{os.fsdecode(name)}": "clutter" for name in left for within in ("", "cat/")}
    assert hidden(root) == expected


def test_case_does_not_count_in_clutter_and_the_rest_of_a_name_does(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"THUMBS.DB": b"", "thumbs.Db": b"", "Thumbs.db.png": b"", "my@eaDir": b""})
    assert shown(root) == ["Thumbs.db.png", "my@eaDir"]


def test_a_link_is_judged_by_its_own_name(tmp_path: Path) -> None:
    left: dict[Name, Entry] = {"lost+found": {"1.png": b""}, "cat": link("lost+found"), "@eaDir": link("cat")}
    assert shown(tree(tmp_path / "dataset", left)) == ["cat/1.png"]


def test_nothing_of_clutter_is_looked_at(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"lost+found": {"1.png": b""}, "Thumbs.db": link("nowhere"), "1.png": b""})
    with Touched([root / "lost+found"]) as touched:
        assert hidden(root) == {"lost+found": "clutter", "Thumbs.db": "clutter"}
        assert touched.opened() == set()


def test_names_that_begin_with_a_dot_are_dot_entries_and_no_clutter(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"._1.png": b"", ".DS_Store": b"", "Thumbs.db": b""})
    assert hidden(root) == {"._1.png": "dot-entry", ".DS_Store": "dot-entry", "Thumbs.db": "clutter"}
    assert shown(root, dot_entries=DotEntries.SHOW) == [".DS_Store", "._1.png"]


def test_clutter_and_what_was_excluded_empty_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"cat": {"Thumbs.db": b"", "a.txt": b"", "b.txt": b""}, "dog": {"1.png": b""}})
    with closing(frozen(root, "-*.txt")) as view:
        progress = view.progress()
    assert progress.hidden == {Kind.CLUTTER: 1, Kind.EXCLUDED: 2}
    assert progress.findings == {}
    assert progress.problems == 0


def test_the_documentation_lists_all_clutter() -> None:
    text = (REPOSITORY / "docs/semantics.md").read_text(encoding="utf-8")
    section = text.partition("\n## Names\n")[2].partition("\n## ")[0]
    listed = section.partition("**Clutter**")[2].partition("\n\n")[0].split("`")[1::2]
    assert {name.lower().replace("\\r", "\r").encode() for name in listed} == CLUTTER


# -- globs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "fits", "fails"),
    [
        (b"*", [b"a", b".a", b"a/b", b"a\nb"], []),
        (b"*.txt", [b".txt", b"a/b.txt", b"a.txt.txt"], [b"a.TXT", b"a.txt ", b"a.txt\n"]),
        (b"a?", [b"ab", b"a/", b"a\xff"], [b"a", b"abc"]),
        (b"[ab]", [b"a", b"b"], [b"c", b"ab", b"[ab]"]),
        (b"[!ab]", [b"c", b"!"], [b"a", b"b"]),
        (b"[a-c]\xff", [b"b\xff"], [b"d\xff", b"b\xfe"]),
        (b"[[]1].png", [b"[1].png"], [b"1.png"]),
        (b"[*][?]", [b"*?"], [b"ab"]),
        (b"a\\*", [b"a\\", b"a\\b"], [b"a*"]),
        (b"[a", [b"[a"], [b"a"]),
    ],
)
def test_how_globs_are_read(glob: bytes, fits: list[bytes], fails: list[bytes]) -> None:
    read = Glob(glob)
    assert [text for text in fits + fails if read.fits(text)] == fits


def star_by_hand(glob: bytes, text: bytes) -> bool:
    """`*` and `?`, tried out."""
    if not glob:
        return not text
    if glob[:1] == b"*":
        return any(star_by_hand(glob[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and glob[:1] in (b"?", text[:1]) and star_by_hand(glob[1:], text[1:])


@given(
    glob=st.lists(st.sampled_from([b"a", b".", b"\xff", b"\\", b"*", b"?"]), min_size=1, max_size=6).map(b"".join),
    text=st.lists(st.sampled_from([b"a", b".", b"\xff", b"\\", b"*", b"/", b"\n"]), max_size=6).map(b"".join),
)
def test_globs_match_what_can_be_matched_by_hand(glob: bytes, text: bytes) -> None:
    assert Glob(glob).fits(text) == star_by_hand(glob, text)


@pytest.mark.parametrize("glob", [b"", b"/", b"//"])
def test_an_empty_glob_is_none(glob: bytes) -> None:
    with pytest.raises(ValueError, match="empty"):
        Glob(glob)


# -- hide and show ---------------------------------------------------------------------------------------------------

RAW: dict[Name, Entry] = {
    "notes.txt": b"",
    "raw": {"1.png": b"", "notes.txt": b""},
    "cat": {"raw": b"", "2.png": b"", "notes.txt": b"", "deep": {"raw": {"3.png": b""}}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-notes.txt", ["cat/2.png", "cat/deep/raw/3.png", "cat/raw", "raw/1.png"]),
        ("-/notes.txt", ["cat/2.png", "cat/deep/raw/3.png", "cat/notes.txt", "cat/raw", "raw/1.png", "raw/notes.txt"]),
        ("-*.txt -raw", ["cat/2.png"]),
        ("-*.txt -raw/", ["cat/2.png", "cat/raw"]),
        ("-*.txt -/raw", ["cat/2.png", "cat/deep/raw/3.png", "cat/raw"]),
        ("-*.txt -/raw/", ["cat/2.png", "cat/deep/raw/3.png", "cat/raw"]),
        ("-*.txt -raw/*", ["cat/2.png", "cat/deep/raw/3.png", "cat/raw"]),
        ("-*.txt -*/raw/*", ["cat/2.png", "cat/raw", "raw/1.png"]),
        ("-*.txt -*/raw/", ["cat/2.png", "cat/raw", "raw/1.png"]),
        ("-*.txt -RAW", ["cat/2.png", "cat/deep/raw/3.png", "cat/raw", "raw/1.png"]),
        ("-*.txt -cat", ["raw/1.png"]),
        ("-*.txt -cat/*.png", ["cat/raw", "raw/1.png"]),
        ("-*.txt -*/ ", []),
        ("-* +cat +2.png", ["cat/2.png"]),
        ("-cat +cat/2.png -raw -*.txt", []),
    ],
)
def test_what_is_excluded(tmp_path: Path, text: str, expected: list[str]) -> None:
    root = tree(tmp_path / "dataset", RAW)
    assert shown(root, text) == expected
    assert set(hidden(root, text).values()) == {"excluded"}


def test_the_last_that_matches_decides(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a.txt": b"", "b.txt": b"", "c.png": b""})
    assert shown(root, "-*.txt +a.txt") == ["a.txt", "c.png"]
    assert shown(root, "+a.txt -*.txt") == ["c.png"]
    assert shown(root, "-*.txt +a.txt -a*") == ["c.png"]


def test_what_is_shown_outweighs_the_defaults_and_cures_nothing(tmp_path: Path) -> None:
    literal: dict[Name, Entry] = {
        "__pycache__": {"a": b"", ".b": b"", "Thumbs.db": b""},
        ".zarray": b"",
        ".git": {"HEAD": b""},
        b"\xff": b"",
        "Thumbs.db": link("nowhere"),
        "lost+found": link("."),
    }
    root = tree(tmp_path / "dataset", literal)
    assert shown(root, "+__pycache__ +.zarray", non_utf8=NonUtf8.HIDE) == [".zarray", "__pycache__/a"]
    assert hidden(root, "+*", non_utf8=NonUtf8.HIDE) == {"Thumbs.db": "dangling", "lost+found": "cycle"}
    with closing(frozen(root, b"+\xff", non_utf8=NonUtf8.HIDE)) as view:
        assert [paths for finding, paths in view.found() if finding is Finding.NOT_UTF8] == [[b"\xff"]]


def test_what_was_asked_for_elsewhere_is_not_undone(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": {"1.png": b""}, "b": link("a"), "c": link("a/1.png")})
    assert hidden(root, "+b", dir_links=DirLinks.HIDE) == {"b": "dir-link"}


def test_names_that_are_not_utf8_are_matched_by_their_bytes(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {b"\xfc.png": b"", "ü.png": b"", b"\xe9": {b"\xfc": b""}})
    assert shown(root, b"-\xfc*") == ["ü.png"]
    assert shown(root, b"-?.png") == ["ü.png", os.fsdecode(b"\xe9/\xfc")], "a character of two bytes is two"


def test_a_slash_at_the_end_means_directories_linked_ones_too(tmp_path: Path) -> None:
    literal: dict[Name, Entry] = {
        "store": {"1.png": b""},
        "x": {"x": b"", "y": b""},
        "cat": {"x": link("../store"), "deep": {"x": link("../../x/y")}, "gone": {"x": link("nowhere")}},
    }
    root = tree(tmp_path / "dataset", literal)
    assert hidden(root, "-x/") == {"x": "excluded", "cat/x": "excluded", "cat/gone/x": "dangling"}
    assert hidden(root, "-x/ -x") == {f"{way}x": "excluded" for way in ("", "cat/", "cat/deep/", "cat/gone/")}
    assert hidden(root, "-x +x/") == {"x/x": "excluded", "cat/deep/x": "excluded", "cat/gone/x": "excluded"}
    assert hidden(root, "-x/", dir_links=DirLinks.HIDE)["cat/x"] == "excluded"


def test_globs_of_paths_tell_links_to_one_directory_apart(tmp_path: Path) -> None:
    literal: dict[Name, Entry] = {
        "store": {"1.png": b"", "notes.txt": b"", "deep": {"2.png": b""}},
        "cat": link("store"),
        "dog": link("store"),
    }
    root = tree(tmp_path / "dataset", literal)
    assert shown(root, "-/store -cat/notes.txt -dog/deep") == [
        *("cat/1.png", "cat/deep/2.png"),
        *("dog/1.png", "dog/notes.txt"),
    ]
    assert shown(root, "-/store -notes.txt -dog/*/2.png") == ["cat/1.png", "cat/deep/2.png", "dog/1.png"]


@pytest.mark.parametrize("text", ["-notes.txt", "-cat/notes.txt", "-raw/", "-* +cat +raw", "+Thumbs.db"])
def test_a_name_that_is_asked_for_alone_is_judged_as_in_a_listing(tmp_path: Path, text: str) -> None:
    literal: dict[Name, Entry] = {**RAW, "dog": link("cat"), "Thumbs.db": b"", "@eaDir": {}}
    root = tree(tmp_path / "dataset", literal)
    with closing(frozen(root, text)) as listed:
        for number in itertools.count(ROOT_NODEID):
            try:
                path = listed.path(number)
            except KeyError:
                break
            with closing(View(Dataset(os.fsencode(root), Policy(name_rules=rules(text))))) as asked:
                nodeid = ROOT_NODEID
                for name in path.split(b"/") if path else ():
                    node = asked.lookup(nodeid, name)
                    assert node is not None
                    nodeid = node.nodeid
                names = os.listdir(os.path.join(os.fsencode(root), path))
                found = {name for name in names if asked.lookup(nodeid, name) is not None}
            assert found == {name for name, _node, _place in listed.listing(number)}, path


@pytest.mark.parametrize("text", ["-1.png", "-raw/*.png", "-raw/", "+Thumbs.db +.hidden", "-* +cat +raw +3.png +deep"])
def test_no_inode_number_is_another_whatever_is_hidden(tmp_path: Path, text: str) -> None:
    literal: dict[Name, Entry] = {**RAW, "Thumbs.db": b"", ".hidden": b"", "@eaDir": {"x": b""}, "dog": link("cat")}
    root = tree(tmp_path / "dataset", literal)
    with closing(frozen(root, "+*")) as everything, closing(frozen(root, text)) as some:
        numbers, fewer = dict(numbered(everything)), dict(numbered(some))
    assert len(fewer) < len(numbers)
    assert fewer.items() <= numbers.items()


def numbered(view: View, nodeid: int = ROOT_NODEID) -> Iterator[tuple[bytes, int]]:
    """The inode number of every path."""
    for _name, node, _place in view.listing(nodeid):
        yield view.path(node.nodeid), node.ino
        if node.is_directory:
            yield from numbered(view, node.nodeid)


# -- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("-raw/* -x", b"raw/1.png", "--hide 'raw/*' was given for it"),
        ("-*.png -1.png +2.png", b"raw/1.png", "--hide 1.png was given for it"),
        ("-raw/ -nothing", b"raw/1.png", "--hide raw/ was given for it"),
        ("-raw -raw/", b"raw", "--hide raw/ was given for it"),
        ("-raw -raw/", b"cat/raw", "--hide raw was given for it"),
    ],
)
def test_the_glob_that_decided_is_named(tmp_path: Path, text: str, path: bytes, reason: str) -> None:
    with closing(frozen(tree(tmp_path / "dataset", RAW), text)) as view:
        why = explain(view, path)
    assert (why.shown, why.kind, why.reason) == (False, Kind.EXCLUDED, reason)


def test_what_was_excluded_stays_explained_when_the_dataset_is_gone(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", RAW)
    with closing(frozen(root, "-raw/")) as view:
        root.rename(tmp_path / "elsewhere")
        why = explain(view, b"raw")
    assert (why.kind, why.reason) == (Kind.EXCLUDED, Kind.EXCLUDED.meaning)


def test_how_clutter_is_shown_is_said(tmp_path: Path) -> None:
    with closing(frozen(tree(tmp_path / "dataset", {"$RECYCLE.BIN": {"x": b""}}))) as view:
        why = explain(view, b"$RECYCLE.BIN/x")
        json.dumps(why.as_dict())
    assert (why.kind, why.reason) == (Kind.CLUTTER, "a name that systems and tools leave behind")
    assert why.notes == ["to show it: --show '$RECYCLE.BIN'"]
