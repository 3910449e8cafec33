"""The threads of a connection without a kernel: what each is for, by a model; and real threads at a socket."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from symfuse.fuse import monitor, workers
from symfuse.fuse.abi import OUT_HEADER, Opcode, Request
from symfuse.fuse.callers import Caller
from symfuse.fuse.workers import RequestLoop, WorkerPool
from tests.support import wire

TIMEOUT_S = 30.0
MAX_BUSY = 3

# -- the bookkeeping, by a model ---------------------------------------------------------------------------------------


@dataclass
class Thread:
    """A thread of the model: what it does, and for which request."""

    does: str = "read"  # read, choose (read a request, not yet watched), watched, busy, parked
    unique: int = 0


class Model(RuleBasedStateMachine):
    """Does with a pool what `RequestLoop` does, one step of one thread at a time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = WorkerPool(spawn=self.spawn, wake=self.wake, max_busy=MAX_BUSY)
        self.threads = {1: Thread()}
        self.numbers = itertools.count(2)
        self.uniques = itertools.count(1)
        self.tokens = 0  # calls of wake that no idle thread has noticed
        self.grants = True
        self.was_refused = False
        self.read: set[int] = set()
        self.answers: Counter[int] = Counter()

    def spawn(self) -> bool:
        if self.grants:
            self.threads[next(self.numbers)] = Thread()
        self.was_refused |= not self.grants
        return self.grants

    def wake(self) -> None:
        self.tokens += 1

    def those(self, *doing: str) -> list[int]:
        return [number for number, thread in self.threads.items() if thread.does in doing]

    def pick(self, which: int, *doing: str) -> tuple[int, Thread]:
        numbers = self.those(*doing)
        number = numbers[which % len(numbers)]
        return number, self.threads[number]

    def is_over(self) -> bool:
        return self.pool.is_over

    # What the machine does.

    @rule(grants=st.booleans())
    def the_machine_grants_threads_or_refuses_them(self, grants: bool) -> None:
        self.grants = grants

    # What a reader does.

    @precondition(lambda self: self.those("read") and not self.is_over())
    @rule(which=st.integers(0, 9), is_quick=st.booleans())
    def a_request_is_read(self, which: int, is_quick: bool) -> None:
        _, thread = self.pick(which, "read")
        request = wire.request(wire.READ, 1, unique=next(self.uniques))
        self.read.add(request.unique)
        self.pool.accept(request)
        if is_quick and self.pool.may_watch():
            thread.does, thread.unique = "choose", request.unique
        elif self.pool.hand_over(request):
            thread.does, thread.unique = "busy", request.unique

    @precondition(lambda self: self.those("choose"))
    @rule(which=st.integers(0, 9))
    def it_is_watched(self, which: int) -> None:
        number, thread = self.pick(which, "choose")
        self.pool.watched[number] = thread.unique
        thread.does = "watched"

    @precondition(lambda self: self.those("read"))
    @rule(which=st.integers(0, 9))
    def a_reader_parks(self, which: int) -> None:
        _, thread = self.pick(which, "read")
        if self.pool.park():
            thread.does = "parked"

    # What the others do.

    @precondition(lambda self: self.those("busy", "watched"))
    @rule(which=st.integers(0, 9))
    def the_dataset_answers(self, which: int) -> None:
        number, thread = self.pick(which, "busy", "watched")
        self.answers[thread.unique] += self.pool.claim(thread.unique)
        if thread.does == "watched" and self.pool.watched.pop(number, None) is not None:
            thread.does = "read"
            return
        request = self.pool.rejoin()
        thread.does, thread.unique = ("read", 0) if request is None else ("busy", request.unique)

    @precondition(lambda self: self.those("watched"))
    @rule(which=st.integers(0, 9), is_late=st.booleans())
    def the_monitor_replaces_a_reader(self, which: int, is_late: bool) -> None:
        number, thread = self.pick(which, "watched")
        was_watched = number in self.pool.watched
        assert self.pool.replace_reader(number, thread.unique - is_late) == (was_watched and not is_late)

    @precondition(lambda self: self.those("parked") and self.tokens)
    @rule(which=st.integers(0, 9))
    def a_woken_thread_goes_on(self, which: int) -> None:
        _, thread = self.pick(which, "parked")
        self.tokens -= 1
        thread.does = "read"

    @precondition(lambda self: self.those("parked"))
    @rule(which=st.integers(0, 9))
    def an_idle_thread_wants_to_end(self, which: int) -> None:
        number, _ = self.pick(which, "parked")
        if self.pool.retire():
            del self.threads[number]

    @precondition(lambda self: self.read)
    @rule(which=st.integers(0, 99))
    def a_caller_gives_up(self, which: int) -> None:
        unique = sorted(self.read)[which % len(self.read)]
        self.answers[unique] += self.pool.drop(unique)

    @precondition(lambda self: len(self.read) > 5)
    @rule()
    def the_mount_is_gone(self) -> None:
        self.pool.end()

    # What holds after every step.

    @invariant()
    def somebody_reads_or_stands_by_to_replace_who_should(self) -> None:
        if self.is_over():
            return
        reads = len(self.those("read")) + self.tokens
        replaceable = (self.those("choose") or self.pool.watched) and self.pool.idle
        alone = len(self.threads) == 1 and self.was_refused
        assert reads or replaceable or alone

    @invariant()
    def the_pool_counts_right(self) -> None:
        replaced = [n for n in self.those("watched") if n not in self.pool.watched]
        readers = self.those("read", "choose", "watched")
        assert self.pool.readers == len(readers) - len(replaced) + self.tokens
        assert self.pool.busy == len(self.those("busy")) + len(replaced) <= MAX_BUSY
        assert self.pool.idle == len(self.those("parked")) - self.tokens
        assert len(self.threads) == self.pool.threads <= MAX_BUSY + 1
        assert len(self.those("choose", "watched")) - len(replaced) <= 1

    @invariant()
    def no_request_is_lost_or_answered_twice(self) -> None:
        assert not self.answers or max(self.answers.values()) <= 1
        if self.is_over():
            return
        unanswered = {unique for unique in self.read if not self.answers[unique]}
        assert self.pool.pending.keys() == unanswered >= self.pool.backlog.keys()
        at_work = {self.threads[number].unique for number in self.those("choose", "watched", "busy")}
        assert unanswered <= at_work | self.pool.backlog.keys()
        assert not at_work & self.pool.backlog.keys()
        assert not self.pool.backlog or self.pool.busy, "somebody will take from the backlog"

    def teardown(self) -> None:
        """However it stands: when the dataset answers all is answered; and when the mount is gone all end."""
        while self.those("choose"):
            self.it_is_watched(0)
        while self.those("busy", "watched"):
            self.the_dataset_answers(0)
        assert self.is_over() or sum(self.answers.values()) == len(self.read)
        assert not self.pool.backlog
        self.pool.end()
        while self.those("parked"):
            self.a_woken_thread_goes_on(0)
        assert set(self.those("read")) == set(self.threads)
        assert [self.pool.leave() for _ in self.threads] == [*[False] * (len(self.threads) - 1), True]


Model.TestCase.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
TestModel = Model.TestCase


# -- real threads ------------------------------------------------------------------------------------------------------


class Source:
    """Answers requests; those for READ may block, and do so where a test says that they hang."""

    def __init__(self) -> None:
        self.threads: dict[int, str] = {}  # which thread answered
        self.hanging: set[int] = set()
        self.released = threading.Event()
        self.undone: list[int] = []
        self.work: Callable[[], object] = lambda: None

    def may_block(self, request: Request) -> bool:
        return request.opcode == Opcode.READ

    def handle(self, request: Request) -> tuple[bytes, ...]:
        if request.opcode == Opcode.INTERRUPT:
            return ()
        if request.unique in self.hanging:
            assert self.released.wait(TIMEOUT_S)
        elif request.opcode == Opcode.READ:
            self.work()
        self.threads[request.unique] = threading.current_thread().name
        return (OUT_HEADER.pack(OUT_HEADER.size, 0, request.unique),)

    def undelivered(self, request: Request, reply: tuple[bytes, ...]) -> None:
        self.undone.append(request.unique)


@dataclass
class Connection:
    """The kernel's end of a connection that is a socket."""

    source: Source
    kernel: socket.socket
    thread: threading.Thread
    answers: dict[int, int] = field(default_factory=dict)  # unique -> errno
    uniques: Iterator[int] = field(default_factory=lambda: itertools.count(2, 2))

    def send(self, opcode: int = wire.READ, *, hangs: bool = False, pid: int = 1, body: bytes = b"") -> int:
        unique = next(self.uniques)
        if hangs:
            self.source.hanging.add(unique)
        self.kernel.send(wire.raw_request(opcode, 1, body, unique=unique, pid=pid))
        return unique

    def interrupt(self, unique: int) -> None:
        self.kernel.send(wire.raw_request(wire.INTERRUPT, 0, unique.to_bytes(8, "little"), unique=unique | 1))

    def wait_for(self, *uniques: int, timeout_s: float = TIMEOUT_S) -> None:
        """Until these are answered; every answer must be the first one."""
        deadline = time.monotonic() + timeout_s
        while not self.answers.keys() >= set(uniques):
            left_s = deadline - time.monotonic()
            assert select.select([self.kernel], [], [], max(left_s, 0))[0], f"{len(self.answers)} are answered"
            self._take()

    def _take(self) -> None:
        _, error, unique = OUT_HEADER.unpack(self.kernel.recv(1 << 16))
        if unique & 1:
            assert -error == errno.EAGAIN
            self.interrupt(unique & ~1)
            return
        assert unique not in self.answers, "answered twice"
        self.answers[unique] = -error

    def close(self) -> None:
        """The mount is gone: nothing was left unread, and the loop ends."""
        while select.select([self.kernel], [], [], 0)[0]:
            self._take()
        self.kernel.close()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


Connect = Callable[..., Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes a connection after its INIT, served by threads until the test ends."""
    made: list[tuple[Connection, int]] = []

    def connect(*, max_busy: int = workers.MAX_BUSY) -> Connection:
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = Source()
        loop = RequestLoop(ours.fileno(), source, max_busy=max_busy)
        thread = threading.Thread(target=loop.serve, args=(lambda: None,))
        connection = Connection(source, kernel, thread)
        made.append((connection, ours.detach()))
        thread.start()
        connection.wait_for(connection.send(wire.INIT))
        connection.wait_for(connection.send(wire.STATFS))  # the first worker is there
        return connection

    yield connect
    for connection, fd in made:
        connection.source.released.set()
        connection.close()
        os.close(fd)


@pytest.mark.parametrize("hanging", [1, 16, 17, 40, 100, 300])
def test_what_lies_in_memory_is_answered_whatever_hangs(connect: Connect, hanging: int) -> None:
    connection = connect()
    connection.wait_for(*[connection.send() for _ in range(20)])
    hung = [connection.send(hangs=True) for _ in range(hanging)]
    for _ in range(3):
        connection.wait_for(connection.send(wire.STATFS))
    if hanging < workers.MAX_BUSY:
        connection.wait_for(connection.send())
    assert not connection.answers.keys() & set(hung)
    connection.source.released.set()
    connection.wait_for(*hung)
    assert not any(connection.answers.values())


def test_what_waits_for_a_thread_is_answered_in_order(connect: Connect) -> None:
    connection = connect(max_busy=1)
    hung = connection.send(hangs=True)
    waiting = [connection.send() for _ in range(50)]
    connection.wait_for(connection.send(wire.STATFS))
    assert not connection.answers.keys() & {hung, *waiting}
    connection.source.released.set()
    connection.wait_for(hung, *waiting)
    assert [unique for unique in connection.source.threads if unique in waiting] == waiting


@pytest.mark.parametrize("granted", [0, 1, 3])
def test_a_machine_without_threads_is_served_by_those_there_are(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, granted: int
) -> None:
    start, left = threading.Thread.start, [None] * granted

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("fuse-worker-"):
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
        start(thread)

    connection = connect()
    monkeypatch.setattr(threading.Thread, "start", limited)
    connection.wait_for(*[connection.send() for _ in range(100)])
    hung = [connection.send(hangs=True) for _ in range(10)]
    waiting = [connection.send() for _ in range(10)]
    if granted:
        connection.wait_for(connection.send(wire.STATFS))
    connection.source.released.set()
    connection.wait_for(*hung, *waiting)
    expected = f"cannot start more than {granted + 1} server threads: can't start new thread"
    assert [record.message for record in caplog.records] == [expected]


def test_where_the_monitor_cannot_be_started_all_is_answered(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "fuse-monitor":
            raise RuntimeError("can't start new thread")
        start(thread)

    connection = connect()
    monkeypatch.setattr(threading.Thread, "start", limited)
    hung = [connection.send(hangs=True) for _ in range(20)]
    connection.wait_for(*[connection.send() for _ in range(20)])
    connection.source.released.set()
    connection.wait_for(*hung)


# -- one thread or several ---------------------------------------------------------------------------------------------


def answering(connection: Connection, requests: int, *, clients: int = 8) -> Counter[str]:
    """How many of so many requests each thread answers, while as many as `clients` are under way at any time."""
    asked = [connection.send() for _ in range(clients)]
    for number in range(requests):
        connection.wait_for(asked[number])
        asked.append(connection.send())
    connection.wait_for(*asked)
    return Counter(connection.source.threads[unique] for unique in asked[requests // 2 :])


def compute(microseconds: int = 300) -> None:
    """Longer than any storage that is quick; the processor's time counts, whoever else runs."""
    end_ns = time.thread_time_ns() + microseconds * 1000
    while time.thread_time_ns() < end_ns:
        pass


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """More programs that compute without end than there are processors."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_storage_that_does_not_wait_is_left_to_one_thread(connect: Connect) -> None:
    connection = connect()
    connection.source.work = compute
    shares = answering(connection, 400)
    assert shares.most_common(1)[0][1] > 0.9 * shares.total(), shares


def test_on_a_busy_machine_it_is_left_to_one_thread_too(connect: Connect, busy_machine: None) -> None:
    connection = connect()
    connection.source.work = compute
    shares = answering(connection, 400)
    assert shares.most_common(1)[0][1] > 0.8 * shares.total(), shares


@pytest.mark.parametrize("wait_s", [0.0002, 0.001, 0.005])
def test_storage_that_makes_threads_wait_is_read_by_several(connect: Connect, wait_s: float) -> None:
    connection = connect()
    connection.source.work = lambda: time.sleep(wait_s)
    shares = answering(connection, 400)
    assert len(shares) >= 4, shares
    assert shares.most_common(1)[0][1] < 0.6 * shares.total(), shares


def test_one_thread_takes_over_again_when_storage_is_quick_again(connect: Connect) -> None:
    connection = connect()
    connection.source.work = lambda: time.sleep(0.001)
    answering(connection, 200)
    connection.source.work = lambda: None
    time.sleep(monitor.SLOW_S)
    shares = answering(connection, 400)
    assert shares.most_common(1)[0][1] > 0.9 * shares.total(), shares


def test_a_reader_that_computes_for_long_is_replaced(connect: Connect) -> None:
    connection = connect()
    connection.wait_for(*[connection.send() for _ in range(20)])
    is_over = threading.Event()

    def compute_on() -> None:
        while not is_over.is_set():
            pass

    connection.source.work = compute_on
    long = connection.send()
    connection.wait_for(connection.send(wire.STATFS))
    assert long not in connection.answers
    is_over.set()
    connection.wait_for(long)


def test_threads_that_nobody_needs_end(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_S", 0.05)
    monkeypatch.setattr(monitor, "SLOW_S", 0.05)
    connection = connect()
    before = threading.active_count()
    hung = [connection.send(hangs=True) for _ in range(30)]
    connection.wait_for(connection.send(wire.STATFS))
    connection.source.released.set()
    connection.wait_for(*hung)
    assert threading.active_count() >= before + 29
    deadline = time.monotonic() + TIMEOUT_S
    while threading.active_count() > before + 2:  # one that is idle, and the monitor
        assert time.monotonic() < deadline, threading.enumerate()
        connection.wait_for(connection.send())
        time.sleep(0.01)


# -- callers who do not want an answer any more ------------------------------------------------------------------------


def callers_are(state: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "state_of", lambda _pid: state)


@pytest.mark.parametrize("max_busy", [1, 8], ids=["in the backlog", "in the source"])
def test_who_is_killed_does_not_wait(connect: Connect, monkeypatch: pytest.MonkeyPatch, max_busy: int) -> None:
    callers_are(Caller.DIES, monkeypatch)
    connection = connect(max_busy=max_busy)
    hung = [connection.send(hangs=True) for _ in range(4)]
    for unique in hung[1:]:
        connection.interrupt(unique)
    connection.wait_for(*hung[1:])
    assert {connection.answers[unique] for unique in hung[1:]} == {errno.EINTR}
    connection.source.released.set()
    connection.wait_for(hung[0])
    connection.wait_for(*[connection.send() for _ in range(20)])
    begun = [unique for unique in hung[1:] if unique in connection.source.threads]
    assert sorted(connection.source.undone) == begun == ([] if max_busy == 1 else hung[1:])


def test_who_is_killed_after_another_signal_does_not_wait_either(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers_are(Caller.WAITS, monkeypatch)
    connection = connect()
    hung = connection.send(hangs=True)
    connection.interrupt(hung)
    connection.wait_for(connection.send(wire.STATFS))
    assert hung not in connection.answers
    callers_are(Caller.DIES, monkeypatch)
    connection.wait_for(hung)
    assert connection.answers[hung] == errno.EINTR


@pytest.mark.parametrize("state", [Caller.CATCHES, Caller.UNKNOWN])
def test_a_signal_ends_only_a_wait_without_end(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, state: Caller
) -> None:
    monkeypatch.setattr(monitor, "SWEEP_S", 0.02)
    monkeypatch.setattr(monitor, "HANGING_S", 0.5)
    callers_are(state, monkeypatch)
    connection = connect()
    begun_s = time.monotonic()
    hung = connection.send(hangs=True)
    connection.interrupt(hung)
    connection.wait_for(hung)
    assert connection.answers[hung] == errno.EINTR
    assert time.monotonic() - begun_s > 0.5


def test_who_waits_and_got_no_signal_goes_on_waiting(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "SWEEP_S", 0.01)
    monkeypatch.setattr(monitor, "HANGING_S", 0.02)
    states = iter([Caller.WAITS] * 10 + [Caller.UNKNOWN] * 10)
    seen = threading.Event()

    def state_of(_pid: int) -> Caller:
        state = next(states, None)
        if state is None:
            seen.set()
        return state or Caller.WAITS

    monkeypatch.setattr(monitor, "state_of", state_of)
    connection = connect()
    hung = connection.send(hangs=True)
    assert seen.wait(TIMEOUT_S)
    connection.source.released.set()
    connection.wait_for(hung)
    assert connection.answers[hung] == 0


def test_an_interrupt_of_what_was_answered_is_asked_for_again(connect: Connect) -> None:
    """The kernel refuses our asking then. It grants it where the request was read, but is not yet known here."""
    connection = connect()
    done = connection.send()
    connection.wait_for(done)
    connection.interrupt(done)
    assert select.select([connection.kernel], [], [], TIMEOUT_S)[0]
    _, error, unique = OUT_HEADER.unpack(connection.kernel.recv(1 << 16))
    assert (-error, unique) == (errno.EAGAIN, done | 1)
