"""How the end of a process is noticed, with and without the kernel's help."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from symfuse import libc, process

ANSWER_S = 30.0


def without_attribute(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "pidfd_open", raising=False)


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def without_system_call(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise refused(errno.EPERM)  # what seccomp profiles of containers say

    patch.setattr(os, "pidfd_open", refuse, raising=False)


def without_ctypes(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "pidfd_open", raising=False)
    patch.setitem(sys.modules, "ctypes", None)


def hidden_proc(patch: pytest.MonkeyPatch) -> None:
    """As with /proc mounted hidepid=2, of another user's process."""
    without_ctypes(patch)
    look = process._start_time

    def hide(pid: int) -> bytes | None:
        return process.UNKNOWN if process._exists(pid) else look(pid)

    patch.setattr(process, "_start_time", hide)


@pytest.fixture(params=[None, without_attribute, without_system_call, without_ctypes], ids=lambda part: str(part)[:30])
def part_missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        request.param(monkeypatch)


@contextlib.contextmanager
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        try:
            yield started
        finally:
            started.kill()


@contextlib.contextmanager
def watching(pid: int) -> Iterator[int]:
    watched = process.watch_end(pid)
    try:
        yield watched
    finally:
        os.close(watched)


@pytest.mark.usefixtures("part_missing")
def test_the_end_is_noticed_and_not_before() -> None:
    with child() as started, watching(started.pid) as watched:
        assert not os.get_inheritable(watched)
        assert not process.has_ended(watched, timeout_s=4 * process.LOOK_INTERVAL_S)
        started.kill()
        assert process.has_ended(watched, timeout_s=ANSWER_S), "a zombie has ended, too"


@pytest.mark.usefixtures("part_missing")
def test_a_process_that_is_gone_cannot_be_watched() -> None:
    with child() as started:
        started.kill()
    with pytest.raises(ProcessLookupError):
        process.watch_end(started.pid)


def test_a_hidden_process_is_watched_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_proc(monkeypatch)
    with child() as started, watching(started.pid) as watched:
        assert not process.has_ended(watched, timeout_s=4 * process.LOOK_INTERVAL_S)
        started.kill()
        started.wait()
        assert process.has_ended(watched, timeout_s=ANSWER_S)


def test_a_number_that_was_given_to_a_later_process_is_no_longer_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ctypes(monkeypatch)
    with child() as started, watching(started.pid) as watched:
        monkeypatch.setattr(process, "_start_time", lambda _pid: b"later")
        assert process.has_ended(watched, timeout_s=ANSWER_S)


def test_nobody_goes_on_watching_for_a_reader_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ctypes(monkeypatch)
    with child() as started:
        with watching(started.pid):
            assert watchers()
        deadline_s = time.monotonic() + ANSWER_S
        while watchers() and time.monotonic() < deadline_s:
            watchers()[0].join(ANSWER_S)
        assert not watchers()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "process-watch"]


def test_a_python_that_cannot_call_libc_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    with pytest.raises(OSError, match="ctypes") as refusal:
        libc.call("syscall", process.PIDFD_OPEN, os.getpid(), 0)
    assert refusal.value.errno == errno.ENOSYS
