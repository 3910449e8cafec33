"""How cost grows with the number of files: farms of links to empty files, listed and never read."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.benchmark import report
from scripts.benchmark.contenders import CONTENDERS, LINKS, Failure, serve
from scripts.benchmark.dataset import Tree
from scripts.benchmark.measure import MB, run_client, shuffled
from scripts.benchmark.results import Spread

DIRECTORIES = 200
#: The big directory holds so many entries, but never more than a fifth of all.
BIG = 200_000
BIG_SHARE = 5
#: A walk of a million files through a slow peer takes minutes.
TIMEOUT_S = 900

Samples = dict[str, dict[str, list[float]]]
#: Column, unit, and whether it is a ratio to the links.
COLUMNS = (
    ("ready", "ms", False),
    ("first-entry", "ms to the big directory's first entry", False),
    ("walk-first", "first walk", True),
    ("walk-second", "second walk", True),
    ("growth", "MB grown when all were listed", False),
    ("growth-per-file", "bytes a file", False),
)


def measure(
    sizes: Sequence[int],
    contenders: Sequence[str],
    missing: dict[str, str],
    scratch: str,
    *,
    rounds: int,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Measure each size; the farm of one is removed before the next is made."""
    names = [name for name in contenders if not CONTENDERS[name].reads_copy]
    told = report.about(names, {"rounds": rounds})
    found: list[dict[str, Any]] = []
    for size in sizes:
        on_step(f"{size:,} links: making them")
        with _farm(scratch, size) as tree:
            samples: Samples = {name: {} for name in names}
            failed: dict[str, str] = {}
            for number in range(rounds):
                for name in shuffled(names, number):
                    if name not in failed:
                        on_step(f"{size:,} links, round {number + 1} of {rounds}: {name}")
                        try:
                            _add(samples[name], _one(name, tree, scratch, size))
                        except (Failure, OSError) as error:
                            failed[name] = f"{error}"
        found.append({"links": size, "samples": samples, "failed": failed})
    return {"about": told, "missing": missing, "contenders": names, "scale": found}


def _add(samples: dict[str, list[float]], values: dict[str, float]) -> None:
    for key, value in values.items():
        samples.setdefault(key, []).append(value)


def _one(name: str, tree: Tree, scratch: str, size: int) -> dict[str, float]:
    """One contender's turn with one farm: twice mounted, because the big directory is to be opened first."""
    values = {}
    with serve(CONTENDERS[name], tree, scratch) as served:
        first = _client("first-entry", os.path.join(served.path, "big"), size)
        values["first-entry"] = first["seconds"] * 1e3
    with serve(CONTENDERS[name], tree, scratch) as served:
        before = served.memory_bytes()
        if served.ready_s is not None:
            values["ready"] = served.ready_s * 1e3
        for key in ("walk-first", "walk-second"):
            values[key] = _client("walk", served.path, size)["seconds"] / size * 1e6
        after = served.memory_bytes()
        if before is not None and after is not None:
            values["growth"] = (after - before) / MB
            values["growth-per-file"] = (after - before) / size
    return values


def _client(work: str, root: str, size: int) -> dict[str, float]:
    (done,) = run_client({"work": work, "root": root, "files": size}, TIMEOUT_S).values()
    return done


@contextlib.contextmanager
def _farm(scratch: str, size: int) -> Iterator[Tree]:
    """A dataset of so many links, each to an empty file of its own, for the length of a block."""
    top = os.path.join(scratch, f"farm{size}")
    big = min(BIG, size // BIG_SHARE)
    try:
        for number in range(size):
            name = "big" if number < big else f"d{(number - big) % DIRECTORIES:03}"
            store, shown = (os.path.join(top, kind, name) for kind in ("store", "dataset"))
            if number == 0 or big <= number < big + DIRECTORIES:
                os.makedirs(store, exist_ok=True)
                os.makedirs(shown, exist_ok=True)
            file = f"image{number:07}.jpg"
            os.mknod(os.path.join(store, file), stat.S_IFREG | 0o644)
            os.symlink(f"../../store/{name}/{file}", os.path.join(shown, file))
        # The links' own first walk finds everything in the kernel's caches, as the others' do.
        _client("walk", os.path.join(top, "dataset"), size)
        yield Tree(os.path.join(top, "dataset"), "", "", ())
    finally:
        shutil.rmtree(top)


# -- showing -----------------------------------------------------------------------------------------------------------


def _cells(told: dict[str, Any]) -> Iterator[list[str]]:
    """A line for each size and contender."""
    for found in told["scale"]:
        base = found["samples"][LINKS]
        for name in told["contenders"]:
            samples = found["samples"][name]
            if name in found["failed"]:
                yield [f"{found['links']:,}", name, f"failed: {found['failed'][name]}"]
                continue
            yield [
                f"{found['links']:,}",
                name,
                *(_cell(samples.get(key, []), base[key] if ratio else []) for key, _, ratio in COLUMNS),
            ]


def _cell(samples: list[float], base: list[float]) -> str:
    if not samples:
        return report.NONE
    told = report.number(Spread.of(samples).median)
    if base:
        ratios = [ours / links for ours, links in zip(samples, base, strict=False)]
        return f"{told} µs a file, ratio {report.number(Spread.of(ratios).median)}"
    return told


def _heads() -> list[str]:
    return ["links", "contender", *(f"{key}, {unit}" if key == "ready" else unit for key, unit, _ in COLUMNS)]


def show(told: dict[str, Any]) -> None:
    """Print the table."""
    console = Console()
    table = Table(box=box.SIMPLE_HEAD)
    for head in _heads():
        table.add_column(head, justify="left" if head == "contender" else "right")
    for cells in _cells(told):
        table.add_row(*cells)
    (console if console.is_terminal else Console(width=report.WIDTH)).print(table)


def markdown(told: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    heads = _heads()
    lines = [f"| {' | '.join(heads)} |", "|---:|---|" + "---:|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(told)]
    return "\n".join(lines) + "\n"
