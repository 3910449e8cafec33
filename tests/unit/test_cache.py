"""The cache of verdicts: what it must remember, what it must forget, and what must not trouble it."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symfuse import directories
from symfuse.identity import cache as cache_module
from symfuse.identity.cache import Key, VerdictCache
from symfuse.identity.cachefile import FILE_NAME, LOCK_NAME
from tests.conftest import NOBODY
from tests.support.mounting import REPOSITORY

CTIME_NS = 1_700_000_000_123_456_789


def key(ino: int = 1, dev: int = 2049, size: int = 18_000, mtime_ns: int = 5, ctime_ns: int = CTIME_NS) -> Key:
    return (dev, ino, size, mtime_ns, ctime_ns)


def verdict(ino: int) -> bytes:
    return ino.to_bytes(16, "big")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".cache" / "symfuse"


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[VerdictCache]:
    cache = VerdictCache.open(str(directory))
    try:
        yield cache
    finally:
        cache.close()


def remember(directory: Path, *inos: int) -> None:
    with opened(directory) as cache:
        cache.put("bytes", [(key(ino), verdict(ino)) for ino in inos])


def known(directory: Path, *inos: int) -> list[bytes | None]:
    with opened(directory) as cache:
        return cache.get("bytes", [key(ino) for ino in inos])


def in_processes(directory: Path, *programs: str) -> list[subprocess.Popen[bytes]]:
    """Python programs that have a `cache` in this directory."""
    start = f"""
    from symfuse.identity.cache import VerdictCache
    from tests.unit.test_cache import key, verdict
    cache = VerdictCache.open({str(directory)!r})
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(program)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for program in programs
    ]


# -- remembering -------------------------------------------------------------------------------------------------------


def test_what_was_put_is_there_for_the_next_process(directory: Path) -> None:
    remember(directory, 1, 2, 3)
    assert known(directory, 3, 9, 1) == [verdict(3), None, verdict(1)]


def test_more_than_one_statement_could_name_are_asked_for_at_once(directory: Path) -> None:
    inos = random.Random(0).sample(range(1, 1 << 40), 50_000)
    remember(directory, *inos)
    assert known(directory, *inos) == [verdict(ino) for ino in inos]


@pytest.mark.parametrize("field", ["dev", "size", "mtime_ns", "ctime_ns"])
def test_a_file_that_differs_in_anything_is_not_known(directory: Path, field: str) -> None:
    with opened(directory) as cache:
        cache.put("bytes", [(key(1), verdict(1))])
        assert cache.get("bytes", [key(**{field: 7})]) == [None]


def test_kinds_do_not_mix(directory: Path) -> None:
    with opened(directory) as cache:
        cache.put("pixels/1/pillow-12.0.0", [(key(1), b"\1")])
        assert cache.get("pixels/1/pillow-12.0.1", [key(1)]) == [None]
        assert cache.get("bytes", [key(1)]) == [None]
        assert cache.get("pixels/1/pillow-12.0.0", [key(1)]) == [b"\1"]


def test_a_new_verdict_replaces_the_old_one(directory: Path) -> None:
    with opened(directory) as cache:
        cache.put("bytes", [(key(1), verdict(1))])
        cache.put("bytes", [(key(1), verdict(2))])
        assert cache.get("bytes", [key(1)]) == [verdict(2)]


@pytest.mark.parametrize("field", ["dev", "ino", "size", "mtime_ns", "ctime_ns"])
@pytest.mark.parametrize("extreme", [0, -1, (1 << 64) - 1, -(1 << 70)])
def test_numbers_of_any_size_are_keys(directory: Path, field: str, extreme: int) -> None:
    odd = key(**{field: extreme})
    with opened(directory) as cache:
        cache.put("bytes", [(odd, verdict(1)), (key(2), verdict(2))])
        assert cache.get("bytes", [key(1), odd, key(2)]) == [None, verdict(1), verdict(2)]


def test_nothing_is_asked_and_nothing_told(directory: Path) -> None:
    with opened(directory) as cache:
        cache.put("bytes", [])
        assert cache.get("bytes", []) == []


def test_only_the_user_can_read_it(directory: Path) -> None:
    before = os.umask(0)
    try:
        remember(directory, 1)
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


# -- several at once ---------------------------------------------------------------------------------------------------


def test_several_processes_write_and_read_at_once(directory: Path) -> None:
    processes = in_processes(
        directory,
        *(
            f"""
            for ino in range({first}, {first} + 200):
                cache.put("bytes", [(key(ino), verdict(ino))])
                assert cache.get("bytes", [key(ino)]) == [verdict(ino)]
            cache.close()
            """
            for first in (1000, 2000, 3000, 4000)
        ),
    )
    for process in processes:
        _out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
    inos = [first + number for first in (1000, 2000, 3000, 4000) for number in range(200)]
    assert known(directory, *inos) == [verdict(ino) for ino in inos]


def test_a_process_killed_while_it_writes_damages_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember(directory, 1)
    for _ in range(5):
        [writer] = in_processes(
            directory,
            """
            for ino in range(10, 1_000_000, 500):
                cache.put("bytes", [(key(n), verdict(n)) for n in range(ino, ino + 500)])
                print(flush=True)
            """,
        )
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
        inos = [1, *range(10, 1510)]
        assert known(directory, *inos) == [verdict(ino) for ino in inos]
    assert not caplog.records


def test_who_holds_the_lock_delays_others_but_briefly(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "LOCK_TIMEOUT_S", 0.05)
    remember(directory, 1)
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert known(directory, 1) == [None]
        remember(directory, 2)
    assert known(directory, 1, 2) == [verdict(1), None]
    assert len(caplog.records) == 2
    assert "database is locked" in caplog.text


# -- damage ------------------------------------------------------------------------------------------------------------


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(50_000))


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 + 100)


def scribbled(file: Path) -> None:
    """Damage from the second page on: the schema is still there."""
    content = file.read_bytes()
    file.write_bytes(content[:4096] + random.Random(0).randbytes(len(content) - 4096))


def of_another_version(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


def of_other_tables(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE verdicts RENAME TO others")


@pytest.mark.parametrize("damage", [garbage, truncated, scribbled, of_another_version, of_other_tables])
def test_a_damaged_file_is_made_anew(
    directory: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    inos = range(1, 5000)
    remember(directory, *inos)
    damage(directory / FILE_NAME)
    found = known(directory, *inos)
    assert all(each in (None, verdict(ino)) for ino, each in zip(inos, found, strict=True))
    remember(directory, *inos)
    assert known(directory, *inos) == [verdict(ino) for ino in inos]
    [record] = caplog.records
    assert "made anew" in record.message


def test_an_emptied_file_is_filled_again(directory: Path) -> None:
    remember(directory, 1)
    os.truncate(directory / FILE_NAME, 0)
    remember(directory, 2)
    assert known(directory, 1, 2) == [None, verdict(2)]


def test_no_flipped_bit_makes_a_wrong_verdict(directory: Path) -> None:
    inos = range(1, 200)
    remember(directory, *inos)
    file = directory / FILE_NAME
    sound, chance = file.read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        for ino, each in zip(inos, known(directory, *inos), strict=True):
            assert each in (None, verdict(ino))


def test_a_row_that_fails_its_sum_is_written_again(directory: Path) -> None:
    remember(directory, 1, 2)
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE verdicts SET verdict = ?", (bytes(20),))
    assert known(directory, 1, 2) == [None, None]
    remember(directory, 1)
    assert known(directory, 1, 2) == [verdict(1), None]


def test_a_damaged_file_that_others_use_is_left_to_them(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember(directory, 1)
    with opened(directory):
        garbage(directory / FILE_NAME)
        before = (directory / FILE_NAME).stat().st_ino
        assert known(directory, 1) == [None]
        assert (directory / FILE_NAME).stat().st_ino == before
    remember(directory, 1)
    assert known(directory, 1) == [verdict(1)]
    assert "cannot be used" in caplog.text


# -- places where nothing can be kept ----------------------------------------------------------------------------------


def test_a_directory_in_its_place_is_reported_and_left_alone(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    (directory / FILE_NAME).mkdir(parents=True)
    remember(directory, 1)
    assert known(directory, 1) == [None]
    assert (directory / FILE_NAME).is_dir()
    assert "something else has its name" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o707])
def test_a_directory_that_others_may_write_to_is_not_trusted(
    directory: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    remember(directory, 1)
    directory.chmod(mode)
    assert known(directory, 1) == [None]
    assert "others may write to " in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "belongs to another user"),
        ("..", "belongs to another user"),
        (FILE_NAME, "others may write to it"),
        (f"{FILE_NAME}-journal", "others may write to it"),
        (f"{FILE_NAME}-wal", "others may write to it"),
    ],
)
def test_what_belongs_to_another_user_is_not_trusted(
    directory: Path, name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    remember(directory, 1)
    (directory / name).touch()
    os.chown(directory / name, NOBODY, NOBODY)
    assert known(directory, 1) == [None]
    remember(directory, 2)
    assert known(directory, 2) == [None]
    assert said in caplog.text


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-journal"])
def test_a_link_in_the_place_of_a_file_is_not_followed(
    directory: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    remember(directory, 1)
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(tmp_path / "victim")
    assert known(directory, 1) == [None]
    assert not (tmp_path / "victim").exists()
    assert "something else has its name" in caplog.text


def test_a_link_in_the_place_of_the_lock_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(parents=True)
    (directory / LOCK_NAME).symlink_to(tmp_path / "victim")
    remember(directory, 1)
    assert not (tmp_path / "victim").exists()


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(directories, "user_cache_dir", lambda _name: "~/.cache/symfuse")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    cache = VerdictCache.open()
    cache.put("bytes", [(key(1), verdict(1))])
    assert cache.get("bytes", [key(1)]) == [None]
    cache.close()
    assert "no home directory" in caplog.text


def test_a_home_that_cannot_be_written_to_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").write_bytes(b"no directory")
    with opened(tmp_path / "home" / "cache") as cache:
        for ino in range(3):
            cache.put("bytes", [(key(ino), verdict(ino))])
            assert cache.get("bytes", [key(ino)]) == [None]
    assert len(caplog.records) == 1


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nobody can write to a directory; for root that takes a mount."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", directory, directory], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
            yield
        finally:
            subprocess.run(["umount", directory], check=True)
    else:
        directory.chmod(0o500)
        (directory / FILE_NAME).chmod(0o400)
        yield
        directory.chmod(0o700)


def test_a_read_only_cache_is_read(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember(directory, 1)
    with read_only(directory):
        assert known(directory, 1) == [verdict(1)]
        assert not caplog.records
        with opened(directory) as cache:
            cache.put("bytes", [(key(2), verdict(2))])
            cache.put("bytes", [(key(3), verdict(3))])
            assert cache.get("bytes", [key(1), key(2)]) == [verdict(1), None]
    [record] = caplog.records
    assert "readonly" in record.message


#: Goes on putting until there is no more room, and is then what it was.
FILL = """
for ino in range(2, 40_000, 1000):
    cache.put("bytes", [(key(n), verdict(n)) for n in range(ino, ino + 1000)])
assert cache.get("bytes", [key(1)]) == [verdict(1)]
cache.close()
"""
LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
"""


@pytest.mark.parametrize("full", ["disk", "quota"])
def test_a_full_disk_costs_no_more_than_what_was_to_be_kept(directory: Path, full: str) -> None:
    if full == "disk" and os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory.mkdir(parents=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        if full == "disk":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k,mode=700", "none", directory], check=True)
            stack.callback(lambda: subprocess.run(["umount", directory], check=True))
        remember(directory, 1)
        [filler] = in_processes(directory, FILL if full == "disk" else LIMIT + FILL)
        _out, err = filler.communicate(timeout=60)
        assert filler.returncode == 0, err
        assert err.count(b"cannot be used") == err.count(b"\n") == 1
        assert known(directory, 1) == [verdict(1)]


# -- growth ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says which day it is, counted from the test's first one."""

    def day(number: int) -> None:
        monkeypatch.setattr(cache_module, "_today", lambda: 20_000 + number)

    day(0)
    return day


def test_what_is_never_asked_for_is_forgotten_in_the_end(directory: Path, clock: Callable[[int], None]) -> None:
    remember(directory, 1, 2)
    for month in (31, 62, 93, 124):
        clock(month)
        assert known(directory, 1) == [verdict(1)]
    assert known(directory, 1, 2) == [verdict(1), None]


def test_what_is_asked_for_often_is_not_written_to_each_time(directory: Path, clock: Callable[[int], None]) -> None:
    remember(directory, 1)
    file = directory / FILE_NAME
    before = file.read_bytes()
    clock(cache_module.CARE_DAYS)
    assert known(directory, 1) == [verdict(1)]
    assert file.read_bytes() == before


def test_the_oldest_half_of_a_large_file_is_forgotten(
    directory: Path, clock: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(directory, *range(1000, 2000))
    clock(1)
    remember(directory, *range(5000, 7000))
    monkeypatch.setattr(cache_module, "MAX_BYTES", 100_000)
    remember(directory, 1)
    monkeypatch.undo()
    assert known(directory, 1000, 1999, 1) == [None, None, None]


def test_a_closed_cache_knows_nothing(directory: Path) -> None:
    remember(directory, 1)
    cache = VerdictCache.open(str(directory))
    cache.close()
    cache.close()
    cache.put("bytes", [(key(2), verdict(2))])
    assert cache.get("bytes", [key(1)]) == [None]
    assert known(directory, 1, 2) == [verdict(1), None]
