"""What an answer must look like, as data, and whether one does: whoever is asked may say anything.

A shape is a type (`str`, `bool`), an enum of words, a `Number`, a list of one shape (`[str]`), the named fields of an
object (`{"path": str}`: these, and no others), `Table` or `Maybe`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Union

Shape = Union[type, "Number", "Table", "Maybe", list["Shape"], dict[str, "Shape"]]


class Number(NamedTuple):
    """A number from `least` to `most`; a fraction only where `is_whole` is False."""

    least: int = 0
    most: int = (1 << 64) - 1
    is_whole: bool = True


class Table(NamedTuple):
    """An object with any number of fields, whose names and values have a shape each."""

    names: Shape
    values: Shape


class Maybe(NamedTuple):
    """This shape, or null."""

    shape: Shape


def fits(value: object, shape: Shape) -> bool:
    """Whether a value, as `json.loads` makes it, has a shape."""
    match shape:
        case Maybe(inner):
            found = value is None or fits(value, inner)
        case Number(least, most, is_whole):
            numbers = (int,) if is_whole else (int, float)  # of which bool is none
            found = isinstance(value, numbers) and type(value) in numbers and least <= value <= most
        case [item]:
            found = isinstance(value, list) and all(fits(each, item) for each in value)
        case Table(names, values):
            found = isinstance(value, dict) and all(fits(k, names) and fits(v, values) for k, v in value.items())
        case dict():
            found = (
                isinstance(value, dict)
                and value.keys() == shape.keys()
                and all(fits(value[name], field) for name, field in shape.items())
            )
        case type() if issubclass(shape, enum.StrEnum):
            found = isinstance(value, str) and value in set(shape)
        case _:
            found = type(value) is shape
    return found
