"""How `--layout` is read: which of the directories above a file name its split and its class."""

from __future__ import annotations

import re
from typing import NamedTuple

from symfuse.errors import UsageError
from symfuse.policy import Layout

AUTO = "auto"
_SHORT = {b"class": b"{class}", b"split/class": b"{split}/{class}"}
# From left to right a split takes as little as it can, all else as much: `{class}_{split}` of "small_cat_train".
_PARTS = {b"split": b"(?P<split>.+?)", b"class": b"(?P<class>.+)"}
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
        unknown = next((name for name in found if name not in _PARTS), None)
        if unknown is not None:
            raise _unreadable(text, f"there is no {{{_plain(unknown)}}}", "write {split} and {class}")
        if not found:
            raise _unreadable(text, "it has neither {split} nor {class}", f"write {_EXAMPLE}")
        repeated = next((name for name in _PARTS if found.count(name) > 1), None)
        if repeated is not None:
            raise _unreadable(text, f"it has {{{_plain(repeated)}}} twice", "write * for one of them")
        names = text.strip(b"/").split(b"/")
        if b"" in names:
            raise _unreadable(text, "it has an empty name between two slashes", "leave one of them out")
        self._names = [_compiled(name, text) for name in names]
        self.has_split = b"split" in found
        self.has_class = b"class" in found
        #: Which of the directories above a file names its split, from 1; 0 where there are no splits.
        self.split_level = next((n for n, name in enumerate(names, 1) if b"{split}" in name), 0)

    def match(self, level: int, name: bytes) -> Match | None:
        """The split and the class that a directory of a level, from 1, names; None where it does not fit.

        Below its last level a pattern takes every name.
        """
        if level > len(self._names):
            return Match(None, None)
        match = self._names[level - 1].fullmatch(name)
        if match is None:
            return None
        found = match.groupdict()
        return Match(found.get("split"), found.get("class"))


def layout_of(text: bytes) -> Layout:
    """The layout that the user's words mean. Errors: UsageError."""
    if text == AUTO.encode():
        return Layout()
    pattern = _SHORT.get(text, text)
    Pattern(pattern)
    return Layout(pattern)


def _compiled(name: bytes, text: bytes) -> re.Pattern[bytes]:
    pieces = []
    for token in _TOKEN.finditer(name):
        placeholder, characters, character = token.groups()
        if placeholder is not None:
            pieces.append(_PARTS[placeholder])
        elif characters is not None:
            pieces.append(_set_of(characters))
        elif character in b"{}":
            raise _unreadable(text, f"a {_plain(character)} stands alone", f"write [{_plain(character)}] for itself")
        else:
            pieces.append({b"*": b".*", b"?": b"."}.get(character, re.escape(character)))
    try:
        return re.compile(b"".join(pieces), re.DOTALL)
    except re.error:
        raise _unreadable(text, "its […] cannot be read", "write the characters in their order: [a-z]") from None


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
