"""What is done about requests that take long, by a thread of its own; and how it is known that storage makes them wait.

Nothing here rests on how long an answer takes: on a busy or slow machine our own work takes as long as a disk
elsewhere. What tells storage apart is that the thread *waits* for it, which the kernel counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from resource import RUSAGE_THREAD, getrusage
from typing import TYPE_CHECKING, NamedTuple

from symfuse.fuse.callers import Caller, state_of

if TYPE_CHECKING:
    from symfuse.fuse.workers import WorkerPool

#: How often the reader that answers is looked at. One that is found waiting in the same request twice is replaced.
INTERVAL_S = 0.002
#: Looks that find no such reader until looking rests.
QUIET_LOOKS = 50
#: How often it is looked whether callers still want their answers.
SWEEP_S = 0.5
#: What waited for so long hangs: its caller need not wait on when a signal comes that it catches.
HANGING_S = 5.0
#: Of so many requests one is examined while none waits. Examining costs 3 µs.
SAMPLE_EVERY = 8
#: Storage is slow when most of the last SAMPLES requests waited.
SAMPLES = 8
#: How long storage is held for slow before it is tried again.
SLOW_S = 0.25

log = logging.getLogger(__name__)


class WaitGauge:
    """Whether storage makes most requests wait, judged by those that one thread answers alone.

    A thread waits when it gives up its processor of its own accord (`ru_nvcsw`); that another program takes it away
    is another count. Several threads of ours at once wait for the interpreter, too: those are not judged.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._waiting = 0.0  # the share that waited
        self._slow_until_s: float | None = None

    def is_quick(self) -> bool:
        """True when one thread should answer alone."""
        slow_until_s = self._slow_until_s
        if slow_until_s is None:
            return True
        if time.monotonic() < slow_until_s:
            return False
        self._slow_until_s = None
        self._waiting = 1 / 4  # a few that wait are enough, this time
        return True

    def begin(self) -> int:
        """Before a request is answered: what `end` wants."""
        self._requests += 1
        if self._waiting < 1 / SAMPLES and self._requests % SAMPLE_EVERY:
            return -1
        return getrusage(RUSAGE_THREAD).ru_nvcsw

    def end(self, begun: int) -> None:
        """The request was answered by this thread."""
        if begun < 0:
            return
        has_waited = getrusage(RUSAGE_THREAD).ru_nvcsw != begun
        self._waiting += (has_waited - self._waiting) / SAMPLES
        if self._waiting > 1 / 2:
            self.note_slow()

    def note_slow(self) -> None:
        """Storage is slow."""
        self._slow_until_s = time.monotonic() + SLOW_S


class Activity(NamedTuple):
    """What a thread of ours is doing."""

    waits: bool
    ticks: int  # of processor time so far, 10 ms each


def activity_of(thread: int) -> Activity:
    """What the thread with this native id is doing. Source: proc_pid_stat(5)."""
    try:
        with open(f"/proc/self/task/{thread}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:  # no /proc: better one reader too many
        return Activity(waits=True, ticks=0)
    return Activity(waits=fields[0] != b"R", ticks=int(fields[11]) + int(fields[12]))


class Monitor:
    """Replaces a reader that does not come back, and ends the waiting of callers who want no answer any more.

    `give_up` ends one request without an answer. Its thread is started when it is first needed, rests while nothing
    is under way, and never touches the dataset.
    """

    def __init__(self, pool: WorkerPool, gauge: WaitGauge, give_up: Callable[[int], None]) -> None:
        self._pool = pool
        self._gauge = gauge
        self._give_up = give_up
        #: Requests whose callers got a signal. The kernel says so once, whatever signals follow.
        self.interrupted: set[int] = set()
        self._retrying: set[int] = set()  # callers who will ask again before they handle their signal
        self._seen: dict[int, int] = {}  # what was watched at the last look
        self._ticks: dict[int, int] = {}  # by request, of those watched for longer
        self._since_s: dict[int, float] = {}  # by request, when it was first seen pending
        self._is_started = False
        self._is_refused = False  # by the machine
        self._is_resting = False
        self._needed = threading.Event()
        self._over = threading.Event()

    def start(self) -> bool:
        """Start, unless that was done; False when the machine has no thread for it."""
        if not self._is_started and not self._is_refused:
            self._is_started = True
            try:
                threading.Thread(target=self._run, name="fuse-monitor", daemon=True).start()
            except RuntimeError:
                self._is_started, self._is_refused = False, True
        return self._is_started

    def watch(self) -> None:
        """A reader answers alone from now on."""
        if not self._needed.is_set():
            self._needed.set()

    def attend(self) -> None:
        """A request is pending from now on."""
        if self._is_resting or not self._is_started:
            self.start()
            self._needed.set()

    def close(self) -> None:
        """Everything is over."""
        self._over.set()
        self._needed.set()

    def interrupt(self, unique: int, pid: int) -> None:
        """The caller of a pending request got a signal."""
        caller = state_of(pid)
        if caller is Caller.DIES or (pid in self._retrying and caller is Caller.CATCHES):
            self._retrying.discard(pid)
            self._give_up(unique)
        else:
            self.interrupted.add(unique)
            self.attend()

    def _run(self) -> None:
        quiet, swept_s = 0, time.monotonic()
        while not self._over.is_set():
            if quiet < QUIET_LOOKS:
                self._over.wait(INTERVAL_S)
                quiet = 0 if self._look() else quiet + 1
            elif self._rest():
                quiet = 0
            now_s = time.monotonic()
            if now_s - swept_s >= SWEEP_S:
                swept_s = now_s
                self._sweep(now_s)

    def _rest(self) -> bool:
        """Nothing was watched for a while; True when something is."""
        self._needed.clear()
        if self._pool.watched:  # since just now, and saw it still set
            return True
        self._is_resting = not self._pool.pending
        # What becomes pending from here on sees that we rest; what did before keeps us from resting.
        is_needed = self._needed.wait(SWEEP_S if self._pool.pending else None)
        self._is_resting = False
        return is_needed

    def _look(self) -> bool:
        """Replace the reader if it answers the same request as at the last look; False when none answers alone."""
        watched = self._pool.watched.copy()
        for thread, unique in watched.items():
            if self._seen.get(thread) != unique:
                self._ticks.clear()
                continue
            activity = activity_of(thread)
            is_computing = activity.ticks > self._ticks.setdefault(unique, activity.ticks)
            if (activity.waits or is_computing) and self._pool.replace_reader(thread, unique) and activity.waits:
                self._gauge.note_slow()
        self._seen = watched
        return bool(watched)

    def _sweep(self, now_s: float) -> None:
        """Give up what no caller wants any more."""
        pending = self._pool.pending.copy()
        self._since_s = {unique: self._since_s.get(unique, now_s) for unique in pending}
        self.interrupted.intersection_update(pending)
        if not pending:
            self._retrying.clear()
        for unique, since_s in self._since_s.items():
            is_hanging = now_s - since_s >= HANGING_S
            if is_hanging or unique in self.interrupted:
                self._judge(unique, pending[unique], is_hanging=is_hanging)

    def _judge(self, unique: int, pid: int, *, is_hanging: bool) -> None:
        """Give up one request if its caller dies, or, when it hangs, wants to handle a signal.

        The kernel reads ahead in the name of a caller that it does not interrupt, and asks again for the one page that
        is missing if that fails: the second request need not hang for as long as the first.
        """
        caller = state_of(pid)
        if caller is Caller.CATCHES and is_hanging:
            self._retrying.add(pid)
        is_unwanted = caller is Caller.CATCHES or (caller is Caller.UNKNOWN and unique in self.interrupted)
        if caller is Caller.DIES or (is_hanging and is_unwanted):
            self._give_up(unique)
