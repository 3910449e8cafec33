"""What stands at a path of a view and why, or why nothing does: `symfuse why`."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from symfuse.links import Hop, Unresolvable
from symfuse.nodes import Directory
from symfuse.policy import Finding, Kind
from symfuse.shape import Maybe
from symfuse.stores import absent_store
from symfuse.view import PLACE_BITS, PLACE_MASK, ROOT_NODEID, View

_NARROWED = (
    "some users who may read the source may not read it here: a mode cannot express its access control list, or a "
    "closed directory on the way to it"
)


@dataclass
class Explanation:
    """What stands at a path and why, for `symfuse why`.

    `source` is the real path shown there, `shown_instead` the path in the view of what stands for a hidden file.
    `belongs_to` is the path of a side file's image. `stale` says what has become of a source that is shown, but cannot
    be read any more. `notes` are further lines.
    """

    path: bytes
    shown: bool
    reason: str
    kind: Kind | None = None
    source: bytes | None = None
    hops: list[Hop] = field(default_factory=list)
    shown_instead: bytes | None = None
    belongs_to: bytes | None = None
    stale: str | None = None
    notes: list[str] = field(default_factory=list)

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
            "belongs_to": None if self.belongs_to is None else os.fsdecode(self.belongs_to),
            "stale": self.stale,
            "notes": self.notes,
        }


#: What `Explanation.as_dict` gives.
EXPLANATION_SHAPE: dict[str, Any] = {
    "path": str,
    "shown": bool,
    "reason": str,
    "kind": Maybe(Kind),
    "source": Maybe(str),
    "steps": [str],
    "shown_instead": Maybe(str),
    "belongs_to": Maybe(str),
    "stale": Maybe(str),
    "notes": [str],
}
#: What `hidden_below` gives.
HIDDEN_SHAPE: dict[str, Any] = {
    "hidden": [
        {"kind": Kind, "path": str, "shown_instead": Maybe(str), "reason": Maybe(str), "belongs_to": Maybe(str)}
    ],
    "findings": [{"finding": Finding, "paths": [str]}],
    "stale": [str],
    "complete": bool,
}


def explain(view: View, path: bytes) -> Explanation:
    """What the view shows at a path relative to its root, or why it shows nothing.

    What was frozen decides. Links are followed again to name them; where they lead elsewhere by now, a note says so.
    Nothing is raised for what the dataset has become: a directory that cannot be listed is an answer.
    """
    return _Walk(view).to(_parts(path))


def hidden_below(view: View, path: bytes) -> dict[str, Any]:
    """Every hidden entry and every finding at a path and below it, as JSON has it: of all that is frozen by now."""
    prefix = b"/".join(_parts(path))

    def is_below(name: bytes) -> bool:
        return not prefix or name == prefix or name.startswith(prefix + b"/")

    return {
        "hidden": [
            {
                "kind": str(entry.kind),
                "path": os.fsdecode(entry.path),
                "shown_instead": None if entry.shown_instead is None else os.fsdecode(entry.shown_instead),
                "reason": entry.reason,
                "belongs_to": None if entry.belongs_to is None else os.fsdecode(entry.belongs_to),
            }
            for entry in view.hidden_entries()
            if is_below(entry.path)
        ],
        "findings": [
            {"finding": str(finding), "paths": [os.fsdecode(name) or "." for name in names]}
            for finding, names in view.found()
            if any(map(is_below, names))
        ],
        "stale": [
            os.fsdecode(name) for name in (view.path(nodeid) for nodeid in view.stale()) if is_below(name)
        ],
        "complete": view.progress().complete,
    }  # fmt: skip


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


class _Walk:
    """One walk from the root of a view to a path, and what was met on it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._walked = b""
        self._hops: list[Hop] = []
        self._notes: list[str] = []
        self._source = view.dataset.root

    def to(self, parts: list[bytes]) -> Explanation:
        """Walk these names from the root."""
        nodeid = ROOT_NODEID
        for name in parts:
            if nodeid >> PLACE_BITS:
                return self._not_shown("a file, not a directory")
            try:
                entered = self._enter(nodeid, name)
            except OSError as error:
                return self._unlistable(error)
            if isinstance(entered, Explanation):
                return entered
            nodeid = entered
        if self._view.is_narrowed(nodeid):
            self._notes.append(_NARROWED)
        if nodeid >> PLACE_BITS == 0:
            try:
                self._view.table(nodeid)
            except OSError as error:
                return self._unlistable(error)
            return self._shown(None)
        return self._shown(self._what_became_of(nodeid))

    def _enter(self, number: int, name: bytes) -> int | Explanation:
        """The nodeid of what is shown under a name of a directory, or why nothing is. Errors: OSError."""
        view = self._view
        directory = view.directory(number)
        place = view.find(number, name)
        kind = None if place is None else view.hidden(number, place)
        self._walked = os.path.join(self._walked, name)
        self._source = _trace(view, directory, name, self._hops)
        if place is None:
            return self._not_shown(_missing(view, directory, name))
        if kind is not None:
            instead = view.stand_in(number, place)
            if kind is Kind.DANGLING and (store := absent_store(view.dataset, directory.path, name)):
                self._notes.append(store)
            if kind is Kind.CLUTTER:
                self._notes.append(f"to show it: --show {shlex.quote(os.fsdecode(name))}")
            reason = view.reason(number, place) or kind.meaning
            if kind is Kind.EXCLUDED:
                reason = _excluded(view, number, name)
            if kind is Kind.SIDE_FILE:
                return self._side_file(reason, instead)
            return self._not_shown(reason, kind, view.path(instead) if instead else None)
        child = view.child(number, place)
        if child is None:
            return number << PLACE_BITS | place
        frozen = view.directory(child).path
        if view.table(number).subdirectories[place] is not None:
            self._compare(frozen)
        self._source = frozen
        return child

    def _side_file(self, reason: str, image: int) -> Explanation:
        """Of what is hidden with its image: why that is hidden."""
        view, number, place = self._view, image >> PLACE_BITS, image & PLACE_MASK
        kind = view.hidden(number, place)
        assert kind is not None, "a side file is hidden after its image"
        why = f"its image is hidden: {view.reason(number, place) or kind.meaning} ({kind})"
        instead = view.stand_in(number, place)
        self._notes.append(f"{why}: {os.fsdecode(view.path(instead))}" if instead else why)
        explanation = self._not_shown(reason, Kind.SIDE_FILE)
        explanation.belongs_to = view.path(image)
        return explanation

    def _compare(self, frozen: bytes) -> None:
        """Of a linked directory the mount serves the one that the link led to when it was frozen."""
        if self._source == frozen or (not self._source and self._notes):  # below what is gone all links are
            return
        now = f"to {os.fsdecode(self._source)}" if self._source else "nowhere"
        self._notes.append(
            f"the link leads {now} by now; the mount serves {os.fsdecode(frozen)}, as when it was frozen: "
            "mount again to follow it"
        )

    def _what_became_of(self, nodeid: int) -> str | None:
        """Why reading a file would fail now, or None."""
        try:
            os.close(self._view.open_source(nodeid))
        except OSError as error:
            if error.errno != errno.ESTALE:
                return f"reading it fails: {error.strerror}"
            cause = error.__cause__
            is_gone = isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENOTDIR)
            became = "vanished" if is_gone else "changed"
            detail = "" if is_gone else f" ({(error.strerror or '').removeprefix('source changed: ')})"
            return (
                f"its source has {became} since it was frozen{detail}: reading it fails with ESTALE; mount again"
            )  # fmt: skip
        return None

    def _shown(self, stale: str | None) -> Explanation:
        reason = "shown: its source is a link's target" if self._hops else "shown: it is no link"
        if stale is not None:
            reason = f"shown, but {stale}"
        return Explanation(
            self._walked or b".", True, reason, None, self._source or None, self._hops, stale=stale, notes=self._notes
        )

    def _unlistable(self, error: OSError) -> Explanation:
        where = os.fsdecode(self._walked) or "the root of the dataset"
        reason = f"the directory {where} cannot be listed ({error.strerror})"
        return self._not_shown(reason, Kind.UNREADABLE)

    def _not_shown(self, reason: str, kind: Kind | None = None, instead: bytes | None = None) -> Explanation:
        return Explanation(
            self._walked or b".", False, reason, kind, None, self._hops, shown_instead=instead, notes=self._notes
        )


def _trace(view: View, directory: Directory, name: bytes, hops: list[Hop]) -> bytes:
    """The real path behind an entry as the dataset is now; appends the links on the way to `hops`."""
    try:
        return view.dataset.links.trace(directory.path, name, hops=hops).path
    except Unresolvable:
        return b""
    except OSError:  # no link
        return os.path.join(directory.path, name)


def _excluded(view: View, number: int, name: bytes) -> str:
    """Which glob hides a name of a directory."""
    rule = None
    with contextlib.suppress(OSError):
        rule = view.dataset.deciding_rule(view.directory(number).path, name, view.path(number))
    if rule is None or not rule.hides:  # it was a directory then, and is none now, or the other way round
        return Kind.EXCLUDED.meaning
    return f"--hide {shlex.quote(os.fsdecode(rule.glob))} was given for it"


def _missing(view: View, directory: Directory, name: bytes) -> str:
    if view.dataset.exists(directory.path, name):
        return "it came into the dataset after this directory was frozen; mount again to see it"
    return "the dataset has no such entry"
