"""The process that outlives a killed server: `child.py symfuse.mounts.guardian MOUNTPOINT`.

The kernel answers from its caches without asking the server. Of a mount whose server is dead it would go on to show
the directories that were listed before, and fail only the others, which os.walk swallows: a part would pass for the
whole. The caches can be dropped through the connection alone, and that ends with its last descriptor. So the guardian
holds one, too. When the server ends and leaves the mount behind, the guardian drops what the kernel remembers and
closes the connection: whoever waits for an answer gets ENOTCONN then, and so does everybody who asks from then on.

The server talks to its guardian through a socket, which is the guardian's stdin: the descriptor, with the nodeids of
the mount's root, is all that is ever sent. The socket's end is the server's. Neither of them polls the connection: its
wait queue wakes each poller at each request.
Source: `fuse_notify` in `fs/fuse/dev.c`, `fuse_dentry_revalidate` in `fs/fuse/dir.c`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable

from symfuse import child
from symfuse.fuse import abi
from symfuse.fuse.abi import Notify
from symfuse.mounts.connection import is_over
from symfuse.mounts.visible import visible

#: How long a guardian may take to end after its server has let go of it. Measured: 2 ms.
END_TIMEOUT_S = 2.0
#: So many guardians of one mount are replaced when they are killed.
MAX_REPLACED = 10
#: Directories whose listings are dropped one by one on kernels before 6.16, which cannot drop all names at once. Our
#: directories are numbered from 1 on; those that there are not cost 1 µs each.
MAX_DIRECTORIES = 1 << 20
#: More than any mount has.
MAX_ROOTS = 8
#: The guardian ends with its server, and by nothing else.
IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
#: Have the kernel forget all names, from Linux 6.16 on.
FORGET_NAMES = abi.OUT_HEADER.pack(abi.OUT_HEADER.size, Notify.INC_EPOCH, 0)


class Guardian:
    """The guardian of this process's mount. Its descriptor becomes readable when it ends before it was told to.

    Errors: OSError when it cannot be started.
    """

    def __init__(self, mountpoint: bytes, *, is_silent: bool) -> None:
        """`is_silent`: it must not hold our stderr, because somebody may wait for its end."""
        self._process: subprocess.Popen[bytes]
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*child.command("symfuse.mounts.guardian", alone=True), mountpoint],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL if is_silent else None,
                    cwd="/",
                    env=child.environment(),
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def watch(self, connection: int, roots: Iterable[int]) -> None:
        """Guard the mount of this descriptor of /dev/fuse; `roots` are the nodeids by which its root is known.

        Errors: OSError when it cannot be handed over.
        """
        known = tuple(roots)
        with contextlib.suppress(ConnectionError):  # it has ended; our descriptor says so, too
            socket.send_fds(self._socket, [struct.pack(f"<{len(known)}Q", *known)], [connection])

    def close(self) -> int:
        """Let it end: at once when the mount is gone, else after it has done its work. Returns its status, as Popen."""
        self._socket.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()


# -- the guardian's own process --------------------------------------------------------------------------------------


def main() -> int:
    """The guardian. Returns its exit status."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as server:
        roots, fds, _flags, _address = socket.recv_fds(server, MAX_ROOTS * 8, 1)
        if not fds:  # it ended before there was a mount
            return 0
        messages = [FORGET_NAMES, *(_forget(nodeid) for (nodeid,) in struct.iter_unpack("<Q", roots))]
        server.recv(1)  # its end, and nothing else, is ever read here
        # First of all, whatever the end was like: where the server was process 1 of a container, we are killed next.
        known = [_notify(fds[0], message) for message in messages]
    if is_over(fds[0]):
        return 0
    if not all(known):
        forget_listings(fds[0])
    os.close(fds[0])
    _say(f"the server of {visible(sys.argv[1])} ended without unmounting: whatever is read there now fails")
    return 0


def forget_listings(connection: int) -> None:
    """What can be done before Linux 6.16, which cannot forget all names at once: nothing can be listed any more."""
    for nodeid in range(MAX_DIRECTORIES):
        _notify(connection, _forget(nodeid))


def _forget(nodeid: int) -> bytes:
    """Have the kernel forget attributes and contents of a node: of a directory, its listing."""
    body = abi.NOTIFY_INVAL_INODE_OUT.pack(nodeid, 0, 0)
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), Notify.INVAL_INODE, 0) + body


def _notify(connection: int, message: bytes) -> bool:
    """False when the kernel does not know such a notification."""
    try:
        os.write(connection, message)
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.ENOSYS)  # ENOENT: nothing was remembered
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} symfuse[{os.getpid()}] ERROR {text}\n"
        os.write(2, line.encode("utf-8", "surrogateescape"))
