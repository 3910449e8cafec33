"""What of a frozen view is hidden for its content, before it is mounted: broken images, and the same image again."""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from symfuse.census import Census
from symfuse.dedup import Deduplicator
from symfuse.identity import content, pixels
from symfuse.identity.cache import Key, VerdictCache
from symfuse.identity.verdict import Verdict
from symfuse.identity.work import Job
from symfuse.layout import Labels, refuse_unchecked
from symfuse.names import is_image_name
from symfuse.pairs import Pairs
from symfuse.policy import BrokenImages, Finding, Kind, Policy, SameBy, SideFiles
from symfuse.sameness import Sources, equal, has_digest, same_bytes
from symfuse.source.identity import Identity
from symfuse.view import View


class Work(NamedTuple):
    """How far a long task is: files and bytes that are done, of so many files."""

    task: str
    files_done: int
    files: int
    bytes_done: int


OnWork = Callable[[Work], None]


def select(view: View, policy: Policy, *, on_work: OnWork, stop: threading.Event) -> None:
    """Hide what the policy hides. After `stop` it ends early, and what is hidden is then not to be relied upon.

    Errors: SymfuseError when images cannot be decoded at all; DatasetRefused when what was asked for needs splits or
    classes that are not recognised.
    """
    # By target nothing is read: then nobody shall hear that a cache is missing.
    with contextlib.closing(VerdictCache.open() if policy.reads_files else VerdictCache(None)) as cache:
        Selection(view, policy, cache, on_work=on_work, stop=stop).run()


class Selection:
    """One run over the files of a view, which `identity` knows as `identity.work.Files`."""

    def __init__(
        self, view: View, policy: Policy, cache: VerdictCache, *, on_work: OnWork, stop: threading.Event
    ) -> None:
        self._view = view
        self._policy = policy
        self._cache = cache
        self._on_work = on_work
        self._stop = stop
        self._census = Census(view)
        self._pairs = Pairs(view, self._census)
        self._sources = Sources(view, self._pairs.roles(by_content=policy.reads_files))
        self._unread: set[int] = set()  # nodeids
        self._forgotten: set[int] = set()  # nodeids of what was read and is not remembered

    def run(self) -> None:
        """Look into what must be looked into, hide what is to be hidden, and tell what could not be looked into.

        Errors: DatasetRefused, before anything is read, when what was asked for needs splits or classes and there are
        none.
        """
        self._hide(self._read_layout() if self._policy.dedup.same_by is not SameBy.OFF else None)
        if not self._stop.is_set():
            for nodeid in sorted(self._unread):
                self._view.report(Finding.UNREAD, [nodeid])
            self._view.note_unremembered(len(self._forgotten))

    def _read_layout(self) -> Labels:
        labels = Labels(self._census, self._policy.dedup.layout)
        labels.find_stores(map(self._directories, self._sources.groups()))
        self._view.describe_layout(labels.describe())
        refuse_unchecked(labels, self._census, self._policy)
        return labels

    def _directories(self, nodeids: Iterable[int]) -> Iterator[tuple[int, bool]]:
        """The directory of each file, and whether it is seen there as an image through a link."""
        for number, name, is_link in map(self._view.entry, nodeids):
            is_linked = is_link or self._view.directory(number).repeats
            if not is_linked or is_image_name(name):
                yield number, is_linked

    def _hide(self, labels: Labels | None) -> None:
        """Broken images first, so that none of them stands for others; what belongs to hidden images last."""
        files = self._view.progress().files
        self._settle()
        self._hide_images(labels)
        if not self._stop.is_set():
            images = self._sources.images
            is_compared = self._policy.dedup.same_by is not SameBy.OFF
            self._view.note_looked_at(images if is_compared else 0, 0 if is_compared else images, files - images)
            if self._policy.side_files is SideFiles.FOLLOW:
                self._pairs.follow(stop=self._stop.is_set)

    def _settle(self) -> None:
        """Know by their content which files are images that have other names, where that matters."""
        policy = self._policy
        if not policy.reads_files:
            return
        by_size = policy.dedup.same_by is SameBy.BYTES and policy.broken_images is BrokenImages.SHOW
        numbers = self._sources.undecided(by_size=by_size)
        unnamed = [[*self._unnamed(number)] for number in numbers]
        firsts = array("Q", (self._sources.nodeids[n] for n, nodeids in zip(numbers, unnamed, strict=True) if nodeids))
        others = [nodeids for nodeids in unnamed if nodeids]
        on_progress = self._reporter("looking for images", len(firsts))
        found = content.signatures(firsts, self, self._cache, on_progress=on_progress, stop=self._stop)
        self._unread.update(first for first, signature in zip(firsts, found, strict=True) if not signature)
        self._sources.settle(
            nodeid
            for nodeids, signature in zip(others, found, strict=True)
            if signature == content.BEGINS_AS_IMAGE
            for nodeid in nodeids
        )

    def _unnamed(self, number: int) -> Iterator[int]:
        """The files of a source that are images only if it begins as one."""
        for nodeid in self._sources.files(number):
            if not self._sources.has_image_name(nodeid) and not self._pairs.is_side_file(nodeid):
                yield nodeid

    def _hide_images(self, labels: Labels | None) -> None:
        same_by = self._policy.dedup.same_by
        hides_broken = self._policy.broken_images is BrokenImages.HIDE
        findings = self._examine() if hides_broken or same_by is SameBy.PIXELS else None
        if findings is not None and hides_broken:
            self._hide_broken(findings)
        if labels is None:
            return
        if same_by is SameBy.TARGET:
            self._sources.leave_unnamed()
        same: Iterator[list[int]] = iter(())
        if same_by is SameBy.BYTES:
            same = same_bytes(self._sources, self._sources.rest(), self._digests)
        elif same_by is SameBy.PIXELS and findings is not None:
            same = self._same_pixels(findings)
        if not self._stop.is_set():
            Deduplicator(self._view, self._policy.dedup, labels).apply(self._sources.groups(same))

    def keys(self, nodeids: Sequence[int]) -> list[Key]:
        """See `identity.work.Files`."""
        return self._sources.keys(nodeids)

    def identities(self, nodeids: Sequence[int]) -> list[Identity]:
        """See `identity.work.Files`."""
        return self._view.identities(nodeids)

    def found(self, fd: int) -> Identity:
        """See `identity.work.Files`."""
        return self._sources.found(fd)

    def open(self, nodeid: int) -> int:
        """See `identity.work.Files`: who reads it verifies afterwards."""
        return self._view.open_unverified(nodeid)

    def lasting(self, jobs: Sequence[Job], begun_ns: int) -> list[bool]:
        """See `identity.work.Files`."""
        return self._sources.lasting(jobs, begun_ns)

    def forgotten(self, nodeids: Iterable[int]) -> None:
        """See `identity.work.Files`."""
        self._forgotten.update(nodeids)

    def _examine(self) -> pixels.Findings:
        nodeids = self._sources.nodeids
        findings = pixels.examine(
            nodeids,
            self,
            self._cache,
            on_progress=self._reporter("decoding images", len(nodeids)),
            stop=self._stop,
            judge=self._policy.judge,
        )
        findings.name_images(lambda _number: True)  # each has an image's name, or begins as one
        self._unread.update(nodeids[number] for number in findings.indices(Verdict.UNKNOWN))
        return findings

    def _digests(self, nodeids: Sequence[int]) -> bytearray:
        on_progress = self._reporter("comparing files", len(nodeids))
        digests = content.digests(nodeids, self, self._cache, on_progress=on_progress, stop=self._stop)
        for index, nodeid in enumerate(nodeids):
            if not has_digest(digests, index):
                self._unread.add(nodeid)
        return digests

    def _reporter(self, task: str, files: int) -> Callable[[int, int], None]:
        return lambda files_done, bytes_done: self._on_work(Work(task, files_done, files, bytes_done))

    def _hide_broken(self, findings: pixels.Findings) -> None:
        """What only begins as an image, and is none, is a broken one under the names of images: `P1` begins a text."""
        for number in findings.indices(Verdict.BROKEN, Verdict.NOT_AN_IMAGE):
            is_image, has_name = findings.verdicts[number] == Verdict.BROKEN, self._sources.has_image_name
            broken = [nodeid for nodeid in self._sources.files(number) if is_image or has_name(nodeid)]
            for nodeid in broken:
                self._view.hide(nodeid, Kind.BROKEN, reason=findings.reason(number))
            self._sources.drop(number, broken)

    def _same_pixels(self, findings: pixels.Findings) -> Iterator[list[int]]:
        """Images by their pixels; what has none to compare, by its bytes."""
        digests = findings.digests

        yield from equal(range(len(self._sources.nodeids)), digests)
        yield from same_bytes(
            self._sources, self._sources.rest(lambda number: has_digest(digests, number)), self._digests
        )
