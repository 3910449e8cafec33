"""Files of equal bytes: which are the same, and what a changing, hostile or interrupted world does to the answer."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from symfuse.identity import content
from symfuse.identity.cache import Key, VerdictCache
from symfuse.identity.content import SAMPLE_BYTES, SMALL_BYTES
from symfuse.identity.verdict import DIGEST_BYTES, NO_DIGEST
from symfuse.identity.work import Job, Work
from symfuse.source.identity import Identity
from symfuse.source.lasting import Stamps, Volume

#: Long ago, as far as the cache's rule is concerned.
WEEK_S = 7 * 86_400
LOCAL = Volume(0, Stamps.KERNEL)


class PlainFiles:
    """Files whose nodeids are their places in a list, frozen now. Counts how often each is opened."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.opened: Counter[int] = Counter()
        self.unremembered: set[int] = set()
        self._identities = [Identity.of(path.stat()) for path in paths]

    def keys(self, nodeids: Sequence[int]) -> list[Key]:
        return [(key.dev, key.ino, key.size, key.mtime_ns, key.ctime_ns) for key in self.identities(nodeids)]

    def identities(self, nodeids: Sequence[int]) -> list[Identity]:
        return [self._identities[nodeid] for nodeid in nodeids]

    def found(self, fd: int) -> Identity:
        return Identity.of(os.fstat(fd))

    def open(self, nodeid: int) -> int:
        self.opened[nodeid] += 1
        return os.open(self.paths[nodeid], os.O_RDONLY | os.O_NONBLOCK)

    def lasting(self, jobs: Sequence[Job], begun_ns: int) -> list[bool]:
        return [LOCAL.is_settled(mtime_ns, ctime_ns, begun_ns) for _, _, (*_, mtime_ns, ctime_ns), _ in jobs]

    def forgotten(self, nodeids: Iterable[int]) -> None:
        self.unremembered.update(nodeids)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VerdictCache]:
    cache = VerdictCache.open(str(tmp_path / "cache"))
    yield cache
    cache.close()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were left alone for long before they are read."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + WEEK_S * 1_000_000_000)


def written(directory: Path, *contents: bytes) -> PlainFiles:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.jpg" for number in range(len(contents))]
    for path, each in zip(paths, contents, strict=True):
        path.write_bytes(each)
    return PlainFiles(paths)


def digests(
    files: PlainFiles, cache: VerdictCache, *, on_progress: Callable[[int, int], None] = lambda *_: None
) -> list[bytes]:
    found = content.digests(range(len(files.paths)), files, cache, on_progress=on_progress, stop=threading.Event())
    return [bytes(found[at : at + DIGEST_BYTES]) for at in range(0, len(found), DIGEST_BYTES)]


def sames(found: list[bytes]) -> set[tuple[int, ...]]:
    """The groups of places that have the same digest."""
    groups: dict[bytes, list[int]] = {}
    for place, digest in enumerate(found):
        assert digest != NO_DIGEST
        groups.setdefault(digest, []).append(place)
    return {tuple(places) for places in groups.values()}


def bytes_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def changed(original: bytes, at: int) -> bytes:
    return original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :]


# -- equal and not -----------------------------------------------------------------------------------------------------

SIZES = [
    *(1, 15, 16, SAMPLE_BYTES - 1, SAMPLE_BYTES, SAMPLE_BYTES + 1),
    *(4096, 18_000, SMALL_BYTES, SMALL_BYTES + 1, content.PIECE_BYTES, 2 * content.PIECE_BYTES + 1),
]


@pytest.mark.parametrize("size", SIZES)
def test_equal_bytes_are_one_and_any_changed_byte_is_another(tmp_path: Path, cache: VerdictCache, size: int) -> None:
    original = bytes_of(size)
    places = sorted({0, size // 3, size // 2, size - 1})
    files = written(tmp_path / "data", original, original, *(changed(original, at) for at in places), original)
    last = len(places) + 2
    assert sames(digests(files, cache)) == {(0, 1, last), *((place,) for place in range(2, last))}


def test_empty_files_are_equal(tmp_path: Path, cache: VerdictCache) -> None:
    assert sames(digests(written(tmp_path / "data", b"", b"", b"x"), cache)) == {(0, 1), (2,)}


def test_files_of_which_one_begins_like_the_other_are_not_equal(tmp_path: Path, cache: VerdictCache) -> None:
    contents = [bytes(size) for size in SIZES]
    assert sames(digests(written(tmp_path / "data", *contents), cache)) == {(n,) for n in range(len(SIZES))}


def test_random_files_against_comparing_each_with_each(tmp_path: Path, cache: VerdictCache) -> None:
    chance = random.Random(1)
    pool = [bytes_of(chance.choice(SIZES[:9]), seed) for seed in range(30)]
    pool += [changed(each, chance.randrange(len(each))) for each in pool]
    contents = [chance.choice(pool) for _ in range(300)]
    found = digests(written(tmp_path / "data", *contents), cache)
    for one, other in itertools.combinations(range(len(contents)), 2):
        assert (found[one] == found[other]) == (contents[one] == contents[other])


def test_nothing_to_do(cache: VerdictCache) -> None:
    assert digests(PlainFiles([]), cache) == []


# -- reading as little as possible -------------------------------------------------------------------------------------


def test_only_files_with_the_same_sample_are_read_whole(tmp_path: Path, cache: VerdictCache) -> None:
    twin = bytes_of(18_000)
    files = written(tmp_path / "data", twin, twin, changed(twin, 9000), bytes_of(18_000, 1))
    digests(files, cache)
    assert files.opened == {0: 2, 1: 2, 2: 1, 3: 1}


def test_a_second_time_nothing_is_read(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    twin = bytes_of(18_000)
    files = written(tmp_path / "data", twin, twin, b"small", b"small", bytes_of(18_000, 1))
    first = digests(files, cache)
    files.opened.clear()
    assert digests(files, cache) == first
    assert not files.opened
    assert not files.unremembered


def test_samples_of_another_size_are_not_compared_with_remembered_ones(
    tmp_path: Path, cache: VerdictCache, monkeypatch: pytest.MonkeyPatch, later: None
) -> None:
    """Another version of symfuse may take other samples, and has the same cache."""
    twin = bytes_of(18_000)
    digests(written(tmp_path / "data", twin), cache)
    monkeypatch.setattr(content, "SAMPLE_BYTES", 2 * SAMPLE_BYTES)
    assert sames(digests(written(tmp_path / "more", twin), cache)) == {(0,)}
    both = PlainFiles([tmp_path / "data" / "0.jpg", tmp_path / "more" / "0.jpg"])
    assert sames(digests(both, cache)) == {(0, 1)}


def test_only_what_changed_is_read_again(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    files = written(tmp_path / "data", *(bytes_of(1000, seed) for seed in range(5)))
    digests(files, cache)
    files.paths[3].write_bytes(bytes_of(1000, 0))
    again = PlainFiles(files.paths)
    assert sames(digests(again, cache)) == {(0, 3), (1,), (2,), (4,)}
    assert set(again.opened) == {0, 3}


def test_a_file_written_just_now_is_read_again(
    tmp_path: Path, cache: VerdictCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = written(tmp_path / "data", b"a", b"b")
    monkeypatch.setattr(time, "time_ns", lambda: files.keys([1])[0][4] + 1)
    for _ in range(2):
        digests(files, cache)
    assert files.opened == {0: 2, 1: 2}
    assert files.unremembered == {0, 1}


def test_without_a_cache_all_that_was_read_is_said_to_be_read_again(tmp_path: Path, later: None) -> None:
    files = written(tmp_path / "data", b"a", b"b")
    digests(files, VerdictCache(None))
    assert files.unremembered == {0, 1}


def test_no_more_than_a_piece_of_a_huge_file_is_in_memory(tmp_path: Path, cache: VerdictCache) -> None:
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(300 << 20)
    (tmp_path / "other").symlink_to("huge")
    files = PlainFiles([tmp_path / "huge", tmp_path / "other"])
    tracemalloc.start()
    try:
        assert sames(digests(files, cache)) == {(0, 1)}
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# -- a world that changes ----------------------------------------------------------------------------------------------


def fault_missing(path: Path) -> None:
    path.unlink()


def fault_grown(path: Path) -> None:
    path.write_bytes(bytes_of(18_001))


def fault_shrunk(path: Path) -> None:
    os.truncate(path, 5)


def fault_touched(path: Path) -> None:
    os.utime(path, (0, 0))


def fault_replaced(path: Path) -> None:
    twin = path.with_suffix(".new")
    twin.write_bytes(path.read_bytes())
    twin.rename(path)


def fault_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fault_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS = [
    *(fault_missing, fault_grown, fault_shrunk, fault_touched),
    *(fault_replaced, fault_directory, fault_fifo),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_longer_what_was_frozen_has_no_digest(
    tmp_path: Path, cache: VerdictCache, fault: Callable[[Path], None], later: None
) -> None:
    twin = bytes_of(18_000)
    files = written(tmp_path / "data", twin, twin, twin)
    fault(files.paths[1])
    found = digests(files, cache)
    assert found[1] == NO_DIGEST
    assert found[0] == found[2] != NO_DIGEST
    assert digests(files, cache) == found, "nothing of it is remembered"
    assert files.opened[1] == 2


def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path: Path, cache: VerdictCache) -> None:
    twin = bytes_of(3 * content.PIECE_BYTES)

    class Changing(PlainFiles):
        def open(self, nodeid: int) -> int:
            fd = super().open(nodeid)
            if nodeid == 1 and self.opened[1] == 2:
                with open(self.paths[1], "r+b") as file:
                    file.write(b"changed")
            return fd

    paths = written(tmp_path / "data", twin, twin, twin).paths
    for path in paths:
        os.utime(path, (0, 0))  # a write a moment later shows, however slow the clock
    found = digests(Changing(paths), cache)
    assert found[1] == NO_DIGEST
    assert found[0] == found[2] != NO_DIGEST


def test_new_permissions_are_no_other_content(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    files = written(tmp_path / "data", b"same", b"same")
    files.paths[0].chmod(0o400)
    assert sames(digests(files, cache)) == {(0, 1)}
    again = PlainFiles(files.paths)
    digests(again, cache)
    assert not again.opened, "it is remembered as what it is now"


def test_no_descriptor_is_left_open(tmp_path: Path, cache: VerdictCache) -> None:
    files = written(tmp_path / "data", *[b"same"] * 20)
    files.paths[3].unlink()
    before = set(os.listdir("/proc/self/fd"))
    digests(files, cache)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_an_error_that_is_none_of_a_file_is_no_digest_but_an_error(tmp_path: Path, cache: VerdictCache) -> None:
    class Broken(PlainFiles):
        def open(self, nodeid: int) -> int:
            raise KeyError(nodeid)

    with pytest.raises(KeyError):
        digests(Broken(written(tmp_path / "data", b"a").paths), cache)


# -- progress and interruption -----------------------------------------------------------------------------------------


def test_progress_ends_with_all_files_and_bytes(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    twin = bytes_of(18_000)
    files = written(tmp_path / "data", twin, twin, b"small")
    told: list[tuple[int, int]] = []
    for _ in range(2):
        digests(files, cache, on_progress=lambda files_done, bytes_done: told.append((files_done, bytes_done)))
        assert told[-1] == (3, 36_005)


class Stopping(PlainFiles):
    """Sets `stop`, or raises, when the file at `last` is opened."""

    def __init__(self, paths: list[Path], last: int) -> None:
        super().__init__(paths)
        self.stop = threading.Event()
        self._last = last

    def open(self, nodeid: int) -> int:
        if nodeid == self._last:
            self.stop.set()
        return super().open(nodeid)


def test_what_was_read_before_a_stop_is_remembered(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    paths = written(tmp_path / "data", *(bytes_of(1000, seed) for seed in range(1000))).paths
    files = Stopping(paths, 600)
    found = content.digests(range(1000), files, cache, on_progress=lambda *_: None, stop=files.stop)
    left = {place for place in range(1000) if not any(found[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])}
    assert 0 < len(left) < 1000
    again = PlainFiles(paths)
    assert len(set(digests(again, cache))) == 1000
    assert set(again.opened) == left


def test_ctrl_c_ends_the_threads_and_keeps_what_was_read(tmp_path: Path, cache: VerdictCache, later: None) -> None:
    paths = written(tmp_path / "data", *(bytes_of(1000, seed) for seed in range(1000))).paths
    reading = threading.Event()

    class Slow(PlainFiles):
        def open(self, nodeid: int) -> int:
            if nodeid >= 600:
                reading.wait()  # until somebody pressed the key
            return super().open(nodeid)

    def interrupt(_files: int, _bytes: int) -> None:
        reading.set()
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        digests(Slow(paths), cache, on_progress=interrupt)
    assert threading.active_count() == before
    again = PlainFiles(paths)
    digests(again, cache)
    assert len(again.opened) < 800


def test_a_huge_file_is_left_when_the_work_is_stopped(tmp_path: Path, cache: VerdictCache) -> None:
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(1 << 40)  # hours
    files = PlainFiles([tmp_path / "huge", tmp_path / "huge"])
    stop = threading.Event()

    def on_progress(files_done: int, bytes_done: int) -> None:
        if files.opened[0] == 2:
            stop.set()

    found = content.digests(range(2), files, cache, on_progress=on_progress, stop=stop)
    assert bytes(found) == 2 * NO_DIGEST


def test_each_file_is_handed_out_once_to_several_threads(tmp_path: Path, cache: VerdictCache) -> None:
    files = written(tmp_path / "data", *[b"x"] * 2000)
    work = Work("test", 1, range(2000), files, cache, on_progress=lambda *_: None, stop=threading.Event())
    seen: list[int] = []

    def take() -> None:
        for pack in work.packs():
            seen.extend(nodeid for _index, nodeid, _key, _identity in pack)
            work.note(pack, [b"\1"] * len(pack), begun_ns=0)

    with work:
        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(2000))
    assert work.verdicts == b"\1" * 2000
