"""One table of file system checks, run on a plain directory and on the mount: a wrong check cannot pass.

The plain directory is what `cp -rL` made of the dataset, bound read-only over itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import MountMaker
from tests.support.oracle import copy_dereferenced
from tests.support.trees import Entry, Name, link, sparse, tree

BIG = 5 * 1024**3
PATTERN = bytes(range(256)) * 4096  # 1 MiB in which every 256 bytes tell their offset apart

DATASET: dict[Name, Entry] = {
    "store": {"file": b"0123456789", "pattern": PATTERN, "empty": b""},
    "file": link("store/file"),
    "pattern": link("store/pattern"),
    "empty": link("store/empty"),
    "big": link("../outside/big"),
    "dir": link("store"),
    "many": {f"{number:04}": link("../store/file") for number in range(5000)},
    "n" * 255: link("store/file"),
    b"\xff" * 255: link("store/file"),
    "deep": {},
}
DEEP = "/".join(["a" * 30] * 60)
#: Places in the 5 GiB file that are no hole: across 2**31, across 2**32, and at its end.
ISLANDS = ((2**31 - 2, b"2GiB"), (2**32 - 2, b"4GiB"), (BIG - 4, b"tail"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("posix").resolve()
    tree(directory / "outside", {"big": sparse(BIG, at=ISLANDS)})
    root = tree(directory / "dataset", DATASET)
    (root / "deep" / DEEP).mkdir(parents=True)
    (root / "deep" / DEEP / "file").symlink_to(root / "store/file")
    return root


@pytest.fixture(scope="module")
def mounted(module_mount: MountMaker, dataset: Path) -> Path:
    return module_mount(dataset).path


@pytest.fixture(scope="module")
def plain(fuse: None, dataset: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can bind a plain directory read-only to check the checks")
    copy = copy_dereferenced(dataset, dataset.parent / "copy")
    subprocess.run(["mount", "--bind", "-o", "ro", copy, copy], check=True)
    try:
        yield copy
    finally:
        subprocess.run(["umount", copy], check=True)
        shutil.rmtree(copy)


Check = Callable[[Path], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Add a check to the table. It is given the root of a tree."""
    CHECKS[function.__name__] = function
    return function


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_plain_directory(name: str, plain: Path) -> None:
    CHECKS[name](plain)


@pytest.mark.parametrize("name", CHECKS)
def test_on_the_mount(name: str, mounted: Path) -> None:
    CHECKS[name](mounted)


def errno_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 when it succeeds."""
    try:
        call()
    except OSError as error:
        assert error.errno is not None
        return error.errno
    return 0


# -- names and attributes ----------------------------------------------------------------------------------------------


@check
def a_missing_name_is_enoent(root: Path) -> None:
    for _ in range(3):  # the second time from the kernel's cache
        assert errno_of(lambda: os.stat(root / "missing")) == errno.ENOENT
        assert errno_of(lambda: os.open(root / "missing", os.O_RDONLY)) == errno.ENOENT
    assert errno_of(lambda: os.listdir(root / "missing")) == errno.ENOENT


@check
def a_path_through_a_file_is_enotdir(root: Path) -> None:
    assert errno_of(lambda: os.stat(root / "file" / "x")) == errno.ENOTDIR
    assert errno_of(lambda: os.listdir(root / "file")) == errno.ENOTDIR
    assert errno_of(lambda: os.open(root / "file", os.O_RDONLY | os.O_DIRECTORY)) == errno.ENOTDIR


@check
def names_of_255_bytes_work_and_longer_ones_are_enametoolong(root: Path) -> None:
    for name in (b"n" * 255, b"\xff" * 255):
        assert Path(os.fsdecode(os.path.join(os.fsencode(root), name))).read_bytes() == b"0123456789"
    assert errno_of(lambda: os.stat(root / ("n" * 256))) == errno.ENAMETOOLONG


@check
def a_file_is_opened_without_following_because_it_is_no_link(root: Path) -> None:
    os.close(os.open(root / "file", os.O_RDONLY | os.O_NOFOLLOW))
    assert errno_of(lambda: os.readlink(root / "file")) == errno.EINVAL


@check
def all_ways_to_stat_agree(root: Path) -> None:
    for name in ("file", "pattern", "dir", "."):
        fd = os.open(root / name, os.O_RDONLY)
        try:
            found = [os.stat(root / name), os.lstat(root / name), os.fstat(fd), os.stat(fd)]
        finally:
            os.close(fd)
        assert len({(each.st_ino, each.st_mode, each.st_size, each.st_mtime_ns) for each in found}) == 1


@check
def access_says_readable_but_not_writable(root: Path) -> None:
    assert os.access(root / "file", os.R_OK)
    assert not os.access(root / "file", os.W_OK)
    assert os.access(root / "dir", os.R_OK | os.X_OK)
    assert not os.access(root / "dir", os.W_OK)


@check
def a_deep_path_works_from_the_top_and_step_by_step(root: Path) -> None:
    path = root / "deep" / DEEP / "file"
    assert path.read_bytes() == b"0123456789"
    assert sum(1 for _ in os.walk(root / "deep")) == 61


@check
def dot_dot_leads_back(root: Path) -> None:
    assert os.path.samefile(root / "dir" / "..", root)
    assert os.path.samefile(root / "deep" / DEEP / "..", (root / "deep" / DEEP).parent)


# -- directories -------------------------------------------------------------------------------------------------------


class Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class OpenDirectory:
    """opendir(3) and what belongs to it, which Python hides."""

    def __init__(self, path: Path) -> None:
        self._stream = libc.opendir(os.fsencode(path))
        assert self._stream

    def read(self) -> tuple[bytes, int, int] | None:
        """The next entry's name, inode number and type."""
        found = libc.readdir(self._stream)
        return (found.contents.d_name, found.contents.d_ino, found.contents.d_type) if found else None

    def rest(self) -> list[tuple[bytes, int, int]]:
        return list(iter(self.read, None))

    def tell(self) -> int:
        return int(libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        libc.seekdir(self._stream, place)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)

    def close(self) -> None:
        libc.closedir(self._stream)


@check
def a_directory_of_5000_lists_each_name_once_with_type_and_inode(root: Path) -> None:
    directory = OpenDirectory(root / "many")
    entries = directory.rest()
    directory.close()
    assert sorted(name for name, _, _ in entries) == [b".", b"..", *(b"%04d" % number for number in range(5000))]
    for name, ino, kind in entries[::97]:
        assert ino == os.lstat(os.path.join(os.fsencode(root / "many"), name)).st_ino
        assert kind == (stat.S_IFDIR if name in (b".", b"..") else stat.S_IFREG) >> 12


@check
def a_listing_resumes_where_seekdir_says(root: Path) -> None:
    directory = OpenDirectory(root / "many")
    places, entries = [], []
    while True:
        places.append(directory.tell())
        entry = directory.read()
        if entry is None:
            break
        entries.append(entry)
    for index in (0, 1, 2, 3, 1234, 2500, 4999, 5001, 17):
        directory.seek(places[index])
        assert directory.read() == entries[index]
    directory.seek(places[4000])
    assert directory.rest() == entries[4000:]
    directory.rewind()
    assert directory.rest() == entries
    directory.close()


@check
def two_listings_at_once_do_not_disturb_each_other(root: Path) -> None:
    one, other = OpenDirectory(root / "many"), OpenDirectory(root / "many")
    entries = one.rest()
    half = [other.read() for _ in range(2500)]
    one.rewind()
    assert half + other.rest() == entries == one.rest()
    one.close()
    other.close()


@check
def an_empty_directory_lists_nothing(root: Path) -> None:
    directory = root / "deep" / DEEP
    assert os.listdir(directory) == ["file"]
    assert os.listdir(directory.parent) == ["a" * 30]


# -- content -----------------------------------------------------------------------------------------------------------


@check
def reads_at_any_offset_are_exact(root: Path) -> None:
    fd = os.open(root / "pattern", os.O_RDONLY)
    try:
        for offset in (0, 1, 4095, 4096, 4097, 131071, 131072, 500_000, len(PATTERN) - 1, len(PATTERN)):
            for size in (1, 10, 4096, 131073, 1 << 20):
                assert os.pread(fd, size, offset) == PATTERN[offset : offset + size], (offset, size)
        assert os.lseek(fd, -10, os.SEEK_END) == len(PATTERN) - 10
        assert os.read(fd, 100) == PATTERN[-10:]
        assert os.read(fd, 100) == b""
    finally:
        os.close(fd)


@check
def an_empty_file_reads_as_nothing(root: Path) -> None:
    assert (root / "empty").read_bytes() == b""
    assert os.stat(root / "empty").st_size == 0


@check
def a_file_of_5_gib_is_read_beyond_each_power_of_two(root: Path) -> None:
    fd = os.open(root / "big", os.O_RDONLY)
    try:
        assert os.fstat(fd).st_size == BIG
        for offset, piece in ISLANDS:
            assert os.pread(fd, len(piece), offset) == piece
            assert os.pread(fd, 8, offset - 4) == bytes(4) + piece
        assert os.pread(fd, 10, BIG - 2) == b"il"
        assert os.pread(fd, 10, BIG) == b""
    finally:
        os.close(fd)


@check
def a_mapped_file_is_the_file(root: Path) -> None:
    with open(root / "pattern", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == PATTERN
        assert mapped[700_001:700_101] == PATTERN[700_001:700_101]
    with open(root / "pattern", "rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private:
        private[0:1] = b"x"
        assert (root / "pattern").read_bytes() == PATTERN


@check
def a_file_is_copied_without_passing_through_the_program(root: Path) -> None:
    with open(root / "pattern", "rb") as source, os.fdopen(os.memfd_create("copy"), "w+b") as copy:
        assert os.sendfile(copy.fileno(), source.fileno(), 0, len(PATTERN)) > 0
        copy.seek(0)
        data = copy.read()
        assert data == PATTERN[: len(data)]


@check
def many_readers_at_once_get_the_same(root: Path) -> None:
    def read(number: int) -> bool:
        fd = os.open(root / "pattern", os.O_RDONLY)
        try:
            offset = number * 4099 % len(PATTERN)
            return os.pread(fd, 100_000, offset) == PATTERN[offset : offset + 100_000]
        finally:
            os.close(fd)

    def look(number: int) -> bool:
        return (root / "many" / f"{number:04}").read_bytes() == b"0123456789"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(200)))
        assert all(pool.map(look, range(0, 5000, 10)))


@check
def an_open_file_can_be_read_from_a_duplicate_and_by_a_child(root: Path) -> None:
    with open(root / "file", "rb") as file:
        with os.fdopen(os.dup(file.fileno()), "rb", buffering=0) as duplicate:
            assert duplicate.read(3) == b"012"
        done = subprocess.run(["cat"], stdin=file, capture_output=True, check=True)
        assert done.stdout == b"3456789"


@check
def locks_and_advice_are_granted(root: Path) -> None:
    with open(root / "file", "rb") as one, open(root / "file", "rb") as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert errno_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EWOULDBLOCK
        fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.posix_fadvise(one.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        os.fsync(one.fileno())


@check
def a_file_is_no_terminal(root: Path) -> None:
    with open(root / "file", "rb") as file:
        assert not os.isatty(file.fileno())
        assert errno_of(lambda: fcntl.ioctl(file, 0x5401, bytes(64))) == errno.ENOTTY


@check
def the_file_system_says_its_size(root: Path) -> None:
    found = os.statvfs(root / "file")
    assert found.f_blocks > found.f_bfree >= found.f_bavail
    assert found.f_namemax == 255
    assert found.f_flag & os.ST_RDONLY


# -- whatever would change something -----------------------------------------------------------------------------------


def write_openings(root: Path) -> list[Callable[[], object]]:
    flags = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND)
    return [lambda flag=flag: os.close(os.open(root / "file", flag)) for flag in flags]  # type: ignore[misc]


@check
def no_file_is_opened_for_writing(root: Path) -> None:
    for opening in write_openings(root):
        assert errno_of(opening) == errno.EROFS
    assert (root / "file").read_bytes() == b"0123456789"


MUTATIONS: dict[str, Callable[[Path], object]] = {
    "create": lambda root: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
    "create exclusively": lambda root: os.open(root / "dir/new", os.O_CREAT | os.O_EXCL | os.O_RDWR),
    "create without a name": lambda root: os.open(root / "dir", os.O_TMPFILE | os.O_RDWR),
    "truncate": lambda root: os.truncate(root / "file", 1),
    "unlink": lambda root: os.unlink(root / "file"),
    "rmdir": lambda root: os.rmdir(root / "dir"),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "rename over": lambda root: os.rename(root / "file", root / "pattern"),
    "rename a directory": lambda root: os.rename(root / "dir", root / "new"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "symlink": lambda root: os.symlink("file", root / "new"),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "chmod": lambda root: os.chmod(root / "file", 0o777),
    "chmod a directory": lambda root: os.chmod(root / "dir", 0o777),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file", ns=(1, 1)),
    "touch": lambda root: os.utime(root / "file"),
    "setxattr": lambda root: os.setxattr(root / "file", "user.a", b"b"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.a"),
}


@check
def every_mutation_is_erofs(root: Path) -> None:
    assert {name: errno_of(lambda call=call: call(root)) for name, call in MUTATIONS.items()} == dict.fromkeys(  # type: ignore[misc]
        MUTATIONS, errno.EROFS
    )


# -- what only a mount can do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["kernel", "fusepy"], indirect=True)  # an overlay's flag cannot be taken away
def test_every_mutation_is_erofs_after_root_took_the_flag_away(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can remount")
    dataset = tree(tmp_path / "dataset", {"file": b"0123456789", "pattern": b"", "dir": {}})
    mount = symfuse_mount(dataset)
    subprocess.run(["mount", "-i", "-o", "remount,rw", mount.path], check=True)
    assert not os.statvfs(mount.path).f_flag & os.ST_RDONLY
    found = {name: errno_of(lambda call=call: call(mount.path)) for name, call in MUTATIONS.items()}  # type: ignore[misc]
    # Where the kernel asks no server: a file without a name is "not supported" by FUSE servers that do not know it.
    assert found.pop("create without a name") in (errno.EROFS, errno.EOPNOTSUPP)
    assert set(found.values()) == {errno.EROFS}, found
    assert_no_byte_can_be_written(mount.path / "file")


def assert_no_byte_can_be_written(path: Path) -> None:
    """Root may open what nobody may write; the write itself must fail."""
    fd = os.open(path, os.O_RDWR)
    try:
        assert errno_of(lambda: os.write(fd, b"x")) == errno.EROFS
        assert errno_of(lambda: os.pwrite(fd, b"x", 100)) == errno.EROFS
        assert errno_of(lambda: os.ftruncate(fd, 0)) == errno.EROFS
        assert errno_of(lambda: os.posix_fallocate(fd, 0, 100)) in (errno.EROFS, errno.EOPNOTSUPP)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"0123456789"
