"""Who may read what, by brute force: random trees of owners, groups, modes and access lists, and the kernel's rules.

The rules here are written down once more, from acl(5), path_resolution(7) and proc_sys_fs(5), and for any user that
there could be; nothing is taken from the code under test.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ACL = "system.posix_acl_access"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ, SEARCH = 4, 1
MAX_LINKS = 40

#: Of users that every system has: fusermount wants to know their names.
UIDS = (0, 1, 2, 3)
GIDS = (0, 62001, 62002)
#: Somebody whom no owner, group or list names.
STRANGER = 5


@dataclass(frozen=True)
class Person:
    """A user: one that there is, or one that there could be. `is_almighty` has all capabilities."""

    uid: int
    groups: frozenset[int]
    is_almighty: bool = False


PEOPLE = {
    "owner of some": Person(1, frozenset({62001})),
    "in two groups": Person(2, frozenset({62001, 62002})),
    "in a group": Person(3, frozenset({62002})),
    "a stranger": Person(STRANGER, frozenset({62999})),
    "root without capabilities": Person(0, frozenset({0})),
    "root": Person(0, frozenset({0}), is_almighty=True),
}
#: Modes of directories, the usual ones more often; the last is that of /tmp.
MODES = (0o755, 0o755, 0o755, 0o750, 0o711, 0o700, 0o705, 0o775)
STICKY = 0o1777
#: Everybody who could be.
POSSIBLE = [
    Person(uid, frozenset(groups))
    for uid in (*UIDS, STRANGER)
    for size in range(len(GIDS) + 1)
    for groups in itertools.combinations(GIDS, size)
]


# -- random trees ------------------------------------------------------------------------------------------------------


def grow(root: Path, seed: int, *, modes: Sequence[int]) -> None:
    """A small random tree at `root`: two directories with another in one of them, files, and links between them all.

    `modes` are those of directories.
    """
    dice = random.Random(seed)
    directories = [root, root / "a", root / "a/deep", root / "b"]
    made: list[Path] = []
    for directory in directories:
        directory.mkdir()
        for number in range(2):
            file = directory / f"{number}.png"
            file.write_bytes(b"content")
            made.append(file)
    for directory in directories:
        for number in range(3):
            link = directory / f"link{number}"
            os.symlink(_text(dice, root, directory, dice.choice([*made, *directories[1:], *made])), link)
            os.chown(link, dice.choice(UIDS), dice.choice(GIDS), follow_symlinks=False)
            made.append(link)
    for path in [*made, *reversed(directories)]:
        if not path.is_symlink():
            _restrict(dice, path, modes)


def _text(dice: random.Random, root: Path, directory: Path, target: Path) -> str:
    """One of the ways to say where a link leads."""
    plain = os.path.relpath(target, directory)
    detour = os.path.join(os.path.relpath(dice.choice([root / "a/deep", root / "b"]), directory), "..")
    around = os.path.join(detour, os.path.relpath(target, (directory / detour).resolve()))
    return dice.choice([plain, plain, str(target), around])


def _restrict(dice: random.Random, path: Path, modes: Sequence[int]) -> None:
    """Give a file or directory an owner, a group, a mode and perhaps an access list."""
    os.chown(path, dice.choice(UIDS), dice.choice(GIDS))
    if path.is_dir():
        os.chmod(path, dice.choice(modes))
    else:
        os.chmod(path, dice.choice([0o644, 0o644, 0o640, 0o600, 0o604, 0o044, 0o444, 0o755]))
    if dice.random() < 0.4:
        os.setxattr(path, ACL, encoded(_random_acl(dice, is_directory=path.is_dir())))


def _random_acl(dice: random.Random, *, is_directory: bool) -> list[tuple[int, int, int]]:
    granted = [0, READ | SEARCH, READ | SEARCH, READ, SEARCH] if is_directory else [0, READ, READ]
    users = dice.sample([*UIDS[1:], STRANGER], dice.randint(0, 2))
    groups = dice.sample(GIDS, dice.randint(0, 2))
    any_id = 0xFFFFFFFF
    return [
        (USER_OBJ, dice.choice([7, 7, *granted]), any_id),
        *((USER, dice.choice(granted), uid) for uid in sorted(users)),
        (GROUP_OBJ, dice.choice(granted), any_id),
        *((GROUP, dice.choice(granted), gid) for gid in sorted(groups)),
        (MASK, dice.choice([7, 5, *granted]), any_id),
        (OTHER, dice.choice(granted), any_id),
    ]


def encoded(entries: Iterable[tuple[int, int, int]]) -> bytes:
    """An access list as the extended attribute has it: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# -- what the kernel grants at the source ------------------------------------------------------------------------------


class Denied(Exception):
    """The kernel would say EACCES."""


@cache
def _look(path: str) -> tuple[os.stat_result, tuple[tuple[int, int, int], ...]]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return status, ()
    try:
        found = os.getxattr(path, ACL)
    except OSError:
        return status, ()
    return status, tuple(struct.iter_unpack("<HHI", found[4:]))


def may(who: Person, path: str, bit: int) -> bool:
    """Whether somebody has one permission for a file or directory, by its own owner, group, mode and list.

    As acl(5) has it. The kernel deviates where a list's mask grants nothing at all: then it takes no notice of the
    list, and whoever is not of the owning group is granted what others are (acl_permission_check() in fs/namei.c).
    """
    status, acl = _look(path)
    mode = status.st_mode
    if who.is_almighty:
        return True
    if who.uid == status.st_uid:
        return bool(mode >> 6 & bit)
    if not acl:
        return bool((mode >> 3 if status.st_gid in who.groups else mode) & bit)
    mask = next((granted for tag, granted, _id in acl if tag == MASK), 7)
    for tag, granted, named in acl:
        if tag == USER and named == who.uid:
            return bool(granted & mask & bit)
    matching = [
        granted & mask
        for tag, granted, named in acl
        if (tag == GROUP_OBJ and status.st_gid in who.groups) or (tag == GROUP and named in who.groups)
    ]
    if matching:
        return any(granted & bit for granted in matching)
    return bool(next(granted for tag, granted, _id in acl if tag == OTHER) & bit)


def walk(who: Person, start: str, text: str, passed: str, *, hops: int = 0) -> str:
    """The real path that a link's text leads to from a directory, for somebody who has come to `passed`.

    Errors: Denied; FileNotFoundError.
    """
    path = "/" if text.startswith("/") else start
    for part in text.split("/"):
        if part in ("", "."):
            continue
        if not (passed + "/").startswith(path.rstrip("/") + "/") and not may(who, path, SEARCH):
            raise Denied(path)
        if part == "..":
            path = os.path.dirname(path)
            continue
        child = os.path.join(path, part)
        is_link = stat.S_ISLNK(_look(child)[0].st_mode)
        path = follow(who, child, passed, hops=hops + 1) if is_link else child
    return path


def follow(who: Person, link: str, passed: str | None = None, *, hops: int = 0) -> str:
    """Where a link leads to, for somebody who has come to `passed`. Errors: as `walk`; RecursionError for loops."""
    if hops > MAX_LINKS:
        raise RecursionError
    directory = os.path.dirname(link)
    above, itself = _look(directory)[0], _look(link)[0]
    is_sticky = above.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH
    if is_sticky and itself.st_uid not in (above.st_uid, who.uid) and not who.is_almighty:
        raise Denied(link)
    return walk(who, directory, os.readlink(link), directory if passed is None else passed, hops=hops)


# -- what a mount for others must show ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Owner, group and the nine bits of a mode, without those for writing; and the source."""

    uid: int
    gid: int
    bits: int
    source: str

    def grants(self, who: Person, bit: int) -> bool:
        """Whether the kernel lets somebody in by these alone."""
        shift = 6 if who.uid == self.uid else 3 if self.gid in who.groups else 0
        return who.is_almighty or bool(self.bits >> shift & bit)


ALMIGHTY = Person(0, frozenset({0}), is_almighty=True)


def expected(root: Path) -> dict[str, Shown]:
    """What a mount of `root` for others must show at each path (docs/semantics.md, 13); the root itself is ``.``.

    A class (owner, group, others) has a permission if everybody who could be of it has it at the source.
    """
    found = {".": _shown(str(root), None)}
    _expect(str(root), "", found, (str(root),))
    return found


def _expect(directory: str, path: str, found: dict[str, Shown], above: tuple[str, ...]) -> None:
    for name in sorted(os.listdir(directory)):
        entry = os.path.join(directory, name)
        link = entry if stat.S_ISLNK(_look(entry)[0].st_mode) else None
        try:
            source = entry if link is None else follow(ALMIGHTY, link)
        except RecursionError:
            continue
        if source in above:
            continue
        shown = os.path.join(path, name)
        found[shown] = _shown(source, link)
        if stat.S_ISDIR(_look(source)[0].st_mode):
            _expect(source, shown, found, (*above, source))


def _shown(source: str, link: str | None) -> Shown:
    status = _look(source)[0]
    bits = status.st_mode & 0o555
    for who in POSSIBLE:
        shift = 6 if who.uid == status.st_uid else 3 if status.st_gid in who.groups else 0
        for bit in (READ, SEARCH):
            if bits >> shift & bit and not _may_reach(who, source, link, bit):
                bits &= ~(bit << shift)
    return Shown(status.st_uid, status.st_gid, bits, source)


def _may_reach(who: Person, source: str, link: str | None, bit: int) -> bool:
    try:
        if link is not None:
            follow(who, link)
    except Denied:
        return False
    return may(who, source, bit)


def may_open(who: Person, path: str, nodes: dict[str, Shown]) -> bool:
    """Whether somebody may open a path of the mount, if it shows what is expected."""
    above = "" if path == "." else os.path.dirname(path)
    while above:
        if not nodes[above].grants(who, SEARCH):
            return False
        above = os.path.dirname(above)
    return (path == "." or nodes["."].grants(who, SEARCH)) and nodes[path].grants(who, READ)


# -- real people -------------------------------------------------------------------------------------------------------

_OPENER = """
import json, os, sys
answers = []
for path in json.load(sys.stdin):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if os.path.isdir(fd):
            os.listdir(fd)
            if sys.argv[1:] == ["enter"]:
                os.stat(".", dir_fd=fd)
        else:
            os.read(fd, 1)
        os.close(fd)
        answers.append(0)
    except OSError as error:
        answers.append(error.errno)
json.dump(answers, sys.stdout)
"""


def opens(who: Person, paths: list[str], *, enter: bool = False) -> list[int]:
    """The errno with which a process of somebody fails to open and read each path; 0 where it can.

    With `enter`, directories must be open for searching, too.
    """
    setpriv = [
        "setpriv",
        f"--reuid={who.uid}",
        f"--regid={max(who.groups)}",
        f"--groups={','.join(map(str, who.groups))}",
    ]
    if not who.is_almighty:
        setpriv += ["--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*setpriv, sys.executable, "-I", "-S", "-c", _OPENER, *(["enter"] if enter else [])],
        input=json.dumps(paths), capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    assert len(found) == len(paths)
    return found


def names_below(root: Path) -> Iterator[str]:
    """Every path below a directory, relative to it, and ``.``; links to directories are not followed."""
    yield "."
    for path, directories, files in os.walk(root):
        for name in (*directories, *files):
            yield os.path.relpath(os.path.join(path, name), root)
