"""How the command line talks: results on stdout, everything else on stderr with the program's name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from symfuse.mounts.visible import visible
from symfuse.policy import Kind
from symfuse.progress import compared_line, first_of, hidden_line, warning_lines

if TYPE_CHECKING:
    from symfuse.control import Message


def say(text: str) -> None:
    """One line of result."""
    click.echo(visible(text))


def complain(text: str) -> None:
    """One line for the user that is no result."""
    click.echo(f"symfuse: {visible(text)}", err=True)


def quoted(path: str) -> str:
    """A path as one can type it in a shell; bash's `$'…'` where it holds what does not print."""
    if visible(path) == path:
        return shlex.quote(path)
    return "$'" + visible(path.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def say_hidden(frozen: Message, question: str, about: bytes, *, speak: Callable[[str], None] = say) -> None:
    """One line about all that is hidden, if anything is, and the warnings; `symfuse QUESTION ABOUT` says more."""
    line = hidden_line(frozen)
    if line is not None:
        speak(f"{line}: see symfuse {question} {quoted(os.fsdecode(about))}")
    warn(frozen)


def warn(frozen: Message) -> None:
    """What the user should know beyond what is hidden."""
    for line in warning_lines(frozen):
        complain(f"warning: {line}")
    if frozen["error"]:
        complain(frozen["error"])


def listed_lines(listed: Message) -> Iterator[tuple[str, str]]:
    """A word and a line for each hidden entry, each finding and each stale source; `listed` answers HIDDEN."""
    for entry in listed["hidden"]:
        instead = f" (shown instead: {entry['shown_instead']})" if entry["shown_instead"] else ""
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        image = f" (belongs to: {entry['belongs_to']})" if entry["belongs_to"] else ""
        yield entry["kind"], entry["path"] + instead + image + reason
    for finding in listed["findings"]:
        yield finding["finding"], ", ".join(finding["paths"])
    for path in listed["stale"]:
        yield "stale", path


def counted(number: int, noun: str) -> str:
    """`1 file`, `2,000 files`, `3 directories`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def frozen_line(frozen: Message) -> str:
    """`12 files in 3 directories` and how many entries are hidden."""
    line = f"{counted(frozen['files'], 'file')} in {counted(_directories(frozen), 'directory')}"
    hidden = sum(frozen["hidden"].values())
    return f"{line}, {counted(hidden, 'entry')} hidden" if hidden else line


def _directories(frozen: Message) -> int:
    return int(frozen["directories"])


def hidden_lines(frozen: Message) -> list[str]:
    """What is hidden, a line for each kind with its meaning and the first paths."""
    hidden: dict[str, int] = frozen["hidden"]
    examples: dict[str, list[str]] = frozen["examples"]
    return [
        f"{number:,} {kind} ({Kind(kind).meaning}): " + ", ".join(first_of(number, examples.get(kind, [])))
        for kind, number in hidden.items()
    ]


def summary_lines(frozen: Message) -> list[str]:
    """Where images are compared what the levels of directories were taken for, and how many; and `hidden_lines`."""
    return [*filter(None, [frozen["layout"], compared_line(frozen)]), *hidden_lines(frozen)]
