"""`symfuse run`: a mount for the length of one command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from symfuse.cli.options import as_path, mount_options
from symfuse.cli.output import complain, frozen_line, hidden_lines, say_hidden, warn
from symfuse.cli.progress import ProgressDisplay
from symfuse.errors import ExitStatus
from symfuse.mounts.request import request
from symfuse.mounts.session import place, session

#: Sent on to the command.
FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
WAITED_FOR = FORWARDED | {signal.SIGCHLD}
#: Python ignores these; the command must not. Source: `restore_signals` of subprocess.
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)
#: How long a command that was quicker than the reading of the dataset is outlived, to say what was hidden from it.
MOMENT_S = 0.2
#: Sent by the kernel: by the terminal then, and to the whole process group. Source: sigaction(2).
SI_KERNEL = 0x80


class WithCommand(click.Command):
    """Everything after the first `--` is the command, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Errors: click.UsageError when there is no command."""
        own, command = args, []
        if "--" in args:
            place = args.index("--")
            own, command = args[:place], args[place + 1 :]
        # Said first: of a command without its -- the parser would say that its words are too many.
        if not command and not ctx.resilient_parsing and not set(own) & set(ctx.help_option_names):
            raise click.UsageError("there is no command: write it after --, as in symfuse run data -- ls {}", ctx)
        rest = super().parse_args(ctx, own)
        ctx.params["command_line"] = command
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What --help says."""
        return [*super().collect_usage_pieces(ctx), "--", "COMMAND…"]


@click.command("run", cls=WithCommand)
@click.argument("source", type=as_path)
@click.option("--at", type=as_path, metavar="MOUNTPOINT", help="Where to mount; a temporary directory unless told.")
@mount_options
def command(source: bytes, *, at: bytes | None, command_line: list[str], **options: Any) -> int:
    """Mount the dataset SOURCE, run COMMAND, unmount whatever happens.

    {} in COMMAND stands for the mountpoint, which is also in the environment as SYMFUSE_MOUNT. The exit status is
    COMMAND's, or 128 and the signal that ended it; 125 when symfuse itself failed, 126 when COMMAND cannot be run,
    127 when there is no such command.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with place(at) as mountpoint, ProgressDisplay() as progress:
        wanted = request(source, mountpoint, remove_mountpoint=at is None, **options)
        with session(wanted, on_progress=progress, on_note=complain) as server:
            progress.close()
            if wanted.eager or wanted.policy.looks_into_files:
                complain("; ".join([frozen_line(server.frozen), *hidden_lines(server.frozen)]))
                warn(server.frozen)
            else:
                server.listener.tell(lambda frozen: say_hidden(frozen, wanted.mountpoint, complain))
            status = _execute(command_line, os.fsdecode(wanted.mountpoint), mask=_block_signals())
            server.listener.wait(MOMENT_S)
            return status


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind while the mount is made: what was begun is taken back on the way."""
    sys.exit(128 + number)


def _block_signals() -> set[signal.Signals]:
    """From here on signals wait until they are asked for: nothing may interrupt the unmounting either.

    Returns the mask as it was.
    """
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)}


def _execute(command_line: Sequence[str], mountpoint: str, *, mask: set[signal.Signals]) -> int:
    """Run the command and wait for it. Returns the exit status to leave with."""
    words = [word.replace("{}", mountpoint) for word in command_line]
    try:
        pid = os.posix_spawnp(
            words[0],
            words,
            os.environ | {"SYMFUSE_MOUNT": mountpoint},
            setsigmask=mask,
            setsigdef=RESTORED,
        )
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not _exists(words[0]):
            complain(f"{words[0]}: there is no such command")
            return ExitStatus.RUN_NOT_FOUND
        complain(f"{words[0]} cannot be run ({error.strerror})")
        return ExitStatus.RUN_NOT_EXECUTABLE
    return _wait(pid)


def _exists(command: str) -> bool:
    """False for a command that is nowhere in PATH: execvp(3) says EACCES for it where a directory of PATH is closed."""
    return "/" in command or any(os.path.lexists(os.path.join(path, command)) for path in os.get_exec_path())


def _wait(pid: int) -> int:
    while True:
        received = signal.sigwaitinfo(WAITED_FOR)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif received.si_code != SI_KERNEL:  # the terminal's have reached the command, too
            os.kill(pid, received.si_signo)
