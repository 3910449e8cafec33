"""What a process is about to do, told by its pending signals. It is stopped meanwhile, so that they stay pending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from symfuse.fuse.callers import Caller, state_of

TIMEOUT_S = 30
CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXCPU])
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that catches SIGINT, ignores SIGTERM and blocks SIGXCPU."""
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, Caller.WAITS),
        (signal.SIGINT, Caller.CATCHES),
        (signal.SIGTERM, Caller.WAITS),  # ignored
        (signal.SIGXCPU, Caller.WAITS),  # blocked
        (signal.SIGCHLD, Caller.WAITS),  # nothing happens by default
        (signal.SIGQUIT, Caller.DIES),
    ],
)
def test_what_a_signal_will_do(stopped: int, number: int, expected: Caller) -> None:
    os.kill(stopped, number)
    assert state_of(stopped) is expected


def test_death_is_what_counts_of_several(stopped: int) -> None:
    for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGQUIT):
        os.kill(stopped, number)
    assert state_of(stopped) is Caller.DIES


def test_nothing_is_known_of_those_who_are_gone_or_invisible() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(TIMEOUT_S)
    assert state_of(process.pid) is Caller.UNKNOWN
    assert state_of(0) is Caller.UNKNOWN, "a thread of another pid namespace"


def test_who_got_no_signal_waits() -> None:
    assert state_of(os.getpid()) is Caller.WAITS
