"""What a mount is asked, it answers whole and in words; what is hidden or gone is said before anybody asks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MountMaker
from tests.filesystems.source import Source
from tests.support.mounting import MYSELF, WAYS, Run, User
from tests.support.trees import Entry, Name, attributes, link, tree

pytestmark = pytest.mark.usefixtures("fuse")


def why(path: Path | bytes, *options: str, user: User = MYSELF) -> Run:
    return user.symfuse("why", *options, "--", path, check=False)


def explained(path: Path | bytes, *options: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(why(path, "--json", *options).stdout)
    return answer


# -- answers that are long, and questions that are not ours ---------------------------------------------------------


def test_more_paths_than_fit_into_one_round_are_listed_whole(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    broken: dict[Name, Entry] = {f"{'long-name-' * 15}{number:03}": link("nowhere") for number in range(400)}
    dataset = tree(
        tmp_path / "dataset", {"cat": {**broken, b"\xff": link("nowhere")}, "dog": {"x": link("no"), "y": b"Y"}}
    )
    mount = symfuse_mount(dataset, "--eager")
    expected = [f"cat/{name}" for name in sorted(map(str, broken))]

    listed = json.loads(MYSELF.symfuse("status", "--all", "--json", mount.path).stdout)["all"]["hidden"]
    assert [entry["path"] for entry in listed] == [*expected, "cat/\udcff", "dog/x"]
    assert {entry["kind"] for entry in listed} == {"dangling"}
    lines = MYSELF.symfuse("status", "--all", mount.path).stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.split()[0] == "dangling"] == [*expected, "cat/\\xff", "dog/x"]

    assert why(mount.path / "dog", "--all").stdout == "dangling: dog/x\n"
    assert why(dataset / "dog", "--all").stdout == "dangling: dog/x\n"
    assert len(why(mount.path / "cat", "--all").stdout.splitlines()) == 402  # with the word that it is emptied
    nothing = why(mount.path / "elsewhere", "--all")
    assert (nothing.returncode, nothing.stdout) == (0, "")


def test_status_with_many_findings_and_long_paths_loses_nothing(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    deep = [letter * 240 for letter in "abcdefg"]
    for each in ("cat", "dog"):
        for number in range(6):
            directory = tmp_path.joinpath("dataset", each, *deep)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number}.png").write_bytes(b"%d" % number)
    mount = symfuse_mount(tmp_path / "dataset", "--dedup", "bytes")
    status = mount.status()
    assert status["frozen"]["findings"] == {"conflict": 6}
    assert len(status["frozen"]["finding_examples"]["conflict"]) == 5
    listed = json.loads(MYSELF.symfuse("status", "--all", "--json", mount.path).stdout)["all"]["findings"]
    tail = "/".join(deep)
    assert [entry["paths"] for entry in listed] == [
        [f"{each}/{tail}/{number}.png" for each in ("cat", "dog")] for number in range(6)
    ]


def test_each_of_31_images_to_relabel_is_named(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    images: dict[Name, Entry] = {f"{number}.png": b"%d" % number for number in range(31)}
    dataset = tree(tmp_path / "dataset", {"cat": images, "dog": images})
    mount = symfuse_mount(dataset, "--dedup", "bytes")
    said = MYSELF.symfuse("status", "--all", mount.path).stdout
    conflicts = [line for line in said.splitlines() if line.split()[0] == "conflict"]
    assert len(conflicts) == 31
    assert all(line.count(".png") == 2 for line in conflicts)


# -- why: what was frozen decides --------------------------------------------------------------------------------------


def test_why_of_a_source_that_changed_or_vanished(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    files: dict[Name, Entry] = {"same": b"s", "changed": b"c", "vanished": b"v", "linked": link("changed")}
    dataset = tree(tmp_path / "dataset", {"cat": files})
    mount = symfuse_mount(dataset, "--eager")
    assert explained(mount.path / "cat/changed")["stale"] is None
    mount.dataset_may_change()
    mount.expect_in_log("cannot be read")
    (dataset / "cat/changed").write_bytes(b"longer than before")
    (dataset / "cat/vanished").unlink()

    assert why(mount.path / "cat/same").returncode == 0
    for name, what in (("changed", "changed"), ("linked", "changed"), ("vanished", "vanished")):
        for path in (mount.path / "cat" / name, dataset / "cat" / name):
            said = why(path)
            assert said.returncode == 9
            assert f"shown, but its source has {what} since it was frozen" in said.stdout
            assert "mount again" in said.stdout
        assert what in explained(mount.path / "cat" / name)["stale"]
    assert "size" in explained(mount.path / "cat/changed")["stale"]

    status = mount.status()
    assert status["stale"] == 3
    assert status["stale_examples"] == ["cat/changed", "cat/linked", "cat/vanished"]
    assert "3 sources changed or vanished: cat/changed" in MYSELF.symfuse("status", mount.path).stdout


def test_a_read_that_fails_is_counted_by_status(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    mount = symfuse_mount(dataset, "--eager")
    assert mount.status()["stale"] == 0
    mount.dataset_may_change()
    mount.expect_in_log("a cannot be read")
    (dataset / "a").write_bytes(b"other")
    with pytest.raises(OSError, match="Stale"):
        (mount.path / "a").read_bytes()
    assert mount.status()["stale"] == 1


def test_why_of_a_link_that_was_switched_says_what_the_mount_serves(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    """As Kubernetes does it with `..data`, and people with `ln -sfn`."""
    store = tree(tmp_path / "store", {"v1": {"a": b"1"}, "v2": {"a": b"2"}})
    dataset = tree(tmp_path / "dataset", {"current": link(str(store / "v1"))})
    mount = symfuse_mount(dataset, "--eager")
    mount.dataset_may_change()
    (dataset / "new").symlink_to(store / "v2")
    (dataset / "new").rename(dataset / "current")

    assert (mount.path / "current/a").read_bytes() == b"1"
    for name, source in (("current", "v1"), ("current/a", "v1/a")):
        answer = explained(mount.path / name)
        assert (answer["shown"], answer["stale"]) == (True, None)
        assert answer["source"] == str(store / source)
        assert str(store / "v2") in answer["notes"][0]
        assert f"the mount serves {store / 'v1'}" in answer["notes"][0]
    (dataset / "current").unlink()
    assert "nowhere" in explained(mount.path / "current")["notes"][0]
    assert (mount.path / "current/a").read_bytes() == b"1"


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Source]:
    """A file system whose requests fail or wait when a test says so, with a class in it, mounted at tmp_path/faulty."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a source of the tests' own")
    (tmp_path / "faulty").mkdir()
    with Source(tree(tmp_path / "real", {"cat": {"a": b"A"}, "dog": {"b": b"B"}}), tmp_path / "faulty") as source:
        yield source


def test_why_in_a_directory_that_cannot_be_listed(symfuse_mount: MountMaker, faulty: Source, tmp_path: Path) -> None:
    classes: dict[Name, Entry] = {name: link(str(faulty.mountpoint / name)) for name in ("cat", "dog")}
    faulty.rules({"op": "READDIR", "name": "cat", "do": "fail", "errno": "EIO"})
    mount = symfuse_mount(tree(tmp_path / "dataset", classes))
    mount.expect_in_log("cat cannot be listed")
    mount.wait_until_frozen()
    for path in (mount.path / "cat/a", mount.path / "cat", tmp_path / "dataset/cat/a"):
        said = why(path)
        assert said.returncode == 9
        assert "not shown: the directory cat cannot be listed (Input/output error) (unreadable)" in said.stdout
    assert why(mount.path / "dog/b").returncode == 0
    frozen = mount.status()["frozen"]
    assert (frozen["hidden"], frozen["finding_examples"]) == ({"unreadable": 1}, {"emptied": ["cat"]})
    listed = json.loads(MYSELF.symfuse("status", "--all", "--json", mount.path).stdout)["all"]
    nothing = {"shown_instead": None, "reason": None, "belongs_to": None}
    assert listed["hidden"] == [{"kind": "unreadable", "path": "cat", **nothing}]
    faulty.rules()
    assert why(mount.path / "cat/a").returncode == 0
    assert os.listdir(mount.path / "cat") == ["a"]
    frozen = mount.status()["frozen"]
    assert (frozen["hidden"], frozen["findings"]) == ({}, {})


def test_a_dataset_whose_root_cannot_be_listed_is_refused(faulty: Source, tmp_path: Path, backend: str) -> None:
    faulty.rules({"op": "READDIR", "name": "", "do": "fail", "errno": "EIO"})
    (tmp_path / "mnt").mkdir()
    said = MYSELF.symfuse("mount", *WAYS[backend], faulty.mountpoint, tmp_path / "mnt", check=False)
    assert said.returncode == 3
    assert "cannot be read (Input/output error)" in said.stderr
    assert not os.path.ismount(tmp_path / "mnt")
    assert MYSELF.symfuse("run", *WAYS[backend], faulty.mountpoint, "--", "true", check=False).returncode == 125


def test_nobody_hangs_who_asks_about_storage_that_does(symfuse_mount: MountMaker, faulty: Source) -> None:
    mount = symfuse_mount(faulty.mountpoint, "--eager")
    mount.dataset_may_change()
    faulty.rules({"op": "OPEN", "name": "a", "do": "block"}, {"op": "GETATTR", "name": "", "do": "block"})
    try:
        said = why(mount.path / "cat/a")
        assert said.returncode == 3
        assert "does not respond" in said.stderr
        assert "does not respond" in why(faulty.mountpoint / "cat/a", "--source", str(faulty.mountpoint)).stderr
        status = mount.status()
        assert (status["missing"], status["hanging"]) == ([], [str(faulty.mountpoint)])
    finally:
        faulty.release()
    assert mount.status()["hanging"] == []


def test_why_in_a_directory_without_permission(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    closed: dict[Name, Entry] = {"closed": attributes({"a": b"A"}, mode=0o300), "open": {"b": b"B"}}
    dataset = ordinary_user.owns(tree(ordinary_user.home / "dataset", closed))
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    said = why(mount.path / "closed/a", user=ordinary_user)
    assert said.returncode == 9
    assert "unreadable" in said.stdout
    assert said.stderr == ""


def test_another_users_mount_of_the_dataset_is_no_obstacle(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is no second user")
    dataset = tree(ordinary_user.home / "dataset", {"a": b"A", "gone": link("no")})
    mount = symfuse_mount(dataset, at=ordinary_user.home / "mnt", user=ordinary_user)
    said = why(dataset / "gone")
    assert said.returncode == 9
    assert "dangling" in said.stdout
    assert f"another user's mount of it, {mount.path}, was not asked" in said.stdout
    assert f"in:     the dataset {dataset}" in said.stdout
    shown = why(dataset / "a")
    assert shown.returncode == 0


# -- what is hidden is said ------------------------------------------------------------------------------------------


HALF_HIDDEN: dict[Name, Entry] = {
    "cat": {"1.png": b"1", "2.png": link("../no/2.png"), "3.png": b"3", "4.png": b"4"},
    "dog": {f"{number}.png": link(f"../no/{number}.png") for number in range(10)},
    ".git": {},
}


def test_mount_and_run_say_what_is_hidden_and_emptied(tmp_path: Path, backend: str) -> None:
    dataset = tree(tmp_path / "dataset", HALF_HIDDEN)
    (tmp_path / "mnt").mkdir()
    mounted = MYSELF.symfuse("mount", *WAYS[backend], dataset, tmp_path / "mnt")
    try:
        assert "12 entries hidden (11 dangling, 1 dot-entry): see symfuse status" in mounted.stdout
        assert "warning: 1 emptied" in mounted.stderr
        assert "dog" in mounted.stderr
    finally:
        MYSELF.symfuse("umount", tmp_path / "mnt")
    run = MYSELF.symfuse("run", *WAYS[backend], dataset, "--", "true")
    assert f"12 entries hidden (11 dangling, 1 dot-entry): see symfuse why --all {dataset}" in run.stderr
    assert "warning: 1 emptied" in run.stderr
    assert run.stdout == ""


def test_all_that_is_hidden_in_a_dataset_is_listed_and_nothing_beside_it_is_read(tmp_path: Path) -> None:
    tree(tmp_path / "beside", {"gone": link("nowhere")})
    dataset = tree(tmp_path / "dataset", {"cat": {"1.png": b"1", "gone": link("nowhere")}})
    assert why(dataset, "--all").stdout == "dangling: cat/gone\n"
    assert why(dataset / "none", "--all").returncode == 3


def test_a_dataset_without_anything_hidden_is_mounted_without_a_word_of_it(tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"1.png": b"1"}})
    run = MYSELF.symfuse("run", dataset, "--", "true")
    assert (run.stdout, run.stderr) == ("", "")


def test_run_says_it_while_the_command_runs(tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", HALF_HIDDEN)
    command = [MYSELF.python, "-m", "symfuse", "run", str(dataset), "--", "cat"]
    environment = {**os.environ, **MYSELF.environment}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as running:
        assert running.stderr is not None
        assert running.stdin is not None
        assert "12 entries hidden" in running.stderr.readline()  # cat waits for the end of its input
        running.stdin.close()
        running.stderr.read()
    assert running.returncode == 0


@pytest.mark.parametrize("word", ["emptied", "any"])
def test_an_emptied_class_is_refused_on_request(tmp_path: Path, backend: str, word: str) -> None:
    dataset = tree(tmp_path / "dataset", HALF_HIDDEN)
    refused = MYSELF.symfuse("run", *WAYS[backend], "--fail-on", word, dataset, "--", "true", check=False)
    assert refused.returncode == 125
    assert "1 emptied (dog)" in refused.stderr


def test_a_class_that_is_a_link_to_nothing_is_emptied(tmp_path: Path) -> None:
    classes: dict[Name, Entry] = {f"class-{number}": {"a": b"A"} for number in range(9)}
    strays: dict[Name, Entry] = {"lost": link("../../store/lost"), "stray.png": link("no.png"), "up": link("..")}
    dataset = tree(tmp_path / "dataset", {"train": {**classes, **strays}})
    refused = MYSELF.symfuse("run", "--fail-on", "emptied", dataset, "--", "true", check=False)
    assert "1 emptied (train/lost)" in refused.stderr


def test_hidden_by_choice_empties_nothing(tmp_path: Path) -> None:
    files: dict[Name, Entry] = {f".{number}": b"" for number in range(20)}
    dataset = tree(tmp_path / "dataset", {"cat": {**files, "a": b"A"}, "dog": {"b": b"B"}})
    assert MYSELF.symfuse("run", "--fail-on", "emptied", dataset, "--", "true").returncode == 0


def test_a_store_that_is_not_mounted_is_named(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    links: dict[Name, Entry] = {f"{number}.png": link(f"{store}/images/{number}.png") for number in range(3)}
    dataset = tree(tmp_path / "dataset", {"cat": links, "dog": links})
    mount = symfuse_mount(dataset)
    mount.wait_until_frozen()
    asked = f"{store} is empty: is it mounted?"
    assert asked in why(mount.path / "cat/1.png").stdout
    assert asked in why(dataset / "cat/1.png").stdout
    listed = mount.status()["frozen"]
    assert listed["hints"] == [asked]
    assert sorted(listed["finding_examples"]["emptied"]) == [".", "cat", "dog"]
    refused = MYSELF.symfuse("run", "--fail-on", "dangling", dataset, "--", "true", check=False)
    assert asked in refused.stderr


def test_a_store_that_is_there_is_not_suspected(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    tree(tmp_path / "store", {"1.png": b"1"})
    links: dict[Name, Entry] = {f"{number}.png": link(f"../../store/{number}.png") for number in range(3)}
    mount = symfuse_mount(tree(tmp_path / "dataset", {"cat": links}), "--eager")
    assert mount.status()["frozen"]["hints"] == []


def test_links_that_allow_other_hides_are_counted_with_the_cure(
    symfuse_mount: MountMaker, tmp_path: Path, backend: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("ordinary users may not use --allow-other here")
    tree(tmp_path / "store", {"1": b"1", "2": b"2"})
    dataset = tree(tmp_path / "dataset", {"cat": {"1": link("../../store/1"), "2": link("../../store/2"), "r": b"r"}})
    said = f"2 links that leave the dataset are hidden: with --allow-other add --allow-root {tmp_path / 'store'}"
    run = MYSELF.symfuse("run", *WAYS[backend], "--allow-other", dataset, "--", "true")
    assert run.stderr.count(said) == 1
    mount = symfuse_mount(dataset, "--allow-other")
    mount.wait_until_frozen()
    mount.expect_in_log(said)
    assert any(said in hint for hint in mount.status()["frozen"]["hints"])
    allowed = MYSELF.symfuse("run", "--allow-other", "--allow-root", tmp_path / "store", dataset, "--", "true")
    assert allowed.stderr == ""


# -- names that are not UTF-8 ------------------------------------------------------------------------------------------


LATIN: dict[Name, Entry] = {"cat": {"ü.png": b"1", b"\xfc.png": b"2", b"\xfcs.png": link("ü.png")}, b"\xe9": {}}


def test_names_that_are_not_utf8_are_shown_and_told(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(tree(tmp_path / "dataset", LATIN))
    mount.wait_until_frozen()
    assert len(os.listdir(mount.bytes + b"/cat")) == 3
    frozen = mount.status()["frozen"]
    assert (frozen["hidden"], frozen["findings"]) == ({}, {"not-utf8": 3})


def test_names_that_are_not_utf8_are_hidden_on_request(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    mount = symfuse_mount(tree(tmp_path / "dataset", LATIN), "--non-utf8", "hide")
    assert os.listdir(mount.path) == ["cat"]
    assert os.listdir(mount.path / "cat") == ["ü.png"]
    assert not os.path.lexists(mount.bytes + b"/cat/\xfc.png")
    mount.wait_until_frozen()
    frozen = mount.status()["frozen"]
    assert (frozen["hidden"], frozen["findings"]) == ({"not-utf8": 3}, {})
    said = why(mount.bytes + b"/cat/\xfc.png")
    assert said.returncode == 9
    assert "not-utf8" in said.stdout


@pytest.mark.parametrize("choice", ["show", "hide"])
def test_names_that_are_not_utf8_are_refused_on_request(tmp_path: Path, backend: str, choice: str) -> None:
    dataset = tree(tmp_path / "dataset", LATIN)
    options = ("--non-utf8", choice, "--fail-on", "not-utf8")
    refused = MYSELF.symfuse("run", *WAYS[backend], *options, dataset, "--", "true", check=False)
    assert refused.returncode == 125
    assert "3 not-utf8 (cat/\\xfc.png" in refused.stderr or "3 not-utf8 (\\xe9" in refused.stderr
    passed = MYSELF.symfuse("run", *WAYS[backend], "--fail-on", "any", dataset, "--", "true")
    assert passed.returncode == 0


# -- what is gone ------------------------------------------------------------------------------------------------------


def test_a_dataset_that_was_moved_away_is_missing(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    mount = symfuse_mount(dataset, "--eager")
    assert (mount.status()["missing"], mount.status()["hanging"]) == ([], [])
    mount.dataset_may_change()
    dataset.rename(tmp_path / "moved")
    try:
        assert mount.status()["missing"] == [str(dataset)]
    finally:
        (tmp_path / "moved").rename(dataset)
    assert mount.status()["missing"] == []


def test_a_store_that_was_unmounted_is_missing(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a store")
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", store], check=True)
    try:
        tree(store, {"a": b"A"})
        mount = symfuse_mount(tree(tmp_path / "dataset", {"a": link(str(store / "a"))}), "--eager")
        assert mount.status()["missing"] == []
        mount.dataset_may_change()
    finally:
        subprocess.run(["umount", "-l", store], check=True)
    assert mount.status()["missing"] == [str(store)]
