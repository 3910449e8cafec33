"""The threads that serve one connection: who of them reads the device, and who is busy with the dataset.

Answering takes 15 µs of Python, and threads that do it at once wake each other all the time: four clients that read
what lies in the page cache are served faster by one thread than by four. Where storage makes a thread wait it is the
other way round. So one thread answers everything while storage is quick, and hands the device over to others while it
is not (`monitor.py` says which).
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from symfuse.fuse import abi
from symfuse.fuse.abi import Opcode, Request
from symfuse.fuse.kernelmount import DEVICE
from symfuse.fuse.monitor import Monitor, WaitGauge

#: Room for the largest request: one of our ioctls carries 16 KiB, and a WRITE (refused) 4 KiB.
REQUEST_BYTES = 32 * 1024
#: Threads that may be busy with the dataset at once, beside one reader. So many may hang before others must wait.
MAX_BUSY = 256
#: How long a thread is kept that nobody needs. One always is.
IDLE_S = 10.0
#: How long the threads may take to end after the mount is gone; one that hangs in slow storage is left behind.
END_TIMEOUT_S = 1.0

_RETRY = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT})
_OVER = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})

log = logging.getLogger(__name__)


class Server(Protocol):
    """Who answers requests; called from several threads."""

    def may_block(self, request: Request) -> bool:
        """True when answering touches the dataset, which may be slow or never answer."""

    def handle(self, request: Request) -> tuple[bytes, ...]:
        """The parts of the reply; empty when there is none."""

    def undelivered(self, request: Request, reply: tuple[bytes, ...]) -> None:
        """Hears of a request whose reply the kernel did not take."""


class WorkerPool:
    """What each thread is for: bookkeeping only, without threads, device or clock.

    A thread is a *reader* (it reads the device, and answers what lies in memory), *busy* (with the dataset, for as
    long as that takes) or *idle*. When the last reader must become busy, another thread becomes a reader first; where
    none can be had, the request goes to the *backlog*, from which busy threads take when they are done. One reader may
    be *watched* instead: it answers from the dataset itself, and an idle thread stands by to replace it.

    Invariant, until the end: there is a reader; and one that is not watched, or an idle thread. The one exception is a
    machine that refuses us a second thread.

    `spawn` starts one more thread, which begins as a reader, and returns False where the machine refuses; `wake` lets
    one idle thread go on, as a reader.
    """

    def __init__(self, *, spawn: Callable[[], bool], wake: Callable[[], None], max_busy: int = MAX_BUSY) -> None:
        self._spawn = spawn
        self._wake = wake
        self._max_busy = max_busy
        self._lock = threading.Lock()  # guards the four, and the backlog
        self.readers = 1
        self.busy = 0
        self.idle = 0
        self.is_over = False
        self.backlog: OrderedDict[int, Request] = OrderedDict()  # by unique
        # Without a lock: each step is one operation on a dict, and whoever takes an item out has it.
        self.pending: dict[int, int] = {}  # unique -> pid of the caller; what may block and is not answered yet
        self.watched: dict[int, int] = {}  # thread -> unique

    @property
    def threads(self) -> int:
        """How many there are."""
        return self.readers + self.busy + self.idle

    def accept(self, request: Request) -> None:
        """A request that may block was read."""
        self.pending[request.unique] = request.pid

    def claim(self, unique: int) -> bool:
        """True for the one who may answer a pending request: the thread that did the work, or who gives it up."""
        return self.pending.pop(unique, None) is not None

    def drop(self, unique: int) -> bool:
        """As `claim`, for who gives it up: what waits in the backlog is not even begun."""
        if not self.claim(unique):
            return False
        with self._lock:
            self.backlog.pop(unique, None)
        return True

    def may_watch(self) -> bool:
        """True when the only reader, who asks, may answer from the dataset itself."""
        return self.readers == 1 and self.idle > 0

    def replace_reader(self, thread: int, unique: int) -> bool:
        """A watched reader does not come back from a request: it is busy now, and another reads; False when it did."""
        with self._lock:
            if self.watched.get(thread) != unique or self.watched.pop(thread, None) is None:
                return False
            self.readers -= 1
            self.busy += 1
            if not self.readers:
                self._wake_or_spawn()
            return True

    def hand_over(self, request: Request) -> bool:
        """A reader becomes busy with a request; False when it must go on reading, and the request is in the backlog."""
        with self._lock:
            self.readers -= 1
            self.busy += 1
            if self.readers or self._wake_or_spawn() or self.busy == 1:  # the last: nobody else can be had
                return True
            self.readers += 1
            self.busy -= 1
            self.backlog[request.unique] = request
            return False

    def rejoin(self) -> Request | None:
        """A busy thread is done: the next request from the backlog, or None, and it is a reader."""
        with self._lock:
            if self.backlog:
                return self.backlog.popitem(last=False)[1]
            self.busy -= 1
            self.readers += 1
            return None

    def park(self) -> bool:
        """A reader becomes idle; False when it is the last one."""
        with self._lock:
            if self.readers == 1 or self.is_over:
                return False
            self.readers -= 1
            self.idle += 1
            return True

    def retire(self) -> bool:
        """An idle thread, not woken for a long time, may end; False when it must stay."""
        with self._lock:
            if self.idle <= 1:
                return False
            self.idle -= 1
            return True

    def end(self) -> None:
        """The mount is gone: all come back to find that out, and nothing is answered any more."""
        with self._lock:
            self.is_over = True
            self.pending.clear()
            self.backlog.clear()
            for _ in range(self.idle):
                self._wake()
            self.readers += self.idle
            self.idle = 0

    def leave(self) -> bool:
        """A reader ends; True for the last thread."""
        with self._lock:
            self.readers -= 1
            return self.threads == 0

    def _wake_or_spawn(self) -> bool:
        """Get another reader. Called with _lock."""
        if self.idle:
            self.idle -= 1
            self._wake()
        elif self.threads > self._max_busy or not self._spawn():
            return False
        self.readers += 1
        return True


class RequestLoop:
    """Reads requests from a descriptor of `/dev/fuse` and answers them, until the mount is gone."""

    def __init__(self, fd: int, server: Server, *, max_busy: int = MAX_BUSY) -> None:
        self._fd = fd
        self._server = server
        self._woken = threading.Semaphore(0)
        self._pool = WorkerPool(spawn=self._spawn, wake=self._woken.release, max_busy=max_busy)
        self._gauge = WaitGauge()
        self._monitor = Monitor(self._pool, self._gauge, self._give_up)
        self._was_refused = False  # a thread, by the machine; under the pool's lock
        self._names = itertools.count(1)
        self._over = threading.Event()
        self._ended = threading.Event()

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the mount is gone. `on_ready` is called after the kernel's INIT was answered."""
        init = self._receive()
        if init is None:
            return
        self._reply(init, self._server.handle(init))
        on_ready()
        # This thread only waits: each that answers may come to hang, and this one must be able to return.
        if not self._spawn():
            self._run()
        self._over.wait()
        self._ended.wait(END_TIMEOUT_S)

    def _run(self) -> None:
        """What every thread does, as a reader first."""
        pool, server, thread = self._pool, self._server, threading.get_native_id()
        while not pool.is_over and (request := self._receive()) is not None:
            if not server.may_block(request):
                self._reply(request, server.handle(request))
                if request.opcode == Opcode.INTERRUPT:
                    self._interrupt(request)
            else:
                pool.accept(request)
                if pool.may_watch() and self._gauge.is_quick() and self._monitor.start():
                    self._answer_watched(request, thread)
                elif pool.hand_over(request):
                    self._monitor.attend()
                    self._answer_busy(request)
            if pool.readers > 1 and self._gauge.is_quick() and not self._park():
                return
        self._end()

    def _answer_watched(self, request: Request, thread: int) -> None:
        """Answer as the reader, and be one afterwards, whatever happens meanwhile."""
        self._pool.watched[thread] = request.unique
        self._monitor.watch()
        begun = self._gauge.begin()
        reply = self._server.handle(request)
        self._gauge.end(begun)
        self._finish(request, reply)
        if self._pool.watched.pop(thread, None) is None:  # replaced
            self._answer_backlog()

    def _answer_busy(self, request: Request) -> None:
        self._finish(request, self._server.handle(request))
        self._answer_backlog()

    def _answer_backlog(self) -> None:
        while (request := self._pool.rejoin()) is not None:
            self._finish(request, self._server.handle(request))

    def _finish(self, request: Request, reply: tuple[bytes, ...]) -> None:
        """Answer a pending request, unless it was given up meanwhile."""
        if self._pool.claim(request.unique):
            self._reply(request, reply)
        elif reply:
            self._server.undelivered(request, reply)

    def _park(self) -> bool:
        """Wait until another reader is needed, if one is left; False when this thread is to end."""
        if self._pool.park():
            while not self._woken.acquire(timeout=IDLE_S):
                if self._pool.retire():
                    return False
        return True

    def _spawn(self) -> bool:
        """Start one more thread; False when the machine has none left."""
        thread = threading.Thread(target=self._run, name=f"fuse-worker-{next(self._names)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._was_refused:
                log.warning("cannot start more than %d server threads: %s", self._pool.threads, error)
            self._was_refused = True
            return False
        return True

    def _end(self) -> None:
        self._pool.end()
        self._over.set()
        self._monitor.close()
        if self._pool.leave():
            self._ended.set()

    # -- interrupts ---------------------------------------------------------------------------------------------

    def _interrupt(self, request: Request) -> None:
        """The caller of another request got a signal."""
        if len(request.body) < abi.INTERRUPT_IN.size:
            return
        (unique,) = abi.INTERRUPT_IN.unpack_from(request.body)
        pid = self._pool.pending.get(unique)
        if pid is None:
            # Answered by now, or read by a thread that did not get so far as to accept it: if so, ask again.
            self._write(_error(request.unique, errno.EAGAIN))
        else:
            self._monitor.interrupt(unique, pid)

    def _give_up(self, unique: int) -> None:
        """Let the caller of a pending request go. Whatever the dataset answers comes too late."""
        if self._pool.drop(unique):
            self._write(_error(unique, errno.EINTR))

    # -- the device ---------------------------------------------------------------------------------------------

    def _receive(self) -> Request | None:
        """The next request, or None when the mount is gone."""
        while True:
            try:
                raw = os.read(self._fd, REQUEST_BYTES)
                return Request.parse(raw) if raw else None
            except OSError as error:
                if error.errno in _RETRY:
                    continue
                if error.errno not in _OVER:
                    log.error("reading from %s failed: %s", DEVICE, error)
                return None
            except ValueError as error:
                log.error("%s", error)

    def _reply(self, request: Request, reply: tuple[bytes, ...]) -> None:
        if reply and not self._write(reply):
            self._server.undelivered(request, reply)

    def _write(self, reply: tuple[bytes, ...]) -> bool:
        """False when the kernel did not take the reply."""
        try:
            os.writev(self._fd, reply)
        except OSError as error:
            # ENOENT: nobody waits for it any more. ENODEV: the next read says so, too.
            if error.errno not in _RETRY | _OVER:
                log.error("the kernel refused a reply of %d bytes: %s", sum(map(len, reply)), error)
            return False
        return True


def _error(unique: int, number: int) -> tuple[bytes, ...]:
    return (abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -number, unique),)
