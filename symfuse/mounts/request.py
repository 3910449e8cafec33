"""What is to be mounted, where and how: made from the user's words, handed to the server process as JSON."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from symfuse.errors import UsageError
from symfuse.mounts.bounded import real_mountpoint, real_path, responds
from symfuse.pattern import AUTO, layout_of
from symfuse.policy import (
    PROBLEMS,
    SPLIT_ORDER,
    Backend,
    BrokenImages,
    Conflicts,
    Dedup,
    DirLinks,
    DotEntries,
    Finding,
    Io,
    Judge,
    Kind,
    Layout,
    NameRule,
    NonUtf8,
    Outside,
    Policy,
    Problem,
    SameBy,
    Scope,
    SideFiles,
)  # fmt: skip
from symfuse.rules import Glob

#: The word for every problem a dataset can have.
ANY = "any"
#: All other words of `fail_on`. Conflicts, leaks and names that are not UTF-8 count whether they are hidden or not.
PROBLEM_WORDS = tuple(dict.fromkeys([*map(str, Kind), *map(str, Finding)]))

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Word = TypeVar("Word", str, Path, str | bytes)
Choice = TypeVar(
    "Choice", Backend, Io, Outside, DirLinks, DotEntries, NonUtf8, SameBy, Scope, Conflicts, BrokenImages,
    Judge, SideFiles,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """One mount. Paths are absolute; `mountpoint` is real, because mountinfo shows it so.

    `source` stays as the user named it: it is what `mount` and `df` show. `log` is where the server's stderr goes, for
    those who ask. `remove_mountpoint` makes removing the (then empty) mountpoint the server's last act.
    """

    source: bytes
    mountpoint: bytes
    policy: Policy = field(default_factory=Policy)
    backend: Backend = Backend.KERNEL
    io: Io = Io.AUTO
    stack: bool = False
    allow_other: bool = False
    noexec: bool = False
    eager: bool = False
    remove_mountpoint: bool = False
    log: str | None = None

    @property
    def scans_first(self) -> bool:
        """True when the whole dataset is frozen before it is mounted."""
        return self.eager or bool(self.policy.fail_on) or self.policy.looks_into_files

    def to_json(self) -> bytes:
        """One line. Not with `os.fsdecode`: the two processes need not share a locale."""
        return json.dumps(asdict(self), default=_plain).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> MountRequest:
        """The request that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(line)
        policy: dict[str, Any] = fields["policy"]
        return cls(
            **fields
            | {
                "source": _bytes(fields["source"]),
                "mountpoint": _bytes(fields["mountpoint"]),
                "backend": Backend(fields["backend"]),
                "io": Io(fields["io"]),
                "policy": Policy(
                    outside=Outside(policy["outside"]),
                    dir_links=DirLinks(policy["dir_links"]),
                    dot_entries=DotEntries(policy["dot_entries"]),
                    non_utf8=NonUtf8(policy["non_utf8"]),
                    name_rules=tuple(NameRule(rule["hides"], _bytes(rule["glob"])) for rule in policy["name_rules"]),
                    allow_roots=tuple(map(_bytes, policy["allow_roots"])),
                    fail_on=frozenset(map(_problem, policy["fail_on"])),
                    dedup=_dedup(policy["dedup"]),
                    broken_images=BrokenImages(policy["broken_images"]),
                    judge=Judge(policy["judge"]),
                    side_files=SideFiles(policy["side_files"]),
                ),
            }
        )


def _dedup(fields: dict[str, Any]) -> Dedup:
    return Dedup(
        same_by=SameBy(fields["same_by"]),
        scope=Scope(fields["scope"]),
        layout=Layout(_bytes(pattern) if (pattern := fields["layout"]["pattern"]) is not None else None),
        prefer=tuple(map(_bytes, fields["prefer"])),
        split_order=tuple(map(_bytes, fields["split_order"])),
        conflicts=Conflicts(fields["conflicts"]),
    )


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} is nothing a request holds")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def request(
    source: Path,
    mountpoint: Path,
    *,
    backend: str = Backend.KERNEL,
    io: str = Io.AUTO,
    stack: bool = False,
    fail_on: Iterable[str] | str = (),
    outside: str | None = None,
    allow_root: Iterable[Path] | Path = (),
    dir_links: str = DirLinks.FOLLOW,
    dot_entries: str = DotEntries.HIDE,
    non_utf8: str = NonUtf8.SHOW,
    name_rules: Iterable[NameRule] = (),
    hide: Iterable[str | bytes] | str | bytes = (),
    show: Iterable[str | bytes] | str | bytes = (),
    dedup: str = SameBy.OFF,
    dedup_scope: str = Scope.CLASS,
    layout: str | bytes = AUTO,
    prefer: Iterable[str | bytes] | str | bytes = (),
    split_order: Iterable[str | bytes] | str | bytes = SPLIT_ORDER,
    conflicts: str = Conflicts.FIRST,
    broken_images: str = BrokenImages.SHOW,
    judge: str = Judge.PILLOW,
    side_files: str = SideFiles.FOLLOW,
    allow_other: bool = False,
    noexec: bool = False,
    eager: bool = False,
    remove_mountpoint: bool = False,
) -> MountRequest:
    """The request that the user's words make. `outside` is None unless the user chose.

    `name_rules` are those of a command line, in its order; all of `hide` count after them, all of `show` after that.

    Errors: UsageError for words that are no choice, or choices that contradict each other; MountpointError when the
    path of the mountpoint does not respond.
    """
    if allow_other and outside == Outside.FOLLOW:
        raise UsageError(
            "--outside follow with --allow-other would show other users what directory permissions keep from them",
            "name the directories that links may lead to with --allow-root DIR",
        )
    if conflicts == Conflicts.DROP and dedup_scope == Scope.CLASS:
        raise UsageError(
            "--conflicts drop hides images in several classes, and --dedup-scope class looks at each alone",
            "add --dedup-scope split, or all",
        )
    if stack and backend == Backend.FUSEPY:
        raise UsageError("--stack needs the kernel backend", "leave out --stack or --backend fusepy")
    if io == Io.PASSTHROUGH and backend == Backend.FUSEPY:
        raise UsageError(
            "--io passthrough needs the kernel backend: libfuse 2 reads every file through its server",
            "leave out --io or --backend fusepy",
        )
    policy = Policy(
        outside=_choice(Outside, outside or Outside.FOLLOW),
        dir_links=_choice(DirLinks, dir_links),
        dot_entries=_choice(DotEntries, dot_entries),
        non_utf8=_choice(NonUtf8, non_utf8),
        name_rules=tuple(map(_name_rule, (*name_rules, *_rules(hide, hides=True), *_rules(show, hides=False)))),
        allow_roots=tuple(_allow_root(directory) for directory in _several(allow_root)),
        fail_on=kinds(fail_on),
        dedup=Dedup(
            same_by=_choice(SameBy, dedup),
            scope=_choice(Scope, dedup_scope),
            layout=layout_of(os.fsencode(layout)),
            prefer=tuple(map(_preference, _several(prefer))),
            split_order=tuple(name for names in _several(split_order) for name in os.fsencode(names).split(b",")),
            conflicts=_choice(Conflicts, conflicts),
        ),
        broken_images=_choice(BrokenImages, broken_images),
        judge=_choice(Judge, judge),
        side_files=_choice(SideFiles, side_files),
    )
    _refuse_idle(policy, allow_other=allow_other)
    return MountRequest(
        source=absolute(source),
        mountpoint=real_mountpoint(os.fsencode(mountpoint)),
        policy=policy,
        backend=_choice(Backend, backend),
        io=_choice(Io, io),
        stack=stack,
        allow_other=allow_other,
        noexec=noexec,
        eager=eager,
        remove_mountpoint=remove_mountpoint,
    )


def _refuse_idle(policy: Policy, *, allow_other: bool) -> None:
    """Errors: UsageError for what could never do anything: who asks for it relies on it."""
    dedup = policy.dedup
    asked = {
        "--dedup-scope": dedup.scope is not Scope.CLASS,
        "--layout": dedup.layout != Layout(),
        "--prefer": dedup.prefer,
        "--split-order": dedup.split_order != SPLIT_ORDER,
        "--conflicts": dedup.conflicts is not Conflicts.FIRST,
        **{f"--fail-on {kind}": kind in policy.fail_on for kind in (Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT)},
    }
    idle = next((option for option, is_asked in asked.items() if is_asked), None)
    if idle is not None and dedup.same_by is SameBy.OFF:
        raise UsageError(f"{idle} does nothing while no images are compared", "add --dedup target, bytes or pixels")
    if Kind.EXCLUDED in policy.fail_on and not any(rule.hides for rule in policy.name_rules):
        raise UsageError("--fail-on excluded does nothing while nothing is to be hidden", "add --hide GLOB")
    if Finding.NARROWED in policy.fail_on and not allow_other:
        raise UsageError("--fail-on narrowed does nothing on a private mount", "add --allow-other")
    if Finding.UNREAD in policy.fail_on and not policy.reads_files:
        raise UsageError("--fail-on unread does nothing while no files are read", "add --dedup bytes or pixels")
    if Kind.BROKEN in policy.fail_on and policy.broken_images is BrokenImages.SHOW:
        raise UsageError("--fail-on broken does nothing while no images are decoded", "add --broken-images hide")
    if policy.judge is not Judge.PILLOW and policy.broken_images is BrokenImages.SHOW:
        raise UsageError(f"--judge {policy.judge} does nothing while no images are decoded", "add --broken-images hide")
    for option, is_asked in (
        ("--side-files keep", policy.side_files is SideFiles.KEEP),
        (f"--fail-on {Kind.SIDE_FILE}", Kind.SIDE_FILE in policy.fail_on),
    ):
        if is_asked and not policy.looks_into_files:
            cure = "add --dedup target, bytes or pixels, or --broken-images hide"
            raise UsageError(f"{option} does nothing while no images are hidden for their content", cure)
    if Kind.SIDE_FILE in policy.fail_on and policy.side_files is SideFiles.KEEP:
        raise UsageError(f"--fail-on {Kind.SIDE_FILE} does nothing with --side-files keep", "leave out one of them")


def kinds(words: Iterable[str] | str) -> frozenset[Problem]:
    """The problems that `fail_on` names. Errors: UsageError."""
    found: set[Problem] = set()
    for word in _several(words):
        if word == ANY:
            found |= {*PROBLEMS, Finding.EMPTIED}
            continue
        try:
            found.add(_problem(word))
        except ValueError:
            raise UsageError(
                f"there is no kind of problem called {word!r}", f"choose from {_listed(PROBLEM_WORDS)}, {ANY}"
            ) from None
    return frozenset(found)


def _problem(word: str) -> Problem:
    """Errors: ValueError."""
    return Kind(word) if word in set(Kind) else Finding(word)


def absolute(path: Path) -> bytes:
    """A path made absolute and tidy without following links, except where a `..` would have to guess."""
    name = os.fsencode(path)
    if b".." in name.split(b"/"):
        return real_path(os.path.join(os.getcwdb(), name))
    return b"/" + os.path.abspath(name).lstrip(b"/")  # abspath leaves a leading // as it is


def _allow_root(directory: Path) -> bytes:
    if not responds(os.path.abspath(os.fsencode(directory))):
        raise UsageError(f"--allow-root {os.fsdecode(directory)} does not respond", "see the file systems it lies on")
    path = os.path.realpath(os.fsencode(directory))
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise UsageError(f"--allow-root {os.fsdecode(directory)}: {error.strerror}", "name a directory") from None
    if not is_directory:
        raise UsageError(f"--allow-root {os.fsdecode(directory)} is not a directory", "name a directory")
    return path


def _rules(globs: Iterable[str | bytes] | str | bytes, *, hides: bool) -> Iterable[NameRule]:
    return (NameRule(hides, os.fsencode(glob)) for glob in _several(globs))


def _name_rule(rule: NameRule) -> NameRule:
    """The same rule. Errors: UsageError when it could never match."""
    _glob("--hide" if rule.hides else "--show", rule.glob)
    return rule


def _preference(text: str | bytes) -> bytes:
    """Errors: UsageError when it could never match."""
    glob = os.fsencode(text)
    if _glob("--prefer", glob).is_for_directories:
        shown = os.fsdecode(glob)
        raise UsageError(f"--prefer {shown} means directories, and files are compared", f"write {shown}*")
    return glob


def _glob(option: str, text: bytes) -> Glob:
    """Errors: UsageError."""
    try:
        return Glob(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", "write a name or a path, such as '*.txt' or 'raw/*'") from None


def _choice(choices: type[Choice], word: str) -> Choice:
    try:
        return choices(word)
    except ValueError:
        raise UsageError(f"there is no choice {word!r}", f"choose from {_listed(choices)}") from None


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(str(choice) for choice in choices)


def _several(words: Iterable[Word] | Word) -> Iterable[Word]:
    """One word is meant as itself, not as its letters."""
    return (words,) if isinstance(words, (str, bytes, os.PathLike)) else words
