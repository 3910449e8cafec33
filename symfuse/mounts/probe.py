"""One question that may hang for ever, asked in a process of its own: `probe.py SECONDS QUESTION …` (`child.script`).

Whoever waits for a file system whose server hangs cannot always be killed; so nobody waits but this process, and who
started it (`bounded.py`) goes on without it. It starts in 10 ms, because it loads nothing of ours. It ends itself some
seconds after its deadline, as far as a signal can end it.

What it writes to its stdout are reports: a kind, the length of what follows, and that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import sys

#: The questions.
EXCHANGE, RESOLVE, LIST, UNMOUNT = "exchange", "resolve", "list", "unmount"

#: The path was walked: what comes now depends on the mount's server alone.
WALKED = b"W"
#: What was asked for.
ANSWER = b"A"
#: An errno, as text.
FAILED = b"F"
#: Another mount stands at the path.
OTHER = b"O"
#: The mount lives, but its server listens where we do not see it. With the errno.
NO_LISTENER = b"N"

HEAD = struct.Struct("<cI")
#: Of a question or an answer through a socket: the command, or the errno of the answer (`channel.py`).
NUMBER = struct.Struct("<I")
#: `struct ucred`: pid, uid, gid. Source: unix(7).
CREDENTIALS = struct.Struct("<3i")
#: What a server of a stacked mount listens at, in its place.
SOCKET = b"control"
#: As of umount2. Source: sys/mount.h
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
#: Where a command says how long its buffer is. Source: `_IOC_SIZE` in asm-generic/ioctl.h.
SIZE_SHIFT, SIZE_MASK = 16, (1 << 14) - 1
#: As many links as the kernel follows.
MAX_HOPS = 40
#: More than any packet.
PACKET_BYTES = 1 << 16
#: The name of a process that asks.
NAME = "symfuse-probe"
#: How long after the deadline the alarm comes.
GRACE_S = 2


def main(arguments: list[str]) -> None:
    """Ask, and report."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    seconds, question, *rest = arguments
    with open("/proc/self/comm", "wb") as name:  # what `umount` says where a probe that hangs keeps the mount busy
        name.write(NAME.encode())
    signal.alarm(int(float(seconds)) + GRACE_S)
    try:
        if question == RESOLVE:
            report(ANSWER, resolve(os.fsencode(rest[0])))
        elif question == LIST:
            with os.scandir(os.fsencode(rest[0])) as entries:
                next(entries, None)
            report(ANSWER)
        elif question == UNMOUNT:
            mountpoint, mount_id, is_lazy = rest
            unmount(os.fsencode(mountpoint), int(mount_id), MNT_DETACH if is_lazy else 0)
        else:
            mountpoint, mount_id, command, *listener = rest
            exchange(os.fsencode(mountpoint), int(mount_id), int(command), listener, read_all(0))
    except OSError as error:
        report(FAILED, b"%d" % (error.errno or errno.EIO))


def report(kind: bytes, text: bytes = b"") -> None:
    """One report to whoever started us."""
    os.write(1, HEAD.pack(kind, len(text)) + text)


def read_all(fd: int) -> bytes:
    """All that a pipe holds until its end."""
    pieces = []
    while piece := os.read(fd, PACKET_BYTES):
        pieces.append(piece)
    return b"".join(pieces)


def resolve(path: bytes) -> bytes:
    """The real path that an absolute one leads to; what is not there is taken as it is. Errors: OSError.

    Not `os.path.realpath`, which looks at each component with lstat: of the root of a mount that asks its server.
    """
    real, left, hops = b"/", path.split(b"/")[::-1], 0
    while left:
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            real = os.path.dirname(real)
            continue
        real = os.path.join(real, name)
        try:
            text = os.readlink(real)
        except OSError:  # no link
            continue
        hops += 1
        if hops > MAX_HOPS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        real = b"/" if text.startswith(b"/") else os.path.dirname(real)
        left += text.split(b"/")[::-1]
    return real


def exchange(mountpoint: bytes, mount_id: int, command: int, listener: list[str], payload: bytes) -> None:
    """One round with the server of this very mount: an ioctl, or a packet to its socket.

    `listener` is the socket's place, and the users to whom both may belong (`1000,0`). Errors: OSError.
    """
    fd = opened(mountpoint)
    if mount_of(fd) != mount_id:
        report(OTHER)
        return
    report(WALKED)
    if not listener:
        buffer = bytearray(payload.ljust(command >> SIZE_SHIFT & SIZE_MASK, b"\0"))  # the kernel copies so many
        fcntl.ioctl(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd), command, buffer)
        report(ANSWER, bytes(buffer))
        return
    place, uids = listener
    try:
        reply = through_socket(os.fsencode(place), NUMBER.pack(command) + payload, frozenset(map(int, uids.split(","))))
    except PermissionError:
        raise
    except OSError as error:
        os.fstatvfs(fd)  # a dead mount says so here
        report(NO_LISTENER, b"%d" % (error.errno or errno.EIO))
        return
    (number,) = NUMBER.unpack_from(reply)
    if number:
        raise OSError(number, os.strerror(number))
    report(ANSWER, reply[NUMBER.size :])


def unmount(mountpoint: bytes, mount_id: int, flags: int) -> None:
    """Unmount this very mount, whatever its server does meanwhile: nothing is asked of it. Errors: OSError."""
    try:
        import ctypes  # noqa: PLC0415 - no other question needs it, and some builds of Python lack it

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError):
        raise OSError(errno.ENOSYS, "this Python cannot call libc") from None
    # From the directory above it: no rename further up can put another mount in its place.
    directory, name = os.path.split(mountpoint)
    os.chdir(directory)
    fd = opened(name)
    if mount_of(fd) != mount_id:
        report(OTHER)
        return
    report(WALKED)
    os.close(fd)  # it would keep the mount busy
    if libc.umount2(name, ctypes.c_int(UMOUNT_NOFOLLOW | flags)):
        raise OSError(ctypes.get_errno(), "umount2")
    report(ANSWER)


def opened(directory: bytes) -> int:
    """A descriptor of a directory that asks nothing of a mount there, only of what lies above it. Errors: OSError."""
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def mount_of(fd: int) -> int:
    """The id of the mount that a descriptor lies on. Source: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:")), -1)


def through_socket(place: bytes, packet: bytes, trusted: frozenset[int]) -> bytes:
    """The answer to a packet. Errors: OSError; PermissionError where place or server are not of a trusted user's."""
    import socket  # noqa: PLC0415 - few mounts need it

    fd = opened(place)
    # To look at what is mounted there would ask it.
    if mount_of(fd) != mount_of(opened(os.path.dirname(place))) or os.fstat(fd).st_uid not in trusted:
        raise PermissionError(errno.EPERM, "the place is another user's")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(b"/proc/self/fd/%d/%s" % (fd, SOCKET))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(credentials)[1] not in trusted:
            raise PermissionError(errno.EPERM, "the server is another user's")
        connection.send(packet)
        reply = connection.recv(PACKET_BYTES)
    if len(reply) < NUMBER.size:
        raise ConnectionResetError(errno.ECONNRESET, "the server ended")
    return reply


if __name__ == "__main__":
    main(sys.argv[1:])
