"""The process that serves a mount: `child.py symfuse.mounts.serve FD MOUNTPOINT`, or `symfuse mount --foreground`.

The main thread decides, a worker thread prepares the view, mounts and serves. Whoever asks for a mount talks to its
process over two pipes: on stdin the request, then nothing until DETACH or the end of the asking process, which ends
the mount; on FD messages, one JSON object a line (see `Report`). MOUNTPOINT is for the readers of ps(1) only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from typing import IO

from symfuse import streams
from symfuse.control import Message
from symfuse.errors import ExitStatus, SymfuseError, missing_part
from symfuse.mounts.lifecycle import MountServer
from symfuse.mounts.protocol import Report
from symfuse.mounts.request import MountRequest
from symfuse.mounts.visible import visible

log = logging.getLogger(__name__)


class OneLine(logging.Formatter):
    """Names in a message cannot forge further lines of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line before any traceback."""
        return visible(super().formatMessage(record))


def log_to_stderr() -> None:
    """Everything worth knowing afterwards goes to stderr, wherever that leads."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s symfuse[%(process)d] %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def main() -> int:
    """The server process. Returns its exit status."""
    streams.guard()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir("/")
    lifeline, messages = _take_pipes()
    log_to_stderr()
    line = _read_line(lifeline)
    if not line:
        return ExitStatus.INTERRUPTED
    with messages:
        return _serve(MountRequest.from_json(line), _reporter_to(messages), lifeline)


def _serve(request: MountRequest, report: Report, lifeline: int) -> int:
    server = MountServer(request, report, lifeline=lifeline)
    try:
        server.run()
    except SymfuseError as error:
        return _refuse(error, report)
    except ImportError as error:
        return _refuse(missing_part(error), report)
    except Exception:
        log.exception("the server of %s failed", os.fsdecode(request.mountpoint))
        return ExitStatus.INTERNAL
    return ExitStatus.OK


def _refuse(error: SymfuseError, report: Report) -> int:
    report({"event": "error", "status": int(error.status), "cause": error.cause, "cure": error.cure})
    return error.status


def _take_pipes() -> tuple[int, IO[bytes]]:
    """The lifeline, moved out of the way of whatever reads stdin, and the pipe for messages. Stdout joins the log."""
    lifeline = os.dup(0)
    messages = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    os.set_inheritable(messages.fileno(), False)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return lifeline, messages


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(fd, 1 << 16)
        if not more:
            return b""
        line += more
    return line


def _reporter_to(messages: IO[bytes]) -> Report:
    def report(message: Message) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the lifeline says so, too
            messages.write(json.dumps(message).encode() + b"\n")

    return report
