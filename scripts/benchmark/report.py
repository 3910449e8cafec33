"""Results for people: the table of a terminal, the section of docs/benchmarks.md, and a description of the machine."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import symfuse
from scripts.benchmark.contenders import CONTENDERS, LINKS, REPOSITORY
from scripts.benchmark.results import Results, Spread
from scripts.benchmark.rows import Row

#: As wide as the table is where no terminal says otherwise.
WIDTH = 200
#: Where nothing was measured.
NONE = "-"


def machine() -> dict[str, Any]:
    """What the numbers depend on. No name of the machine, nothing of its user. Source: proc_cpuinfo(5), sysconf(3)."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        model = re.search(r"^model name\s*:\s*(.+)$", lines.read(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": ".".join(platform.release().split("-")[0].split(".")[:2]),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
    }


def about(contenders: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """When, where, of what and how."""
    versions = {CONTENDERS[name].command[0]: CONTENDERS[name].version() for name in contenders if _is_peer(name)}
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "symfuse": symfuse.__version__,
        "commit": _commit(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
        "settings": settings,
    }


def _is_peer(name: str) -> bool:
    return bool(CONTENDERS[name].command) and not CONTENDERS[name].is_symfuse


def _commit() -> str | None:
    """The commit that is measured, marked where the files differ from it; None outside a checkout."""
    git = ["git", "-C", REPOSITORY, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def number(value: float) -> str:
    """Three digits of a number, as people read them."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def _cell(results: Results, row: Row, name: str) -> tuple[str, str]:
    """The median, and the spread where there is one."""
    if name in results.failed.get(row.key, {}):
        return "failed", ""
    absolute = row.absolute or name == LINKS
    spread = results.value(row.key, name) if absolute else results.ratio(row.key, name)
    if spread is None:
        return NONE, ""
    return number(spread.median), _range(spread)


def _range(spread: Spread) -> str:
    low, high = number(spread.low), number(spread.high)
    return "" if low == high else f"{low}-{high}"


# -- the terminal ------------------------------------------------------------------------------------------------------


def show(results: Results, console: Console | None = None) -> None:
    """Print the ratios, then what has none, then what failed and what is missing."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=WIDTH, file=console.file)
    base = f"{LINKS}: absolute; the others: ratios to it, median and range"
    rows = results.rows()
    for title, some in (
        (base, [row for row in rows if not row.absolute]),
        ("Absolute numbers, median and range", [row for row in rows if row.absolute]),
    ):
        if some:
            console.print(_table(results, some, title))
    for line in remarks(results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(results: Results, rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("row")
    names = _columns(results, rows)
    for name in names:
        table.add_column(name.replace("symfuse-", "symfuse\n").replace("rclone-", "rclone\n"), justify="right")
    before = None
    for row in rows:
        if row.condition != before:
            table.add_row(f"[bold]{row.condition}[/bold]")
        before = row.condition
        cells = (_cell(results, row, name) for name in names)
        shown = (value + (f"\n[dim]{span}[/dim]" if span else "") for value, span in cells)
        table.add_row(f"  {row.title} [dim]({row.unit})[/dim]", *shown)
    return table


def _columns(results: Results, rows: Sequence[Row]) -> list[str]:
    """The contenders that any of these rows says something of."""
    return [
        name
        for name in results.contenders
        if any(name in results.samples.get(row.key, {}) or name in results.failed.get(row.key, {}) for row in rows)
    ]


def remarks(results: Results) -> Iterator[str]:
    """What failed, and what is missing, with the reasons."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for key, failed in results.failed.items():
        for name, reason in failed.items():
            reasons.setdefault((name, reason), []).append(key)
    for (name, reason), keys in reasons.items():
        yield f"{name} failed: {reason} ({', '.join(keys)})"
    for name, reason in results.missing.items():
        yield f"{name} is missing: {reason}"


# -- the document ------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The section of docs/benchmarks.md: the machine, the two tables, what failed and what is missing."""
    lines = [_described(results.about), ""]
    rows = results.rows()
    for some in ([row for row in rows if not row.absolute], [row for row in rows if row.absolute]):
        if not some:
            continue
        names = _columns(results, some)
        lines += [f"| row | unit | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
        before = None
        for row in some:
            if row.condition != before:
                lines.append(f"| **{row.condition}** | |" + " |" * len(names))
            before = row.condition
            cells = [" ".join(filter(None, _marked(*_cell(results, row, name)))) for name in names]
            lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"- {line}" for line in remarks(results)]
    return "\n".join(lines).rstrip() + "\n"


def _marked(median: str, span: str) -> tuple[str, str]:
    return median, f"<sub>{span}</sub>" if span else ""


def _described(told: dict[str, Any]) -> str:
    of, how = told["machine"], told["settings"]
    versions = "; ".join(filter(None, told["versions"].values()))
    commit = f" ({told['commit']})" if told["commit"] else ""
    return (
        f"{told['when']}, symfuse {told['symfuse']}{commit}: {of['cores']} cores of {of['cpu']}, "
        f"{of['memory_gb']} GB, Linux {of['kernel']}, Python {of['python']}, "
        f"{'as root' if of['root'] else 'as an ordinary user'}; {how['files']:,} links to images of "
        f"{how['size'] / 1000:.0f} KB in {how['classes']} classes, {how['large_files']} large files of "
        f"{how['large_size'] >> 20} MiB; rounds: {told.get('rounds', 0)}; "
        f"load before the run: {told.get('load', 'unknown')}. {versions}."
    )


def fill(document: str, section: str, content: str) -> str:
    """The document with what stands between the marks of a section replaced. Errors: ValueError without such marks."""
    begin, end = (f"<!-- {section}: {which}; scripts/bench writes this -->" for which in ("begin", "end"))
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the document has no section {section!r}")
    return f"{head}{begin}\n\n{content}\n{end}{tail}"
