"""scripts/bench without a mount: clients notice what is wrong, statistics and reports say what was measured."""

from __future__ import annotations

import json
import os
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scripts.benchmark import measure, picture, report, scale
from scripts.benchmark.__main__ import matching, settings_of
from scripts.benchmark.contenders import CONTENDERS, DEFAULT, Contender, Failure
from scripts.benchmark.dataset import Data, Shape, Tree, is_in_linked_class, shown_as, split_and_class, stored_as
from scripts.benchmark.measure import GROUPS, Run, Settings, Unusable, run_client, shuffled, wanted_rows
from scripts.benchmark.results import Results, Spread
from scripts.benchmark.rows import QUICK, ROWS
from tests.support.mounting import MYSELF, REPOSITORY
from tests.support.trees import link, tree

ABOUT: dict[str, Any] = {
    "when": "2026-01-01",
    "symfuse": "1",
    "commit": None,
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gb": 8, "kernel": "6.1", "python": "3.11.2", "root": True},
    "versions": {"bindfs": "bindfs 1"},
    "settings": {"files": 2000, "size": 18_000, "classes": 10, "large_files": 1, "large_size": 1 << 20},
}


def results() -> Results:
    """Two rounds in which the machine was twice as slow the second time, one failure, one contender missing."""
    made = Results(dict(ABOUT), ["links", "copy", "bindfs"], {"mergerfs": "mergerfs is not installed"})
    for number, base in enumerate((10.0, 20.0)):
        for turn in (base, base * 100, base * 0.9):  # something else ran during the second of three turns
            made.add("warm-os-1", "links", turn, round_number=number)
        made.add("warm-os-1", "copy", base * 0.5, round_number=number)
    made.add("walk-first", "links", 4.0, round_number=0)
    made.add("walk-first", "copy", 2.0, round_number=0)
    made.fail("walk-first", "bindfs", "it shows 1 of 2 files")
    made.add("ready", "bindfs", 3.0, round_number=1)  # it had no turn in the first
    made.requests["requests-cold"] = {}
    return made


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    """A dataset of two links and its copy."""
    files = {"a/1.jpg": b"one", "b/2.jpg": b"twice"}
    tree(
        tmp_path,
        {
            "dataset": {"a": {"1.jpg": link("../../store/1")}, "b": link("../store/b")},
            "store": {"1": b"one", "b": {"2.jpg": b"twice"}},
            "copy": {"a": {"1.jpg": b"one"}, "b": {"2.jpg": b"twice"}},
        },
    )
    index = tmp_path / "index"
    listed = tuple((path, len(content)) for path, content in files.items())
    index.write_text(json.dumps(listed))
    return Tree(str(tmp_path / "dataset"), str(tmp_path / "copy"), str(index), listed)


# -- statistics --------------------------------------------------------------------------------------------------------


def test_a_spread_is_the_median_the_least_and_the_greatest() -> None:
    assert Spread.of([3, 1, 9]) == Spread(median=3, low=1, high=9)
    assert Spread.of([1, 2]).median == 1.5
    with pytest.raises(ValueError, match="no median"):
        Spread.of([])


def test_a_ratio_is_taken_within_a_round() -> None:
    made = results()
    assert made.ratio("warm-os-1", "copy") == Spread(0.5, 0.5, 0.5), "although the rounds themselves differ by half"
    assert made.value("warm-os-1", "copy") == Spread(7.5, 5, 10)
    assert made.ratio("warm-os-1", "bindfs") is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.00"), (0.123, "0.12"), (9.999, "10.00"), (12.34, "12.3"), (123.4, "123"), (12345, "12,345")],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert report.number(value) == shown


# -- what there is -----------------------------------------------------------------------------------------------------


def test_every_row_is_measured_by_exactly_one_group() -> None:
    assert sorted(key for group in GROUPS for key in group.rows) == sorted(ROWS)


def test_rows_and_contenders_are_chosen_by_patterns() -> None:
    assert wanted_rows(["walk-*", "ready"]) == ["walk-first", "walk-second", "ready"]
    assert wanted_rows(["nothing"]) == []
    assert wanted_rows(QUICK) == [key for key in ROWS if key in QUICK], "what --quick names exists"
    assert matching(["bindfs", "rclone-*"]) == ["links", "bindfs", "rclone-off", "rclone-full"]
    assert matching(["nobody"]) == []
    assert set(DEFAULT) < set(CONTENDERS)


def test_the_order_differs_from_turn_to_turn_and_not_from_run_to_run() -> None:
    names = ["a", "b", "c", "d"]
    orders = [shuffled(names, turn) for turn in range(20)]
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names)
    assert {order[order.index("a") - 1] for order in orders if order[0] != "a"} == {"b", "c", "d"}, "no fixed neighbour"
    assert orders == [shuffled(names, turn) for turn in range(20)]


def test_the_dataset_has_splits_linked_classes_and_no_name_twice() -> None:
    shape = Shape(files=2_000, classes=20)
    splits = [split_and_class(number, shape)[0] for number in range(shape.files)]
    assert {split: splits.count(split) for split in splits} == {"train": 1600, "val": 200, "test": 200}
    assert {split_and_class(number, shape)[1] for number in range(shape.files)} == set(range(20))
    assert sum(is_in_linked_class(number, shape) for number in range(shape.files)) == 200
    for named in (shown_as, stored_as):
        assert len({named(number, shape) for number in range(shape.files)}) == shape.files


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["dataset", "copy"])
@pytest.mark.parametrize(
    "task",
    [
        {"work": "walk"},
        {"work": "stat"},
        {"work": "read", "how": "os"},
        {"work": "read", "how": "python", "shuffled": True},
        {"work": "read", "how": "os", "processes": 4},
    ],
    ids=str,
)
def test_a_client_counts_the_files_that_it_saw(small: Tree, root: str, task: dict[str, Any]) -> None:
    (done,) = run_client(
        {"root": getattr(small, root), "index": small.index, "files": 2, "budget_s": 10} | task
    ).values()
    assert done["count"] == 2
    assert done["seconds"] > 0


def test_a_client_repeats_what_is_short(small: Tree) -> None:
    task = {"root": small.copy, "index": small.index, "files": 2, "budget_s": 10, "at_least_s": 0.02}
    for work in ({"work": "walk"}, {"work": "stat"}, {"work": "read", "how": "os"}):
        (done,) = run_client(task | work).values()
        assert done["count"] > 2
        assert done["count"] % 2 == 0, "whole passes"
        assert done["seconds"] >= 0.02


def test_a_client_stops_when_its_time_is_up(small: Tree) -> None:
    task = {"root": small.copy, "index": small.index, "files": 2, "budget_s": 0}
    assert run_client(task | {"work": "read", "how": "os"})["read"]["count"] == 1


def test_a_client_reads_large_files_by_the_mebibyte(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    (tmp_path / "index").write_text(json.dumps([["big", 3 << 20]]))
    task = {"work": "read-large", "root": str(tmp_path), "index": str(tmp_path / "index"), "budget_s": 10}
    assert run_client(task)["read-large"]["count"] == 3
    assert run_client(task | {"mib": 2})["read-large"]["count"] == 2, "no more than was read the first time"


@pytest.mark.parametrize("work", ["walk", "stat"])
def test_a_listing_that_lacks_files_is_a_failure(small: Tree, work: str) -> None:
    with pytest.raises(Failure, match=r"it shows 2 of 1,000 files"):
        run_client({"work": work, "root": small.dataset, "files": 1_000})


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("content", [b"cut", b"longer than it was"])
def test_contents_of_another_size_are_a_failure(small: Tree, content: bytes, processes: int) -> None:
    Path(small.copy, "b/2.jpg").write_bytes(content)
    task = {"root": small.copy, "index": small.index, "budget_s": 10, "processes": processes}
    for how in ("os", "python"):
        with pytest.raises(Failure, match="bytes instead of"):
            run_client(task | {"work": "read", "how": how})


@pytest.mark.parametrize("processes", [1, 4])
def test_a_file_that_cannot_be_read_is_a_failure_with_its_reason(small: Tree, processes: int) -> None:
    Path(small.copy, "b/2.jpg").unlink()
    task = {"work": "read", "how": "os", "root": small.copy, "index": small.index, "budget_s": 10}
    with pytest.raises(Failure, match="No such file or directory"):
        run_client(task | {"processes": processes})


def test_a_client_that_hangs_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "index").write_text(json.dumps([["pipe", 1]]))
    task = {"work": "read", "how": "os", "root": str(tmp_path), "index": str(tmp_path / "index"), "budget_s": 10}
    with pytest.raises(Failure, match="no end within"):
        run_client(task, timeout_s=0.2)


# -- the run -----------------------------------------------------------------------------------------------------------


def run(small: Tree, contenders: list[str], **settings: Any) -> Results:
    made = Results({}, contenders)
    scratch = os.path.dirname(small.index)
    Run(Data(small, small), contenders, Settings(at_least_s=0, **settings), made, scratch).measure()
    return made


def test_each_round_adds_a_sample_for_each_contender(small: Tree) -> None:
    made = run(small, ["links", "copy"], rounds=3, rows=("walk-*", "warm-os-1", "large-*"))
    counted = {key: {name: [*map(len, rounds)] for name, rounds in row.items()} for key, row in made.samples.items()}
    # The links have a turn at the beginning, somewhere in between, and at the end.
    wanted = ("walk-first", "walk-second", "warm-os-1", "large-first", "large-second")
    assert counted.items() >= {key: {"links": [3, 3, 3], "copy": [1, 1, 1]} for key in wanted}.items()
    assert made.about["rounds"] == 3


def test_no_round_is_begun_that_would_end_too_late(small: Tree) -> None:
    made = run(small, ["links"], rounds=3, minutes=0, rows=("walk-first",))
    assert made.about["rounds"] == 1, "the first is always measured"


def test_a_contender_that_fails_does_not_end_the_run(small: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "broken", Contender("broken", ("sh", "-c", "echo no such luck >&2; exit 1")))
    made = run(small, ["links", "broken"], rounds=2, rows=("walk-*", "stat-first"))
    assert made.failed == {
        key: {"broken": "sh ended: no such luck"} for key in ("walk-first", "walk-second", "stat-first")
    }
    assert len(made.samples["stat-first"]["links"]) == 2


def test_with_a_dataset_that_is_not_whole_nothing_is_measured(small: Tree) -> None:
    Path(small.copy, "b/2.jpg").unlink()
    with pytest.raises(Unusable, match=r"copy: it shows 1 of 2 files"):
        run(small, ["links", "copy"], rounds=1, rows=("walk-*",))


def test_caches_that_cannot_be_dropped_fail_those_rows_alone(small: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "DROP_CACHES", "/nowhere/drop_caches")
    made = run(small, ["links"], rounds=1, rows=("disk-listing", "walk-first"))
    assert "caches cannot be dropped here" in made.failed["disk-listing"]["links"]
    assert made.samples["walk-first"]["links"]


def test_a_signal_waits_for_what_is_begun_and_a_second_one_changes_nothing() -> None:
    script = """
import os, signal
from scripts.benchmark.interrupts import INTERRUPTS
INTERRUPTS.install()
with INTERRUPTS.held():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("begun and known")
print("never reached")
"""
    done = MYSELF.script(script, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "begun and known\n")


# -- reports -----------------------------------------------------------------------------------------------------------


def test_results_survive_json() -> None:
    made = results()
    told = json.loads(json.dumps(made.as_dict()))
    assert set(told) == {"format", "about", "contenders", "missing", "rows"}
    row = next(row for row in told["rows"] if row["key"] == "warm-os-1")
    assert row["samples"] == {"links": [[10, 1000, 9], [20, 2000, 18]], "copy": [[5], [10]]}
    assert row["values"]["copy"] == {"median": 7.5, "low": 5, "high": 10}
    assert row["ratios"]["copy"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert Results.from_dict(told).as_dict() == told
    with pytest.raises(ValueError, match="format"):
        Results.from_dict(told | {"format": 0})


def test_the_table_shows_ratios_absolute_numbers_failures_and_what_is_missing() -> None:
    console = Console(record=True, width=report.WIDTH, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        report.show(results(), console)
        text = console.export_text()
    (walk,) = (line for line in text.splitlines() if "os.walk" in line)
    assert walk.split()[-3:] == ["4.00", "0.50", "failed"]
    assert "bindfs failed: it shows 1 of 2 files (walk-first)" in text
    assert "mergerfs is missing: mergerfs is not installed" in text
    (ready,) = (line for line in text.splitlines() if "first listing" in line)
    assert ready.split()[-1] == "3.00"


def test_the_document_gets_the_numbers_between_its_marks() -> None:
    begin, end = "<!-- bench: begin; scripts/bench writes this -->", "<!-- bench: end; scripts/bench writes this -->"
    filled = report.fill(f"before\n{begin}\nold\n{end}\nafter\n", "bench", report.markdown(results()))
    assert filled.startswith(f"before\n{begin}\n")
    assert filled.endswith(f"\n{end}\nafter\n")
    assert "old" not in filled
    assert "| os.walk | µs/file | 4.00 | 0.50 | failed |" in filled
    assert "2 cores of a CPU, 8 GB, Linux 6.1, Python 3.11.2, as root; 2,000 links" in filled
    assert report.fill(filled, "bench", report.markdown(results())) == filled
    with pytest.raises(ValueError, match="section"):
        report.fill("no marks", "bench", "")


def test_the_document_of_this_repository_has_the_marks() -> None:
    document = (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
    for section in ("bench", "scale"):
        assert "numbers" in report.fill(document, section, "numbers")


def test_the_picture_puts_less_to_the_left() -> None:
    drawn = ET.fromstring(picture.draw(results()))
    titles = [title.text or "" for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["copy", "bindfs", "copy: 0.50", "copy: 0.50"]
    scaled = picture.Scale(0.1, 10)
    assert scaled.x(0.1) < scaled.x(1) < scaled.x(10)
    assert scaled.ticks() == [0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert set(picture.COLOURS) == set(CONTENDERS) - {"links"}


def test_without_a_ratio_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.draw(Results({}, ["links"]))


def test_the_machine_is_described_without_a_name() -> None:
    told = report.machine()
    assert told["cores"] == os.cpu_count()
    assert told["memory_gb"] > 0
    assert os.uname().nodename not in json.dumps(told)


# -- scale -------------------------------------------------------------------------------------------------------------


def test_growing_farms_are_measured_and_removed(tmp_path: Path) -> None:
    told = scale.measure([250, 500], ["links"], {}, str(tmp_path), rounds=2, on_step=lambda _step: None)
    assert [found["links"] for found in told["scale"]] == [250, 500]
    for found in told["scale"]:
        assert {key: len(samples) for key, samples in found["samples"]["links"].items()} == {
            "first-entry": 2,
            "walk-first": 2,
            "walk-second": 2,
        }
        assert found["failed"] == {}
    assert list(tmp_path.iterdir()) == []
    assert "| 500 | links |" in scale.markdown(told)


def test_options_replace_defaults_and_nothing_else() -> None:
    class Options:
        rows, rounds, minutes, seconds, quick = None, 7, None, None, False

    assert settings_of(Options()) == Settings(rounds=7)  # type: ignore[arg-type]
