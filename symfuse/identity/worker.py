"""The process that decodes images for symfuse, one after the other, and can be lost at any time.

Decoders are large C libraries that meet hostile files here. A worker therefore has nothing to lose: it gets open
descriptors over a socket and knows no path; it may hold but a few files and write none; memory is bounded, and so is
CPU time for each image. It ends when the process that started it does, however that ends.

    child.py symfuse.identity.worker SOCKET      (the number of an inherited descriptor; stdin: the parent's lifeline)

First it sends READY. Then, for each EXAMINE with a descriptor attached, it sends a finding. It is the kernel that keeps
messages apart (SOCK_SEQPACKET).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import sys
import time
from collections.abc import Callable

from symfuse.identity.verdict import Verdict, finding

READY = b"ready"
EXAMINE = b"?"

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
    from symfuse.identity import image  # noqa: PLC0415 - whoever starts workers shall not load Pillow's decoders

    image.prepare()
    serve(image.examine)


def serve(examine: Examine, *, cpu_s: int = CPU_S, memory_bytes: int = MEMORY_BYTES) -> None:
    """Confine this process and answer until the other end closes. Tests put decoders of their own here."""
    _die_with_parent()
    _confine(memory_bytes)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)  # libtiff writes what it thinks of each file
    with socket.socket(fileno=int(sys.argv[1])) as parent, contextlib.suppress(ConnectionError):
        parent.send(READY)
        while True:
            message, fds, _flags, _address = socket.recv_fds(parent, 1, 1)
            if not message:
                return
            _limit_cpu(cpu_s)
            try:
                # Without a descriptor (too many are open) nothing can be said of the file.
                reply = examine(fds[0]) if fds else finding(Verdict.UNKNOWN)
            finally:
                for fd in fds:
                    os.close(fd)
            parent.send(reply)


def _die_with_parent() -> None:
    """Be killed by SIGIO as soon as the parent's end of stdin closes, in the middle of a decoder too.

    Not PR_SET_PDEATHSIG: that counts from the *thread* that started us, and would need ctypes.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)


def _confine(memory_bytes: int) -> None:
    os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # if the machine's memory ends, let the kernel take a worker
    # Not RLIMIT_NPROC: decoders of AVIF work in threads.
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        limit = _at_most(most, resource.getrlimit(what)[1])
        resource.setrlimit(what, (limit, limit))


def _limit_cpu(seconds: int) -> None:
    """From now on. The kernel ends the process (SIGXCPU) in the middle of a decoder, too."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(int(time.process_time()) + 1 + seconds, hard), hard))


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
