"""The dataset's author swaps files and directories while root serves them to everybody: nothing else is opened or read.

What must not be opened is watched by the kernel (inotify), and it is a FIFO's writer who learns of a reader. How long
the attack goes on is decided by counts of swaps and reads; SYMFUSE_ATTACK_S is a number of seconds that it takes at
least.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NOBODY, MountMaker
from tests.support.mounting import MYSELF, TIMEOUT_S, WAYS, Mount, User, public_directory
from tests.support.oracle import walk
from tests.support.pythons import with_server_patched
from tests.support.trees import Entry, Name, attributes, device, fifo, link, tree
from tests.support.watching import Touched

AT_LEAST_S = float(os.environ.get("SYMFUSE_ATTACK_S", "0"))
#: Swaps, and for each file reads that gave its content and reads that were refused.
SWAPS, READS, REFUSALS = 5_000, 50, 20

AUTHOR = User(uid=NOBODY, gid=NOBODY)
SOMEBODY_ELSE = NOBODY - 1
SIZE = 9_000
MTIME_NS = 1_234_567_890_123_456_789
OURS = attributes(b"o" * SIZE, mtime_ns=MTIME_NS)
#: The files that are swapped themselves, and not a directory above them.
RENAMED = ("file/f", "fifo/f", "zero/f")
SECRET = attributes(b"s" * SIZE, mtime_ns=MTIME_NS, mode=0o600)

#: Changes its user itself, because the interpreter may lie where only root may go.
_AS_USER = """
import ctypes, json, os, random, select, sys
uid, *words = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
"""
#: Swaps pairs of names in a directory until standard input ends; says how many swaps it made.
_SWAPPER = (
    _AS_USER
    + """
directory, pairs = os.open(words[0], os.O_PATH), [[os.fsencode(name) for name in pair] for pair in json.loads(words[1])]
swaps = [0] * len(pairs)
def swap(number):
    one, other = pairs[number]
    if libc.renameat2(directory, one, directory, other, 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)
    swaps[number] += 1
print("swapping", flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(20):
        swap(random.randrange(len(pairs)))
for number, times in enumerate(swaps):
    if times % 2:
        swap(number)
print(sum(swaps), flush=True)
"""
)
#: For each line of standard input reads all paths, each so often, with nothing of them in the cache; says what came.
_READER = (
    _AS_USER
    + """
paths, content = json.loads(words[0]), b"o" * int(words[1])
for line in sys.stdin:
    found = {path: {} for path in paths}
    for number in range(int(line)):
        for path in paths:
            fd = -1
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                data = os.read(fd, 2 * len(content))
                result = "content" if data == content else "wrong: %r" % data[:20]
            except OSError as error:
                result = os.strerror(error.errno)
            finally:
                if fd >= 0:
                    os.close(fd)
            found[path][result] = found[path].get(result, 0) + 1
    print(json.dumps(found), flush=True)
"""
)


@dataclass
class Scene:
    """A directory that everybody can enter, with the author's dataset in it, and what must not be opened.

    `pairs` are swapped, each with what leads elsewhere; `files` are shown, and hit by a swap each.
    """

    path: Path
    pairs: list[tuple[str, str]]
    files: list[str]
    forbidden: list[Path]

    @property
    def dataset(self) -> Path:
        return self.path / "home/dataset"


@pytest.fixture(params=["", "--io passthrough"])
def io(request: pytest.FixtureRequest, backend: str) -> tuple[str, ...]:
    """How files are read; by libfuse 2 in one way only."""
    if backend == "fusepy" and request.param:
        pytest.skip("libfuse 2 passes nothing through")
    return tuple(str(request.param).split())


@pytest.fixture
def scene() -> Iterator[Scene]:
    with public_directory("attack") as directory:
        yield _set(directory)


def _set(path: Path) -> Scene:
    secret, outside = path / "secret", path / "outside"
    tree(secret, {"f": SECRET, "file": {"f": SECRET}, "fifo": {"f": fifo()}})
    secret.chmod(0o700)
    tree(outside, {"pipes": {"f": fifo()}, "devices": {"f": device(5)}})
    inner: Entry = {"f": OURS}  # by the path of the secret's directory, but below the dataset
    for part in reversed(secret.parts[1:]):
        inner = {part: inner}
    shown: dict[Name, Entry] = {
        "file": {"f": OURS},
        "directory": {"f": OURS},
        "middle": inner,
        "fifo": {"f": OURS},
        "zero": {"f": OURS},
        "pipes": {"f": OURS},
        "devices": {"f": OURS},
        "store": {"f": OURS},
        "linked": {"f": link("../store/f")},
        "linked directory": link("directory"),
    }
    stash: dict[Name, Entry] = {
        "file": link(str(secret / "f")),
        "directory": link(str(secret)),
        "middle": link("/"),
        "fifo": fifo(),
        "zero": device(5),
        "pipes": link(str(outside / "pipes")),
        "devices": link(str(outside / "devices")),
        "store": link(str(secret)),
    }
    tree(path / "home", {"dataset": {**shown, ".stash": stash}, "elsewhere": link(str(secret))})
    AUTHOR.owns(path / "home")
    return Scene(
        path,
        [(f"{name}/f" if f"{name}/f" in RENAMED else name, f".stash/{name}") for name in map(str, stash)],
        [*(f"{name}/f" for name in map(str, shown) if name != "middle"), f"middle{secret}/f"],
        [
            *(Path(os.fsdecode(each)) for top in (secret, outside) for each in [os.fsencode(top), *walk(top)]),
            *(path / "home/dataset/.stash" / name for name in ("fifo", "zero")),
        ],
    )


@contextlib.contextmanager
def _process(script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _swapping(scene: Scene, *more: tuple[str, str]) -> Iterator[Counter[str]]:
    """The author swaps all pairs in turn. When the block ends, all lies as at first, and the swaps are counted."""
    counts: Counter[str] = Counter()
    pairs = json.dumps([*scene.pairs, *more])
    with _process(_SWAPPER, str(AUTHOR.uid), str(scene.dataset), pairs) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "swapping\n"
        yield counts
        said, _ = process.communicate(timeout=TIMEOUT_S)
        counts["swaps"] = int(said)


class Watch:
    """What is opened of all that must not be."""

    def __init__(self, scene: Scene) -> None:
        self._touched = Touched(scene.forbidden)
        self._pipes = [os.open(path, os.O_PATH) for path in scene.forbidden if path.is_fifo()]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_error: object) -> None:
        self._touched.__exit__(None, None, None)
        for pipe in self._pipes:
            os.close(pipe)

    def check(self) -> None:
        """Nothing was opened, and no FIFO has a reader."""
        assert self._touched.opened() == set()
        for pipe in self._pipes:
            with pytest.raises(OSError) as error:
                os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
            assert error.value.errno == errno.ENXIO


def _read(reader: subprocess.Popen[str], rounds: int) -> dict[str, dict[str, int]]:
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(f"{rounds}\n")
    reader.stdin.flush()
    found: dict[str, dict[str, int]] = json.loads(reader.stdout.readline())
    return found


def _is_enough(results: dict[str, Counter[str]]) -> bool:
    """A file that was itself renamed has another change time for ever."""
    return all(
        (found["content"] >= READS or path.endswith(tuple(f"/{name}" for name in RENAMED)))
        and found.total() - found["content"] >= REFUSALS
        for path, found in results.items()
    )


@pytest.mark.timeout(180 + 2 * AT_LEAST_S, method="thread")
def test_what_is_swapped_while_it_is_read(
    scene: Scene, symfuse_mount: MountMaker, backend: str, io: tuple[str, ...]
) -> None:
    counts = _attack(scene, symfuse_mount(scene.dataset, "--allow-other", "--eager", *io, at=scene.path / "mnt"))
    print(f"{backend} {' '.join(io)}: {dict(counts)}")


@pytest.mark.timeout(180 + 2 * AT_LEAST_S, method="thread")
@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
def test_so_without_openat2(scene: Scene, symfuse_mount: MountMaker, tmp_path: Path) -> None:
    without = with_server_patched(
        tmp_path, "import symfuse.source.realpaths as realpaths", "realpaths.opener = lambda: realpaths.step_by_step"
    )
    counts = _attack(
        scene, symfuse_mount(scene.dataset, "--allow-other", "--eager", at=scene.path / "mnt", user=without)
    )
    print(f"without openat2: {dict(counts)}")


def test_a_secret_that_takes_the_place_of_a_file_that_was_frozen(scene: Scene, symfuse_mount: MountMaker) -> None:
    """Root copies a secret of the size and time of the author's file, which is gone, and whose inode number the copy
    gets where the file system uses it again. Then the author puts a link to it in the place of the file's directory."""
    mount = symfuse_mount(scene.dataset, "--allow-other", "--eager", at=scene.path / "mnt")
    mount.dataset_may_change()
    mount.expect_in_log("directory/f cannot be read")
    backup = scene.path / "backup"
    backup.mkdir(mode=0o700)
    number = (scene.dataset / "directory/f").stat().st_ino
    AUTHOR.run("rm", scene.dataset / "directory/f")
    for copy in range(500):  # ext4 takes the lowest free number
        shutil.copy2(scene.path / "secret/f", backup / "f")
        if (backup / "f").stat().st_ino == number:
            break
        (backup / "f").rename(backup / str(copy))
    else:
        shutil.copy2(scene.path / "secret/f", backup / "f")
    print("the copy has the number of the file:", (backup / "f").stat().st_ino == number)
    AUTHOR.run("mv", scene.dataset / "directory", scene.dataset / ".directory")
    AUTHOR.run("ln", "-s", backup, scene.dataset / "directory")
    with Touched([backup, backup / "f"]) as touched:
        for name in ("directory/f", "linked directory/f"):
            done = User(uid=SOMEBODY_ELSE, gid=SOMEBODY_ELSE).run("cat", mount.path / name, check=False)
            assert done.stdout == ""
            assert os.strerror(errno.ESTALE) in done.stderr
        assert touched.opened() == set()


@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
@pytest.mark.parametrize("options", [(), ("--allow-other",)], ids=["private", "for all"])
def test_a_link_into_the_mount_itself_is_not_walked(
    symfuse_mount: MountMaker, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """So a read cannot come back to the server that is busy with it, and needs nobody to refuse it (EDEADLK)."""
    dataset = tree(tmp_path / "dataset", {"directory": {"f": b"F"}, "other": {"f": b"F"}, "l": link("directory/f")})
    mount = symfuse_mount(dataset, "--eager", *options)
    mount.dataset_may_change()
    names = ("directory/f", "l") if options else ("directory/f",)  # links are followed strictly where others may look
    for name in names:
        mount.expect_in_log(f"{name} cannot be read")
        os.stat(mount.path / name)
    (dataset / "directory").rename(dataset / "aside")
    (dataset / "directory").symlink_to(mount.path / "other")
    before = mount.requests()
    for name in names:
        with pytest.raises(OSError) as error:
            (mount.path / name).read_bytes()
        assert error.value.errno == errno.ESTALE
    grown = {request for request, number in mount.requests().items() if number != before.get(request)}
    assert grown <= {"read", "ioctl", "open", "flush", "release"}, "whoever reads asks, and the server does not"


def _attack(scene: Scene, mount: Mount) -> Counter[str]:
    """Read from a mount of the whole dataset while all is swapped; what came of it."""
    mount.dataset_may_change()
    mount.expect_in_log("cannot be read")
    paths = [str(mount.path / name) for name in scene.files]
    results = {path: Counter[str]() for path in paths}
    began_s = time.monotonic()
    with (
        _process(_READER, str(SOMEBODY_ELSE), json.dumps(paths), str(SIZE)) as reader,
        Watch(scene) as watch,
    ):
        assert all(found == {"content": 1} for found in _read(reader, 1).values())
        with _swapping(scene, ("../dataset", "../elsewhere")) as counts:
            while not _is_enough(results) or time.monotonic() < began_s + AT_LEAST_S:
                assert time.monotonic() < began_s + AT_LEAST_S + TIMEOUT_S, results
                for path, found in _read(reader, 20).items():
                    results[path].update(found)
                watch.check()
        watch.check()
        assert counts["swaps"] >= SWAPS
    total = sum(results.values(), counts)
    assert not [result for result in total if result.startswith("wrong")], results
    return total


@pytest.mark.timeout(180 + 2 * AT_LEAST_S, method="thread")
def test_what_is_swapped_while_it_is_frozen(scene: Scene, fuse: None, backend: str) -> None:
    """Fresh mounts, one after the other, each listed and read at once."""
    at = scene.path / "mnt"
    at.mkdir()
    counts, began_s = Counter[str](), time.monotonic()
    with Watch(scene) as watch:
        with _swapping(scene) as swaps:
            while counts["mounts"] < 5 or not counts["content"] or time.monotonic() < began_s + AT_LEAST_S:
                MYSELF.symfuse("mount", *WAYS[backend], "--allow-other", "--", scene.dataset, at)
                try:
                    with _process(_LISTER, str(SOMEBODY_ELSE), str(at), str(SIZE)) as lister:
                        assert lister.stdout is not None
                        counts.update(json.loads(lister.stdout.readline()))
                finally:
                    MYSELF.symfuse("umount", "--", at)
                counts["mounts"] += 1
                watch.check()
        watch.check()
    print(f"{backend}: {dict(swaps)}, {dict(counts)}")
    assert swaps["swaps"] >= SWAPS
    assert not [result for result in counts if result.startswith("wrong")], counts


#: Reads everything in a directory once; says what came, or went wrong.
_LISTER = (
    _AS_USER
    + """
found, content = {}, b"o" * int(words[1])
def note(result):
    found[result] = found.get(result, 0) + 1
for directory, _, files in os.walk(words[0], onerror=lambda error: note(os.strerror(error.errno))):
    for name in files:
        try:
            with open(os.path.join(directory, name), "rb") as file:
                data = file.read()
            note("content" if data == content else "wrong: %r" % data[:20])
        except OSError as error:
            note(os.strerror(error.errno))
print(json.dumps(found), flush=True)
"""
)
