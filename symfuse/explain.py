"""What stands at a path of a view and why, or why nothing does: `symfuse why`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from symfuse.links import Hop, Unresolvable
from symfuse.nodes import Directory
from symfuse.policy import Kind
from symfuse.view import ROOT_NODEID, View


@dataclass
class Explanation:
    """What stands at a path and why, for `symfuse why`.

    `source` is the real path shown there, `shown_instead` the path in the view of what stands for a hidden file.
    """

    path: bytes
    shown: bool
    reason: str
    kind: Kind | None = None
    source: bytes | None = None
    hops: list[Hop] = field(default_factory=list)
    shown_instead: bytes | None = None

    @property
    def steps(self) -> list[str]:
        """The links on the way, as `link -> text`; of a loop each link once."""
        return [f"{os.fsdecode(hop.link)} -> {os.fsdecode(hop.text)}" for hop in dict.fromkeys(self.hops)]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "path": os.fsdecode(self.path),
            "shown": self.shown,
            "reason": self.reason,
            "kind": None if self.kind is None else str(self.kind),
            "source": None if self.source is None else os.fsdecode(self.source),
            "steps": self.steps,
            "shown_instead": None if self.shown_instead is None else os.fsdecode(self.shown_instead),
        }


def explain(view: View, path: bytes) -> Explanation:
    """What the view shows at a path relative to its root, or why it shows nothing.

    What was frozen decides; links are followed anew to name them. Errors: OSError when a directory cannot be read.
    """
    number = ROOT_NODEID
    walked = b""
    hops: list[Hop] = []
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    shown = view.dataset.root
    for index, name in enumerate(parts):
        walked = os.path.join(walked, name)
        directory = view.directory(number)
        place = view.find(number, name)
        shown = _trace(view, directory, name, hops)
        if place is None:
            return Explanation(walked, False, _missing(view, directory, name), None, None, hops)
        kind = view.hidden(number, place)
        if kind is not None:
            stand_in = view.stand_in(number, place)
            shown_instead = view.path(stand_in) if stand_in else None
            return Explanation(walked, False, kind.meaning, kind, None, hops, shown_instead)
        child = view.child(number, place)
        if child is None and index + 1 < len(parts):
            return Explanation(walked, False, "a file, not a directory", None, None, hops)
        number = child or 0
    reason = "shown: its source is a link's target" if hops else "shown: it is no link"
    return Explanation(walked or b".", True, reason, None, shown, hops)


def _trace(view: View, directory: Directory, name: bytes, hops: list[Hop]) -> bytes:
    """The real path behind an entry as the dataset is now; appends the links on the way to `hops`."""
    try:
        return view.dataset.links.trace(directory.path, name, hops=hops).path
    except Unresolvable:
        return b""
    except OSError:  # no link
        return os.path.join(directory.path, name)


def _missing(view: View, directory: Directory, name: bytes) -> str:
    if view.dataset.exists(directory.path, name):
        return "it came into the dataset after this directory was frozen; mount again to see it"
    return "the dataset has no such entry"
