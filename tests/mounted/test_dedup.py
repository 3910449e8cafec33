"""The same image once, and no broken ones: on real mounts, in all the ways that a mount is asked for."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

import symfuse
from symfuse.errors import DatasetRefused, ExitStatus
from tests.conftest import MountMaker
from tests.support.damage import ONE_BIT_BMP
from tests.support.mounting import KEYWORDS, MYSELF, WAYS
from tests.support.pictures import A_AS_BMP, CUT, SPLITS, A, B, C, mounted_at, picture, shown
from tests.support.trees import Entry, Name, fifo, hardlink, link, tree

pytestmark = pytest.mark.usefixtures("fuse")


# -- what is the same, and within what ---------------------------------------------------------------------------------

ONE_CLASS: dict[Name, Entry] = {
    "cat": {
        "copy.png": A,
        "hard.png": hardlink("cat/copy.png"),
        "link.png": link("other.png"),
        "other.png": B,
        "twin.png": A,
        "zz re-encoded.bmp": A_AS_BMP,
    }
}


@pytest.mark.parametrize("broken_images", ["show", "hide"])
@pytest.mark.parametrize(
    ("dedup", "expected"),
    [
        ("off", ["copy.png", "hard.png", "link.png", "other.png", "twin.png", "zz re-encoded.bmp"]),
        ("target", ["copy.png", "other.png", "twin.png", "zz re-encoded.bmp"]),
        ("bytes", ["copy.png", "other.png", "zz re-encoded.bmp"]),
        ("pixels", ["copy.png", "other.png"]),
    ],
)
def test_each_identity_whether_or_not_images_are_decoded_as_well(
    symfuse_mount: MountMaker, tmp_path: Path, dedup: str, expected: list[str], broken_images: str
) -> None:
    dataset = tree(tmp_path / "dataset", ONE_CLASS)
    path = symfuse_mount(dataset, "--dedup", dedup, "--broken-images", broken_images).path
    assert shown(path) == [f"cat/{name}" for name in expected]
    for name in expected:
        assert (path / "cat" / name).read_bytes() == (dataset / "cat" / name).read_bytes()


@pytest.mark.parametrize(
    ("scope", "hidden"),
    [
        ("class", ["train/cat/2.png"]),
        ("split", ["train/cat/2.png", "train/dog/4.png"]),
        ("all", ["train/cat/2.png", "train/dog/4.png", "val/cat/6.png", "val/dog/8.png"]),
    ],
)
@pytest.mark.parametrize("way", ["mount", "-o", "run", "python"])
def test_each_scope_in_whatever_way_it_is_asked_for(
    backend: str, tmp_path: Path, mountpoint: Path, *, way: str, scope: str, hidden: list[str]
) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    expected = [path for path in shown(dataset) if path not in hidden]
    options = ["--dedup", "bytes", "--dedup-scope", scope]
    if way == "python":
        with symfuse.mounted(dataset, dedup="bytes", dedup_scope=scope, **KEYWORDS[backend]) as path:
            assert shown(path) == expected
    elif way == "run":
        script = "import os, sys; [print(f'{top}/{name}') for top, _, names in os.walk(sys.argv[1]) for name in names]"
        done = MYSELF.symfuse(
            "run", *WAYS[backend], *options, "--at", mountpoint, dataset, "--", sys.executable, "-c", script, "{}"
        )
        assert sorted(os.path.relpath(line, mountpoint) for line in done.stdout.splitlines()) == expected
    else:
        options = ["-o", f"dedup=bytes,dedup_scope={scope}"] if way == "-o" else options
        with mounted_at(dataset, mountpoint, *options, backend=backend):
            assert shown(mountpoint) == expected


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ([], "real.png"),
        (["--prefer", "*/z*"], "z.png"),
        (["--prefer", "*.bmp", "--prefer", "cat/[[]1].png", "--prefer", "*/z*"], "[1].png"),
        (["-o", r"dedup=bytes,prefer=*/[yz]*"], "z.png"),
    ],
)
def test_what_is_preferred_stays_else_the_real_file(
    symfuse_mount: MountMaker, tmp_path: Path, options: list[str], stays: str
) -> None:
    dataset = tree(
        tmp_path / "dataset", {"cat": {"[1].png": link("real.png"), "real.png": A, "x.png": A, "z.png": link("x.png")}}
    )
    assert shown(symfuse_mount(dataset, "--dedup", "bytes", *options).path) == [f"cat/{stays}"]


def test_the_order_of_splits_says_which_split_keeps_an_image(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"train": {"cat": {"1.png": A}}, "testing": {"cat": {"2.png": A}}})
    options = ("--dedup", "bytes", "--dedup-scope", "all")
    assert shown(symfuse_mount(dataset, *options).path) == ["train/cat/1.png"]
    assert shown(symfuse_mount(dataset, *options, "--split-order", "test,train").path) == ["testing/cat/2.png"]
    assert shown(symfuse_mount(dataset, "-o", "dedup=bytes,dedup_scope=all,split_order=test:train").path) == [
        "testing/cat/2.png"
    ]


@pytest.mark.parametrize("way", ["mount", "-o", "python"])
def test_the_layout_can_be_named(backend: str, tmp_path: Path, mountpoint: Path, *, way: str) -> None:
    batch: dict[Name, Entry] = {"cat": {"1.png": A}, "dog": {"2.png": A, "3.png": A}}
    dataset = tree(tmp_path / "dataset", {"parts": {"batch1": batch, "batch2": {"cat": {"4.png": B}}}})
    expected = ["parts/batch1/cat/1.png", "parts/batch1/dog/2.png", "parts/batch2/cat/4.png"]
    with mounted_at(dataset, mountpoint, "--dedup", "bytes", backend=backend) as done:
        assert shown(mountpoint) == ["parts/batch1/cat/1.png", expected[2]], "batch1 is taken for a class"
        assert "no splits; 2 classes at the second level" in done.stdout
    if way == "python":
        named = {"dedup": "bytes", "layout": "parts/{split}/{class}"}
        with symfuse.mounted(dataset, at=mountpoint, **named, **KEYWORDS[backend]) as path:  # type: ignore[arg-type]
            assert shown(path) == expected
        return
    options = {
        "mount": ["--dedup", "bytes", "--layout", "parts/{split}/{class}"],
        "-o": ["-o", "dedup=bytes,layout=parts/{split}/{class}"],
    }[way]
    with mounted_at(dataset, mountpoint, *options, backend=backend):
        assert shown(mountpoint) == expected


def test_which_layout_was_taken_is_said_by_whoever_mounts_and_by_status(
    backend: str, tmp_path: Path, mountpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = tree(tmp_path / "dataset", {"set": {**SPLITS, "extra\n": {"9.png": B}}})
    layout = r"splits: train, val at the second level, and beside them: set/extra\n; 2 classes"
    with mounted_at(dataset, mountpoint, "--dedup", "target", backend=backend) as done:
        assert f"  {layout}" in done.stdout.splitlines()
        said = MYSELF.symfuse("status", mountpoint).stdout
        assert f"  layout      {layout}" in said.splitlines()
        status = json.loads(MYSELF.symfuse("status", "--json", mountpoint).stdout)
        assert status["frozen"]["layout"] == layout.replace(r"\n", "\n")
    done = MYSELF.symfuse("run", *WAYS[backend], "--dedup", "target", dataset, "--", "true")
    assert f"; {layout}; " in done.stderr.splitlines()[0]
    with caplog.at_level(logging.INFO, "symfuse"), symfuse.mounted(dataset, dedup="target", **KEYWORDS[backend]):
        assert layout in caplog.messages
    with mounted_at(dataset, mountpoint, backend=backend) as done:
        assert "splits" not in done.stdout + MYSELF.symfuse("status", mountpoint).stdout


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--fail-on", "leak"], "--fail-on leak cannot be done, for no split is recognised: "),
        (["--dedup-scope", "split"], "--dedup-scope split cannot be done, for no split is recognised: "),
        (["--split-order", "b,a"], "--split-order cannot be done, for no split is recognised: "),
        (["--fail-on", "leak", "--layout", "batch2/{split}"], "--layout batch2/{split} fits no directory that holds "),
        (["--fail-on", "conflict", "--layout", "{split}"], "--fail-on conflict cannot be done, for no two classes of "),
        (["--conflicts", "fail", "--layout", "{split}"], "--conflicts fail cannot be done, for no two classes of one "),
        (["--layout", "images/{split}"], "--layout images/{split} fits no directory that holds images: "),
    ],
)
def test_a_check_that_cannot_be_made_does_not_pass(
    backend: str, tmp_path: Path, mountpoint: Path, options: list[str], cause: str
) -> None:
    """Also where no image is read."""
    dataset = tree(tmp_path / "dataset", {"batch1": {"1.png": A}, "batch2": {"2.png": B}})
    done = MYSELF.symfuse("mount", *WAYS[backend], "--dedup", "target", *options, dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.REFUSED
    assert done.stderr.startswith(f"symfuse: {cause}")
    assert "the directories that hold images are batch1, batch2: " in done.stderr
    assert " with --layout" in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(mountpoint) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--fail-on", "leak"],
            "symfuse: --fail-on leak cannot be done, for only one split (train) is recognised: "
            "the directories that hold images are train/cat, train/dog: "
            "leave it out, or say the others with --layout\n",
        ),
        (
            ["--split-order", "vla,train"],
            "symfuse: --split-order has vla, and there is no such split: the split is train\n",
        ),
    ],
)
def test_what_one_split_alone_cannot_answer_is_refused(
    tmp_path: Path, mountpoint: Path, options: list[str], said: str
) -> None:
    dataset = tree(tmp_path / "dataset", {"train": {"cat": {"1.png": A}, "dog": {"2.png": B}}})
    done = MYSELF.symfuse("mount", "--dedup", "target", *options, dataset, mountpoint, check=False)
    assert (done.returncode, done.stderr) == (ExitStatus.REFUSED, said)


@pytest.mark.parametrize("layout", ["images", "{split}/{klass}", "{split}/{split}", "a//{split}"])
def test_what_is_no_layout_is_wrong_usage(tmp_path: Path, mountpoint: Path, layout: str) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    done = MYSELF.symfuse("mount", "--dedup", "bytes", "--layout", layout, dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.USAGE
    assert done.stderr.startswith(f"symfuse: --layout {layout}: ")
    assert done.stderr.count("\n") == 1


# -- how it looks on the mount -----------------------------------------------------------------------------------------


def test_a_hidden_file_is_nowhere_its_class_stays_and_no_inode_number_moves(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    whole = symfuse_mount(dataset).path
    clean = symfuse_mount(dataset, "--dedup", "bytes", "--dedup-scope", "all").path

    assert os.listdir(clean / "val" / "dog") == []
    assert sorted(os.listdir(clean / "val")) == sorted(os.listdir(clean / "train")) == ["cat", "dog"]
    for call in (os.stat, os.lstat, os.open, os.listdir):
        arguments = (os.O_RDONLY,) if call is os.open else ()
        with pytest.raises(FileNotFoundError):
            call(clean / "val" / "dog" / "8.png", *arguments)
    everything = [path.relative_to(clean) for path in clean.rglob("*")]
    numbers = {path: (clean / path).stat().st_ino for path in everything}
    assert len(set(numbers.values())) == len(numbers) == 10
    assert numbers == {path: (whole / path).stat().st_ino for path in everything}
    assert {entry.inode() for entry in os.scandir(clean / "train" / "cat")} == {
        numbers[Path("train/cat/1.png")],
        numbers[Path("train/cat/3.png")],
    }


def test_status_and_why_know_what_is_hidden_and_what_stands_for_it(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    (dataset / "val" / "cat" / "broken.png").write_bytes(CUT)
    mounted = symfuse_mount(dataset, "--dedup", "bytes", "--dedup-scope", "all", "--broken-images", "hide")

    frozen = mounted.status()["frozen"]
    assert frozen["complete"] is True
    assert frozen["files"] == len(shown(mounted.path)) == 4
    assert frozen["content_bytes"] == sum(path.stat().st_size for path in mounted.path.rglob("*.png"))
    assert frozen["hidden"] == {"broken": 1, "duplicate": 2, "leak": 2}
    assert frozen["examples"] == {
        "broken": ["val/cat/broken.png"],
        "duplicate": ["train/dog/4.png", "train/cat/2.png"],
        "leak": ["val/cat/6.png", "val/dog/8.png"],
    }
    assert frozen["findings"] == {"conflict": 1, "emptied": 1, "leak": 2}
    assert frozen["finding_examples"] == {
        "conflict": ["train/cat/1.png, train/dog/4.png"],
        "emptied": ["val/dog"],
        "leak": ["train/cat/1.png, val/cat/6.png", "train/dog/5.png, val/dog/8.png"],
    }
    said = MYSELF.symfuse("status", mounted.path).stdout
    assert "hidden      2 leak (the same image is shown in another split): val/cat/6.png, val/dog/8.png\n" in said
    assert "warning     1 conflict (one image under several classes of one split): train/cat/1.png, " in said

    for hidden, kind, stand_in in (
        ("val/dog/8.png", "leak", "train/dog/5.png"),
        ("train/dog/4.png", "duplicate", "train/cat/1.png"),
        ("val/cat/broken.png", "broken", None),
    ):
        for asked in (mounted.path / hidden, dataset / hidden):  # of the dataset, its one live mount answers
            done = MYSELF.symfuse("why", "--json", asked, check=False)
            answer = json.loads(done.stdout)
            assert done.returncode == ExitStatus.NOT_SHOWN
            assert (answer["shown"], answer["kind"], answer["shown_instead"]) == (False, kind, stand_in)
        assert f"shown:  {stand_in}" in MYSELF.symfuse("why", asked, check=False).stdout or stand_in is None
    assert MYSELF.symfuse("why", mounted.path / "train/cat/1.png").returncode == 0

    why = "the image is truncated (Pillow: image file is truncated)"
    assert json.loads(MYSELF.symfuse("why", "--json", asked, check=False).stdout)["reason"] == why
    assert f"not shown: {why} (broken)\n" in MYSELF.symfuse("why", asked, check=False).stdout
    assert f"broken: val/cat/broken.png ({why})\n" in MYSELF.symfuse("why", "--all", mounted.path).stdout
    everything = json.loads(MYSELF.symfuse("status", "--all", "--json", mounted.path).stdout)["all"]["hidden"]
    assert {entry["path"]: entry["reason"] for entry in everything if entry["reason"]} == {"val/cat/broken.png": why}


HOSTILE: dict[Name, Entry] = {
    b"train": {
        b"c\xff\n": {b"\x1b[31m\n\xfe": A, b"*?[x]": A, b"-rf": B, "pipe": fifo(), "hard": hardlink("val/d/1")},
        "empty": {"0.png": b"", "1.png": b"", "2": b"", "3": b""},
    },
    b"val": {},
}


def test_hostile_names_fifos_empty_files_and_hard_links_across_directories(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    dataset = tree(tmp_path / "dataset", {"val": {"d": {"1": C}}, "train": {}})
    tree(dataset, {"train": HOSTILE[b"train"]})
    mounted = symfuse_mount(dataset, "--dedup", "bytes", "--dedup-scope", "all", "--prefer", "*/[*][?][[]x]")
    names = sorted(os.listdir(os.path.join(mounted.bytes, b"train", b"c\xff\n")))
    assert names == [b"*?[x]", b"-rf", b"hard"]
    assert os.listdir(mounted.path / "train" / "empty") == ["0.png", "2", "3"], "empty images are equal"
    assert os.listdir(mounted.path / "val" / "d") == [], "a hard link in train shows the same"
    done = MYSELF.symfuse("why", os.path.join(mounted.bytes, b"train", b"c\xff\n", b"\x1b[31m\n\xfe"), check=False)
    assert done.returncode == ExitStatus.NOT_SHOWN
    assert "\x1b" not in done.stdout + MYSELF.symfuse("status", mounted.path).stdout
    assert done.stdout.count("\n") == 3


# -- conflicts, leaks, broken images -----------------------------------------------------------------------------------

CONFLICT: dict[Name, Entry] = {"cat": {"1.png": A, "2.png": B}, "dog": {"3.png": A}}


@pytest.mark.parametrize(
    ("conflicts", "expected"),
    [
        ("first", ["cat/1.png", "cat/2.png"]),
        ("keep", ["cat/1.png", "cat/2.png", "dog/3.png"]),
        ("drop", ["cat/2.png"]),
        ("fail", None),
    ],
)
def test_conflicts(backend: str, tmp_path: Path, mountpoint: Path, conflicts: str, expected: list[str] | None) -> None:
    dataset = tree(tmp_path / "dataset", CONFLICT)
    options = ["--dedup", "bytes", "--dedup-scope", "all", "--conflicts", conflicts]
    if expected is None:
        done = MYSELF.symfuse("mount", *WAYS[backend], *options, dataset, mountpoint, check=False)
        assert done.returncode == ExitStatus.REFUSED
        assert done.stderr.startswith("symfuse: the dataset has 1 conflict (cat/1.png, dog/3.png)")
        assert done.stderr.count("\n") == 1
        return
    with mounted_at(dataset, mountpoint, *options, backend=backend) as done:
        assert shown(mountpoint) == expected
        assert os.listdir(mountpoint) == ["cat", "dog"]
        warning = "warning: 1 conflict (one image under several classes of one split): cat/1.png, dog/3.png"
        emptied = ["dog"] if "dog/3.png" not in expected else []
        first, *others = done.stderr.splitlines()
        assert first == f"symfuse: {warning}"
        assert [line.rpartition(": ")[2] for line in others] == emptied


def test_nothing_is_hidden_across_classes_unless_asked_but_all_of_it_is_warned_of(
    tmp_path: Path, mountpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    warnings = (
        "1 conflict (one image under several classes of one split): train/cat/1.png, train/dog/4.png",
        "2 leak (one image in several splits): train/cat/1.png, val/cat/6.png; train/dog/5.png, val/dog/8.png",
    )
    with mounted_at(dataset, mountpoint, "--dedup", "bytes") as done:
        assert done.stderr.splitlines() == [f"symfuse: warning: {warning}" for warning in warnings]
    done = MYSELF.symfuse("run", "--dedup", "bytes", dataset, "--", "true")
    assert done.stderr.splitlines()[1:] == [f"symfuse: warning: {warning}" for warning in warnings]
    assert "1 duplicate" in done.stderr.splitlines()[0]
    with caplog.at_level(logging.WARNING, "symfuse"), symfuse.mounted(dataset, dedup="bytes"):
        assert caplog.messages == list(warnings)


@pytest.mark.parametrize("kind", ["broken", "leak", "conflict", "duplicate"])
def test_fail_on_refuses_what_it_names_and_nothing_else(
    backend: str, tmp_path: Path, mountpoint: Path, kind: str
) -> None:
    datasets: dict[str, dict[Name, Entry]] = {
        "broken": {"train": {"cat": {"bad.png": CUT}}},
        "leak": {"val": {"cat": {"1.png": A}}},
        "conflict": {"train": {"dog": {"1.png": A}}},
        "duplicate": {"train": {"cat": {"1.png": A}}},
    }
    clean: dict[Name, Entry] = {"train": {"cat": {"0.png": A}, "dog": {"b.png": B}}, "val": {"cat": {"c.png": C}}}
    dataset = tree(tree(tmp_path / "dataset", clean), datasets[kind])
    options = {"dedup": "bytes", "broken_images": "hide"}
    others = {other for other in datasets if other != kind}
    with symfuse.mounted(dataset, fail_on=others, **options, **KEYWORDS[backend]):  # type: ignore[arg-type]
        pass
    with (
        pytest.raises(DatasetRefused, match=f"^the dataset has 1 {kind} "),
        symfuse.mounted(dataset, fail_on=[kind], **options, **KEYWORDS[backend]),  # type: ignore[arg-type]
    ):
        pytest.fail("it was mounted")
    command = ["--dedup", "bytes", "--broken-images", "hide", "--fail-on", kind]
    done = MYSELF.symfuse("mount", *WAYS[backend], *command, dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.REFUSED
    assert done.stderr.startswith(f"symfuse: the dataset has 1 {kind} ")


@pytest.mark.parametrize(
    "options",
    [
        ["--dedup-scope", "all"],
        ["--prefer", "*"],
        ["--conflicts", "fail"],
        ["--fail-on", "leak"],
        ["--fail-on", "any,duplicate"],
        ["--dedup", "pixels", "--fail-on", "broken"],
        ["--dedup", "bytes", "--conflicts", "drop"],
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path: Path, mountpoint: Path, options: list[str]) -> None:
    """Who types `--fail-on leak` relies on it."""
    done = MYSELF.symfuse("mount", *options, tree(tmp_path / "dataset", SPLITS), mountpoint, check=False)
    assert done.returncode == ExitStatus.USAGE
    assert done.stderr.count("\n") == 1


def test_broken_images_are_hidden_on_request_and_nothing_else_is(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    entries: dict[Name, Entry] = {
        "cut.png": CUT,
        "text.jpg": b"this is no image",
        "empty.png": b"",
        "fine.png": A,
        "fine.jpg": B,  # a PNG by another name loads
        "labels.csv": b"fine.png,cat\n",
        "link to cut.png": link("cut.png"),
    }
    dataset = tree(tmp_path / "dataset", {"cat": entries})
    assert len(shown(symfuse_mount(dataset).path)) == len(entries)
    assert shown(symfuse_mount(dataset, "--broken-images", "hide").path) == [
        "cat/fine.jpg",
        "cat/fine.png",
        "cat/labels.csv",
    ]


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ("pillow", ["a.png", "one bit.bmp", "tiff.jpg"]),
        ("tensorflow", ["a.png"]),
        ("both", ["a.png"]),
    ],
)
def test_a_judge_says_for_whom_images_are_broken(
    symfuse_mount: MountMaker, tmp_path: Path, judge: str, expected: list[str]
) -> None:
    entries: dict[Name, Entry] = {
        "a.png": A,
        "cut.png": CUT,
        "one bit.bmp": ONE_BIT_BMP,
        "tiff.jpg": picture(1, "TIFF"),
    }
    dataset = tree(tmp_path / "dataset", entries)
    mounted = symfuse_mount(dataset, "-o", f"broken_images=hide,judge={judge}")
    assert shown(mounted.path) == expected
    if judge != "pillow":
        said = MYSELF.symfuse("why", mounted.path / "tiff.jpg", check=False).stdout
        assert "not shown: TensorFlow does not read TIFF (broken)\n" in said


def test_a_broken_image_never_stands_for_others(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"a.png": CUT, "b.png": CUT, "c.png": A}})
    for dedup in ("bytes", "pixels"):
        mounted = symfuse_mount(dataset, "--dedup", dedup, "--broken-images", "hide")
        assert shown(mounted.path) == ["cat/c.png"]
        assert mounted.status()["frozen"]["hidden"] == {"broken": 2}
    assert shown(symfuse_mount(dataset, "--dedup", "pixels").path) == ["cat/a.png", "cat/c.png"], "equal bytes"
