"""`symfuse why`."""

from __future__ import annotations

import contextlib
import json
import os

import click

from symfuse import control
from symfuse.cli.options import as_path
from symfuse.cli.output import complain, listed_lines, say
from symfuse.control import Message
from symfuse.dataset import Dataset
from symfuse.errors import ExitStatus, MountpointError, NotMounted, SourceError, SymfuseError, UsageError
from symfuse.explain import explain, hidden_below
from symfuse.mounts import channel, live, table
from symfuse.mounts.bounded import in_child, real_path
from symfuse.mounts.request import absolute
from symfuse.mounts.table import MountEntry, State, is_within
from symfuse.policy import Policy
from symfuse.source.realpaths import PATH_MAX
from symfuse.view import View

#: How long an answer may take: a huge directory is read for it, or a source looked at on slow storage.
ANSWER_TIMEOUT_S = 10.0


@click.command("why")
@click.argument("path", type=as_path)
@click.option(
    "--source", type=as_path, metavar="DIR", help="The dataset that PATH belongs to, where that is not plain."
)
@click.option("--all", "is_all", is_flag=True, help="List all that is hidden at PATH and below it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(path: bytes, *, source: bytes | None, is_all: bool, as_json: bool) -> int:
    """Say which source is shown at PATH, on a mount or in a dataset, or why it is not shown.

    In a dataset, what a live mount of it shows is explained; where there is none, what a mount without options would
    show; with --all, PATH is then read as if it were the dataset. The exit status is 9 when nothing is shown, or what
    is shown can no longer be read.
    """
    where, explanation = _explain(path, source, control.HIDDEN if is_all else control.WHY)
    if as_json:
        click.echo(json.dumps(explanation | {"of": where}, indent=2))
    elif is_all:
        _list(where, explanation)
    else:
        _show(os.fsdecode(path), where, explanation)
    is_readable = is_all or (explanation["shown"] and explanation["stale"] is None)
    return ExitStatus.OK if is_readable else ExitStatus.NOT_SHOWN


def _explain(path: bytes, source: bytes | None, question: int) -> tuple[str, Message]:
    """What is explained (a mount or a dataset), and the answer to `control.WHY` or `control.HIDDEN`."""
    literal = absolute(path)
    mount = table.covering(literal)
    if source is None and mount is not None and mount.is_symfuse:  # its server alone need respond
        return _ask(mount, os.path.relpath(literal, mount.mountpoint), question)
    # A link in the last component may be the question; those before it may lead onto a mount or into a dataset.
    real = os.path.join(real_path(os.path.dirname(literal)), os.path.basename(literal))
    if source is not None:
        return _look(absolute(source), _below(absolute(source), literal, real), question)
    for name in (literal, real):
        mount = table.covering(name)
        if mount is not None and mount.is_symfuse:
            return _ask(mount, os.path.relpath(name, mount.mountpoint), question)
        if (mount := live.serving(name)) is not None:
            return _ask(mount, _below(mount.source, literal, real), question)
    others = _others(literal)
    root, relative = _guess(literal) if question == control.WHY else (literal, b".")  # to list DIR is to read all of it
    # Which dataset they are of anybody could say: it decides nothing but where the way to the path begins.
    if hints := [mount.source for mount in others if question == control.WHY or table.is_trusted(mount)]:
        root, relative = hints[0], _below(hints[0], literal, real)
    where, answer = _look(root, relative, question)
    notes = [f"another user's mount of it, {os.fsdecode(mount.mountpoint)}, was not asked" for mount in others]
    answer["notes"] = [*answer.get("notes", ()), *notes]
    return where, answer


def _others(path: bytes) -> list[MountEntry]:
    """Other users' mounts of the dataset that a path lies in, which answer them alone."""
    mounts = [mount for mount in table.symfuse_mounts() if not table.is_own(mount)]
    return [mount for mount in mounts if is_within(path, mount.source)]


def _below(directory: bytes, literal: bytes, real: bytes) -> bytes:
    """The path relative to a directory, which may itself be named through links. Errors: UsageError."""
    for name, root in ((literal, directory), (real, real_path(directory))):
        if is_within(name, root):
            return os.path.relpath(name, root)
    raise UsageError(f"{os.fsdecode(literal)} is not in {os.fsdecode(directory)}", "name the dataset that it is in")


def _guess(literal: bytes) -> tuple[bytes, bytes]:
    """The dataset a path probably belongs to, and the path in it: what is said to be read shows in the answer."""
    here = os.getcwdb()
    if is_within(literal, here):
        first, _, rest = os.path.relpath(literal, here).partition(b"/")
        if rest:
            return os.path.join(here, first), rest
    return os.path.dirname(literal), os.path.basename(literal) or b"."


def _ask(mount: MountEntry, relative: bytes, question: int) -> tuple[str, Message]:
    """Errors: NotMounted, MountpointError, UsageError."""
    name = os.fsdecode(mount.mountpoint)
    if len(relative) > PATH_MAX:
        raise UsageError("the path is longer than any path can be")
    try:
        # Not os.fsdecode: the server's locale may be another than ours.
        path = relative.decode("utf-8", "surrogateescape")
        answer = channel.ask(mount, question, path=path, timeout_s=ANSWER_TIMEOUT_S)
    except (PermissionError, channel.NoAnswer) as error:
        if isinstance(error, channel.NoAnswer) and error.state is not State.ANOTHER_USER:
            raise
        raise MountpointError(f"{name} was mounted by another user", "ask as that user") from None
    except TimeoutError:
        if live.look(mount).state.is_served:
            source = os.fsdecode(mount.source)
            raise SourceError(f"the storage of {source} does not respond", "see the file systems it lies on") from None
        raise NotMounted(f"the server of {name} does not respond", "end its process, and mount again") from None
    except OSError as error:
        raise NotMounted(
            f"the server of {name} does not answer ({error.strerror})", "unmount, and mount again"
        ) from error
    return f"the mount {name}", answer


def _look(root: bytes, relative: bytes, question: int) -> tuple[str, Message]:
    """What a mount without options would show, looked at by a child process. Errors: SourceError."""
    timeout_s = None if question == control.HIDDEN else ANSWER_TIMEOUT_S  # to read a whole dataset may take its time
    name = os.fsdecode(root)
    try:
        said = in_child(lambda: _answer(root, relative, question), timeout_s=timeout_s)
    except TimeoutError:
        raise SourceError(f"the storage of {name} does not respond", "see the file systems it lies on") from None
    except ChildProcessError as error:
        raise SourceError(
            f"{name} was not read to its end ({error.strerror})", "see dmesg: memory may be short"
        ) from error
    return f"the dataset {name}", control.ask(lambda _command, _payload: said, question)


def _answer(root: bytes, relative: bytes, question: int) -> bytes:
    """As the server of a mount would answer."""
    try:
        with contextlib.closing(View(Dataset(root, Policy()))) as view:
            if question == control.WHY:
                return control.encode({"ok": explain(view, relative).as_dict()})
            view.freeze_all()
            return control.encode({"ok": hidden_below(view, relative)})
    except SymfuseError as error:
        return control.in_band(error)
    except OSError as error:
        return control.in_band(SourceError(f"{os.fsdecode(root)} cannot be read ({error.strerror})", "see findmnt"))
    except Exception as error:
        return control.in_band(SymfuseError(f"internal error: {type(error).__name__}: {error}", "please report it"))


def _show(path: str, where: str, explanation: Message) -> None:
    kind = f" ({explanation['kind']})" if explanation["kind"] else ""
    say(f"{path}: {'' if explanation['shown'] else 'not shown: '}{explanation['reason']}{kind}")
    if explanation["shown_instead"]:
        say(f"  shown:  {explanation['shown_instead']}")
    if explanation["belongs_to"]:
        say(f"  image:  {explanation['belongs_to']}")
    for note in explanation["notes"]:
        say(f"  note:   {note}")
    if explanation["source"]:
        say(f"  source: {explanation['source']}")
    for step in explanation["steps"]:
        say(f"  link:   {step}")
    say(f"  in:     {where}")


def _list(where: str, listed: Message) -> None:
    for kind, text in listed_lines(listed):
        say(f"{kind}: {text}")
    if not listed["complete"]:
        complain(f"{where} is still being read: ask again for the rest")
    for note in listed.get("notes", ()):
        complain(note)
