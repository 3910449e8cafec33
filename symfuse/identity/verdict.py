"""What is known of a file once it was decoded: the words in which workers answer and the cache remembers."""

from __future__ import annotations

import enum

DIGEST_BYTES = 16
#: Stands for the digest of what has none. No BLAKE3 digest that anyone will see is all zeros.
NO_DIGEST = bytes(DIGEST_BYTES)


class Verdict(enum.IntEnum):
    """Whether a file is an image that can be loaded. One byte."""

    #: It could not be read, or nobody has tried.
    UNKNOWN = 0
    OK = 1
    BROKEN = 2
    NOT_AN_IMAGE = 3
    #: It loads, but nearly any bytes would in that format: an image only if its name says so. Seen in findings alone.
    RARE = 4


#: A verdict and the digest of the pixels, as they travel and as they are kept.
FINDING_BYTES = 1 + DIGEST_BYTES


def finding(verdict: Verdict, digest: bytes = NO_DIGEST) -> bytes:
    """Both in FINDING_BYTES bytes."""
    return bytes([verdict]) + digest
