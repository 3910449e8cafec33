"""What is hidden for its content before the mount, and what changes in the dataset meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from symfuse.dataset import Dataset
from symfuse.explain import explain, hidden_below
from symfuse.policy import BrokenImages, Dedup, Finding, Kind, Policy, SameBy
from symfuse.selection import select
from symfuse.view import View
from tests.support.pictures import CUT, A, B
from tests.support.trees import Entry, Name, hardlink, link, tree


def _rewrite(path: Path) -> None:
    path.write_bytes(B)


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(A)
    path.with_name("new").rename(path)


def _put_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("same_by", [SameBy.BYTES, SameBy.PIXELS])
@pytest.mark.parametrize("change", [_rewrite, _replace, Path.unlink, _put_a_fifo])
def test_a_file_that_changes_after_it_was_frozen_is_like_no_other(
    tmp_path: Path, same_by: SameBy, change: Callable[[Path], None]
) -> None:
    dataset = tree(tmp_path / "dataset", {"1.png": A, "2.png": A, "3.png": A})
    policy = Policy(dedup=Dedup(same_by))
    view = View(Dataset(os.fsencode(dataset), policy))
    view.freeze_all()
    change(dataset / "1.png")
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    assert [name for name, _, _ in view.listing(1)] == [b"1.png", b"2.png"], "2.png stands for 3.png"
    assert view.progress().findings == {Finding.UNREAD: 1}
    assert view.progress().finding_examples == {Finding.UNREAD: ["1.png"]}
    with pytest.raises(OSError):
        view.read(next(view.files())[0], 0, 10)
    view.close()


def test_where_no_file_is_read_no_cache_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one missed, in a container without a home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = tree(tmp_path / "dataset", {"1.png": A, "2.png": A, "3.png": hardlink("1.png")})
    for same_by, is_made in ((SameBy.TARGET, False), (SameBy.BYTES, True)):
        policy = Policy(dedup=Dedup(same_by))
        view = View(Dataset(os.fsencode(dataset), policy))
        view.freeze_all()
        select(view, policy, on_work=lambda _work: None, stop=threading.Event())
        assert (tmp_path / "cache").exists() is is_made
        view.close()


def _selected(root: Path, policy: Policy) -> View:
    view = View(Dataset(os.fsencode(root), policy))
    view.freeze_all()
    select(view, policy, on_work=lambda _work: None, stop=threading.Event())
    return view


@pytest.mark.parametrize("same_by", [SameBy.OFF, SameBy.TARGET, SameBy.BYTES, SameBy.PIXELS])
def test_a_file_that_is_no_image_is_broken_under_the_names_of_images_alone(tmp_path: Path, same_by: SameBy) -> None:
    """A link `x.png` to a text says nothing of the text."""
    names: dict[Name, Entry] = {"a.png": A, "cut.txt": CUT, "note.txt": b"a note", "x.png": link("note.txt")}
    names |= {"y.JPG": hardlink("class/note.txt"), "z.jpg": link("cut.txt")}
    root = tree(tmp_path / "dataset", {"class": names})
    view = _selected(root, Policy(dedup=Dedup(same_by), broken_images=BrokenImages.HIDE))
    hidden = {entry.path: entry for entry in view.hidden_entries()}
    assert {path: entry.kind for path, entry in hidden.items()} == dict.fromkeys(
        [b"class/cut.txt", b"class/x.png", b"class/y.JPG", b"class/z.jpg"], Kind.BROKEN
    )
    assert hidden[b"class/x.png"].reason == hidden[b"class/y.JPG"].reason == "no image: a text"
    told = explain(view, b"class/z.jpg")
    assert (told.kind, told.reason) == (Kind.BROKEN, hidden[b"class/cut.txt"].reason)
    assert told.reason.startswith("the image is truncated")
    told_below = hidden_below(view, b"class")["hidden"]
    assert [entry["reason"] for entry in told_below] == [entry.reason for entry in hidden.values()]
    view.close()


def test_a_million_reasons_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many different ones the kind alone is told."""
    monkeypatch.setattr("symfuse.lines.MAX_LINES", 3)
    root = tree(tmp_path / "dataset", {"1.png": b"a text", "2.png": b"", "3.png": b"<html>", "4.png": b"another text"})
    view = _selected(root, Policy(broken_images=BrokenImages.HIDE))
    reasons = [entry.reason for entry in view.hidden_entries()]
    assert reasons == ["no image: a text", "no image: the file is empty", None, "no image: a text"]
    assert explain(view, b"3.png").reason == Kind.BROKEN.meaning
    view.close()
