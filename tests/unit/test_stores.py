from __future__ import annotations

import os
from pathlib import Path

import pytest

from symfuse import stores
from symfuse.dataset import Dataset
from symfuse.policy import Policy
from symfuse.stores import absent_store, common_store
from tests.support.trees import link, tree


def asked(root: Path, text: str) -> str | None:
    """What is said of a dangling link with this text."""
    tree(root, {"link": link(text)})
    return absent_store(Dataset(os.fsencode(root), Policy()), os.fsencode(root), b"link")


def test_the_deepest_directory_on_the_way_is_named_if_it_is_empty(tmp_path: Path) -> None:
    tree(tmp_path / "store", {"v1": {}, "v2": {"a": b"A"}})
    assert asked(tmp_path / "1", f"{tmp_path}/store/v1/deep/er/a") == f"{tmp_path}/store/v1 is empty: is it mounted?"
    assert asked(tmp_path / "2", "../store/v1/a") == f"{tmp_path}/store/v1 is empty: is it mounted?"
    assert asked(tmp_path / "3", f"{tmp_path}/store/v2/b") is None
    assert asked(tmp_path / "4", f"{tmp_path}/store/none/b") is None
    assert asked(tmp_path / "5", "/nowhere/at/all") is None


def test_a_mountpoint_that_fstab_knows_is_named_even_if_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstab = tmp_path / "fstab"
    lines = [
        "# a comment /x",
        "UUID=1 none swap sw 0 0",
        "short",
        "",
        f"server:/store {tmp_path}/my\\040store nfs defaults 0 0",
        "proc /proc proc defaults 0 0",
    ]
    fstab.write_text("\n".join(lines))
    monkeypatch.setattr(stores, "FSTAB", str(fstab))
    expected = f"{tmp_path}/my store is in {fstab}, and nothing is mounted there"
    assert asked(tmp_path / "1", f"{tmp_path}/my store/a/b") == expected
    assert asked(tmp_path / "2", "/proc/nothing/a") is None
    assert asked(tmp_path / "3", f"{tmp_path}/my store too/a") is None
    fstab.unlink()
    assert asked(tmp_path / "4", f"{tmp_path}/my store/a/b") is None


def test_a_chain_of_links_is_followed_to_its_store(tmp_path: Path) -> None:
    tree(tmp_path, {"store": {}, "alias": link("store")})
    assert asked(tmp_path / "d", "../alias/a") == f"{tmp_path}/store is empty: is it mounted?"


def test_what_several_links_lead_into(tmp_path: Path) -> None:
    tree(tmp_path, {"store": {"1": {"a": b""}, "2": {"b": b""}}, "alias": link("store")})
    links = tree(tmp_path / "d", {"a": link("../store/1/a"), "b": link("../alias/2/b"), "c": link("/etc/passwd")})
    dataset = Dataset(os.fsencode(links), Policy())

    def common(*names: bytes) -> bytes | None:
        return common_store(dataset, [(os.fsencode(links), name) for name in names])

    assert common(b"a", b"b") == os.fsencode(tmp_path / "store")
    assert common(b"a") == os.fsencode(tmp_path / "store/1")
    assert common(b"a", b"c") is None
    assert common() is None
