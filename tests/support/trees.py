"""Small trees written as literals.

    tree(tmp_path / "dataset", {
        "store": {"a.png": b"bytes of a"},
        "train": {"cat": {"1.png": link("../../store/a.png")}},
    })

A name is text, or bytes where it is not UTF-8. A dict is a directory, bytes are a regular file, anything else is one of
the classes below.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Union

Name = str | bytes
Entry = Union[bytes, "Special", Mapping["Name", "Entry"]]


@dataclass(frozen=True)
class link:  # noqa: N801 - reads as a word of the literal, as do the others
    """A symbolic link with this text."""

    text: Name


@dataclass(frozen=True)
class hardlink:  # noqa: N801
    """Another name of a file made earlier in the same literal; the path is relative to the tree's root."""

    path: Name


@dataclass(frozen=True)
class fifo:  # noqa: N801
    """A named pipe."""


@dataclass(frozen=True)
class unixsocket:  # noqa: N801
    """A bound socket that nobody listens on."""


@dataclass(frozen=True)
class device:  # noqa: N801
    """A character device with the numbers of /dev/null, or those of /dev/zero (5). Only root can make one."""

    minor: int = 3


@dataclass(frozen=True)
class sparse:  # noqa: N801
    """A file of this size that is a hole, but for what `at` holds by offset."""

    size: int
    at: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class attributes:  # noqa: N801
    """An entry with attributes of its own, given to it after it was made."""

    entry: Entry
    mode: int | None = None
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None


Special = link | hardlink | fifo | unixsocket | device | sparse | attributes


def tree(root: Path, entries: Mapping[Name, Entry]) -> Path:
    """Make the directory `root`, or add to it, with these entries; returns it."""
    top = os.fsencode(root)
    _make(top, top, entries)
    return root


def _make(top: bytes, path: bytes, entry: Entry) -> None:
    match entry:
        case bytes():
            _write(path, entry)
        case link(text):
            os.symlink(os.fsencode(text), path)
        case hardlink(of):
            os.link(os.path.join(top, os.fsencode(of)), path)
        case fifo():
            os.mkfifo(path)
        case unixsocket():
            _bind(path)
        case device(minor):
            os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, minor))
        case sparse(size, at):
            _write(path, b"", size=size, at=at)
        case attributes():
            _make(top, path, entry.entry)
            _attribute(path, entry)
        case _:
            os.makedirs(path, exist_ok=True)
            for name, inner in entry.items():
                _make(top, os.path.join(path, os.fsencode(name)), inner)


def _write(path: bytes, content: bytes, *, size: int | None = None, at: tuple[tuple[int, bytes], ...] = ()) -> None:
    with open(path, "xb") as file:
        file.write(content)
        if size is not None:
            file.truncate(size)
        for offset, piece in at:
            file.seek(offset)
            file.write(piece)


def _bind(path: bytes) -> None:
    # A socket's address is limited to 108 bytes, far shorter than pytest's directories: bind it by a relative name.
    here = os.open(b".", os.O_RDONLY)
    try:
        os.chdir(os.path.dirname(path))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.basename(path))
    finally:
        os.fchdir(here)
        os.close(here)


def _attribute(path: bytes, wanted: attributes) -> None:
    if wanted.owner is not None:
        os.chown(path, *wanted.owner, follow_symlinks=False)
    if wanted.mode is not None:
        os.chmod(path, wanted.mode)
    if wanted.mtime_ns is not None:
        os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns))
