"""What a mount shows of a file that changed, or did not, on each file system: what was frozen, or an error.

All that happens to one mount happens in one order (`_observe`); the tests then look at what was seen.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.filesystems.table import KINDS, FileSystem, drop_inodes
from tests.filesystems.trees import CHANGED, HALFWAY, UNCHANGED, VARIANTS, content, place
from tests.support.mounting import MYSELF, WAYS, clear

#: What is put into files that change; no file begins like that.
NEW = b"NEW! " * 100_000
#: fusepy is slow, and sources are read by the same code: a few kinds show that they are.
WITH_FUSEPY = frozenset({"ext4", "sshfs", "fuse with numbers that move"})
#: What may become of a file that changed. A mixture of old and new may not, nor may the new.
KEPT_OR_REFUSED = frozenset({"old", "ESTALE", "EIO"})


pytestmark = pytest.mark.parametrize(
    ("filesystem", "observed"),
    [
        pytest.param(kind, variant, id=f"{kind.name}-{variant}")
        for kind in KINDS
        for variant in VARIANTS
        if variant != "fusepy" or kind.name in WITH_FUSEPY
    ],
    indirect=True,
    scope="module",
)


@dataclass
class Observed:
    """What became of each file: "old", "new", "mixed", or the name of an error."""

    filesystem: FileSystem
    variant: str
    files: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def observed(
    request: pytest.FixtureRequest, filesystem: FileSystem, tmp_path_factory: pytest.TempPathFactory
) -> Observed:
    variant = str(request.param)
    if variant == "fusepy" and find_library("fuse") is None:
        missing(request.config, "libfuse 2 is not installed (apt install libfuse2)")
    found = Observed(filesystem, variant)
    _observe(found, tmp_path_factory.mktemp("observed").resolve())
    return found


def _observe(found: Observed, directory: Path) -> None:
    """Everything that happens, in its order."""
    filesystem, files = found.filesystem, found.files
    dataset = filesystem.path / found.variant
    filesystem.freshen(found.variant)
    with _mounted(dataset, directory / "mount", found.variant) as mount:
        images = mount / "train" / "cat" if filesystem.has_links else None

        def shown(name: str) -> Path:
            return mount / place(name) if images is None else images / name

        def change(changes: dict[str, str]) -> None:
            filesystem.change({f"{found.variant}/{place(name)}": how for name, how in changes.items()}, NEW)

        files["first"] = _read(shown("first"), "first")
        drop_inodes()
        files["dropped"] = _read(shown("dropped"), "dropped")

        for forgotten in (False, True):
            changes = {name: how for name, (how, forgets) in CHANGED.items() if forgets == forgotten}
            change(changes)
            if forgotten:
                drop_inodes()
            files.update({name: _read(shown(name), name) for name in changes})
        files["beside"] = _read(shown("beside"), "beside")

        if filesystem.changes_in_use and found.variant != "passthrough":
            for name, how in HALFWAY.items():
                files[name] = _read(shown(name), name, halfway=partial(change, {name: how}))

        if filesystem.can_mount_again:
            filesystem.mount_again()
            files["again"] = _read(shown("again"), "again")


@contextmanager
def _mounted(dataset: Path, mountpoint: Path, variant: str) -> Iterator[Path]:
    backend, *options = VARIANTS[variant]
    mountpoint.mkdir()
    try:
        MYSELF.symfuse("mount", "--eager", *WAYS[backend], *options, "--", dataset, mountpoint)
        yield mountpoint
        MYSELF.symfuse("umount", "--", mountpoint)
    finally:
        clear([os.fsencode(mountpoint)])


def _read(path: Path, name: str, *, halfway: Callable[[], None] = lambda: None) -> str:
    """What reading a file for the first time gives; after the first piece something may happen."""
    data = b""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # each piece is asked for when it is read, and not before
            data = os.pread(fd, 4096, 0)
            halfway()
            while piece := os.pread(fd, 65536, len(data)):
                data += piece
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno or 0] if content(name).startswith(data) else "mixed, then an error"
    if data == content(name):
        return "old"
    return "new" if NEW.startswith(data) else "mixed"


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_an_unchanged_file_stays_readable(observed: Observed) -> None:
    """At first, when the kernel has forgotten its inodes, beside files that changed, and when all is mounted again."""
    names = [name for name in UNCHANGED if name != "again" or observed.filesystem.can_mount_again]
    wrong = {name: observed.files[name] for name in names if observed.files[name] != "old"}
    assert not wrong, wrong


def test_a_changed_file_is_what_was_frozen_or_an_error(observed: Observed) -> None:
    """Never the new content, nor a mixture: but for what no evidence tells, which docs/semantics.md names.

    A kind that learns to tell fails here, and its exception goes.
    """
    changed = {name: became for name, became in observed.files.items() if name not in UNCHANGED}
    assert set(changed) >= set(CHANGED)
    wrong = {}
    for name, became in changed.items():
        untold = observed.filesystem.cannot_tell.get(name.removesuffix(", forgotten"))
        allowed = KEPT_OR_REFUSED if untold is None else {"mixed" if name in HALFWAY else "new"}
        if became not in allowed:
            wrong[name] = became
    assert not wrong, wrong
