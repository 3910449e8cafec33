"""The threads at the door, without a kernel: requests come from a list."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from symfuse.fuse.door import QUICK_S, Door
from symfuse.fuse.server import Server

FD = 1 << 20  # nobody's


class Echo(Server):
    """Every request may block, and is its own reply."""

    def __init__(self) -> None:
        pass

    def may_block(self, request: bytes) -> bool:
        return True

    def handle(self, request: bytes) -> tuple[bytes, ...]:
        return (request,)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was answered, of an INIT and a hundred requests."""
    requests = [b"init", *(b"%d" % number for number in range(100))]
    answered: list[bytes] = []

    def read(_fd: int, _size: int) -> bytes:
        try:
            return requests.pop(0)
        except IndexError:
            raise OSError(errno.ENODEV, "the mount is gone") from None

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "writev", lambda _fd, parts: answered.extend(parts))
    return answered


def test_every_request_is_answered_once(replies: list[bytes]) -> None:
    Door(FD, Echo()).serve(lambda: None)
    assert sorted(replies) == sorted([b"init", *(b"%d" % number for number in range(100))])


@pytest.mark.parametrize("granted", [0, 1, 3])
def test_a_machine_without_threads_is_served_by_those_there_are(
    replies: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, granted: int
) -> None:
    start, left = threading.Thread.start, [None] * granted

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    Door(FD, Echo()).serve(lambda: None)
    assert len(replies) == 101
    assert sum("there are no more" in record.message for record in caplog.records) <= 1


def test_sixteen_readers_of_slow_storage_do_not_queue_behind_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them gets its answer last: when the fifteen others have theirs."""
    readers = 16
    requests = [b"init", *(b"%d" % number for number in range(readers))]
    others = threading.Semaphore(0)
    all_answered = threading.Event()

    class Slow(Echo):
        def may_block(self, request: bytes) -> bool:
            return request != b"init"

        def handle(self, request: bytes) -> tuple[bytes, ...]:
            if request == b"0":
                for _ in range(readers - 1):
                    assert others.acquire(timeout=30), "somebody waits for the one that waits for us"
            return (request,)

    def read(_fd: int, _size: int) -> bytes:
        if requests:
            return requests.pop(0)
        all_answered.wait(30)
        raise OSError(errno.ENODEV, "the mount is gone")

    answered: list[bytes] = []

    def writev(_fd: int, parts: tuple[bytes, ...]) -> None:
        answered.extend(parts)
        if parts[0] not in (b"0", b"init"):
            others.release()
        if len(answered) == readers + 1:
            all_answered.set()

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "writev", writev)
    Door(FD, Slow()).serve(lambda: None)
    assert len(answered) == readers + 1
    assert answered[-1] == b"0"


def served_by(requests: list[bytes], monkeypatch: pytest.MonkeyPatch, *, takes_s: float) -> dict[bytes, str]:
    """Which thread answered each request of a door whose answers all take so long, by the door's own clock."""
    clock = [0.0]
    threads: dict[bytes, str] = {}
    waiting = [b"init", *requests]

    class Timed(Echo):
        def handle(self, request: bytes) -> tuple[bytes, ...]:
            threads[request] = threading.current_thread().name
            clock[0] += takes_s
            return ()

    def read(_fd: int, _size: int) -> bytes:
        if not waiting:
            raise OSError(errno.ENODEV, "the mount is gone")
        return waiting.pop(0)

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    Door(FD, Timed()).serve(lambda: None)
    return threads


def test_quick_answers_all_come_from_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [b"%d" % number for number in range(200)]
    threads = served_by(requests, monkeypatch, takes_s=QUICK_S / 2)
    assert threads.keys() == {b"init", *requests}
    assert len(set(threads.values())) == 1


def test_slow_answers_soon_come_from_several(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [b"%d" % number for number in range(200)]
    threads = served_by(requests, monkeypatch, takes_s=QUICK_S * 4)
    assert threads.keys() == {b"init", *requests}
    assert len(set(threads.values())) > 1


def test_a_reply_that_the_kernel_does_not_take_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [b"init", b"one", b"two"]
    undone: list[bytes] = []

    class Undoing(Echo):
        def undelivered(self, request: bytes, reply: tuple[bytes, ...]) -> None:
            assert reply == (request,)
            undone.append(request)

    def read(_fd: int, _size: int) -> bytes:
        if not requests:
            raise OSError(errno.ENODEV, "the mount is gone")
        return requests.pop(0)

    def writev(_fd: int, parts: tuple[bytes, ...]) -> None:
        if parts == (b"one",):
            raise OSError(errno.ENOENT, "whoever asked is gone")

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "writev", writev)
    Door(FD, Undoing()).serve(lambda: None)
    assert undone == [b"one"]
