"""The process that decodes images for symfuse, one after the other, and can be lost at any time.

Decoders are large C libraries that meet hostile files here. A worker therefore has nothing to lose: it is handed
descriptors, open for reading, over a socket, and can open nothing itself; memory is bounded, and so is CPU time for
each image. What else it gives up is in `confine.py`. It ends when the process that started it does, however that ends.

    child.py symfuse.identity.worker SOCKET JUDGE

SOCKET is the number of an inherited descriptor, JUDGE a word of `policy.Judge`, stdin the parent's lifeline.

First it sends READY (`ready`). Then, for each EXAMINE with a number and a descriptor attached, it sends that number and
a finding. It is the kernel that keeps messages apart (SOCK_SEQPACKET).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.abc
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Callable

from symfuse.identity import confine
from symfuse.identity.verdict import Verdict, finding
from symfuse.policy import Judge

READY = b"ready"
EXAMINE = b"?"
#: How long the number of a request is.
NUMBER_BYTES = 4
#: What READY says of limits: that all are ours, or that somebody else has set a lower one.
ALL_OURS, STARVED = b"+", b"-"

#: Address space of a worker. Measured, an image of MAX_PIXELS: 0.7 GiB from PNG or JPEG, 1.2 from progressive JPEG, 2.8
#: from WebP.
MEMORY_BYTES = 4 << 30
#: CPU time for one image. Measured, an image of MAX_PIXELS: 9 s from WebP, some 65 s from JPEG 2000.
CPU_S = 120
#: Descriptors: three standard ones, the socket, the image, and what libtiff duplicates.
MAX_FILES = 8
NICENESS = 5

#: The finding on an open file.
Examine = Callable[[int], bytes]


def main() -> None:
    """The entry of the process."""
    from symfuse.identity import judging  # noqa: PLC0415 - whoever starts workers shall not load Pillow's decoders

    judging.prepare()
    serve(functools.partial(judging.examine, judge=Judge(sys.argv[2])))


def serve(examine: Examine, *, cpu_s: int = CPU_S, memory_bytes: int = MEMORY_BYTES) -> None:
    """Confine this process and answer until the other end closes. Tests put decoders of their own here."""
    with open(os.devnull, "wb") as null:
        for number in (1, 2):  # libtiff writes what it thinks of each file
            os.dup2(null.fileno(), number)
    parent = socket.socket(fileno=int(sys.argv[1]))
    os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # if the machine's memory ends, let the kernel take a worker
    limits = ALL_OURS if _limit(memory_bytes) else STARVED
    steps = [confine.change_user()]
    _die_with_parent()  # as the user that we are from now on
    steps += confine.shut_in()
    with parent, contextlib.suppress(ConnectionError):
        parent.send(READY + limits + confine.in_words(steps).encode())
        _answer(parent, examine, cpu_s)


def _answer(parent: socket.socket, examine: Examine, cpu_s: int) -> None:
    """Answer until the other end closes. Errors: ConnectionError; whatever `examine` raises."""
    missed = _MissedImports()
    sys.meta_path.insert(0, missed)
    while True:
        message, fds, _flags, _address = socket.recv_fds(parent, len(EXAMINE) + NUMBER_BYTES, 1)
        if not message:
            return
        _limit_cpu(cpu_s)
        try:
            # Without a descriptor (too many are open) nothing can be said of the file.
            reply = examine(fds[0]) if fds else finding(Verdict.UNKNOWN)
        finally:
            for fd in fds:
                os.close(fd)
        if missed.names and reply[0] in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE):
            reply = finding(Verdict.UNKNOWN)
        missed.names.clear()
        parent.send(message[len(EXAMINE) :] + reply)


class _MissedImports(importlib.abc.MetaPathFinder):
    """Notes what a decoder tries to import that `image.prepare` has not loaded: nothing can be opened any more.

    That is our fault, and no verdict on a file must come from it.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, name: str, _path: object, _target: object = None, /) -> None:
        """Note it, and leave it to the others to fail."""
        self.names.append(name)


def _die_with_parent() -> None:
    """Be killed by SIGIO as soon as the parent's end of stdin closes, in the middle of a decoder too.

    Not PR_SET_PDEATHSIG: that counts from the *thread* that started us, and would need ctypes.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)


def _limit(memory_bytes: int) -> bool:
    """Limit what this process can take. False when it has less than that already, of memory or of CPU time."""
    has_memory = _has(memory_bytes)
    # Not RLIMIT_NPROC: decoders of AVIF work in threads.
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        limit = _at_most(most, resource.getrlimit(what)[1])
        resource.setrlimit(what, (limit, limit))
    return has_memory and resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY


def _has(memory_bytes: int) -> bool:
    """Whether so much memory can be had: limits of others and a kernel that promises no more than it has prevent it."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def _limit_cpu(seconds: int) -> None:
    """From now on. The kernel ends the process (SIGXCPU) in the middle of a decoder, too."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(int(time.process_time()) + 1 + seconds, hard), hard))


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
