"""A FUSE file system of the tests' own, with the faults that real ones have: a dataset to mount symfuse over.

    with Source(directory, mountpoint, ino="moves") as source:      # a process of its own serves `directory`
        source.rules({"do": "block", "op": "READ", "name": "*.png"})
        …                                                           # whoever reads one now waits
        source.wait_for_blocked(1)
        source.release()

The kernel cannot write to it: tests change `directory`, and see the change at once unless `timeout_s` says otherwise.
Only root can mount it. A rule is a dict:

    op      the request it is for: LOOKUP, GETATTR, OPEN, READ, OPENDIR, READDIR, READLINK, STATFS
    name    a pattern for the last name of the path ("*" if left out; the root's name is "")
    do      "block" (wait until `release`), "fail" (with `errno`, a name such as "EIO"), or "sleep" (`ms`, then answer)
    times   how often (without end if left out)

Options of a source, and what they imitate:

    ino        "kept": the directory's own numbers. "moves": another number each time the kernel has forgotten an inode,
               as sshfs, default mergerfs and every libfuse file system without `use_ino` do. "equal": one for all files
    times      "exact"; "seconds": whole seconds from the second look on, as ext4 with inodes of 128 bytes;
               or a number of seconds since 1970 that all three times of every file have
    size       "exact"; "zero": no size is known before a file is read, as in /proc
    types      False: readdir says DT_UNKNOWN
    twice      True: readdir names everything twice, as union file systems have done
    timeout_s  how long the kernel may keep names and attributes
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import json
import os
import select
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import wire
from tests.support.mounting import REPOSITORY, TIMEOUT_S

Rule = dict[str, Any]

_READ_BYTES = 1 << 17
_LISTED = struct.Struct("<QQII")
_DIRECT_IO = 1
_MS_RDONLY, _MNT_DETACH = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


class Source:
    """The process that serves one, from the tests' side: a context manager that mounts and unmounts it."""

    def __init__(self, directory: Path, mountpoint: Path, **options: Any) -> None:
        self.directory, self.mountpoint = directory, mountpoint
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The server: for those who kill it, or stop it with SIGSTOP."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Mount; returns when the mount answers."""
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
            _checked(_libc.mount(b"source", os.fsencode(self.mountpoint), b"fuse.source", _MS_RDONLY, options.encode()))
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(fd), os.fspath(self.directory), json.dumps(self._options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                pass_fds=[fd],
                cwd=REPOSITORY,
            )
        finally:
            os.close(fd)
        os.stat(self.mountpoint)

    def stop(self) -> None:
        """Unmount, whoever uses it; returns when the server has ended and everybody who waited for it has an error."""
        _libc.umount2(os.fsencode(self.mountpoint), _MNT_DETACH)
        if self._process is not None:
            self._process.kill()  # ends the connection, and with it all that waits
            self._process.wait(TIMEOUT_S)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def rules(self, *rules: Rule) -> None:
        """These rules from now on, and none else. What waits by an earlier one goes on waiting."""
        self._ask(rules=rules)

    def release(self) -> None:
        """Answer all that waits, and forget every rule."""
        self._ask(release=True)

    def blocked(self) -> int:
        """How many requests wait for `release`."""
        return int(self._ask()["blocked"])

    def requests(self) -> dict[str, int]:
        """Requests by operation so far."""
        return dict(self._ask()["requests"])

    def wait_for_blocked(self, number: int) -> None:
        """Until at least so many requests wait."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.blocked() < number:
            assert time.monotonic() < deadline, f"fewer than {number} requests wait"
            time.sleep(0.002)

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        assert readable, "the source does not answer"
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """What the kernel knows by one nodeid: a path, as in every libfuse file system that works by names."""

    path: bytes
    ino: int
    lookups: int = 0
    was_shown: bool = False


@dataclass(frozen=True)
class _Request:
    unique: int
    opcode: int
    nodeid: int
    body: bytes


_NAMES = {
    getattr(wire, name): name
    for name in (
        "LOOKUP",
        "GETATTR",
        "READLINK",
        "OPEN",
        "READ",
        "STATFS",
        "RELEASE",
        "OPENDIR",
        "READDIR",
        "RELEASEDIR",
    )
}


class _Server:
    def __init__(self, fd: int, directory: bytes, options: dict[str, Any]) -> None:
        self._fd = fd
        self._ino, self._times = options.get("ino", "kept"), options.get("times", "exact")
        self._zero, self._types = options.get("size") == "zero", options.get("types", True)
        self._twice, self._timeout_s = options.get("twice", False), options.get("timeout_s", 0.0)
        self._lock = threading.Lock()
        # All of these under _lock.
        self._nodes = {1: _Node(directory, os.lstat(directory).st_ino, lookups=1)}
        self._by_path = {directory: 1}
        self._last_nodeid = 1
        self._last_ino = 1 << 20
        self._rules: list[Rule] = []
        self._released = threading.Event()
        self._blocked = 0
        self._requests: dict[str, int] = {}
        self._handlers = {
            wire.INIT: self._init,
            wire.LOOKUP: self._lookup,
            wire.GETATTR: self._getattr,
            wire.READLINK: lambda request: os.readlink(self._path(request)),
            wire.OPEN: self._open,
            wire.READ: self._read,
            wire.RELEASE: self._release,
            wire.OPENDIR: self._opendir,
            wire.READDIR: self._readdir,
            wire.RELEASEDIR: self._releasedir,
            wire.STATFS: self._statfs,
        }
        self._open_files: dict[int, int | list[tuple[bytes, int, int]]] = {}  # fh: descriptor, or a listing

    # The tests' questions, one JSON object a line.

    def listen(self) -> None:
        for line in sys.stdin:
            question = json.loads(line)
            with self._lock:
                if question.get("release"):
                    self._rules = []
                    self._released.set()
                    self._released = threading.Event()
                if "rules" in question:
                    self._rules = [{"name": "*", "times": -1, **rule} for rule in question["rules"]]
                answer = {"blocked": self._blocked, "requests": self._requests}
            print(json.dumps(answer), flush=True)

    # The kernel's.

    def serve(self) -> None:
        while True:
            try:
                raw = os.read(self._fd, _READ_BYTES + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # unmounted, or aborted
            _, opcode, unique, nodeid, *_ = wire.IN_HEADER.unpack_from(raw)
            request = _Request(unique, opcode, nodeid, raw[wire.IN_HEADER.size :])
            if opcode in (wire.FORGET, wire.BATCH_FORGET):
                self._forget(request)
            elif opcode == wire.INTERRUPT:
                pass  # a server that hangs does not hear
            elif (rule := self._rule(request)) is None:
                self._answer(request)
            elif rule["do"] == "fail":
                self._reply(request, getattr(errno, rule["errno"]))
            else:
                threading.Thread(target=self._answer_later, args=(request, rule), daemon=True).start()

    def _rule(self, request: _Request) -> Rule | None:
        operation = _NAMES.get(request.opcode)
        if operation is None:
            return None
        with self._lock:
            self._requests[operation] = self._requests.get(operation, 0) + 1
            path = request.body[:-1] if operation == "LOOKUP" else self._nodes[request.nodeid].path
            name = "" if request.nodeid == 1 and operation != "LOOKUP" else os.fsdecode(os.path.basename(path))
            for rule in self._rules:
                if rule["op"] == operation and rule["times"] and fnmatch.fnmatchcase(name, rule["name"]):
                    rule["times"] -= 1
                    return rule
        return None

    def _answer_later(self, request: _Request, rule: Rule) -> None:
        if rule["do"] == "sleep":
            time.sleep(rule["ms"] / 1000)
        else:
            with self._lock:
                self._blocked += 1
                released = self._released
            released.wait()
            with self._lock:
                self._blocked -= 1
        self._answer(request)

    def _answer(self, request: _Request) -> None:
        handler = self._handlers.get(request.opcode)
        if handler is None:
            self._reply(request, errno.ENOSYS)
            return
        try:
            payload = handler(request)
        except OSError as error:
            self._reply(request, error.errno or errno.EIO)
        else:
            self._reply(request, 0, payload)

    def _reply(self, request: _Request, error: int, payload: bytes = b"") -> None:
        try:
            os.write(
                self._fd, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), -error, request.unique) + payload
            )
        except OSError as failed:
            if failed.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits any longer
                raise

    def _path(self, request: _Request) -> bytes:
        with self._lock:
            return self._nodes[request.nodeid].path

    def _init(self, _request: _Request) -> bytes:
        # Without large or parallel anything: each READ is at most 128 KiB, names are looked up one by one.
        return struct.pack("<IIIIHHIIHHI", 7, 31, _READ_BYTES, 0, 64, 48, 4096, 1, 0, 0, 0) + bytes(28)

    def _lookup(self, request: _Request) -> bytes:
        path = os.path.join(self._path(request), request.body[:-1])
        status = os.lstat(path)
        with self._lock:
            nodeid = self._by_path.get(path)
            if nodeid is None:
                nodeid = self._last_nodeid = self._last_nodeid + 1
                self._nodes[nodeid] = _Node(path, self._number(status))
                self._by_path[path] = nodeid
            node = self._nodes[nodeid]
            node.lookups += 1
            attributes = self._attributes(node, status)
        seconds, nanoseconds = self._validity()
        return struct.pack("<QQQQII", nodeid, 0, seconds, seconds, nanoseconds, nanoseconds) + attributes

    def _getattr(self, request: _Request) -> bytes:
        status = os.lstat(self._path(request))
        with self._lock:
            attributes = self._attributes(self._nodes[request.nodeid], status)
        return struct.pack("<QII", *self._validity(), 0) + attributes

    def _validity(self) -> tuple[int, int]:
        return int(self._timeout_s), int(self._timeout_s % 1 * 1e9)

    def _number(self, status: os.stat_result) -> int:
        if self._ino == "equal" and stat.S_ISREG(status.st_mode):
            return 4242
        if self._ino == "moves":
            self._last_ino += 1
            return self._last_ino
        return status.st_ino

    def _attributes(self, node: _Node, status: os.stat_result) -> bytes:
        regular = stat.S_ISREG(status.st_mode)
        times = [status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns]
        if self._times == "seconds" and node.was_shown:
            times = [each - each % 1_000_000_000 for each in times]
        elif isinstance(self._times, int) and regular:
            times = [self._times * 1_000_000_000] * 3
        node.was_shown = True
        ino = status.st_ino if self._ino == "kept" else node.ino
        return wire.ATTR.pack(
            ino, 0 if self._zero and regular else status.st_size, status.st_blocks,
            *(each // 1_000_000_000 for each in times), *(each % 1_000_000_000 for each in times),
            status.st_mode, status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def _forget(self, request: _Request) -> None:
        if request.opcode == wire.FORGET:
            forgotten = [(request.nodeid, struct.unpack_from("<Q", request.body)[0])]
        else:
            count, _ = struct.unpack_from("<II", request.body)
            forgotten = list(struct.iter_unpack("<QQ", request.body[8 : 8 + 16 * count]))
        with self._lock:
            for nodeid, times in forgotten:
                node = self._nodes[nodeid]
                node.lookups -= times
                if node.lookups == 0 and nodeid != 1:
                    del self._nodes[nodeid], self._by_path[node.path]

    def _open(self, request: _Request) -> bytes:
        fd = os.open(self._path(request), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._open_files[fd] = fd
        return struct.pack("<QII", fd, _DIRECT_IO if self._zero else 0, 0)

    def _read(self, request: _Request) -> bytes:
        fh, offset, size = struct.unpack_from("<QQI", request.body)
        return os.pread(fh, size, offset)

    def _release(self, request: _Request) -> bytes:
        (fh,) = struct.unpack_from("<Q", request.body)
        del self._open_files[fh]
        os.close(fh)
        return b""

    def _opendir(self, request: _Request) -> bytes:
        with os.scandir(self._path(request)) as found:
            listing = [(each.name, each.inode(), stat.S_IFMT(os.lstat(each.path).st_mode)) for each in found]
        if self._twice:
            listing += listing
        fh = os.open("/", os.O_PATH | os.O_CLOEXEC)  # a number that no file has meanwhile
        self._open_files[fh] = listing
        return struct.pack("<QII", fh, 0, 0)

    def _readdir(self, request: _Request) -> bytes:
        fh, offset, size = struct.unpack_from("<QQI", request.body)
        listing = self._open_files[fh]
        assert isinstance(listing, list)
        reply = b""
        for place, (name, ino, kind) in enumerate(listing[offset:], offset + 1):
            # As libfuse does without `use_ino`: the number of an entry that was not looked up is not known.
            number = ino if self._ino == "kept" else 0xFFFFFFFF
            record = _LISTED.pack(number, place, len(name), kind >> 12 if self._types else 0) + name
            record += bytes(-len(record) % 8)
            if len(reply) + len(record) > size:
                break
            reply += record
        return reply

    def _releasedir(self, request: _Request) -> bytes:
        return self._release(request)

    def _statfs(self, request: _Request) -> bytes:
        found = os.statvfs(self._path(request))
        return struct.pack(
            "<QQQQQIIII24x", found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0,
        )  # fmt: skip


def main() -> None:
    """`python -m tests.filesystems.source FD DIRECTORY OPTIONS`: serve a mounted connection until it ends."""
    fd, directory, options = int(sys.argv[1]), os.fsencode(sys.argv[2]), json.loads(sys.argv[3])
    server = _Server(fd, directory, options)
    threading.Thread(target=server.listen, daemon=True).start()
    server.serve()
    os._exit(0)  # not to wait for threads that wait for the tests


if __name__ == "__main__":
    main()
