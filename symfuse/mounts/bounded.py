"""Questions to file systems that may never answer, each asked by a child process with a deadline.

A thread would not do: while it waits for a FUSE server that has taken its request and hangs, not even SIGKILL ends its
process. A child that waits so is left behind, and ends when the server does. Measured: 15 ms a question.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from symfuse import child
from symfuse.errors import MountpointError
from symfuse.mounts import probe, table

#: How long a directory may take to be listed: an automount connects to its server first, a disk starts to turn.
LIST_TIMEOUT_S = 30.0
#: Longest wait for an answer. A healthy server needs a millisecond.
ANSWER_TIMEOUT_S = 3.0


class Report(NamedTuple):
    """One thing that the probe said (`probe.py` has the kinds)."""

    kind: bytes
    text: bytes

    @property
    def error(self) -> OSError:
        """What FAILED and NO_LISTENER mean; PermissionError and the like where there is a class for it."""
        number = int(self.text)
        return OSError(number, os.strerror(number))


def ask(
    question: str, *arguments: str | bytes, payload: bytes = b"", timeout_s: float = ANSWER_TIMEOUT_S
) -> list[Report]:
    """All that a probe says until it has ended, or until the time is up.

    Errors: OSError when no process can be started, or it fails.
    """
    process = subprocess.Popen(
        [*child.script(probe.__file__), str(timeout_s), question, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=child.environment(),
    )
    try:
        said, _ = process.communicate(payload, timeout=timeout_s)
    except subprocess.TimeoutExpired as expired:
        _abandon(process)
        said = expired.output or b""
    except BaseException:
        _abandon(process)
        raise
    else:
        if process.returncode and not said:  # else it would be taken for one that hangs
            raise ChildProcessError(errno.ECHILD, f"the process that asks failed, with status {process.returncode}")
    return list(_reports(said))


def in_child(work: Callable[[], bytes], *, timeout_s: float | None) -> bytes:
    """What `work` returns, done by a fork of this process, which must have no other threads.

    Errors: TimeoutError; ChildProcessError when it ended without a word.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with open(writer, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(writer)
    said = bytearray()
    until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    with open(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], None if timeout_s is None else max(0.0, until_s - time.monotonic()))[0]:
            piece = pipe.read(1 << 16)
            if not piece:
                os.waitpid(pid, 0)
                if not said:
                    raise ChildProcessError(errno.ECHILD, "its process was killed")
                return bytes(said)
            said += piece
    os.kill(pid, signal.SIGKILL)  # it ends when the storage answers
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """It may have to wait for hours yet; when it ends, somebody must take note."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    threading.Thread(target=process.wait, name="symfuse-reaper", daemon=True).start()


def _reports(said: bytes) -> Iterator[Report]:
    offset = 0
    while len(said) - offset >= probe.HEAD.size:
        kind, length = probe.HEAD.unpack_from(said, offset)
        begin = offset + probe.HEAD.size
        offset = begin + length
        if offset <= len(said):
            yield Report(kind, said[begin:offset])


def real_path(path: bytes, *, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
    """The real path that an absolute one leads to. Errors: MountpointError, when a file system on the way hangs."""
    try:
        reports = ask(probe.RESOLVE, path, timeout_s=timeout_s)
        if reports and reports[-1].kind == probe.FAILED:
            raise reports[-1].error
    except OSError as error:
        raise MountpointError(f"{os.fsdecode(path)}: {error.strerror}", "name another path") from error
    if not reports:
        cure = "a file system on the way to it hangs: see findmnt"
        raise MountpointError(f"the path {os.fsdecode(path)} does not respond", cure)
    return reports[-1].text


def responds(directory: bytes) -> bool:
    """Whether listing a directory ends in time, well or not."""
    try:
        return bool(ask(probe.LIST, directory, timeout_s=LIST_TIMEOUT_S))
    except OSError:
        return True  # no process can be started, which says nothing of the directory


def real_mountpoint(path: bytes) -> bytes:
    """The real path of a mountpoint that a user names: as mountinfo has it, without asking what is mounted there.

    Errors: MountpointError.
    """
    if b".." in path.split(b"/"):  # means what the kernel makes of it
        return real_path(os.path.join(os.getcwdb(), path))
    absolute = b"/" + os.path.abspath(path).lstrip(b"/")  # abspath leaves a leading // as it is
    on = table.covering(absolute)
    if on is not None and on.is_symfuse:  # a path on it is real, too: it has no links
        return absolute
    return absolute if any(mount.mountpoint == absolute for mount in table.symfuse_mounts()) else real_path(absolute)
