"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from scripts.benchmark import dataset, picture, report, scale
from scripts.benchmark.contenders import CONTENDERS, DEFAULT, LINKS, REPOSITORY, SCALE_DEFAULT
from scripts.benchmark.dataset import MIB, Shape
from scripts.benchmark.interrupts import INTERRUPTS
from scripts.benchmark.measure import Run, Settings, wanted_rows
from scripts.benchmark.results import Results
from scripts.benchmark.rows import QUICK, ROWS

DOCUMENT = os.path.join(REPOSITORY, "docs", "benchmarks.md")
PICTURE = os.path.join(REPOSITORY, "docs", "benchmarks.svg")

#: With a load above this somebody else uses a processor for much of the time.
BUSY = 0.5
#: The defaults of a quick run.
QUICK_SHAPE = Shape(files=2_000, classes=10, large_files=2, large_size=64 * MIB)
QUICK_SETTINGS = Settings(rounds=1, minutes=2, budget_s=0.5, at_least_s=0.1, rows=QUICK)


def main() -> None:
    """Measure, or read results again, and show them."""
    options = arguments()
    INTERRUPTS.install()
    if options.again:
        with open(options.again, encoding="utf-8") as file:
            told = json.load(file)
        publish(told, options)
        return
    if (load := os.getloadavg()[0]) > BUSY:
        say(f"this machine is busy (load {load:.1f}): expect ratios that scatter, or wait until it is idle")
    contenders, missing = chosen(options.contenders or (SCALE_DEFAULT if options.scale else DEFAULT))
    with scratch(options.directory) as place:
        if options.scale:
            told = scale.measure(options.scale, contenders, missing, place, rounds=options.rounds or 3, on_step=say)
        else:
            told = measure(options, contenders, missing, place)
    publish(told, options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure what a mount costs, beside the links themselves, a copy, and other file systems.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"rows: {', '.join(ROWS)}\n\ncontenders: {', '.join(CONTENDERS)}",
    )
    data = parser.add_argument_group("the dataset")
    data.add_argument("--files", type=int, help=f"links to images ({Shape.files:,})")
    data.add_argument("--size", type=int, help=f"bytes of an image, on average ({Shape.size:,})")
    data.add_argument("--classes", type=int, help=f"classes in each split ({Shape.classes})")
    data.add_argument("--large-files", type=int, help=f"large files ({Shape.large_files})")
    data.add_argument("--large-size", type=int, metavar="MIB", help=f"MiB of each ({Shape.large_size // MIB})")
    data.add_argument("--directory", default=tempfile.gettempdir(), help="where to make it and to mount (%(default)s)")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--rows", type=words, metavar="ROW,…", help="rows, or patterns of rows (all)")
    what.add_argument("--contenders", type=words, metavar="NAME,…", help="contenders, or patterns")
    what.add_argument("--rounds", type=int, help=f"rounds ({Settings.rounds})")
    what.add_argument("--minutes", type=float, help=f"no round that would end later is begun ({Settings.minutes})")
    what.add_argument("--seconds", type=float, help=f"a client stops after so long ({Settings.budget_s})")
    what.add_argument("--quick", action="store_true", help="few files, few rows, one round: within two minutes")
    what.add_argument(
        "--scale", type=counts, metavar="N,…", help="farms of so many links instead: does cost grow linearly?"
    )
    out = parser.add_argument_group("what comes of it")
    out.add_argument("--output", metavar="DIR", default="bench-results", help="JSON and picture go here (%(default)s)")
    out.add_argument("--document", action="store_true", help="write the numbers into docs/benchmarks.md, too")
    out.add_argument("--from", dest="again", metavar="JSON", help="measure nothing, show an earlier run's results")
    options = parser.parse_args()
    if options.rows and not wanted_rows(options.rows):
        parser.error(f"no row is called {', '.join(options.rows)}")
    if options.contenders and not matching(options.contenders):
        parser.error(f"no contender is called {', '.join(options.contenders)}")
    return options


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word for word in text.split(",") if word)


def counts(text: str) -> list[int]:
    """Numbers with commas between them. Errors: ValueError, which argparse tells the user."""
    return [int(word) for word in words(text)]


def matching(patterns: Sequence[str]) -> list[str]:
    """Contenders that any of the patterns matches. The links are always there, as the base of the ratios."""
    found = [name for name in CONTENDERS if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return [LINKS, *(name for name in found if name != LINKS)] if found else []


def chosen(patterns: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The contenders that can be measured, and why the others cannot."""
    reasons = {name: CONTENDERS[name].missing() for name in matching(patterns)}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in reasons if name not in missing], missing


@contextlib.contextmanager
def scratch(directory: str) -> Iterator[str]:
    """A directory of our own, removed at the end. Peers let other users in, but nobody else gets past it."""
    place = tempfile.mkdtemp(prefix="symfuse-bench-", dir=directory)
    try:
        yield place
    finally:
        with INTERRUPTS.held():
            shutil.rmtree(place)


def measure(options: argparse.Namespace, contenders: list[str], missing: dict[str, str], place: str) -> dict[str, Any]:
    """The run that the options describe, as it goes into JSON."""
    shape, settings = shape_of(options), settings_of(options)
    say(f"making {shape.files:,} images and {shape.large_files} large files in {place}")
    data = dataset.make(place, shape)
    told = report.about(contenders, {**dataclasses.asdict(shape), **dataclasses.asdict(settings)})
    results = Results(told, contenders, missing)
    Run(data, contenders, settings, results, place, say).measure()
    return results.as_dict()


def shape_of(options: argparse.Namespace) -> Shape:
    """What dataset to make."""
    given = {name: getattr(options, name) for name in ("files", "size", "classes", "large_files")}
    given["large_size"] = options.large_size * MIB if options.large_size else None
    return dataclasses.replace(QUICK_SHAPE if options.quick else Shape(), **_given(given))


def settings_of(options: argparse.Namespace) -> Settings:
    """How much to measure."""
    given = {"rows": options.rows, "rounds": options.rounds, "minutes": options.minutes, "budget_s": options.seconds}
    return dataclasses.replace(QUICK_SETTINGS if options.quick else Settings(), **_given(given))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def say(step: str) -> None:
    """How far the run is."""
    print(step, file=sys.stderr, flush=True)


def publish(told: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the table; write JSON, picture and, where asked for, the document's section."""
    if "scale" in told:
        scale.show(told)
        write(options.output, "scale.json", json.dumps(told, indent=1))
        content, section, drawn = scale.markdown(told), "scale", None
    else:
        results = Results.from_dict(told)
        report.show(results)
        write(options.output, "bench.json", json.dumps(told, indent=1))
        content, section = report.markdown(results), "bench"
        with contextlib.suppress(ValueError):
            drawn = picture.draw(results)
            write(options.output, "bench.svg", drawn)
    if options.document:
        with open(DOCUMENT, encoding="utf-8") as file:
            filled = report.fill(file.read(), section, content)
        write(*os.path.split(DOCUMENT), filled)
        if drawn is not None:
            write(*os.path.split(PICTURE), drawn)


def write(directory: str, name: str, content: str) -> None:
    """Write a file, and say where it is."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
    say(f"written: {path}")


if __name__ == "__main__":
    main()
