"""Whose word counts, and whose files: root's and our own, nobody else's. Source: user_namespaces(7)."""

from __future__ import annotations

import os

#: The one line of uid_map where every user has a number: outside of all user namespaces.
_EVERYBODY = ["0", "0", "4294967295"]
#: What the kernel shows for a user or group without a number, unless /proc says otherwise.
OVERFLOW = 65534


def trusted_uids() -> frozenset[int]:
    """Root and ourselves, by the numbers that the kernel shows for the owner of a file or the peer of a socket.

    In a user namespace the overflow number stands for everybody who has none there: it is nobody's then, not even ours.
    """
    uids = {0, os.geteuid()}
    return frozenset(uids if everybody_has_a_number() else uids - {_overflow_uid()})


def possible_uids() -> frozenset[int]:
    """The same, and in a user namespace the overflow number, too: root outside is shown by it, as all others are.

    For what could be root's as well as anybody's, and where no more can be known: the directories above our own.
    """
    return trusted_uids() | (frozenset() if everybody_has_a_number() else {_overflow_uid()})


def everybody_has_a_number() -> bool:
    """False in a user namespace, where numbers mean other users than outside."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as lines:
            return [line.split() for line in lines] == [_EVERYBODY]
    except FileNotFoundError:  # a kernel without user namespaces
        return True
    except OSError:
        return False


def _overflow_uid() -> int:
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return OVERFLOW
