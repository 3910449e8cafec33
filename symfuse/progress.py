"""How far a view is frozen, what it hides, and what was found to be wrong with it."""

from __future__ import annotations

import copy
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from symfuse.policy import Finding, Kind
from symfuse.shape import Maybe, Number, Table

#: Hidden paths kept as examples, of each kind.
MAX_EXAMPLES = 5
#: An example of a finding names no more than this many copies of an image.
MAX_NAMED = 4


K = TypeVar("K", Kind, Finding)


@dataclass
class Progress:
    """What was frozen so far, and what is hidden.

    `content_bytes` is the size of all files; `examples` holds the first paths of each kind. `hints` say what may be
    behind all that: whole sentences for the user. `compared` counts the images that were compared, or `decoded` those
    that were only decoded, and `left_alone` all other files. `unremembered` counts files that were read to compare or
    decode them, and will be read again at the next mount. `layout` says what the levels of directories were taken for;
    None where no images are compared.
    """

    directories: int = 0
    files: int = 0
    content_bytes: int = 0
    hidden: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    findings: Counter[Finding] = field(default_factory=Counter)
    finding_examples: dict[Finding, list[str]] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    compared: int = 0
    decoded: int = 0
    left_alone: int = 0
    unremembered: int = 0
    layout: str | None = None
    complete: bool = False
    error: str | None = None

    def wants_example(self, kind: Kind) -> bool:
        """True while there are few examples of a kind."""
        return len(self.examples.get(kind, ())) < MAX_EXAMPLES

    def note(self, kind: Kind, path: bytes | None) -> None:
        """Count one hidden entry; its path is an example as long as those are wanted."""
        self.hidden[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if path is not None and self.wants_example(kind):
            examples.append(os.fsdecode(path))

    def take_back(self, kind: Kind, path: bytes) -> None:
        """Undo one `note`."""
        _count_down(self.hidden, self.examples, kind, path)

    def report(self, finding: Finding, paths: Iterable[bytes]) -> None:
        """Count one finding; `paths` are those of an image's copies, or of the one entry that is meant."""
        self.findings[finding] += 1
        examples = self.finding_examples.setdefault(finding, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(", ".join(os.fsdecode(path) or "." for path in islice(paths, MAX_NAMED)))

    def withdraw(self, finding: Finding, path: bytes) -> None:
        """Undo one `report` of a single path."""
        _count_down(self.findings, self.finding_examples, finding, path)

    @property
    def problems(self) -> int:
        """Entries hidden that nobody asked to hide."""
        return sum(number for kind, number in self.hidden.items() if not kind.is_choice)

    def copy(self) -> Progress:
        """A snapshot that the view no longer changes."""
        return copy.deepcopy(self)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "directories": self.directories,
            "files": self.files,
            "content_bytes": self.content_bytes,
            "hidden": {str(kind): number for kind, number in sorted(self.hidden.items())},
            "examples": {str(kind): paths for kind, paths in sorted(self.examples.items())},
            "findings": {str(finding): number for finding, number in sorted(self.findings.items())},
            "finding_examples": {str(finding): paths for finding, paths in sorted(self.finding_examples.items())},
            "hints": list(self.hints),
            "compared": self.compared,
            "decoded": self.decoded,
            "left_alone": self.left_alone,
            "unremembered": self.unremembered,
            "layout": self.layout,
            "complete": self.complete,
            "error": self.error,
        }


#: What `Progress.as_dict` gives.
PROGRESS_SHAPE: dict[str, Any] = {
    **dict.fromkeys(("directories", "files", "content_bytes"), Number()),
    "hidden": Table(Kind, Number()),
    "examples": Table(Kind, [str]),
    "findings": Table(Finding, Number()),
    "finding_examples": Table(Finding, [str]),
    "hints": [str],
    **dict.fromkeys(("compared", "decoded", "left_alone", "unremembered"), Number()),
    "layout": Maybe(str),
    "complete": bool,
    "error": Maybe(str),
}


def _count_down(counts: Counter[K], examples: dict[K, list[str]], what: K, path: bytes) -> None:
    """One less of it, and its path is no example any more."""
    counts[what] -= 1
    if os.fsdecode(path) in examples[what]:
        examples[what].remove(os.fsdecode(path))
    if counts[what] == 0:
        del counts[what], examples[what]


class Findings:
    """The nodeids that each finding is about. Packed, as there may be a million of them."""

    def __init__(self) -> None:
        self._nodeids: defaultdict[Finding, array[int]] = defaultdict(lambda: array("Q"))
        self._ends: defaultdict[Finding, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, finding: Finding, nodeids: Iterable[int]) -> None:
        """One finding: the files that are copies of one image, or the one entry that is meant."""
        self._nodeids[finding].extend(nodeids)
        self._ends[finding].append(len(self._nodeids[finding]))

    def remove(self, finding: Finding, nodeid: int) -> bool:
        """Take one finding of a single nodeid back, if there is one."""
        groups = list(self.of(finding))
        if [nodeid] not in groups:
            return False
        groups.remove([nodeid])
        del self._nodeids[finding], self._ends[finding]
        for group in groups:
            self.add(finding, group)
        return True

    def of(self, finding: Finding) -> Iterator[list[int]]:
        """The nodeids of each, in the order they were found."""
        begin = 0
        for end in self._ends.get(finding, ()):
            yield self._nodeids[finding][begin:end].tolist()
            begin = end

    def __iter__(self) -> Iterator[tuple[Finding, list[int]]]:
        for finding in sorted(self._ends):
            for nodeids in self.of(finding):
                yield finding, nodeids


def warning_lines(frozen: dict[str, Any]) -> list[str]:
    """What the user should know beyond what is hidden: findings, a line for each with the first of them, and hints.

    `frozen` is `Progress.as_dict()`.
    """
    examples: dict[str, list[str]] = frozen["finding_examples"]
    lines = [
        f"{number:,} {finding} ({Finding(finding).meaning}): " + "; ".join(first_of(number, examples.get(finding, [])))
        for finding, number in frozen["findings"].items()
    ]
    return lines + list(frozen["hints"])


def first_of(number: int, examples: list[str]) -> list[str]:
    """Some of so many paths, and a sign where they are not all."""
    return [*examples, "…"] if number > len(examples) else examples


def compared_line(frozen: dict[str, Any]) -> str | None:
    """`compared 1,797 images; 12 other files left alone`, or None where nothing was looked at for its content.

    `frozen` is `Progress.as_dict()`.
    """
    compared, decoded, left = frozen["compared"], frozen["decoded"], frozen["left_alone"]
    if not compared + decoded + left:
        return None
    images = compared or decoded
    line = f"{'decoded' if decoded else 'compared'} {images:,} {'image' if images == 1 else 'images'}"
    return f"{line}; {left:,} other {'file' if left == 1 else 'files'} left alone" if left else line


def hidden_line(frozen: dict[str, Any]) -> str | None:
    """`9 entries hidden (7 dangling, 2 dot-entry)`, or None where nothing is. `frozen` is `Progress.as_dict()`."""
    hidden: dict[str, int] = frozen["hidden"]
    if not hidden:
        return None
    total = sum(hidden.values())
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(hidden.items(), key=lambda item: -item[1]))
    return f"{total:,} {'entry' if total == 1 else 'entries'} hidden ({kinds})"
