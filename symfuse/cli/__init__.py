"""The command line; the only package that prints or exits.

Each command is a module of its own, imported when it is called: `symfuse --version` loads click and nothing else.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper

import click

from symfuse import __version__, streams
from symfuse.cli.output import complain
from symfuse.errors import ExitStatus, SymfuseError, missing_part

COMMANDS = ("mount", "umount", "run", "status", "why")
#: What is all in vain when its output is lost. Of the others output is the lesser part.
ANSWERS = ("status", "why", "--version", "--help", "-h")


class Commands(click.Group):
    """Finds commands by name, and takes what mount(8) calls (`symfuse SOURCE MOUNTPOINT -o …`) for `symfuse mount`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of daily use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"symfuse.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A first argument that is no command, but a directory or the start of mount options, is mount's."""
        if args and args[0] not in COMMANDS and _is_for_mount(args):
            args = ["mount", *args]
        return super().parse_args(ctx, args)


def _is_for_mount(args: list[str]) -> bool:
    if args[0].startswith("-"):
        return args[0].startswith("-o")
    return len(args) > 1 and ("/" in args[0] or "-o" in args or os.path.isdir(args[0]))


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def symfuse(ctx: click.Context) -> int:
    """Mount an image dataset full of symlinks as a clean, read-only tree of regular files."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return ExitStatus.USAGE
    return ExitStatus.OK


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole program. Returns the exit status; every failure is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # As env(1) and timeout(1) do it, run keeps its own failures apart from its command's.
    failed = ExitStatus.RUN_FAILED if arguments[:1] == ["run"] else None
    try:
        status = symfuse.main(arguments, prog_name="symfuse", standalone_mode=False)
        sys.stdout.flush()
        return int(status or _output_status(arguments))
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return ExitStatus.INTERRUPTED
    except click.ClickException as error:
        complain(_usage(error))
        return failed or ExitStatus.USAGE
    except (SymfuseError, ImportError) as error:
        refusal = missing_part(error) if isinstance(error, ImportError) else error
        complain(str(refusal))
        return failed or refusal.status
    except Exception as error:
        if os.environ.get("SYMFUSE_DEBUG"):
            traceback.print_exc()
        complain(f"internal error: {type(error).__name__}: {error}: run it with SYMFUSE_DEBUG=1 and report the output")
        return failed or ExitStatus.INTERNAL


def _output_status(arguments: Sequence[str]) -> ExitStatus:
    """Whether what a command has to say has reached anybody, if that is all that it does."""
    lost = streams.failure_of(sys.stdout)
    if lost is None or not arguments or arguments[0] not in ANSWERS:
        return ExitStatus.OK
    if lost.errno != errno.EPIPE:  # else whoever read it has enough
        complain(f"the output cannot be written ({lost.strerror})")
    return ExitStatus.INTERNAL


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{error.format_message().rstrip('.')}: see {context.command_path if context else 'symfuse'} --help"
