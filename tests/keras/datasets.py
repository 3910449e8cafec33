"""Datasets of links to real images: scikit-image's photographs and scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import digits
from scripts.digits import link
from tests.support.oracle import sha256

#: Photographs that scikit-image ships, so that nothing is downloaded; by class.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "people": ("astronaut", "camera"),
    "animals": ("chelsea",),
    "things": ("coffee", "coins", "clock"),
    "sky": ("moon", "hubble_deep_field"),
}
#: Photographs in directories that are linked as a whole: a class, and a directory inside a class.
LINKED_DIRECTORIES: Mapping[str, tuple[str, ...]] = {
    "textures": ("brick", "grass", "gravel"),
    "things/flying": ("rocket",),
}


@dataclass(frozen=True)
class Linked:
    """A dataset of links and the store that holds what they lead to."""

    root: Path
    store: Path

    def originals(self) -> dict[Path, str]:
        """The digest of every file in the store: what must never change, and nothing may join."""
        return {path: sha256(path) for path in sorted(self.store.rglob("*")) if path.is_file()}


def photographs(directory: Path) -> Linked:
    """root/CLASS/NAME.jpg: links to files, a linked class, a linked directory in a class, a link to a link."""
    made = Linked(directory / "dataset", directory / "store")
    for label, names in CLASSES.items():
        for name in names:
            link(made.root / label / f"{name}.jpg", write_photograph(made.store, name))
    for label, names in LINKED_DIRECTORIES.items():
        for name in names:
            write_photograph(made.store / Path(label).name, name)
        link(made.root / label, made.store / Path(label).name)
    link(made.root / "people" / "zz-again.jpg", made.root / "people" / "astronaut.jpg")
    return made


def write_photograph(directory: Path, name: str) -> Path:
    """One of scikit-image's photographs as a JPEG file."""
    from PIL import Image  # noqa: PLC0415 - importing these takes seconds, and other tiers collect this module, too
    from skimage import data  # noqa: PLC0415

    path = directory / f"{name}.jpg"
    directory.mkdir(parents=True, exist_ok=True)
    Image.fromarray(getattr(data, name)()).convert("RGB").save(path, quality=90)
    return path


def messy_digits(directory: Path, *, limit: int | None = None) -> Linked:
    """The demo's dataset: root/SPLIT/CLASS/NUMBER.png, with dangling links, a cycle and the like."""
    return Linked(digits.build(directory, limit=limit).root, directory / "store")


def numbered(directory: Path, *, classes: int = 2, images: int = 10) -> Linked:
    """root/CLASS/NUMBER.png, as many links to different digits as asked for, and no mess."""
    made = Linked(directory / "dataset", directory / "store")
    for digit in digits.write_store(made.store, limit=classes * images):
        link(made.root / f"class{digit.number % classes}" / digit.path.name, digit.path)
    return made
