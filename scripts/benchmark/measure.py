"""The run itself: rounds over groups of rows, and in each group every contender in turn, each time in another order.

A group begins with a fresh mount and ends with its unmounting, so that no contender's caches stand in the way of the
next. What a client does is measured in a process of its own (client.py).
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.benchmark import client
from scripts.benchmark.contenders import CONTENDERS, LINKS, Contender, Failure, Served, serve
from scripts.benchmark.dataset import Data, Tree
from scripts.benchmark.interrupts import INTERRUPTS
from scripts.benchmark.results import Results
from scripts.benchmark.rows import DISK, FRESH, ROWS

#: A client that says nothing for so long hangs.
CLIENT_TIMEOUT_S = 180
KILL_TIMEOUT_S = 5
#: So long a server is read from before its memory counts; the slowest would take half a minute for everything.
MEMORY_BUDGET_S = 5
MB = 1_000_000
DROP_CACHES = "/proc/sys/vm/drop_caches"

Sample = tuple[str, float]


class Unusable(Exception):
    """The dataset or its copy is not what it should be: nothing measured with it would mean anything."""


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    rounds: int = 3
    #: No round begins that would end later, judged by the longest before it.
    minutes: float = 15
    #: A client stops reading after so long.
    budget_s: float = 1
    #: What can be repeated is repeated for so long.
    at_least_s: float = 0.2
    rows: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Done:
    """What a client did, with what it cost."""

    seconds: float
    count: float
    cpu_s: float
    server_cpu_s: float

    @property
    def us(self) -> float:
        """Microseconds for each file, or MiB."""
        return self.seconds / self.count * 1e6

    @property
    def server_ms(self) -> float:
        """Milliseconds of the server's processor time for 1,000 files."""
        return self.server_cpu_s / self.count * 1e6

    @property
    def cpu_ms(self) -> float:
        """The same of client and server together."""
        return (self.cpu_s + self.server_cpu_s) / self.count * 1e6


@dataclass(frozen=True)
class Session:
    """One contender serving one dataset."""

    served: Served
    tree: Tree
    settings: Settings
    wanted: frozenset[str]
    results: Results
    contender: str

    def client(self, work: str, **task: Any) -> dict[str, Done]:
        """Start a client, wait for its result. Errors: Failure."""
        task = {"root": self.served.path, "index": self.tree.index, "budget_s": self.settings.budget_s} | task
        before = self.served.cpu_s()
        said = run_client({"work": work, "files": len(self.tree.files), **task})
        after = self.served.cpu_s()
        used = 0.0 if before is None or after is None else after - before
        return {name: Done(**done, server_cpu_s=used) for name, done in said.items()}

    def one(self, work: str, *, again: bool = False, **task: Any) -> Done:
        """The same for work with one result; `again` repeats what is short."""
        done = self.client(work, **task, at_least_s=self.settings.at_least_s if again else 0)
        (only,) = done.values()
        if not only.count:
            raise Failure("nothing was done within the time")
        return only

    def wants(self, *keys: str) -> bool:
        """Whether any of these rows is measured in this run."""
        return not self.wanted.isdisjoint(keys)

    def counted(self, key: str, work: str, **task: Any) -> Sample:
        """The requests that a client's work makes for each file, exactly; their opcodes go into the results."""
        assert self.served.ask is not None
        before = self.served.ask()
        done = self.one(work, budget_s=CLIENT_TIMEOUT_S, **task)
        made = Counter(self.served.ask())
        made.subtract(before)
        self.results.requests.setdefault(key, {})[self.contender] = {
            "files": int(done.count),
            **{opcode: number for opcode, number in sorted(made.items()) if number},
        }
        return key, made.total() / done.count


def run_client(task: Mapping[str, Any], timeout_s: float = CLIENT_TIMEOUT_S) -> dict[str, dict[str, float]]:
    """Do a task in a new process. Errors: Failure, with its last line."""
    process = subprocess.Popen(
        [sys.executable, client.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(json.dumps(task), timeout=timeout_s)
    except BaseException as error:
        process.kill()
        with INTERRUPTS.held(), contextlib.suppress(subprocess.TimeoutExpired):
            # Not for ever: where it hangs in a call on the mount, perhaps only the end of the mount ends it.
            process.communicate(timeout=KILL_TIMEOUT_S)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failure(f"no end within {timeout_s:.0f} s") from None
        raise
    if process.returncode != 0:
        raise Failure((complained.strip().splitlines() or [f"the client ended with {process.returncode}"])[-1])
    done = json.loads(said)
    assert isinstance(done, dict)
    return done


# -- what the groups do ------------------------------------------------------------------------------------------------


def _walk(session: Session) -> Iterator[Sample]:
    yield "walk-first", session.one("walk").us
    yield "walk-second", session.one("walk", again=True).us


def _stat(session: Session) -> Iterator[Sample]:
    yield "stat-first", session.one("stat").us
    yield "stat-second", session.one("stat", again=True).us


def _read(how: str, processes: int) -> Callable[[Session], Iterator[Sample]]:
    """Cold and then warm: what was read within the time is read again."""

    def work(session: Session) -> Iterator[Sample]:
        task: dict[str, Any] = {"how": how, "processes": processes}
        cold = session.one("read", **task)
        yield f"cold-{how}-{processes}", cold.us
        if (how, processes) == ("os", 1):
            yield "cpu-cold", cold.cpu_ms
            if session.served.pid is not None:
                yield "server-cpu-cold", cold.server_ms
        if not session.wants(f"warm-{how}-{processes}", "cpu-warm", "server-cpu-warm"):
            return
        # Several readers each got through another share: what is read again is read once more before.
        limit = int(cold.count)
        if processes > 1:
            session.one("read", limit=limit, **task)
        warm = session.one("read", again=True, limit=limit, **task)
        yield f"warm-{how}-{processes}", warm.us
        if (how, processes) == ("os", 1):
            yield "cpu-warm", warm.cpu_ms
            if session.served.pid is not None:
                yield "server-cpu-warm", warm.server_ms

    return work


def _one_read(key: str, *, shuffled: bool = False) -> Callable[[Session], Iterator[Sample]]:
    def work(session: Session) -> Iterator[Sample]:
        yield key, session.one("read", how="os", shuffled=shuffled).us

    return work


def _keras(session: Session) -> Iterator[Sample]:
    for key, done in session.client("keras").items():
        if not done.count:
            raise Failure("too few images for a batch were read within the time")
        yield key, done.us


def _large(session: Session) -> Iterator[Sample]:
    first = session.one("read-large")
    yield "large-first", first.us
    yield "large-second", session.one("read-large", mib=first.count).us


def _large_disk(session: Session) -> Iterator[Sample]:
    yield "large-disk", session.one("read-large").us


def _ready(session: Session) -> Iterator[Sample]:
    if session.served.ready_s is not None:
        yield "ready", session.served.ready_s * 1e3


def _memory(session: Session) -> Iterator[Sample]:
    ready = session.served.memory_bytes()
    if ready is None:
        return
    yield "memory-ready", ready / MB
    session.one("stat")
    session.one("read", how="os", budget_s=MEMORY_BUDGET_S)
    yield "memory-read", (session.served.memory_bytes() or 0) / MB


def _requests(session: Session) -> Iterator[Sample]:
    if session.served.ask is None:
        return
    yield session.counted("requests-walk-first", "walk")
    yield session.counted("requests-walk-second", "walk")
    session.one("stat")
    yield session.counted("requests-stat-second", "stat")
    yield session.counted("requests-cold", "read", how="os")
    yield session.counted("requests-warm-os", "read", how="os")
    yield session.counted("requests-warm-python", "read", how="python")


@dataclass(frozen=True)
class Group:
    """Rows that share a fresh mount."""

    rows: tuple[str, ...]
    work: Callable[[Session], Iterator[Sample]]
    large: bool = False
    condition: str = FRESH
    #: What is the same each time.
    once: bool = False
    #: A client takes many seconds to start.
    slow: bool = False


def _read_rows(how: str, processes: int) -> tuple[str, ...]:
    rows = (f"cold-{how}-{processes}", f"warm-{how}-{processes}")
    cpu = ("cpu-cold", "server-cpu-cold", "cpu-warm", "server-cpu-warm")
    return rows + (cpu if (how, processes) == ("os", 1) else ())


GROUPS = (
    Group(("ready",), _ready),
    Group(("walk-first", "walk-second"), _walk),
    Group(("stat-first", "stat-second"), _stat),
    *(Group(_read_rows(how, number), _read(how, number)) for how in ("os", "python") for number in (1, 4, 8)),
    Group(("cold-shuffled",), _one_read("cold-shuffled", shuffled=True)),
    Group(("keras-index", "keras-epoch", "tf-epoch"), _keras, slow=True),
    Group(("large-first", "large-second"), _large, large=True),
    Group(tuple(key for key in ROWS if key.startswith("requests-")), _requests, once=True),
    Group(("memory-ready", "memory-read"), _memory, once=True),
    Group(("disk-listing",), _one_read("disk-listing"), condition=DISK),
    Group(("disk-shuffled",), _one_read("disk-shuffled", shuffled=True), condition=DISK),
    Group(("large-disk",), _large_disk, large=True, condition=DISK),
)


# -- the run -----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A whole run over the contenders that this machine has."""

    data: Data
    contenders: Sequence[str]
    settings: Settings
    results: Results
    scratch: str
    on_step: Callable[[str], None] = lambda _step: None
    _warm: bool = False

    def measure(self) -> None:
        """All rounds. What a contender fails at is written down, and the run goes on. Errors: Unusable."""
        began = time.monotonic()
        longest_s = 0.0
        for number in range(self.settings.rounds):
            if number and time.monotonic() - began + longest_s > self.settings.minutes * 60:
                self.on_step(f"{number} of {self.settings.rounds} rounds: no time for more")
                break
            round_began = time.monotonic()
            self._round(number)
            longest_s = max(longest_s, time.monotonic() - round_began)
            self.results.about["rounds"] = number + 1

    def _round(self, number: int) -> None:
        for place, group in enumerate(GROUPS):
            wanted = frozenset(wanted_rows(self.settings.rows)).intersection(group.rows)
            if not wanted or (group.once and number):
                continue
            self.on_step(f"round {number + 1} of {self.settings.rounds}: {', '.join(sorted(wanted))}")
            for name in self._turns(group, number * len(GROUPS) + place):
                self._group(group, wanted, CONTENDERS[name], number)

    def _turns(self, group: Group, turn: int) -> list[str]:
        """Everybody once, and the links at the beginning and the end as well: all ratios rest on them."""
        order = shuffled(self.contenders, turn)
        return order if group.slow else [LINKS, *order, LINKS]

    def _group(self, group: Group, wanted: frozenset[str], contender: Contender, number: int) -> None:
        """One contender's turn. One that failed at these rows once is not asked again."""
        open_rows = [
            key for key in group.rows if key in wanted and contender.name not in self.results.failed.get(key, {})
        ]
        if not open_rows:
            return
        tree = self.data.large if group.large else self.data.images
        came: set[str] = set()
        try:
            self._prepare(group.condition)
            with serve(contender, tree, self.scratch) as served:
                session = Session(served, tree, self.settings, wanted, self.results, contender.name)
                for key, value in group.work(session):
                    came.add(key)
                    if key in wanted:
                        self.results.add(key, contender.name, value, round_number=number)
        except (Failure, OSError) as error:
            for key in set(open_rows) - came:
                self.results.fail(key, contender.name, f"{error}")

    def _prepare(self, condition: str) -> None:
        os.sync()  # nothing of the one before is still to be written
        if condition == DISK:
            drop_caches()
            self._warm = False
        elif not self._warm:
            self.on_step("reading everything once, so that it is in the page cache")
            self._read_everything()
            self._warm = True

    def _read_everything(self) -> None:
        for tree, work in ((self.data.images, "read"), (self.data.large, "read-large")):
            for root in (tree.dataset, tree.copy):
                task = {"root": root, "index": tree.index, "files": len(tree.files), "budget_s": CLIENT_TIMEOUT_S}
                for each in ("walk", "stat", work):
                    try:
                        run_client({"work": each, "how": "os", **task})
                    except Failure as error:
                        raise Unusable(f"{root}: {error}") from error


def drop_caches() -> None:
    """Empty the page cache, and forget all names and inodes. Source: proc(5). Errors: Failure where we may not."""
    try:
        with open(DROP_CACHES, "w", encoding="ascii") as file:
            file.write("3")
    except OSError as error:
        raise Failure(f"caches cannot be dropped here ({error.strerror})") from error


def shuffled(names: Sequence[str], turn: int) -> list[str]:
    """The same names in an order that is this turn's: nobody comes after the same neighbour each time."""
    return random.Random(client.SEED * 1_000 + turn).sample(names, len(names))  # noqa: S311 - an order, not a secret


def wanted_rows(patterns: Sequence[str]) -> list[str]:
    """The keys that any of the patterns matches, in the table's order."""
    return [key for key in ROWS if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)]
