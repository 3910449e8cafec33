"""How far a view is frozen, and what it hides."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from symfuse.policy import Finding, Kind

#: Hidden paths kept as examples, of each kind.
MAX_EXAMPLES = 5


@dataclass
class Progress:
    """What was frozen so far, and what is hidden.

    `content_bytes` is the size of all files; `examples` holds the first paths of each kind.
    """

    directories: int = 0
    files: int = 0
    content_bytes: int = 0
    hidden: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    findings: Counter[Finding] = field(default_factory=Counter)
    finding_examples: dict[Finding, list[str]] = field(default_factory=dict)
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

    def report(self, finding: Finding, paths: Iterable[bytes]) -> None:
        """Count one image that something is wrong with; `paths` are those of its copies."""
        self.findings[finding] += 1
        examples = self.finding_examples.setdefault(finding, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(", ".join(map(os.fsdecode, paths)))

    def take_back(self, kind: Kind, path: bytes) -> None:
        """Undo one `note`."""
        self.hidden[kind] -= 1
        examples = self.examples[kind]
        if os.fsdecode(path) in examples:
            examples.remove(os.fsdecode(path))
        if self.hidden[kind] == 0:
            del self.hidden[kind], self.examples[kind]

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
            "complete": self.complete,
            "error": self.error,
        }


def finding_lines(frozen: dict[str, Any]) -> list[str]:
    """What is wrong with images that may be shown all the same, a line for each kind with the first of them.

    `frozen` is `Progress.as_dict()`.
    """
    examples: dict[str, list[str]] = frozen["finding_examples"]
    return [
        f"{number:,} {finding} ({Finding(finding).meaning}): "
        + "; ".join([*examples[finding], "…"] if number > len(examples[finding]) else examples[finding])
        for finding, number in frozen["findings"].items()
    ]
