"""How the end of a process that is not our child is noticed, whatever this Python and this kernel offer."""

from __future__ import annotations

import contextlib
import os
import select
import threading

from symfuse import libc

#: The number of the system call pidfd_open on almost every machine. Source: asm-generic/unistd.h
PIDFD_OPEN = 434
#: How often a process is looked at where the kernel gives no descriptor of it.
LOOK_INTERVAL_S = 0.05
#: The start time of a process that exists and cannot be looked at.
UNKNOWN = b""


def watch_end(pid: int) -> int:
    """A descriptor that becomes readable when the process has ended (a zombie has); the caller closes it.

    A pidfd where there is one. Older kernels and some containers refuse it, and builds of Python made on an older
    system do not know it: a thread then looks at /proc.

    Errors: ProcessLookupError when the process has ended already; OSError when descriptors run out.
    """
    try:
        return _open_pidfd(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return _poll_proc(pid)


def has_ended(watched: int, *, timeout_s: float) -> bool:
    """Whether the process that `watch_end` watches ends within this time."""
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _open_pidfd(pid: int) -> int:
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return libc.call("syscall", PIDFD_OPEN, pid, 0)  # close-on-exec, as all pidfds are


def _poll_proc(pid: int) -> int:
    born = _start_time(pid)
    if born is None:
        raise ProcessLookupError(f"there is no process {pid}")
    readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    threading.Thread(target=_tell_end, args=(pid, born, writable), name="process-watch", daemon=True).start()
    return readable


def _tell_end(pid: int, born: bytes, writable: int) -> None:
    """Write a byte when the process has ended: closing the pipe is not enough, because a fork of us may hold a copy."""
    poll = select.poll()
    poll.register(writable, 0)  # POLLERR needs no asking: it comes when the reader closes its end
    while not poll.poll(LOOK_INTERVAL_S * 1000):
        now = _start_time(pid)
        if now is None or UNKNOWN != now != born != UNKNOWN:
            with contextlib.suppress(BrokenPipeError):
                os.write(writable, b"x")
            break
    os.close(writable)


def _start_time(pid: int) -> bytes | None:
    """What tells this process from a later one of the same number; None when it has ended.

    UNKNOWN where /proc hides other users' processes, or descriptors have run out. Source: proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name in parentheses may hold anything
    except OSError:
        return UNKNOWN if _exists(pid) else None
    state, born = fields[0], fields[19]
    return None if state in (b"Z", b"X") else born


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not; what cannot be looked at may."""
    return _start_time(pid) is not None


def is_stuck(pid: int) -> bool:
    """Whether a process cannot go on or end because the kernel makes a thread of it wait, for storage as a rule.

    A process whose main thread has ended and that is still there is kept by such a thread, too.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    states = {_state(f"/proc/{pid}/task/{thread}/stat") for thread in threads}
    return b"D" in states or (len(threads) > 1 and _state(f"/proc/{pid}/stat") == b"Z")


def _state(stat: str) -> bytes:
    """`R`, `S`, `D`, `Z` …, empty when it cannot be told. Source: proc_pid_stat(5)."""
    try:
        with open(stat, "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return b""
