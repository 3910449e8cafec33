"""`symfuse status`."""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from collections.abc import Iterator

import click

from symfuse import control
from symfuse.cli.options import as_path
from symfuse.cli.output import complain, frozen_line, hidden_lines, listed_lines, say
from symfuse.control import Message
from symfuse.errors import ExitStatus, SymfuseError
from symfuse.mounts import channel, live, table
from symfuse.mounts.bounded import real_mountpoint
from symfuse.mounts.path import LIST_TIMEOUT_S
from symfuse.mounts.table import MountEntry, State
from symfuse.mounts.unmount import find
from symfuse.mounts.visible import visible
from symfuse.progress import compared_line, first_of, warning_lines

Rows = list[tuple[str, str]]


@click.command("status")
@click.argument("mountpoint", type=as_path, required=False)
@click.option("--all", "is_all", is_flag=True, help="List every hidden entry and every finding, with all paths.")
@click.option("--json", "as_json", is_flag=True, help="For programs: an object for MOUNTPOINT, else a list of them.")
def command(mountpoint: bytes | None, *, is_all: bool, as_json: bool) -> int:
    """Show what the live mounts do, or the one at MOUNTPOINT."""
    mounts = table.symfuse_mounts() if mountpoint is None else [find(real_mountpoint(mountpoint), even_hidden=True)]
    statuses = live.statuses(mounts)
    answered = [_add_all(mount, status) for mount, status in zip(mounts, statuses, strict=True)] if is_all else []
    if as_json:
        click.echo(json.dumps(statuses if mountpoint is None else statuses[0], indent=2))
    elif statuses:
        _show(statuses)
    else:
        complain("nothing is mounted")
    return ExitStatus.OK if all(answered) else ExitStatus.NOT_MOUNTED


def _add_all(mount: MountEntry, status: Message) -> bool:
    """Ask a live mount for all that it hides; False, and a line for the user, when it does not answer."""
    if "pid" not in status:
        return True  # its state says why it says nothing
    try:
        status["all"] = channel.ask(mount, control.HIDDEN, path="", timeout_s=LIST_TIMEOUT_S)
    except (OSError, SymfuseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.cause
        complain(f"{status['mountpoint']} has not listed all that it hides ({reason}): ask it again")
        return False
    return True


def _show(statuses: list[Message]) -> None:
    show = _show_table if sys.stdout.isatty() else _show_lines
    for number, status in enumerate(statuses):
        if number:
            click.echo()
        show(status["mountpoint"], list(_rows(status)))


def _show_table(title: str, rows: Rows) -> None:
    rich = importlib.import_module("rich.table")
    grid = rich.Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(f"  {name}", importlib.import_module("rich.text").Text(visible(value)))
    click.secho(visible(title), bold=True)
    importlib.import_module("rich.console").Console(highlight=False).print(grid)


def _show_lines(title: str, rows: Rows) -> None:
    """For grep and cut: never wrapped."""
    say(title)
    for name, value in rows:
        say(f"  {name:<10}  {value}")


def _rows(status: Message) -> Iterator[tuple[str, str]]:
    yield "source", status["source"]
    state = State(status["state"])
    if state is not State.ALIVE:
        yield "state", f"{state}: {status['reason'] or state.meaning}; {status['cure']}"
    for path in status.get("missing", ()):
        yield "missing", path
    if not state.is_served:
        return
    uptime = datetime.timedelta(seconds=int(status["uptime_s"]))
    yield "backend", status["backend"] + (", under an overlay" if status["stacked"] else "")
    yield "io", status["io"]
    yield "pid", str(status["pid"])
    yield "uptime", str(uptime)
    frozen = status["frozen"]
    yield "frozen", frozen_line(frozen) + ("" if frozen["complete"] else ", so far")
    if frozen["layout"]:
        yield "layout", frozen["layout"]
    yield from (("compared", line.removeprefix("compared ")) for line in filter(None, [compared_line(frozen)]))
    if "all" in status:
        yield from listed_lines(status["all"])
    else:
        yield from _counts(status)
    for path in status["hanging"]:
        yield "hanging", path
    if frozen["error"]:
        yield "error", frozen["error"]
    yield "requests", ", ".join(f"{name} {number:,}" for name, number in status["requests"].items()) or "none"
    yield "bytes read", f"{status['bytes_read']:,}"
    if status["log"]:
        yield "log", status["log"]


def _counts(status: Message) -> Iterator[tuple[str, str]]:
    """What is hidden, wrong, or stale, a line for each kind."""
    frozen = status["frozen"]
    for line in hidden_lines(frozen):
        yield "hidden", line
    for line in warning_lines(frozen):
        yield "warning", line
    if frozen["unremembered"]:
        yield "read again", _unremembered(frozen["unremembered"])
    if status["stale"]:
        yield "stale", _stale(status["stale"], status["stale_examples"])


def _stale(number: int, examples: list[str]) -> str:
    changed = "source changed or vanished: " if number == 1 else "sources changed or vanished: "
    return f"{number:,} {changed}" + ", ".join(first_of(number, examples))


def _unremembered(number: int) -> str:
    files = "1 file is" if number == 1 else f"{number:,} files are"
    return (
        f"{files} not remembered but read again at the next mount: just changed, on a file system that does not say"
        " when they change, or without a cache (see the log)"
    )
