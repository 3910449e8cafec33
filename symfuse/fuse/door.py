"""The threads that serve one connection, and who of them waits for the next request.

Answering takes 15 µs of Python, and threads that do it at once wake each other all the time: four readers of what lies
in the page cache are served faster by one thread than by four. Where storage makes them wait it is the other way round.
So one thread answers everything as long as answers are quick, watched by another that sends for help when one is not.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from symfuse.fuse.kernelmount import DEVICE

#: Room for the largest request: one of our ioctls carries 16 KiB, and a WRITE (refused) 4 KiB.
REQUEST_BYTES = 32 * 1024
#: Threads that may wait for the dataset at once, plus one at the door.
MAX_THREADS = 17
#: A request that takes longer is left to the thread that has it, and another goes to the door. Looked for as often,
#: while there are requests.
PATIENCE_S = 0.002
#: How long there must have been nothing to watch before the watch rests.
IDLE_S = 0.1
#: Answers are quick that take no longer, on average over the last AVERAGED: it is storage that takes more.
QUICK_S = 60e-6
AVERAGED = 16
#: How long storage is held for slow before it is tried again.
SLOW_S = 0.25
#: How long the threads may take to end after the mount is gone; one that hangs in slow storage is left behind.
END_TIMEOUT_S = 1.0

_RETRY = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT})
_OVER = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})

log = logging.getLogger(__name__)


class Server(Protocol):
    """Who answers requests; called from several threads."""

    def may_block(self, request: bytes) -> bool:
        """True when answering touches the dataset, which may be slow or never answer."""

    def handle(self, request: bytes) -> tuple[bytes, ...]:
        """The parts of the reply; empty when there is none."""

    def undelivered(self, request: bytes, reply: tuple[bytes, ...]) -> None:
        """Hears of a request whose reply the kernel did not take."""


class Door:
    """The threads that serve one connection; one of them is always at the door, or soon will be.

    A thread that must touch the dataset answers at the door while storage is quick, and leaves the door to another
    when it is not, so that what can be answered from memory never waits for storage: not for slow storage, and not for
    storage that waits for us (a path that leads into our own mount is refused by whoever is at the door). Threads are
    made when they are needed; those that are not wait in the lounge. When all threads are made and only one is left at
    the door, it puts the request on the bench and stays; whoever comes back takes it from there.

    Invariant, under `_lock`: `_at_door` >= 1 from the first request to the last, unless the machine gives us no second
    thread. A thread that answers at the door is at the door; one that does so for longer than PATIENCE_S is not.
    """

    def __init__(self, fd: int, server: Server) -> None:
        self._fd = fd
        self._server = server
        self._lock = threading.Lock()
        self._at_door = 1
        self._threads = 1
        self._lounge = threading.Condition(self._lock)
        self._resting = 0  # threads in the lounge
        self._called = 0  # of those, who are called to the door
        self._was_refused = False  # a thread, by the machine
        self._bench: deque[bytes] = deque()
        self._is_over = False
        self._over = threading.Event()
        self._watch = Watch(self._send_help)

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the mount is gone. `on_ready` is called after the kernel's INIT was answered."""
        init = self._receive()
        if init is None:
            return
        self._send(init)
        on_ready()
        self._loop()
        self._over.wait(END_TIMEOUT_S)

    def _loop(self) -> None:
        while (request := self._receive()) is not None:
            if not self._server.may_block(request):
                self._send(request)
            elif self._at_door == self._threads - self._resting and self._watch.is_quick():
                self._send_watched(request)
            elif self._leave(request):
                self._send(request)
                self._return()
            if self._is_crowded() and not self._rest():
                break
        self._end()

    def _send_watched(self, request: bytes) -> None:
        """Answer at the door."""
        self._watch.begin()
        self._send(request)
        if not self._watch.end():
            self._return()

    def _send_help(self) -> None:
        """Somebody answers at the door for too long: they have left it, and another takes their place."""
        with self._lock:
            self._at_door -= 1
            if self._at_door == 0:
                self._call()

    def _leave(self, request: bytes) -> bool:
        """Leave the door to another thread; False when there is none, and the request waits on the bench."""
        with self._lock:
            self._at_door -= 1
            if self._at_door > 0 or self._call():
                return True
            if self._threads > 1:  # all others are away, and will come back
                self._at_door += 1
                self._bench.append(request)
                return False
            return True  # nobody else can be had: all that comes waits for this one request

    def _call(self) -> bool:
        """Get a thread to the door: one from the lounge, or a new one. Called with _lock."""
        if self._resting > self._called:
            self._called += 1
            self._lounge.notify()
        elif self._threads == MAX_THREADS or not self._hire():
            return False
        self._at_door += 1
        return True

    def _hire(self) -> bool:
        """Make one more thread; False when the machine has none left. Called with _lock."""
        thread = threading.Thread(target=self._loop, name=f"door-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._was_refused:
                log.warning("served by %d threads, for there are no more: %s", self._threads, error)
            self._was_refused = True
            return False
        self._threads += 1
        return True

    def _return(self) -> None:
        """Come back to the door, after all that waits on the bench."""
        while True:
            with self._lock:
                if not self._bench:
                    self._at_door += 1
                    return
                request = self._bench.popleft()
            self._send(request)

    def _is_crowded(self) -> bool:
        return self._at_door > 1 and self._watch.is_quick()

    def _rest(self) -> bool:
        """Wait in the lounge until somebody calls; False when it is over."""
        with self._lock:
            if self._at_door == 1 or self._is_over:
                return True
            self._at_door -= 1
            self._resting += 1
            self._lounge.wait_for(lambda: self._called or self._is_over)
            self._resting -= 1
            if self._is_over:
                return False
            self._called -= 1  # whoever called has counted us in
            return True

    def _end(self) -> None:
        self._watch.close()
        with self._lock:
            self._is_over = True
            self._lounge.notify_all()
            self._threads -= 1
            if self._threads == 0:
                self._over.set()

    def _receive(self) -> bytes | None:
        """The next request, or None when the mount is gone."""
        while True:
            try:
                return os.read(self._fd, REQUEST_BYTES)
            except OSError as error:
                if error.errno in _RETRY:
                    continue
                if error.errno not in _OVER:
                    log.error("reading from %s failed: %s", DEVICE, error)
                return None

    def _send(self, request: bytes) -> None:
        """Answer one request."""
        reply = self._server.handle(request)
        if not reply:
            return
        try:
            os.writev(self._fd, reply)
        except OSError as error:
            self._server.undelivered(request, reply)
            # ENOENT: nobody waits for it any more. ENODEV: the next read says so, too.
            if error.errno not in _RETRY | _OVER:
                log.error("the kernel refused a reply of %d bytes: %s", sum(map(len, reply)), error)


class Watch:
    """Tells whether answers are quick, and sends for help when one is not.

    Its thread looks at the time only while there are requests. Where the machine gives it none, nothing is quick.
    """

    def __init__(self, send_help: Callable[[], None]) -> None:
        self._send_help = send_help
        self._begun: dict[int, float] = {}  # thread -> when; who takes an item out decides what becomes of its thread
        self._average_s = 0.0
        self._slow_until_s = 0.0
        self._thread: threading.Thread | None = None
        self._needed = threading.Event()
        self._over = threading.Event()

    def is_quick(self) -> bool:
        """True when a request that may block can be answered at the door."""
        return time.monotonic() >= self._slow_until_s and (self._thread is not None or self._start())

    def begin(self) -> None:
        """This thread answers now."""
        self._begun[threading.get_ident()] = time.monotonic()
        if not self._needed.is_set():
            self._needed.set()

    def end(self) -> bool:
        """This thread has answered; False when somebody else was sent to the door in its place."""
        begun_s = self._begun.pop(threading.get_ident(), None)
        if begun_s is None:
            return False
        self._average_s += (time.monotonic() - begun_s - self._average_s) / AVERAGED
        if self._average_s > QUICK_S:
            self._hold_for_slow()
        return True

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._needed.set()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="watch", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._slow_until_s = float("inf")
            return False
        self._thread = thread
        return True

    def _hold_for_slow(self) -> None:
        self._slow_until_s = time.monotonic() + SLOW_S
        self._average_s = QUICK_S / 2  # tried again, a few slow answers are enough

    def _run(self) -> None:
        idle_since_s = time.monotonic()
        while self._needed.wait() and not self._over.wait(PATIENCE_S):
            now_s = time.monotonic()
            begun = self._begun.copy()
            for thread, begun_s in begun.items():
                if now_s - begun_s > PATIENCE_S and self._begun.pop(thread, None) is not None:
                    self._hold_for_slow()
                    self._send_help()
            if begun:
                idle_since_s = now_s
            elif now_s - idle_since_s > IDLE_S:
                self._needed.clear()
                if self._begun:  # somebody began just now, and saw it still set
                    self._needed.set()
