"""`symfuse run`: a mount for the length of one command."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from symfuse.cli.options import InOrder, as_path, mount_options
from symfuse.cli.output import complain, frozen_line, say_hidden, summary_lines, warn
from symfuse.cli.progress import ProgressDisplay
from symfuse.errors import ExitStatus, SymfuseError
from symfuse.mountinfo import is_within
from symfuse.mounts.launch import ServerProcess
from symfuse.mounts.request import request
from symfuse.mounts.session import place, session

#: Sent on to the command, but for those that were ignored when we were started (nohup, a shell's background job): they
#: stay ignored, by the command, too.
FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
#: Python ignores these; the command must not. Source: `restore_signals` of subprocess.
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)
#: How long a command that was quicker than the reading of the dataset is outlived, to say what was hidden from it.
MOMENT_S = 0.2
#: How long a command may take to end itself after the server of its mount has died.
GRACE_S = 10.0
#: Sent by the kernel: by the terminal then, and to the whole process group. Source: sigaction(2).
SI_KERNEL = 0x80


class WithCommand(InOrder):
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
    for number in _minded({signal.SIGTERM, signal.SIGHUP}):
        signal.signal(number, _leave)
    with place(at) as mountpoint, ProgressDisplay() as progress:
        wanted = request(source, mountpoint, remove_mountpoint=at is None, **options)
        with session(wanted, on_progress=progress, on_note=complain) as server:
            progress.close()
            if wanted.eager or wanted.policy.looks_into_files:
                complain("; ".join([frozen_line(server.frozen), *summary_lines(server.frozen)]))
                warn(server.frozen)
            else:
                # Not status: a temporary mount may be gone when this is read.
                server.listener.tell(lambda frozen: say_hidden(frozen, "why --all", wanted.source, speak=complain))
            status = _execute(command_line, server)
            server.listener.wait(MOMENT_S)
    if status != ExitStatus.RUN_FAILED and (death := server.death()) is not None:
        raise death  # it was not over yet when the command ended
    return status


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind while the mount is made: what was begun is taken back on the way."""
    sys.exit(128 + number)


def _minded(numbers: Iterable[signal.Signals]) -> frozenset[signal.Signals]:
    """Those of the signals that are not ignored."""
    return frozenset(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)


def _execute(command_line: Sequence[str], server: ServerProcess) -> int:
    """Run the command and wait for it. Returns the exit status to leave with."""
    waited_for = _minded(FORWARDED) | {signal.SIGCHLD}
    # From here on signals wait until they are asked for: nothing may interrupt the unmounting either.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    mountpoint = os.fsdecode(server.request.mountpoint)
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
        is_forbidden = server.request.noexec and is_within(os.fsencode(words[0]), server.request.mountpoint)
        why = "it is on the mount, and --noexec was given" if is_forbidden else error.strerror
        complain(f"{words[0]} cannot be run ({why})")
        return ExitStatus.RUN_NOT_EXECUTABLE
    return Running(pid, server, waited_for).wait()


def _exists(command: str) -> bool:
    """False for a command that is nowhere in PATH: execvp(3) says EACCES for it where a directory of PATH is closed."""
    return "/" in command or any(os.path.lexists(os.path.join(path, command)) for path in os.get_exec_path())


class Running:
    """The command while it runs, and what else happens meanwhile: signals, orphans, the death of the server.

    All in one thread, which waits for the signals `waited_for`; they are blocked.
    """

    def __init__(self, pid: int, server: ServerProcess, waited_for: Collection[signal.Signals]) -> None:
        self._pid = pid
        self._server = server
        self._waited_for = waited_for
        self._status: int | None = None  # of the command, once it has ended
        self._death: SymfuseError | None = None  # of the server
        self._kill_at_s = math.inf  # when the command has had its time

    def wait(self) -> int:
        """Until the command has ended. Returns the exit status to leave with."""
        self._reap()  # what ended before anybody waited for it sends no signal any more
        while self._status is None:
            received = self._next_signal()
            if received is None:
                self._kill(signal.SIGKILL)
                self._kill_at_s = math.inf
            elif received.si_signo == signal.SIGCHLD:
                self._reap()
            elif received.si_code != SI_KERNEL:  # the terminal's have reached the command, too
                self._kill(received.si_signo)
        return self._status if self._death is None else ExitStatus.RUN_FAILED

    def _next_signal(self) -> signal.struct_siginfo | None:
        """None when the command has had its time."""
        if self._kill_at_s == math.inf:
            return signal.sigwaitinfo(self._waited_for)
        return signal.sigtimedwait(self._waited_for, max(0.0, self._kill_at_s - time.monotonic()))

    def _reap(self) -> None:
        """Take note of all children that have ended.

        As process 1 of a container, or as a subreaper, we are given those that their parents have left behind.
        """
        with contextlib.suppress(ChildProcessError):  # there are no more
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid == self._server.process.pid:
                    self._server.process.poll()  # its own object must reap it
                elif ended.si_pid == self._pid:
                    code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                    self._status = code if code >= 0 else 128 - code
                else:
                    os.waitpid(ended.si_pid, 0)
        self._look_after_server()

    def _look_after_server(self) -> None:
        if self._death is not None or (death := self._server.death()) is None:
            return
        self._death = death
        complain(str(death))
        if self._status is None:
            self._kill(signal.SIGTERM)
            self._kill_at_s = time.monotonic() + GRACE_S

    def _kill(self, number: int) -> None:
        with contextlib.suppress(PermissionError):  # it has become somebody else
            os.kill(self._pid, number)
