"""How it is said that TensorFlow does not take a file."""

from __future__ import annotations


class Refused(Exception):
    """TensorFlow does not decode this; the text says why, in one line. `is_cut`: it ends too early."""

    def __init__(self, words: str, *, is_cut: bool = False) -> None:
        super().__init__(words)
        self.is_cut = is_cut


class Undecided(Exception):
    """To find out would take longer than a worker has."""


class Unread(Refused):
    """It is of no format that TensorFlow knows."""

    def __init__(self) -> None:
        super().__init__("it is of no format that is known")
