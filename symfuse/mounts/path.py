"""What `symfuse.mounted` hands out: the path of a mount, which can be asked."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from symfuse import control
from symfuse.mounts import channel, live
from symfuse.mounts.unmount import find

#: A list of all that is hidden may be long in the making.
LIST_TIMEOUT_S = 60.0


class HiddenEntry(NamedTuple):
    """An entry of the dataset that the mount does not show. `shown_instead` is a path on the mount, or None.

    `reason` says more than the kind, where more is known: why an image is broken. Of a label, a mask or the like
    `belongs_to` is its image, which is hidden, too.
    """

    kind: str
    path: str
    shown_instead: str | None
    reason: str | None
    belongs_to: str | None


class MountedPath(str):
    """The path of a mountpoint: text like any other, which also answers for the mount there."""

    __slots__ = ()

    def status(self) -> dict[str, Any]:
        """What `symfuse status --json` says of the mount. Errors: NotMounted when nothing is mounted there."""
        return live.status(find(os.fsencode(self)))

    def hidden(self) -> list[HiddenEntry]:
        """All entries that the mount hides, of what is read by now: all, if `status()["frozen"]["complete"]`.

        Errors: NotMounted when nothing is mounted there; SymfuseError, OSError when its server does not answer.
        """
        told = channel.ask(find(os.fsencode(self)), control.HIDDEN, path="", timeout_s=LIST_TIMEOUT_S)
        return [HiddenEntry(**entry) for entry in told["hidden"]]
