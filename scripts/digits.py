"""Write scikit-learn's 1,797 handwritten digits as a dataset of links, with the mess that real datasets have.

    python scripts/digits.py DIRECTORY

makes DIRECTORY/store, which holds every image once, and DIRECTORY/dataset, which consists of links into it:
train/CLASS and val/CLASS. The demo trains on it, and tests/keras builds its datasets with the same functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Every fifth image is for validation.
VALIDATION_EVERY = 5
#: The class whose training images lie in a directory of their own, linked as a whole.
LINKED_CLASS = 8


@dataclass(frozen=True)
class Digit:
    """One image of the store."""

    number: int
    label: int
    path: Path

    @property
    def split(self) -> str:
        """Which subset of the dataset shows it."""
        return "val" if self.number % VALIDATION_EVERY == 0 else "train"


@dataclass(frozen=True)
class Messy:
    """A dataset of links, and one example of each kind of entry in it."""

    root: Path
    digits: Sequence[Digit]
    mess: Mapping[str, Path]


def images(limit: int | None = None) -> Iterable[tuple[int, NDArray[Any]]]:
    """Label and 8 by 8 grey image of each digit."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - seconds, and only here

    found = load_digits()
    # The darkest of the 17 shades is 16; as bytes, white on black.
    pixels = (found.images * 255 / 16).round().astype("uint8")
    return zip(found.target[:limit].tolist(), pixels[:limit], strict=True)


def write_store(store: Path, *, limit: int | None = None) -> list[Digit]:
    """Write each digit as a PNG file below `store`, all in one directory but those of LINKED_CLASS for training."""
    from PIL import Image  # noqa: PLC0415

    digits = []
    for number, (label, pixels) in enumerate(images(limit)):
        digit = Digit(number, label, store / f"{number:04}.png")
        if label == LINKED_CLASS and digit.split == "train":
            digit = Digit(number, label, store / "eights" / f"{number:04}.png")
        digit.path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(digit.path)
        digits.append(digit)
    return digits


def link_classes(root: Path, digits: Iterable[Digit]) -> None:
    """Link each digit into root/SPLIT/CLASS; the training images of LINKED_CLASS by one link to their directory."""
    for digit in digits:
        directory = root / digit.split / str(digit.label)
        if digit.path.parent.name == "eights":
            if not directory.is_symlink():
                link(directory, digit.path.parent)
        else:
            link(directory / digit.path.name, digit.path)


def add_mess(root: Path, digits: Sequence[Digit]) -> Mapping[str, Path]:
    """Add what datasets collect over the years; returns one example of each kind of entry."""
    plain, chained, absolute = (
        next(digit for digit in digits if digit.split == "train" and digit.label == label) for label in (0, 2, 4)
    )
    store = absolute.path.parent
    train = root / "train"
    mess = {
        "plain link": train / "0" / plain.path.name,
        "link to a link": train / "2" / chained.path.name,
        "absolute link": train / "4" / absolute.path.name,
        "linked class": train / str(LINKED_CLASS),
        "dangling link": train / "3" / "9999.png",
        "cycle": train / "previous",
        "leftover": train / ".ipynb_checkpoints",
    }
    link(store / "named" / f"two-{chained.number}.png", chained.path)
    mess["link to a link"].unlink()
    link(mess["link to a link"], store / "named" / f"two-{chained.number}.png")
    mess["absolute link"].unlink()
    mess["absolute link"].symlink_to(absolute.path.resolve())
    link(mess["dangling link"], store / "9999.png")
    link(mess["cycle"], train)
    mess["leftover"].mkdir()
    (mess["leftover"] / "0001-checkpoint.png").write_bytes(absolute.path.read_bytes())
    return mess


def link(path: Path, target: Path) -> None:
    """Make `path` a relative link to `target`, whose directory it makes, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def build(directory: Path, *, limit: int | None = None) -> Messy:
    """Make the store and the messy dataset below `directory`."""
    root = directory / "dataset"
    digits = write_store(directory / "store", limit=limit)
    link_classes(root, digits)
    return Messy(root, digits, add_mess(root, digits))


def main() -> None:
    """Build it and print the mess, one `what it is<TAB>path in the dataset` a line."""
    built = build(Path(sys.argv[1]))
    for what, path in built.mess.items():
        print(f"{what}\t{path.relative_to(built.root)}")


if __name__ == "__main__":
    main()
