"""What fusermount and libfuse say when they refuse, and what helps.

The words are those of `util/fusermount.c`, `lib/mount_util.c` and `lib/mount.c` of libfuse 2.9 to 3.17; they are never
translated.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from symfuse.errors import FuseUnavailable, MountpointError, SymfuseError

CURE_NO_DEVICE = "run 'modprobe fuse' as root; in a container, start it with --device /dev/fuse"
CURE_NO_ACCESS = "ask root for 'chmod 666 /dev/fuse', which is the usual mode of this device"
CURE_NO_CAPABILITY = "in a container, start it with --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
CURE_NO_HELPER = "ask root to install it: apt-get install fuse3"
CURE_NO_MTAB = "ask root to run 'ln -sf /proc/self/mounts /etc/mtab'"
CURE_WRAPPER = "it seems to be a wrapper: put the directory of the real fusermount3 first in PATH"
CURE_NEW_PRIVILEGES = (
    "start it without them: no --security-opt no-new-privileges in a container, no NoNewPrivileges= in systemd"
)
CURE_EXHAUSTED = "memory, processes or descriptors have run out: see 'ulimit -a'"
CURE_UNKNOWN = "see fusermount3(1), and as root dmesg(1)"


class Refusal(NamedTuple):
    """Words that are part of what was said (a regular expression), and what helps against it."""

    words: str
    cure: str
    kind: type[SymfuseError] = FuseUnavailable


#: The first whose words are found counts.
REFUSALS = (
    Refusal(
        r"option allow_\w+ only allowed",
        "ask root to add the line user_allow_other to that file, or leave out --allow-other",
    ),
    Refusal(
        r"too many FUSE filesystems mounted",
        "clear dead mounts with 'symfuse umount --dead', or ask root to raise mount_max in that file",
    ),
    Refusal(
        r"mounting over filesystem type \S+ is forbidden",
        "name a mountpoint on another file system, below /tmp for example",
        MountpointError,
    ),
    Refusal(
        r"mount failed: Permission denied",
        "AppArmor or SELinux seems to forbid it: name a mountpoint below your home, /mnt, /media or /tmp, where Ubuntu "
        f"allows it; {CURE_NO_CAPABILITY}",
    ),
    Refusal(r"failed to unmount .*: Permission denied", "AppArmor or SELinux seems to forbid it: unmount it as root"),
    Refusal(r"mount failed: No such device", CURE_NO_DEVICE),
    Refusal(
        r"mount failed: No space left on device", "ask root to raise the limit of mounts, fs.mount-max in sysctl(8)"
    ),
    Refusal(r"mountpoint .* not owned by user", "use a directory that you own", MountpointError),
    Refusal(r"no write access to mountpoint", "use a directory that you may write to", MountpointError),
    Refusal(r"failed to open /dev/fuse: Permission denied", CURE_NO_ACCESS),
    Refusal(r"failed to open /dev/fuse|device not found", CURE_NO_DEVICE),
    Refusal(r"could not determine username", "use a uid that /etc/passwd knows; in an image, make one with useradd"),
    Refusal(r"/etc/mtab|fuse lock file|getting lock|/bin/u?mount:", CURE_NO_MTAB),
    Refusal(r"not empty|failed to open mountpoint", "use an empty directory of your own", MountpointError),
    Refusal(
        r"(access|bad|invalid|chdir to) ?mount ?point|mountpoint .* (is not a directory|is no longer)|mountpoint moved"
        r"|failed to chdir|current directory|mount failed: (No such file|Not a directory|Too many levels)",
        "use an empty directory of your own, below /tmp for example",
        MountpointError,
    ),
    Refusal(r"failed to exec fusermount", CURE_NO_HELPER),
    Refusal(r"old style mounting|sending file descriptor|no connection came back|is not seen here", CURE_WRAPPER),
    Refusal(
        r"(unknown|invalid|unrecognized) option|extra arguments", "it is too old, or another program: update fuse3"
    ),
    Refusal(
        r"fork|setuid: |waitpid|sigprocmask|child terminated|allocate|socketpair|mount failed: Cannot allocate",
        CURE_EXHAUSTED,
    ),
    Refusal(r"clone namespace|mounts private|bind parent", CURE_NO_CAPABILITY),
)
#: The kernel let the helper do nothing that only root may do.
POWERLESS = r"(mount failed|failed to unmount .*): Operation not permitted"


def explained(said: str, path: str | None, *, deed: str = "mount") -> SymfuseError:
    """The error for what a helper (or libfuse, without a `path`) said when it was asked to do a deed."""
    words = one_line(said, path)
    who = path or "libfuse"
    if re.search(POWERLESS, words) or (os.geteuid() == 0 and "failed to exec fusermount" in words):
        return _powerless(path, words, deed=deed)
    cause = f"{who} refused to {deed} ({words or 'it gave no reason'})"
    for refusal in REFUSALS:
        if re.search(refusal.words, words):
            return refusal.kind(cause, refusal.cure)
    return FuseUnavailable(cause, CURE_UNKNOWN)


def is_known(said: str) -> bool:
    """Whether these are words of fusermount's own."""
    return any(re.search(words, said) for words in (POWERLESS, *(refusal.words for refusal in REFUSALS)))


def _powerless(path: str | None, words: str, *, deed: str) -> FuseUnavailable:
    """The error for a helper that the kernel treats like any program of an ordinary user."""
    if os.geteuid() != 0 and path is not None:  # root's own powers are no others than the helper's
        if _has_no_new_privileges():
            return FuseUnavailable(f"{path} may not become root: no new privileges", CURE_NEW_PRIVILEGES)
        if not is_setuid(path):
            cure = f"ask root to reinstall it (apt-get install --reinstall fuse3), or for 'chmod u+s {path}'"
            return FuseUnavailable(f"{path} is not setuid root", cure)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            cure = "ask root to install fuse3 on another file system, or to remount this one with the option suid"
            return FuseUnavailable(f"{path} lies on a file system that is mounted nosuid", cure)
    return FuseUnavailable(f"the kernel does not let {path or 'libfuse'} {deed} ({words})", CURE_NO_CAPABILITY)


def is_setuid(path: str) -> bool:
    """Whether a program is meant to run as root, whoever starts it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid == 0 and bool(status.st_mode & stat.S_ISUID)


def _has_no_new_privileges() -> bool:
    with open("/proc/self/status", "rb") as lines:
        return b"\nNoNewPrivs:\t1\n" in lines.read()


def one_line(said: str, path: str | None = None) -> str:
    """What was said, without the names that each line begins with."""
    names = r"^(\S*fusermount3?|fuse" + (f"|{re.escape(path)}" if path else "") + r"): "
    return " ".join(re.sub(names, "", line.strip()) for line in said.splitlines() if line.strip())
