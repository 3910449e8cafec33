"""What a mount must show, found without symfuse: the tree that `cp -rL` makes, and the targets' own attributes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: What the view takes from every mode: write for anybody, setuid, setgid.
MODE_LESS = 0o222 | stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True)
class Shown:
    """What a user sees at one path. Directories have no size of their own to promise."""

    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int | None
    sha256: str | None


def copy_dereferenced(dataset: Path, copy: Path) -> Path:
    """`cp -rL dataset copy`. What cp cannot follow (dangling links, loops, cycles) it leaves out and goes on."""
    # `cp` waits at a fifo for ever only with --copy-contents; as called here it makes a fifo, which is not shown.
    done = subprocess.run(
        ["cp", "-rL", "--", dataset, copy], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    for path in list(walk(copy)):
        if not stat.S_ISREG(os.lstat(path).st_mode) and not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
    return copy


def drop_names(copy: Path) -> Path:
    """Remove what a view hides by its name unless asked otherwise: dot entries, and an ext4's own `lost+found`."""
    for path in list(walk(copy)):
        name = os.path.basename(path)
        if (name.startswith(b".") or name == b"lost+found") and os.path.lexists(path):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    return copy


def walk(root: Path | bytes) -> Iterator[bytes]:
    """Every path below `root` that we may see, links not followed, parents first, in byte order."""
    try:
        with os.scandir(os.fsencode(root)) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in ordered:
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def seen(root: Path) -> dict[bytes, Shown]:
    """What stands below `root`, by relative path. Nothing is followed: a link shows as a link."""
    return {os.path.relpath(path, os.fsencode(root)): _shown(path, os.lstat(path)) for path in walk(root)}


def expected(dataset: Path, copy: Path) -> dict[bytes, Shown]:
    """What a mount of `dataset` must show: the copy's names and contents with the targets' attributes."""
    result = {}
    for path in walk(copy):
        name = os.path.relpath(path, os.fsencode(copy))
        result[name] = _shown(path, os.stat(os.path.join(os.fsencode(dataset), name)), mode_less=MODE_LESS)
    return result


def expected_from(dataset: Path, scratch: Path) -> dict[bytes, Shown]:
    """The oracle in one step, without names that are hidden; the copy is left in `scratch`."""
    return expected(dataset, drop_names(copy_dereferenced(dataset, scratch)))


def _shown(path: bytes, status: os.stat_result, *, mode_less: int = 0) -> Shown:
    regular = stat.S_ISREG(status.st_mode)
    return Shown(
        type=stat.S_IFMT(status.st_mode),
        mode=stat.S_IMODE(status.st_mode) & ~mode_less,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if regular else None,
        sha256=sha256(path) if regular else None,
    )


def sha256(path: Path | bytes) -> str:
    """The digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that must not change in a dataset: names, link texts, contents, modes, owners, mtimes and ctimes.

    Access times are left out: reading changes them, with and without symfuse.
    """
    found: dict[bytes, tuple[object, ...]] = {}
    for path in [os.fsencode(root), *walk(root)]:
        try:
            status = os.lstat(path)
        except PermissionError:  # in a directory that may be listed but not entered
            found[path] = ()
            continue
        fixed = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if stat.S_ISREG(status.st_mode):
            # A hole of gigabytes is not worth hashing, nor can we hash what we may not read: size and times are above.
            is_hole = status.st_blocks * 512 < min(status.st_size, 1 << 24)
            found[path] = (*fixed, None if is_hole or not os.access(path, os.R_OK) else sha256(path))
        elif stat.S_ISLNK(status.st_mode):
            found[path] = (*fixed, os.readlink(path))
        else:
            found[path] = fixed
    return found
