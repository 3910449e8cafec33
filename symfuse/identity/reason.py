"""Why a file is no image that loads: said by a worker in a few bytes, put into words where people read it.

What a worker says is a finding of FINDING_BYTES, and the decoder's own words behind it where there are any. A worker
meets hostile files, so its words count for nothing but words: a few printable characters, in a sentence of ours.
"""

from __future__ import annotations

import enum
import struct

from symfuse.identity.verdict import FINDING_BYTES, Verdict
from symfuse.lines import Lines
from symfuse.policy import Judge

#: The most that a decoder may say.
MAX_WORDS_BYTES = 80

#: The verdict and, in the place of a digest: the reason, whose it is, pixels, the most of them, a number for the words.
_LAYOUT = struct.Struct("<BBBQIH")
_MOST = (1 << 64) - 1, (1 << 32) - 1
_PRINTABLE = frozenset(range(0x20, 0x7F))
_VERDICTS = frozenset(Verdict)


class Reason(enum.IntEnum):
    """Why a file is broken, or no image at all. One byte."""

    #: Nothing is known; what comes from a cache of before reads so, too.
    UNKNOWN = 0
    EMPTY = 1
    LFS_POINTER = 2
    LINK_TEXT = 3
    WEB_PAGE = 4
    TEXT = 5
    NO_IMAGE = 6
    #: Its pixels, and how many may be.
    TOO_LARGE = 7
    #: It ends before the image does. Words: what the decoder says.
    TRUNCATED = 8
    #: The words name the format.
    UNREAD_FORMAT = 9
    #: The words are the decoder's.
    SAID = 10
    #: It ended its decoder more than once.
    DEADLY = 11


_SENTENCES = {
    Reason.UNKNOWN: "the image cannot be decoded",
    Reason.EMPTY: "no image: the file is empty",
    Reason.LFS_POINTER: "no image: a git-lfs pointer, whose content was not fetched: run git lfs pull",
    Reason.LINK_TEXT: "no image: a text that looks like a link unpacked as a file (git with core.symlinks=false, a zip "
    "archive unpacked without links)",
    Reason.WEB_PAGE: "no image: a web page (HTML)",
    Reason.TEXT: "no image: a text",
    Reason.NO_IMAGE: "no image: its content is of no format that is known",
    Reason.TOO_LARGE: "the image has {pixels:,} pixels, and {judge} takes no more than {most:,}",
    Reason.TRUNCATED: "the image is truncated: its file ends too early",
    Reason.UNREAD_FORMAT: "{judge} does not read this format",
    Reason.SAID: "{judge} cannot decode the image",
    Reason.DEADLY: "the image ends its decoder: it crashes, or takes too much time",
}
_WITH_WORDS = {
    Reason.TRUNCATED: "the image is truncated ({judge}: {words})",
    Reason.UNREAD_FORMAT: "{judge} does not read {words}",
    Reason.SAID: "{judge} cannot decode the image: {words}",
}
_JUDGES = {1: Judge.PILLOW, 2: Judge.TENSORFLOW}
_CODES = {judge: code for code, judge in _JUDGES.items()}
_NAMES = {Judge.PILLOW: "Pillow", Judge.TENSORFLOW: "TensorFlow"}


def refusal(
    verdict: Verdict, reason: Reason, *, judge: Judge = Judge.PILLOW, pixels: int = 0, most: int = 0, words: str = ""
) -> bytes:
    """What a worker says of a file that is broken, or no image. Of `words` only the printable are kept."""
    pixels, most = min(pixels, _MOST[0]), min(most, _MOST[1])
    said = bytes(
        byte if byte in _PRINTABLE else ord("?") for byte in " ".join(words.split()).encode("ascii", "replace")
    )
    return _LAYOUT.pack(verdict, reason, _CODES[judge], pixels, most, 0) + said[:MAX_WORDS_BYTES]


def is_finding(said: bytes) -> bool:
    """Whether bytes are what a worker may say of a file: a finding, and printable words where those have a place."""
    if len(said) < FINDING_BYTES or said[0] not in _VERDICTS:
        return False
    if len(said) == FINDING_BYTES:
        return True
    is_bounded = len(said) <= FINDING_BYTES + MAX_WORDS_BYTES and _PRINTABLE.issuperset(said[FINDING_BYTES:])
    return is_bounded and said[0] in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE) and said[1] in _WITH_WORDS


class Words:
    """The words in findings, each kept once and known by a number: a million broken files need no more than findings.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lines = Lines()

    def packed(self, said: bytes) -> bytes | None:
        """A finding of FINDING_BYTES that holds the number of its words, None if that is none."""
        if not is_finding(said):
            return None
        if said[0] not in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE):
            return said
        *rest, _number = _LAYOUT.unpack(said[:FINDING_BYTES])
        return _LAYOUT.pack(*rest, self._lines.number(said[FINDING_BYTES:].decode("ascii")))

    def sentence(self, packed: bytes) -> str:
        """Why the file is broken, in one line, of what `packed` gave."""
        _verdict, code, whose, pixels, most, number = _LAYOUT.unpack(packed)
        reason = Reason(code) if code in _SENTENCES else Reason.UNKNOWN
        words = self._lines[number]
        sentence = _WITH_WORDS[reason] if words and reason in _WITH_WORDS else _SENTENCES[reason]
        judge = _NAMES[_JUDGES.get(whose, Judge.PILLOW)]
        return sentence.format(judge=judge, pixels=pixels, most=most, words=words)
