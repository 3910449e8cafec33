"""The kernel's autofs with a daemon of the tests' own: directories that are mounted when somebody opens them.

`lstat` sees the trigger, an empty directory with numbers of its own; `open` sees what the daemon then mounts over it.
Source: `Documentation/filesystems/autofs.rst` and `linux/auto_fs.h`, protocol 5.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounting import REPOSITORY, TIMEOUT_S

#: `struct autofs_v5_packet`: version, type, token, device, inode, uid, gid, pid, tgid, length of the name, the name.
_PACKET = struct.Struct("=iiIIQIIIII256s4x")
_READY, _FAIL = 0x9360, 0x9361
_MS_BIND, _MNT_DETACH = 4096, 2

_libc = ctypes.CDLL(None, use_errno=True)


class Automounts:
    """Triggers below directories, and the process that answers them; ends with `close`.

    `direct` maps each place to the directory that is bound there. `indirect` maps a directory to its keys, each with
    the directory that is bound there; the keys can be listed before anything is mounted ("ghosts").
    """

    def __init__(
        self, *, direct: dict[Path, Path] | None = None, indirect: dict[Path, dict[str, Path]] | None = None
    ) -> None:
        places = {
            "direct": {os.fspath(at): os.fspath(source) for at, source in (direct or {}).items()},
            "indirect": {
                os.fspath(at): {key: os.fspath(source) for key, source in keys.items()}
                for at, keys in (indirect or {}).items()
            },
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(places)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=REPOSITORY,
            start_new_session=True,  # whoever is in the daemon's process group mounts nothing by looking
        )
        self._wait()

    def expire(self) -> None:
        """Unmount all that was mounted, as a daemon does with what was idle for long."""
        assert self._process.stdin is not None
        self._process.stdin.write("expire\n")
        self._process.stdin.flush()
        self._wait()

    def close(self) -> None:
        """Unmount everything, the triggers too."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)
        self._process.stdout.close()

    def _wait(self) -> None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        assert readable, "the daemon does not answer"
        assert self._process.stdout.readline() == "done\n"


# -- the daemon --------------------------------------------------------------------------------------------------------


@dataclass
class _Trigger:
    """One autofs mount. `sources` has one key, the empty one, if it is direct."""

    at: bytes
    sources: dict[str, bytes]
    pipe: int
    root: int

    @classmethod
    def mount(cls, kind: str, at: bytes, sources: dict[str, bytes]) -> _Trigger:
        ours, kernels = os.pipe2(os.O_CLOEXEC)
        options = f"fd={kernels},pgrp={os.getpgrp()},minproto=5,maxproto=5,{kind}"
        _checked(_libc.mount(b"automount", at, b"autofs", 0, options.encode()))
        os.close(kernels)
        for key in sources:
            os.makedirs(os.path.join(at, os.fsencode(key)), exist_ok=True)
        return cls(at, sources, ours, os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def place(self, key: str) -> bytes:
        return os.path.join(self.at, os.fsencode(key)).rstrip(b"/")

    def answer(self) -> None:
        """Mount what is asked for."""
        _, _, token, *_, length, name = _PACKET.unpack(os.read(self.pipe, _PACKET.size))
        key = name[:length].decode() if list(self.sources) != [""] else ""
        found = self.sources.get(key)
        mounted = found is not None and _libc.mount(found, self.place(key), b"", _MS_BIND, b"") == 0
        fcntl.ioctl(self.root, _READY if mounted else _FAIL, token)

    def expire(self) -> None:
        for key in self.sources:
            if _mounted_at(self.place(key)) not in (b"autofs", None):
                _checked(_libc.umount2(self.place(key), 0))

    def close(self) -> None:
        self.expire()
        os.close(self.root)
        _checked(_libc.umount2(self.at, _MNT_DETACH))
        os.close(self.pipe)


def _mounted_at(path: bytes) -> bytes | None:
    """The type of what is mounted at a path, the topmost."""
    with open("/proc/self/mountinfo", "rb") as lines:
        kinds = [line.partition(b" - ")[2].split(b" ")[0] for line in lines if line.split(b" ")[4] == path]
    return kinds[-1] if kinds else None


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """`python -m tests.filesystems.automount PLACES`: serve until standard input ends."""
    places = json.loads(sys.argv[1])
    triggers = [_Trigger.mount("direct", at.encode(), {"": of.encode()}) for at, of in places["direct"].items()]
    for at, keys in places["indirect"].items():
        triggers.append(_Trigger.mount("indirect", at.encode(), {key: of.encode() for key, of in keys.items()}))
    print("done", flush=True)
    while True:
        readable, _, _ = select.select([0, *(trigger.pipe for trigger in triggers)], [], [])
        for trigger in triggers:
            if trigger.pipe in readable:
                trigger.answer()
        if 0 in readable:
            told = os.read(0, 4096)
            for trigger in reversed(triggers):
                trigger.expire() if told else trigger.close()
            if not told:
                return
            print("done", flush=True)


if __name__ == "__main__":
    main()
