"""Whether the dataset's root, and the file systems that its sources lie on, are still there: for `symfuse status`."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import defaultdict

from symfuse.mounts import table
from symfuse.view import View

#: How long an answer waits for the root's file system; storage that hangs must not hang those who ask about it.
PATIENCE_S = 0.3


class Presence:
    """Looks after what a view was frozen from. Safe to use from several threads.

    Of file systems only the table of mounts is asked, which no storage can hang; of the root its attributes, in a
    thread of its own.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._mountpoints: dict[int, set[bytes]] = {}  # device -> where it was mounted at first; under _lock
        self._looking: _Look | None = None  # under _lock

    def __call__(self) -> dict[str, list[str]]:
        """Paths that are `missing`, and those that do not answer (`hanging`)."""
        root = os.fsdecode(self._view.dataset.root)
        missing = [os.fsdecode(path) for path in self._unmounted()]
        look = self._look()
        # One look that hangs costs all who ask meanwhile this once: they are answered by whoever reads the requests.
        if not look.done.wait(max(0.0, look.begun_s + PATIENCE_S - time.monotonic())):
            return {"missing": missing, "hanging": [root]}
        return {"missing": missing if look.is_there else [root, *missing], "hanging": []}

    def _unmounted(self) -> list[bytes]:
        """Where file systems of sources were mounted that are mounted there no more. What is new is remembered.

        By place and not by device number: the next file system may get the number, and the same one another when it is
        mounted again. A device that the table of mounts does not name (a btrfs subvolume's) is not judged.
        """
        mounted: defaultdict[int, set[bytes]] = defaultdict(set)
        for entry in table.mounts():
            mounted[entry.device].add(entry.mountpoint)
        places_now = set().union(*mounted.values())
        with self._lock:
            for device in self._view.devices():
                if device in mounted:
                    self._mountpoints.setdefault(device, mounted[device])
            gone = [places for places in self._mountpoints.values() if not places & places_now]
        return sorted(min(places) for places in gone)

    def remember(self) -> None:
        """Look where the sources that are frozen by now are mounted."""
        self._unmounted()

    def _look(self) -> _Look:
        """The look at the root that is under way, or a new one: one that hangs is not joined by others."""
        with self._lock:
            if self._looking is None or self._looking.done.is_set():
                self._looking = _Look(self._view)
            return self._looking


class _Look:
    """One look at the root of the dataset."""

    def __init__(self, view: View) -> None:
        self.is_there = True
        self.done = threading.Event()
        self.begun_s = time.monotonic()
        self._view = view
        threading.Thread(target=self._run, name="presence", daemon=True).start()

    def _run(self) -> None:
        callers, thread = self._view.dataset.callers, threading.get_native_id()
        callers.add(thread)  # a path that leads into our own mount by now is refused
        try:
            self.is_there = stat.S_ISDIR(self._view.dataset.root_status().st_mode)
        except OSError as error:
            self.is_there = error.errno in (errno.EACCES, errno.EPERM)  # nothing is known
        finally:
            callers.discard(thread)
            self.done.set()
