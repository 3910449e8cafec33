"""What changes in the dataset while it is looked through before the mount."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from symfuse.dataset import Dataset
from symfuse.policy import Dedup, Finding, Policy, SameBy
from symfuse.selection import select
from symfuse.view import View
from tests.support.pictures import A, B
from tests.support.trees import hardlink, tree


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
