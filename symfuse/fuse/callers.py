"""Whether the caller of a request still wants the answer: what `/proc` tells of its pending signals.

The kernel asks for no signal's sake that a server gives up; it says only that there was one (INTERRUPT), and only once.
Source: `fuse_request_wait_answer` in `fs/fuse/dev.c`, proc_pid_status(5), `complete_signal` in `kernel/signal.c`.
"""

from __future__ import annotations

import enum
import re
import signal

#: What a signal that nobody catches does not end a process by.
_HARMLESS = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
_HARMLESS_MASK = sum(1 << number - 1 for number in _HARMLESS)
_MASKS = re.compile(rb"^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)


class Caller(enum.Enum):
    """What a caller will do as soon as its system call returns."""

    WAITS = enum.auto()  # go on
    CATCHES = enum.auto()  # run a handler of its own: Ctrl-C in Python
    DIES = enum.auto()
    UNKNOWN = enum.auto()  # in another pid namespace, invisible to us, or gone


def state_of(pid: int) -> Caller:
    """What the thread `pid` does next; 0 is a thread in another pid namespace. Never waits for the thread."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            masks = {name: int(value, 16) for name, value in _MASKS.findall(status.read())}
        pending = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~(masks[b"SigBlk"] | masks[b"SigIgn"])
        caught = masks[b"SigCgt"]
    except (OSError, KeyError):
        return Caller.UNKNOWN
    if pending & ~caught & ~_HARMLESS_MASK:
        return Caller.DIES
    return Caller.CATCHES if pending & caught else Caller.WAITS
