"""A view before it is mounted: what is read of the dataset, what is told meanwhile, and what refuses it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.errors import DatasetRefused
from symfuse.mounts.protocol import Report
from symfuse.mounts.request import MountRequest
from symfuse.mounts.visible import visible
from symfuse.policy import Conflicts, Finding, Kind, Outside, Policy
from symfuse.progress import Progress, first_of
from symfuse.stores import absent_store, common_store
from symfuse.view import View

#: Progress is reported no more often than this.
REPORT_INTERVAL_S = 0.1
#: How long the background freeze, which freezes a chunk in 5 ms, rests after one while there are requests.
YIELD_S = 0.02

log = logging.getLogger(__name__)


def prepare(request: MountRequest, report: Report, stop: threading.Event) -> View:
    """The view that a request asks for, as far frozen as that needs. `stop` ends it early.

    Errors: SourceError; DatasetRefused; SymfuseError when images cannot be decoded; OSError.
    """
    dataset = Dataset(request.source, request.policy, mountpoint=request.mountpoint, confined=request.allow_other)
    view = View(dataset)
    if request.scans_first:
        now_and_then = every(REPORT_INTERVAL_S)

        def keep_on() -> bool:
            if now_and_then():
                report({"event": "progress", "frozen": view.progress().as_dict()})
            return not stop.is_set()

        view.freeze_all(keep_on=keep_on)
        if request.policy.looks_into_files and not stop.is_set():
            _select(view, request.policy, report, stop)
        if not stop.is_set():
            conclude(view, request)
        refuse(view.progress(), request.policy)
    return view


def conclude(view: View, request: MountRequest) -> None:
    """Everything is frozen: say what may be behind all that is hidden."""
    dataset = view.dataset
    hints = [store for link in view.samples(Kind.DANGLING) if (store := absent_store(dataset, *link))]
    outside = view.progress().hidden[Kind.OUTSIDE]
    if outside and request.allow_other and request.policy.outside is Outside.FOLLOW:
        allowed = common_store(dataset, view.samples(Kind.OUTSIDE))
        hints.append(_not_allowed(outside, allowed))
        if request.log is not None:  # whoever asked for the mount may have no terminal: fstab, a service
            log.warning("%s", hints[-1])
    view.conclude(hints)


def _not_allowed(links: int, store: bytes | None) -> str:
    which = "1 link that leaves the dataset is" if links == 1 else f"{links:,} links that leave the dataset are"
    allow = f"--allow-root {os.fsdecode(store)}" if store else "--allow-root DIR for each directory they may lead into"
    return f"{which} hidden: with --allow-other add {allow}"


def _select(view: View, policy: Policy, report: Report, stop: threading.Event) -> None:
    from symfuse.selection import Work, select  # noqa: PLC0415 - with all that hashes and decodes

    now_and_then = every(REPORT_INTERVAL_S)

    def on_work(work: Work) -> None:
        if now_and_then():
            report({"event": "progress", "frozen": view.progress().as_dict() | {"work": work._asdict()}})

    try:
        select(view, policy, on_work=on_work, stop=stop)
    except DatasetRefused as refused:  # it names directories and files; a traceback shows it as it is
        raise DatasetRefused(visible(refused.cause), refused.cure) from None


def politely(counters: Counters, stop: threading.Event) -> Callable[[], bool]:
    """A `keep_on` that steps aside after a chunk while there are requests, for they need the interpreter, too."""
    seen = counters.waited_for()

    def keep_on() -> bool:
        nonlocal seen
        before, seen = seen, counters.waited_for()
        return not stop.wait(YIELD_S if seen != before else 0)

    return keep_on


def every(interval_s: float) -> Callable[[], bool]:
    """True no more often than once in an interval, and not before the first is over."""
    last_s = time.monotonic()

    def now_and_then() -> bool:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s < interval_s:
            return False
        last_s = now_s
        return True

    return now_and_then


def refuse(progress: Progress, policy: Policy) -> None:
    """Errors: DatasetRefused when the dataset has what the policy does not accept."""
    refused = {str(kind) for kind in policy.fail_on}
    if policy.dedup.conflicts is Conflicts.FAIL:
        refused.add(Finding.CONFLICT)
    # Conflicts and leaks count whether they are hidden or not.
    found: dict[str, tuple[int, list[str]]] = {
        str(kind): (number, progress.examples[kind]) for kind, number in sorted(progress.hidden.items())
    }
    found |= {
        str(finding): (number, progress.finding_examples[finding])
        for finding, number in sorted(progress.findings.items())
    }
    named = [
        f"{number} {name} ({visible('; '.join(first_of(number, examples)))})"
        for name, (number, examples) in found.items()
        if name in refused
    ]
    if named:
        cure = "mend it, or mount without --fail-on" if policy.fail_on else "mend it, or choose another of --conflicts"
        causes = ["the dataset has " + ", ".join(named), *map(visible, progress.hints)]
        raise DatasetRefused("; ".join(causes), cure)
