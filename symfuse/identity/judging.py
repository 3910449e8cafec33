"""For whom a file is broken: what Pillow says of it, and what TensorFlow would."""

from __future__ import annotations

import os

from symfuse.identity import image, tensorflow
from symfuse.identity.digest import pieces
from symfuse.identity.reason import Reason, refusal
from symfuse.identity.sniff import HEAD_BYTES, format_of, is_text
from symfuse.identity.tensorflow.refused import Refused, Undecided, Unread
from symfuse.identity.verdict import Verdict, finding
from symfuse.policy import Judge


def prepare() -> None:
    """Load all that is needed: a worker cannot open further files once it is confined."""
    image.prepare()


def examine(fd: int, judge: Judge) -> bytes:
    """The finding on an open file, as `image.examine` gives it, of a judge.

    What TensorFlow takes and Pillow does not is OK without a digest.

    Errors: MemoryError, so that a process with all its memory at hand can try again.
    """
    found = image.examine(fd)
    verdict = Verdict(found[0])
    is_refused = verdict in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE)
    if judge is Judge.PILLOW or verdict is Verdict.UNKNOWN or (judge is Judge.BOTH and is_refused):
        return found
    try:
        _check(fd, is_pillows=verdict is Verdict.OK)
    except (OSError, Undecided):
        return finding(Verdict.UNKNOWN)
    except Refused as refused:
        return _refusal(fd, found, refused)
    return finding(Verdict.OK) if is_refused else found


def _check(fd: int, *, is_pillows: bool) -> None:
    """Errors: Refused when TensorFlow does not take the file; Undecided; OSError; MemoryError."""
    if os.fstat(fd).st_size > tensorflow.MAX_BYTES or not tensorflow.knows(os.pread(fd, tensorflow.HEAD_BYTES, 0)):
        raise Unread
    tensorflow.check(b"".join(pieces(fd)), is_pillows=is_pillows)


def _refusal(fd: int, found: bytes, refused: Refused) -> bytes:
    """What is said of a file that TensorFlow does not take, and of which Pillow has `found` something."""
    is_image = found[0] in (Verdict.OK, Verdict.BROKEN)
    verdict = Verdict.BROKEN if is_image else Verdict.NOT_AN_IMAGE
    head = os.pread(fd, HEAD_BYTES, 0)
    if not isinstance(refused, Unread):
        if not is_image and is_text(head):
            return found  # a text that begins as an image does
        reason = Reason.TRUNCATED if refused.is_cut else Reason.SAID
        return refusal(verdict, reason, judge=Judge.TENSORFLOW, words=str(refused))
    is_pillows = found[0] in (Verdict.OK, Verdict.RARE)
    form = format_of(head) or (is_pillows and (image.format_name(fd) or "this format"))
    if not form:
        return found  # of no format for either: what Pillow's finding says of it is all
    return refusal(verdict, Reason.UNREAD_FORMAT, judge=Judge.TENSORFLOW, words=form)
