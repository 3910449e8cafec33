"""scripts/bench from end to end, with a few files, our own mounts and no peers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.support.mounting import MYSELF, REPOSITORY, TIMEOUT_S, mounts

FILES = 40
OURS = ("symfuse-cached", "symfuse-fusepy")


@pytest.fixture
def bench(fuse: None, pytestconfig: pytest.Config, tmp_path: Path) -> list[str]:
    """The command for a small run in the test's directory."""
    if find_spec("skimage") is None:
        missing(pytestconfig, "scikit-image is not installed (scripts/test installs it)")
    dataset = ["--files", f"{FILES}", "--size", "3000", "--classes", "10", "--large-files", "1", "--large-size", "1"]
    where = ["--directory", f"{tmp_path}", "--output", f"{tmp_path / 'out'}"]
    who = ["--contenders", "links,copy,symfuse-cached,symfuse-fusepy"]
    return [sys.executable, "-m", "scripts.benchmark", *dataset, *where, *who]


def environment() -> Mapping[str, str]:
    return {**os.environ, **MYSELF.environment}


def row(told: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in told["rows"] if row["key"] == key)
    return found


def test_a_run_measures_everybody_and_leaves_nothing(bench: list[str], tmp_path: Path) -> None:
    rows = "walk-*,stat-*,cold-os-1,cold-python-4,warm-*-1,cold-shuffled,large-[fs]*,ready,memory-*,cpu-*,requests-*"
    done = subprocess.run(
        [*bench, "--rows", rows, "--rounds", "1", "--seconds", "5"],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "os.walk" in done.stdout
    told = json.loads((tmp_path / "out/bench.json").read_text())
    assert {key: each["failed"] for each in told["rows"] if (key := each["key"]) and each["failed"]} == {}
    for each in told["rows"]:
        turns = {name: [1] for name in OURS} | ({} if each["absolute"] else {"links": [3], "copy": [1]})
        assert {name: [*map(len, rounds)] for name, rounds in each["samples"].items()} == turns, each["key"]
    assert row(told, "requests-cold")["requests"]["symfuse-cached"]["read"] == FILES
    for warm in ("requests-walk-second", "requests-stat-second", "requests-warm-os"):
        assert row(told, warm)["requests"]["symfuse-cached"] == {"files": FILES}, "no request at all"
    assert (tmp_path / "out/bench.svg").read_text().startswith("<svg")
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the dataset is removed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_mount_and_no_file(
    bench: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    endless = [*bench, "--rows", "walk-*", "--rounds", "100000", "--minutes", "10"]
    process = subprocess.Popen(
        endless, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            changes = select.poll()
            changes.register(table, select.POLLERR | select.POLLPRI)
            while not mounted_below(tmp_path):
                assert process.poll() is None, "the run ended by itself"
                assert changes.poll(TIMEOUT_S * 1000), "nothing was mounted"
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert not mounted_below(tmp_path)
    assert list(tmp_path.iterdir()) == []


def mounted_below(directory: Path) -> list[bytes]:
    return [path for path in mounts() if path.startswith(os.fsencode(directory))]


def test_a_view_of_growing_farms_is_measured(bench: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*bench, "--scale", "300,600", "--rounds", "1"],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out/scale.json").read_text())
    for found in told["scale"]:
        assert found["failed"] == {}
        assert set(found["samples"]["symfuse-cached"]) >= {"ready", "first-entry", "walk-first", "growth-per-file"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
