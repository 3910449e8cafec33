"""How a name is written where people read it: one line, no control characters, whatever bytes it has."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    r"""Control characters, line separators and undecodable bytes as escapes (`\n`, `\x1b`, `\xff`)."""
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def _is_plain(character: str) -> bool:
    return character == " " or not unicodedata.category(character).startswith(("C", "Z"))


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that was not UTF-8, as surrogateescape keeps it
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
