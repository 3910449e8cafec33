"""What dedup reads and remembers, how it is interrupted, and what it makes of changes: counted in opened files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from symfuse.cli.progress import ProgressDisplay
from symfuse.errors import ExitStatus
from symfuse.identity.cachefile import FILE_NAME
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, TIMEOUT_S, WAYS, User, has_ended, mount, mounts
from tests.support.oracle import fingerprint
from tests.support.pictures import SPLITS, A, B, D, mounted_at, picture, shown
from tests.support.trees import Entry, Name, attributes, link, sparse, tree
from tests.support.watching import Opens, settle

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing but what the test puts there."""
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory / "symfuse" / FILE_NAME


# -- what is read, and what is remembered ------------------------------------------------------------------------------


def all_of(dataset: Path) -> set[str]:
    return {path for path in shown(dataset) if not (dataset / path).is_symlink()}


@pytest.mark.parametrize(
    "options",
    [("--dedup", "bytes"), ("--dedup", "pixels"), ("--broken-images", "hide")],
    ids=["bytes", "pixels", "broken images"],
)
def test_a_second_mount_reads_no_image_again_and_a_changed_one_is_read(
    backend: str, own_cache: Path, tmp_path: Path, mountpoint: Path, options: tuple[str, ...]
) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    settle(dataset)

    def opened() -> set[str]:
        with Opens(dataset) as opens, mounted_at(dataset, mountpoint, *options, backend=backend):
            pass
        return set(opens.counts())

    # Of the files that are compared by bytes, those with a size of their own are not looked into.
    sizes = [(dataset / path).stat().st_size for path in all_of(dataset)]
    read = {path for path in all_of(dataset) if sizes.count((dataset / path).stat().st_size) > 1}
    assert opened() == (read if options[1] == "bytes" else all_of(dataset))
    assert opened() == set()
    (dataset / "train/cat/1.png").write_bytes(D)
    settle(dataset)
    assert opened() == {"train/cat/1.png"}
    assert opened() == set()


def test_target_opens_no_file_at_all(tmp_path: Path, mountpoint: Path) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    with Opens(dataset) as opens, mounted_at(dataset, mountpoint, "--dedup", "target", "--dedup-scope", "all"):
        assert shown(mountpoint) == [path for path in shown(dataset) if path != "train/cat/2.png"]
    assert not opens.counts()


def test_a_huge_file_whose_size_is_its_own_is_not_read(tmp_path: Path, mountpoint: Path, own_cache: Path) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"1.png": A, "2.png": A, "huge": sparse(10 << 30)}})
    with Opens(dataset) as opens, mounted_at(dataset, mountpoint, "--dedup", "bytes"):
        assert shown(mountpoint) == ["cat/1.png", "cat/huge"]
    assert set(opens.counts()) == {"cat/1.png", "cat/2.png"}


def _corrupt(cache: Path) -> None:
    content = bytearray(cache.read_bytes())
    content[100 : len(content)] = os.urandom(len(content) - 100)
    cache.write_bytes(content)


def _no_database(cache: Path) -> None:
    cache.write_bytes(b"this is no database")


def _directory_is_a_file(cache: Path) -> None:
    cache.unlink()
    (cache.parent / "lock").unlink()
    cache.parent.rmdir()
    cache.parent.write_bytes(b"")


def _read_only(cache: Path) -> None:
    cache.chmod(0o400)
    cache.parent.chmod(0o500)


@pytest.mark.parametrize("damage", [_corrupt, _no_database, _directory_is_a_file, _read_only])
@pytest.mark.parametrize("options", [("--dedup", "bytes"), ("--dedup", "pixels", "--broken-images", "hide")])
def test_no_fault_of_the_cache_changes_what_is_shown(
    own_cache: Path, tmp_path: Path, mountpoint: Path, damage: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    dataset = tree(tmp_path / "dataset", SPLITS)
    settle(dataset)
    with mounted_at(dataset, mountpoint, *options):
        before = shown(mountpoint)
    damage(own_cache)
    for _again in range(2):
        with mounted_at(dataset, mountpoint, *options) as done:
            assert shown(mountpoint) == before
            assert "Traceback" not in done.stderr
    if own_cache.parent.is_dir():
        own_cache.parent.chmod(0o700)


def test_two_mounts_of_one_dataset_at_once(backend: str, own_cache: Path, tmp_path: Path) -> None:
    classes: dict[Name, Entry] = {
        f"{number}": {f"{n}.png": picture(n % 40 + number) for n in range(60)} for number in range(5)
    }
    dataset = tree(tmp_path / "dataset", {"train": classes, "val": classes})
    settle(dataset)
    points = [tmp_path / f"mount{number}" for number in range(3)]
    for point in points:
        point.mkdir()
    options = ("--dedup", "pixels", "--dedup-scope", "all", "--broken-images", "hide")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "symfuse", "mount", *WAYS[backend], *options, dataset, point],
            env={**os.environ, **MYSELF.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for point in points
    ]  # fmt: skip
    try:
        for process in started:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
        assert len(shown(points[0])) == 44, "of all pixels one"
        assert shown(points[0]) == shown(points[1]) == shown(points[2])
    finally:
        for point in points:
            MYSELF.symfuse("umount", point, check=False)
    with Opens(dataset) as opens, mounted_at(dataset, points[0], *options, backend=backend):
        assert len(shown(points[0])) == 44
    assert not opens.counts(), "whoever wrote last, nothing is lost"


def test_an_image_that_a_limit_from_outside_keeps_from_decoding_is_shown_and_nothing_is_remembered(
    own_cache: Path, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (11_600, 8_700)).save(file, "PNG", compress_level=1)
    dataset = tree(tmp_path / "dataset", {"cat": {"huge.png": file.getvalue(), "small.png": A, "cut.png": A[:-30]}})
    settle(dataset)
    command: list[str | Path] = [
        MYSELF.python,
        "-m",
        "symfuse",
        "run",
        "--broken-images",
        "hide",
        dataset,
        "--",
        "ls",
        "{}/cat",
    ]
    limited = MYSELF.run("sh", "-c", 'ulimit -v 400000; exec "$@"', "sh", *command)
    assert limited.stdout == "huge.png\nsmall.png\n"
    assert "1 unread" in limited.stderr
    assert "limited from outside" in limited.stderr
    with Opens(dataset) as opens:
        free = MYSELF.run(*command)
    assert free.stdout == "huge.png\nsmall.png\n"
    assert "unread" not in free.stderr
    assert set(opens.counts()) == {"cat/huge.png"}, "of the others the verdict stands"


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@contextmanager
def interrupted(dataset: Path, mountpoint: Path, *options: str, command: str, backend: str) -> Iterator[None]:
    """Start a mount; SIGINT at the end of the block, while it is made. Nothing of it may be left."""
    words: dict[str, list[str | Path]] = {
        "mount": ["mount", dataset, mountpoint],
        "foreground": ["mount", "--foreground", dataset, mountpoint],
        "run": ["run", "--at", mountpoint, dataset, "--", "true"],
    }
    name, *rest = words[command]
    running = subprocess.Popen(
        [sys.executable, "-m", "symfuse", name, *WAYS[backend], *options, *rest],
        env={**os.environ, **MYSELF.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        family = [running.pid, *(child.pid for child in psutil.Process(running.pid).children(recursive=True))]
        assert len(family) >= (1 if command == "foreground" else 2)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=TIMEOUT_S)
        assert running.returncode == ExitStatus.INTERRUPTED
        assert "Traceback" not in errors
        assert os.fsencode(mountpoint) not in mounts()
        assert os.listdir(mountpoint) == []
        assert all(has_ended(pid) for pid in family)
    finally:
        running.kill()
        running.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize("command", ["mount", "run", "foreground"])
def test_interrupted_hashing_leaves_nothing_but_what_it_found_out(
    backend: str, own_cache: Path, tmp_path: Path, mountpoint: Path, command: str
) -> None:
    classes: dict[Name, Entry] = {
        f"{number}": {f"{n}.png": b"%04d" % (n % 30 + number) for n in range(100)} for number in range(4)
    }
    # Two files that are equal as far as they are compared at first, and hours long.
    huge: dict[Name, Entry] = {"1.png": sparse(1 << 43), "2.png": sparse(1 << 43)}
    dataset = tree(tmp_path / "dataset", {**classes, "huge": huge})
    settle(dataset)
    options = ("--dedup", "bytes")

    with (
        Opens(dataset) as opens,
        interrupted(dataset, mountpoint, *options, command=command, backend=backend),
    ):
        opens.wait_for("huge/1.png", 2)
    assert set(opens.counts()) == all_of(dataset)
    for path in (dataset / "huge").iterdir():
        path.unlink()
    with Opens(dataset) as opens, mounted_at(dataset, mountpoint, *options, backend=backend):
        assert len(shown(mountpoint)) == 4 * 30
    # Another thread may have been at its last small files of 400 when Ctrl-C came.
    assert len(opens.counts()) <= 20


@pytest.mark.parametrize("command", ["mount", "run", "foreground"])
def test_interrupted_decoding_leaves_nothing_but_what_it_found_out(
    backend: str, own_cache: Path, tmp_path: Path, mountpoint: Path, command: str
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "PNG", compress_level=1)
    dataset = tree(tmp_path / "dataset", {"cat": {f"{number:02}.png": file.getvalue() for number in range(40)}})
    settle(dataset)
    options = ("--broken-images", "hide")

    with Opens(dataset) as opens, interrupted(dataset, mountpoint, *options, command=command, backend=backend):
        opens.wait_for_files(15)
    first = set(opens.counts())
    assert len(first) < 40, "it was interrupted before its end"
    with Opens(dataset) as opens, mounted_at(dataset, mountpoint, *options, backend=backend):
        assert len(shown(mountpoint)) == 40
    second = set(opens.counts())
    assert first | second == all_of(dataset)
    assert len(second) < 40, "what was decoded is not decoded again"


# -- what changes, what cannot be read, who mounts ---------------------------------------------------------------------


def test_a_stand_in_that_changes_after_the_mount_is_stale_and_the_hidden_one_stays_hidden(
    symfuse_mount: MountMaker, tmp_path: Path
) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"1.png": A, "2.png": A}})
    mounted = symfuse_mount(dataset, "--dedup", "bytes")
    mounted.dataset_may_change()
    mounted.expect_in_log("1.png")
    (dataset / "cat" / "1.png").write_bytes(B)
    (dataset / "cat" / "3.png").write_bytes(A)
    with pytest.raises(OSError) as failure:
        (mounted.path / "cat" / "1.png").read_bytes()
    assert failure.value.errno == errno.ESTALE
    assert shown(mounted.path) == ["cat/1.png"]


@pytest.mark.parametrize("dedup", ["bytes", "pixels"])
def test_an_ordinary_users_mount_with_files_that_they_cannot_read(
    backend: str, ordinary_user: User, dedup: str
) -> None:
    home = ordinary_user.home
    entries: dict[Name, Entry] = {
        "train": {"cat": {"1.png": A, "2.png": link("1.png"), "closed.png": attributes(A, mode=0)}},
        "val": {"cat": {"3.png": A}, "dog": attributes({"4.png": A}, mode=0)},
    }
    dataset = tree(home / "dataset", entries)
    ordinary_user.owns(dataset)
    at = home / "mnt"
    at.mkdir()
    ordinary_user.owns(at)
    before = fingerprint(dataset)
    options = ("--dedup", dedup, "--dedup-scope", "all", "--broken-images", "hide")
    made = mount(dataset, at, *options, backend=backend, user=ordinary_user)
    try:
        listed = ordinary_user.script(
            "import os, sys; print(sorted(name for _, _, names in os.walk(sys.argv[1]) for name in names))", at
        )
        assert listed.stdout == "['1.png']\n"
        assert made.status()["frozen"]["hidden"]["unreadable"] == 2
        assert (home / "cache" / "symfuse" / FILE_NAME).stat().st_uid == home.stat().st_uid
    finally:
        made.umount()
    assert fingerprint(dataset) == before


def test_a_terminal_sees_a_bar_with_rate_and_remaining_time_and_its_ctrl_c_ends_the_work(
    own_cache: Path, tmp_path: Path, mountpoint: Path
) -> None:
    dataset = tree(
        tmp_path / "dataset", {"cat": {"1.png": sparse(1 << 43), "2.png": sparse(1 << 43), "a.png": A, "b": A}}
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(dict(MYSELF.environment) | {"TERM": "xterm", "COLUMNS": "100"})
        command = [sys.executable, "-m", "symfuse", "mount", "--dedup", "bytes", str(dataset), str(mountpoint)]
        os.execv(sys.executable, command)
    output = b""
    while not re.search(rb"comparing files, \S+ files/s, \S+ MB/s", output):
        output += os.read(terminal, 4096)  # the test's timeout ends a wait for ever
    assert re.search(rb"\d of 4\b.*left", re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", output))
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # EIO: how a terminal says end of file
        while more := os.read(terminal, 4096):
            output += more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ExitStatus.INTERRUPTED
    assert output.rstrip().endswith(b"symfuse: interrupted")
    assert os.listdir(mountpoint) == []


def test_elsewhere_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("symfuse.cli.progress.time.monotonic", lambda: clock[0])
    work = {"task": "comparing files", "files_done": 1234, "files": 5000, "bytes_done": 7_000_000}
    with ProgressDisplay() as progress:
        for clock[0] in (5.0, 9.9, 10.0, 10.1, 19.9, 20.0):
            progress({"work": work})
    line = "symfuse: comparing files: 1,234 of 5,000 files, 7 MB so far"
    assert capsys.readouterr().err.splitlines() == [line, line]
