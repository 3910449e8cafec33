"""How `--layout` is read: which of the directories above a file name its split and its class."""

from __future__ import annotations

import re
from typing import NamedTuple

from symfuse.errors import UsageError
from symfuse.policy import Layout

AUTO = "auto"
_SHORT = {b"class": b"{class}", b"split/class": b"{split}/{class}"}
_SPLIT, _CLASS = b"split", b"class"
_PLACEHOLDERS = (_SPLIT, _CLASS)
#: A placeholder, a set, any other character of a pattern.
_TOKEN = re.compile(rb"\{([^{}]*)\}|(\[!?\]?[^\]]*\])|(.)", re.DOTALL)
_EXAMPLE = "for example {split}/{class}, images/{split} or */{split}/{class}"


class Match(NamedTuple):
    """What a pattern finds in the name of one directory."""

    split: bytes | None
    category: bytes | None


class Pattern:
    """A path of directories from the root in which `{split}` and `{class}` stand for names or parts of them.

    Errors: UsageError.
    """

    def __init__(self, text: bytes) -> None:
        found = [token[1] for token in _TOKEN.finditer(text) if token[1] is not None]
        unknown = next((name for name in found if name not in _PLACEHOLDERS), None)
        if unknown is not None:
            raise _unreadable(text, f"there is no {{{_plain(unknown)}}}", "write {split} and {class}")
        if not found:
            raise _unreadable(text, "it has neither {split} nor {class}", f"write {_EXAMPLE}")
        repeated = next((name for name in _PLACEHOLDERS if found.count(name) > 1), None)
        if repeated is not None:
            raise _unreadable(text, f"it has {{{_plain(repeated)}}} twice", "write * for one of them")
        names = text.strip(b"/").split(b"/")
        if b"" in names:
            raise _unreadable(text, "it has an empty name between two slashes", "leave one of them out")
        self._names = [_NamePattern(name, text) for name in names]
        self.has_split = _SPLIT in found
        self.has_class = _CLASS in found
        #: Which of the directories above a file names its split, from 1; 0 where there are no splits.
        self.split_level = next((n for n, name in enumerate(names, 1) if b"{split}" in name), 0)

    def match(self, level: int, name: bytes) -> Match | None:
        """The split and the class that a directory of a level, from 1, names; None where it does not fit.

        Below its last level a pattern takes every name.
        """
        if level > len(self._names):
            return Match(None, None)
        return self._names[level - 1].match(name)


def layout_of(text: bytes) -> Layout:
    """The layout that the user's words mean. Errors: UsageError."""
    if text == AUTO.encode():
        return Layout()
    pattern = _SHORT.get(text, text)
    Pattern(pattern)
    return Layout(pattern)


class _Run(NamedTuple):
    """Some characters, each of which a pattern says alone, as a regular expression of so many bytes."""

    expression: re.Pattern[bytes]
    length: int


class _Wildcard(NamedTuple):
    """`*` or a placeholder: which, and how many characters it takes at least."""

    placeholder: bytes | None
    at_least: int


class _NamePattern:
    """What a pattern says of one name.

    Matched in time that grows with the length of pattern and name and no faster, which a regular expression of several
    wildcards does not promise: names are those of strangers.
    """

    def __init__(self, name: bytes, text: bytes) -> None:
        self._parts: list[_Run | _Wildcard] = []
        run: list[bytes] = []
        for token in _TOKEN.finditer(name):
            placeholder, characters, character = token.groups()
            if placeholder is not None or character == b"*":
                self._end_run(run, text)
                self._parts.append(_Wildcard(placeholder, at_least=0 if placeholder is None else 1))
            elif characters in (b"[]", b"[!]"):
                raise _unreadable(text, f"its set {_plain(characters)} is empty", "write the characters that it means")
            elif characters is not None:
                run.append(_set_of(characters))
            elif character in b"{}":
                raise _unreadable(
                    text, f"a {_plain(character)} stands alone", f"write [{_plain(character)}] for itself"
                )
            else:
                run.append(b"." if character == b"?" else re.escape(character))
        self._end_run(run, text)

    def _end_run(self, run: list[bytes], text: bytes) -> None:
        """Errors: UsageError."""
        if run:
            try:
                self._parts.append(_Run(re.compile(b"".join(run), re.DOTALL), len(run)))
            except re.error:
                raise _unreadable(
                    text, "its […] cannot be read", "write the characters in their order: [a-z]"
                ) from None
            run.clear()

    def match(self, name: bytes) -> Match | None:
        """From left to right a split takes as little as it can, all else as much; None where the name does not fit."""
        ends = self._ends(name)
        if 0 not in ends[0]:
            return None
        found: dict[bytes | None, bytes] = {}
        start = 0
        for part, possible in zip(self._parts, ends[1:], strict=True):
            if isinstance(part, _Run):
                start += part.length
                continue
            end = (
                min(at for at in possible if at >= start + part.at_least)
                if part.placeholder == _SPLIT
                else max(possible)
            )
            found[part.placeholder] = name[start:end]
            start = end
        return Match(found.get(_SPLIT), found.get(_CLASS))

    def _ends(self, name: bytes) -> list[set[int]]:
        """For each part, and behind the last, where in a name it can begin so that all from there on fits."""
        found = [{len(name)}]
        for part in reversed(self._parts):
            behind = found[-1]
            if isinstance(part, _Wildcard):
                begins = {*range(max(behind, default=-1) - part.at_least + 1)}
            else:
                begins = {at - part.length for at in behind if part.expression.fullmatch(name, at - part.length, at)}
            found.append(begins)
        return found[::-1]


def _set_of(characters: bytes) -> bytes:
    """`[…]` and `[!…]` of globs, in which no character but `-` means anything."""
    inner = characters[1:-1]
    is_negated = inner.startswith(b"!")
    inner = re.sub(rb"([\\\[\]^&~|])", rb"\\\1", inner.removeprefix(b"!"))
    return b"[" + b"^" * is_negated + inner + b"]"


def _unreadable(text: bytes, cause: str, cure: str) -> UsageError:
    return UsageError(f"--layout {_plain(text)}: {cause}", cure)


def _plain(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
