"""The threads at the door, without a kernel: requests come from a list."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from symfuse.fuse.device import Door
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
