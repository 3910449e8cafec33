"""A hostile FUSE server that calls itself symfuse: `python -m tests.support.impostor FD RECORD MANNER [ARGUMENT]`.

It serves the connection FD, which whoever starts it has mounted with the subtype symfuse, and writes to RECORD what
it is asked: a line for each request, `opcode uid command line of the process`. MANNER is how it answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import stat
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symfuse.progress import Progress
from tests.support import wire
from tests.support.mounting import REPOSITORY, TIMEOUT_S, User

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
#: Requests that the kernel makes for nobody.
UNASKED = (wire.INIT, wire.FORGET, wire.BATCH_FORGET, wire.RELEASEDIR, wire.DESTROY, wire.INTERRUPT)
BUFFER_BYTES = (1 << 14) - 8
ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nsymfuse: all is well\u202e\u2028"


def a_status(**fields: Any) -> dict[str, Any]:
    """What a server of ours would say of itself."""
    frozen = Progress(directories=1, files=1, content_bytes=1, complete=True).as_dict()
    counts = {"hidden": {"dangling": 1}, "findings": {"leak": 2}}
    examples = {"examples": {"dangling": ["a"]}, "finding_examples": {"leak": []}}
    status: dict[str, Any] = {
        **dict.fromkeys(("source", "mountpoint", "io"), ""),
        **{name: [] for name in ("stale_examples", "missing", "hanging")},
        **dict.fromkeys(("stale", "bytes_read"), 0),
        "backend": "kernel",
        "pid": os.getpid(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "uid": os.geteuid(),
        "log": None,
        "uptime_s": 1.5,
        "requests": {},
        "frozen": frozen | counts | examples,
    }
    return status | fields


def answer(manner: str, argument: str, question: bytes) -> bytes:
    """What is said to any question."""
    bomb = packed_bomb() if manner == "bomb" else b""
    asks_more = question.lstrip().startswith(b'{"id"')
    answers: dict[str, Callable[[], bytes]] = {
        "garbage": lambda: b"\xff\0\x7fELF" + os.urandom(200),
        "deep": lambda: b'{"ok":' + b"[" * 8000 + b"]" * 8000 + b"}",
        "wrong types": lambda: in_band(a_status(pid="1", frozen=[], requests=None)),
        "huge numbers": lambda: in_band(a_status(pid=1 << 62, uptime_s=1e308, bytes_read=10**4000)),
        "other fields": lambda: in_band({"pid": 1, "anything": True}),
        "another's process": lambda: in_band(a_status(pid=int(argument))),
        "escapes": lambda: in_band(
            a_status(io=ESCAPES, log=ESCAPES, missing=[ESCAPES], requests={ESCAPES: 1}, backend=ESCAPES)
        ),
        "an error with escapes": lambda: json.dumps(
            {"error": {"kind": "busy", "message": ESCAPES, "cure": ESCAPES}}
        ).encode(),
        "claim": lambda: b"+x" if asks_more else json.dumps({"long": {"id": "x", "bytes": 1 << 30}}).encode(),
        "bomb": lambda: (
            b"+" + bomb[json.loads(question.rstrip(b"\0"))["offset"] :][: BUFFER_BYTES - 1]
            if asks_more
            else json.dumps({"long": {"id": "x", "bytes": len(bomb)}}).encode()
        ),
    }
    return answers[manner]()


@functools.cache
def packed_bomb() -> bytes:
    """64 MiB of nothing, in 64 KiB."""
    return zlib.compress(bytes(1 << 26), 9)


def in_band(told: dict[str, Any]) -> bytes:
    return json.dumps({"ok": told}).encode()


MANNERS = (
    *("silent", "garbage", "deep", "wrong types", "huge numbers", "other fields", "another's process", "escapes"),
    *("an error with escapes", "claim", "bomb"),
)


def main() -> None:
    """The hostile server."""
    fd, record, manner = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    argument = sys.argv[4] if len(sys.argv) > 4 else ""
    with open(record, "a", encoding="utf-8") as lines:
        while True:
            try:
                raw = os.read(fd, 1 << 20)
            except OSError:  # unmounted
                return
            _, opcode, unique, _, uid, _, pid, _, _ = wire.IN_HEADER.unpack_from(raw)
            body = raw[wire.IN_HEADER.size :]
            if opcode not in UNASKED:
                lines.write(f"{opcode} {uid} {command_line(pid)}\n")
                lines.flush()
            reply = reply_to(opcode, body, manner, argument)
            if reply is not None:
                number, payload = reply
                with contextlib.suppress(OSError):  # whoever asked has gone
                    os.write(fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), -number, unique) + payload)
            if opcode == wire.INIT:
                lines.write("ready\n")
                lines.flush()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").replace("\n", " ")
    except OSError:
        return "?"


def reply_to(opcode: int, body: bytes, manner: str, argument: str) -> tuple[int, bytes] | None:
    """An errno and a payload; None for no reply."""
    is_silent = manner == "silent" or (manner == "a way in" and os.path.exists(argument))
    if opcode in (wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT) or (is_silent and opcode != wire.INIT):
        return None
    attr = wire.ATTR.pack(1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o777, 2, 0, 0, 0, 512, 0)
    payloads = {
        wire.INIT: struct.pack("<IIII", 7, 31, 0, 0) + bytes(wire.INIT_OUT - 16),
        wire.GETATTR: bytes(16) + attr,
        wire.OPENDIR: bytes(wire.OPEN_OUT),
        **dict.fromkeys((wire.READDIR, wire.RELEASEDIR, wire.ACCESS), b""),
    }
    if manner == "a way in":  # to a directory of any name, until the file ARGUMENT is there
        payloads[wire.LOOKUP] = struct.pack("<QQ", 2, 0) + bytes(24) + attr
    if opcode == wire.IOCTL and manner in MANNERS:
        said = answer(manner, argument, body[32:])
        payloads[wire.IOCTL] = bytes(wire.IOCTL_OUT) + said[:BUFFER_BYTES].ljust(BUFFER_BYTES, b"\0")
    return (0, payloads[opcode]) if opcode in payloads else (errno.ENOENT, b"")


# -- for tests, as root ------------------------------------------------------------------------------------------------


@dataclass
class Impostor:
    """A mount at `path` that calls itself symfuse, of `user`, and open to everybody."""

    path: Path
    user: User
    record: Path
    process: subprocess.Popen[bytes]

    def asked(self, uid: int) -> list[str]:
        """What commands of this checkout, run by a user, have asked of it; other runs on this machine may, too."""
        lines = [line.split(" ", 2) for line in self.record.read_text().splitlines() if line != "ready"]
        return [
            " ".join(line)
            for line in lines
            if line[1] == str(uid) and ("/mounts/probe.py" not in line[2] or str(REPOSITORY) in line[2])
        ]

    def is_mounted(self) -> bool:
        return any(line.split()[4] == str(self.path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@contextlib.contextmanager
def impostor(path: Path, user: User, manner: str, *arguments: str, source: str = "/data") -> Iterator[Impostor]:
    """Mount one as `mount -o user_id=…,allow_other` and a `fuse.conf` with user_allow_other would let the user."""
    assert user.uid is not None
    record = user.home / f"{path.name}.record"
    record.touch()
    os.chown(record, user.uid, -1)
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id={user.uid},group_id={user.uid},allow_other"
    flags = ctypes.c_ulong(MS_RDONLY | MS_NOSUID | MS_NODEV)
    if libc.mount(source.encode(), os.fsencode(path), b"fuse.symfuse", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    command = [user.python, "-m", "tests.support.impostor", str(fd), str(record), manner, *arguments]
    process = subprocess.Popen(
        command, pass_fds=[fd], cwd="/", env={**os.environ, **user.environment}, user=user.uid, group=user.gid,
        extra_groups=[],
    )  # fmt: skip
    os.close(fd)
    made = Impostor(path, user, record, process)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while "ready" not in record.read_text():
            assert process.poll() is None, "the impostor has ended"
            assert time.monotonic() < deadline, "the impostor does not serve"
            time.sleep(0.01)
        yield made
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


if __name__ == "__main__":
    main()
