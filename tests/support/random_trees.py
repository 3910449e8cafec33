"""Random datasets and options, weighted towards what decides which of the same images is shown."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from tests.support.same_images import DEFAULT_ORDER, Options
from tests.support.trees import Entry, Name, hardlink, link


def smallest(form: str, grey: int) -> bytes:
    """A real image of one pixel."""
    file = io.BytesIO()
    Image.new("L", (1, 1), grey).save(file, form)
    return file.getvalue()


#: Few, so that many are equal.
CONTENTS: dict[str, bytes] = {
    "PNG_A": smallest("PNG", 1),
    "PNG_B": smallest("PNG", 2),
    "BMP_C": smallest("BMP", 3),
    "JPEG_D": smallest("JPEG", 4),
    "TEXT": b"0 0.5 0.5 1 1\n",
    "WORDS": b"a cat",
    "EMPTY": b"",
}
IMAGES = ("PNG_A", "PNG_A", "PNG_A", "PNG_B", "BMP_C", "JPEG_D")

SPLIT_FAMILIES = (
    ("train", "val", "test"),
    ("train", "test"),
    ("train", "val"),
    ("Train", "TEST"),
    ("train2017", "val2017"),
    ("train2014", "train2017", "val2014"),
    ("seg_train", "seg_test"),
    ("training_set", "test_set"),
    ("train_images", "test_images"),
    ("fold_1", "fold_2"),
    ("fold0", "fold1", "fold2"),
    ("query", "gallery"),
    ("bounding_box_train", "bounding_box_test", "query"),
    ("train", "valid", "dev"),
    ("val", "test"),
    ("valid", "testing"),
    ("trainVal", "test"),
    ("test",),
    ("train",),
    ("seg_train", "test"),
    ("train", "seg_test"),
    ("train_test", "val"),
    ("train", "ISIC_test_input"),
)
CLASSES = ("cat", "dog", "cow", "train", "test", "box", "mask", "0", "1", "Images", "ü")
WRAPPERS = ("data", "dataset", "images", "photos", "v1")
BESIDE = ("extra", "store", "unlabeled", "images", "cat", "annotations", "ImageSets", "test", "train_data")
LABELS = (
    *("labels", "masks", "annotations", "Annotations", "gt", "ground_truth", "train_masks", "labels_v1"),
    *("SegmentationClass", "mask", "depth", "train_labels", "gt_query", "box", "xmls"),
)
STEMS = ("a", "b", "c", "d", "1", "01", "a.b")
IMAGE_ENDINGS = (".png", ".png", ".png", ".jpg", ".JPG", ".bmp", ".avif")
ENDINGS = (".txt", ".json", ".xml", ".npy", ".TXT", ".md", ".bin", "", ".caption")
MASK_PARTS = ("_mask", "-segmentation", "_mask_1", "Mask", "mask", "_gt_1", "_left", " (label)", "_1_mask")
CLUTTER = ("__MACOSX", "lost+found", "@eaDir", "__pycache__", "Thumbs.db", "desktop.ini", ".DS_Store", ".git")


class Tree:
    """A dataset in the making: a nested literal, and where its directories and files are."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.root: dict[Name, Entry] = {}
        self.directories: list[tuple[str, ...]] = [()]
        self.files: list[tuple[str, ...]] = []
        self._real: list[tuple[str, ...]] = []

    def directory(self, path: tuple[str, ...]) -> dict[Name, Entry] | None:
        """The directory at a path, made where it is missing; None where a file or a link is in the way."""
        here = self.root
        for depth, name in enumerate(path, 1):
            inner = here.setdefault(name, {})
            if not isinstance(inner, dict):
                return None
            if path[:depth] not in self.directories:
                self.directories.append(path[:depth])
            here = inner
        return here

    def file(self, path: tuple[str, ...], content: str) -> None:
        """A file with one of the contents, or another name of a file that is there."""
        here = self.directory(path[:-1])
        if here is None or path[-1] in here or not path[-1]:
            return
        chance = self.draw.random()
        if self._real and chance < 0.1:
            here[path[-1]] = hardlink("/".join(self.draw.choice(self._real)))
        elif self.files and chance < 0.25:
            target = self.draw.choice(self.files)
            here[path[-1]] = link("/".join([".."] * (len(path) - 1) + list(target)))
        else:
            here[path[-1]] = CONTENTS[content]
            self._real.append(path)
        self.files.append(path)

    def linked_directory(self) -> None:
        """A link to a directory in which there is no such link, so that none leads to where it comes from."""
        targets = [path for path in self.directories if path and not self._has_links(path)]
        if not targets:
            return
        target, parent = self.draw.choice(targets), self.draw.choice(self.directories)
        if parent[: len(target)] == target:
            return
        here = self.directory(parent)
        name = self.draw.choice((*CLASSES, *WRAPPERS, "masks", "labels", "train", "test", "linked"))
        if here is not None and name not in here:
            here[name] = link("/".join([".."] * len(parent) + list(target)))

    def _has_links(self, path: tuple[str, ...]) -> bool:
        entry: Any = self.root
        for name in path:
            entry = entry[name]
        return _has_directory_links(entry, self.files, path)


def _has_directory_links(entry: Mapping[Name, Entry], files: list[tuple[str, ...]], path: tuple[str, ...]) -> bool:
    for name, inner in entry.items():
        assert isinstance(name, str)
        if isinstance(inner, dict) and _has_directory_links(inner, files, (*path, name)):
            return True
        if isinstance(inner, link) and (*path, name) not in files:
            return True
    return False


def random_tree(draw: random.Random) -> dict[Name, Entry]:
    """A dataset of 5 to some 40 files."""
    tree = Tree(draw)
    shape = draw.choice((_splits, _splits, _splits, _inner_splits, _plain_classes, _anything))
    shape(tree)
    for _ in range(draw.choice((0, 0, 1, 2))):
        draw.choice((_beside, _labels, _labels, _store, _clutter, _dots, _empty))(tree)
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        tree.linked_directory()
    for _ in range(draw.choice((0, 0, 2, 6))):
        _side_file(tree)
    while len(tree.files) < 5:
        _images(tree, (), 2)
    return _ordered(tree.root, tree.root, {}, ())


def _ordered(
    root: Mapping[Name, Entry], entry: Mapping[Name, Entry], made: dict[str, str], path: tuple[str, ...]
) -> dict[Name, Entry]:
    """The same tree with the content of hard links at the first of them: a literal is made in its order."""
    ordered: dict[Name, Entry] = {}
    for name, inner in entry.items():
        assert isinstance(name, str)
        here = "/".join((*path, name))
        if isinstance(inner, Mapping):
            ordered[name] = _ordered(root, inner, made, (*path, name))
        elif isinstance(inner, link):
            ordered[name] = inner
        else:
            content, of = _behind(root, inner, here)
            ordered[name] = hardlink(made[of]) if of in made else content
            made.setdefault(of, here)
    return ordered


def _behind(root: Mapping[Name, Entry], entry: Entry, path: str) -> tuple[bytes, str]:
    """The content of a file or of the one that it is another name of, and the path of that."""
    while isinstance(entry, hardlink):
        assert isinstance(entry.path, str)
        path, entry = entry.path, root
        for name in path.split("/"):
            assert isinstance(entry, Mapping)
            entry = entry[name]
    assert isinstance(entry, bytes)
    return entry, path


def _images(tree: Tree, path: tuple[str, ...], most: int) -> None:
    draw = tree.draw
    for _ in range(draw.randint(1, most)):
        is_odd = draw.random() < 0.12
        ending = draw.choice(ENDINGS if is_odd else IMAGE_ENDINGS)
        content = draw.choice(tuple(CONTENTS) if draw.random() < 0.1 else IMAGES)
        tree.file((*path, draw.choice(STEMS) + ending), content)


def _classes(tree: Tree, path: tuple[str, ...]) -> None:
    draw = tree.draw
    if draw.random() < 0.2:
        path = (*path, draw.choice(WRAPPERS))
    names = draw.sample(CLASSES, draw.choice((0, 1, 2, 2, 3)))
    for name in names:
        below = (draw.choice(("deep", "images")),) if draw.random() < 0.15 else ()
        _images(tree, (*path, name, *below), 3)
    if not names or draw.random() < 0.2:
        _images(tree, path, 3)


def _prefix(tree: Tree) -> tuple[str, ...]:
    return tuple(tree.draw.choices(WRAPPERS, k=tree.draw.choice((0, 0, 0, 1, 1, 2))))


def _splits(tree: Tree) -> None:
    """Classes below splits, at some level: `train/cat`, `dataset/train/images/cat`."""
    draw, prefix = tree.draw, _prefix(tree)
    wrapper = (draw.choice((*WRAPPERS, "seg_train", "train")),) if draw.random() < 0.2 else ()
    names = draw.sample(CLASSES, draw.choice((0, 1, 2, 2)))
    for split in draw.choice(SPLIT_FAMILIES):
        path = (*prefix, split, *wrapper)
        if draw.random() < 0.2:
            _classes(tree, path)
        for name in names:
            _images(tree, (*path, name), 3)
        if not names or draw.random() < 0.1:
            _images(tree, path, 3)


def _inner_splits(tree: Tree) -> None:
    """Splits below images and labels: `images/train`, `labels/train`, `bottle/train`, or the other way round."""
    draw, prefix = tree.draw, _prefix(tree)
    outer = draw.choice(
        (("images", "labels"), ("img", "ann"), ("images", "masks"), ("bottle", "nut"), ("images",), ("training_data",))
    )
    for split in draw.choice(SPLIT_FAMILIES):
        for name in outer:
            path = (*prefix, name, split) if draw.random() < 0.9 else (*prefix, split, name)
            if name in {"labels", "ann", "masks"}:
                _label_files(tree, path)
            else:
                _images(tree, path, 4)


def _plain_classes(tree: Tree) -> None:
    _classes(tree, _prefix(tree))


def _anything(tree: Tree) -> None:
    draw = tree.draw
    names = (*CLASSES, *WRAPPERS, *BESIDE, *LABELS, *(name for names in SPLIT_FAMILIES for name in names))
    for _ in range(draw.randint(2, 6)):
        _images(tree, tuple(draw.choices(names, k=draw.choice((0, 1, 1, 2, 2, 3)))), 3)


def _beside(tree: Tree) -> None:
    draw = tree.draw
    path = (*draw.choice(tree.directories), draw.choice(BESIDE))
    for below in draw.choice(((), (), ("cat",), ("cat", "dog"), ("v1/cat", "v1/dog"))):
        _images(tree, (*path, *below.split("/")), 3)
    if draw.random() < 0.7:
        _images(tree, path, 3)


def _labels(tree: Tree) -> None:
    """A label directory beside some directory, with files for its images."""
    draw = tree.draw
    beside = draw.choice(tree.directories)
    path = (*beside[:-1], draw.choice(LABELS))
    if draw.random() < 0.3 and beside:  # at the same place below
        path = (*beside[:-1], draw.choice(("labels", "masks", "annotations")), beside[-1])
    _label_files(tree, path)
    if draw.random() < 0.5:
        below = [file for file in tree.files if file[: len(beside)] == beside]
        for file in below:
            content = draw.choice(("TEXT", "TEXT", "PNG_B"))
            tree.file((*path, *file[len(beside) : -1], file[-1].rpartition(".")[0] + draw.choice(ENDINGS)), content)


def _label_files(tree: Tree, path: tuple[str, ...]) -> None:
    draw = tree.draw
    if draw.random() < 0.2:
        for number in range(draw.randint(1, 4)):
            tree.file((*path, f"order{number}.png"), "PNG_B")
        return
    for _ in range(draw.randint(1, 4)):
        part = draw.choice(MASK_PARTS) if draw.random() < 0.3 else ""
        ending = draw.choice((".txt", ".png", ".json", ".jpg.json", ".png.txt"))
        tree.file((*path, draw.choice(STEMS) + part + ending), draw.choice(("TEXT", "PNG_B", "EMPTY")))
    if draw.random() < 0.2:
        tree.file((*path, "instances_train2017.json"), "WORDS")


def _side_file(tree: Tree) -> None:
    draw = tree.draw
    if not tree.files:
        return
    *path, name = draw.choice(tree.files)
    stem = draw.choice((name, name.rpartition(".")[0]))
    part = draw.choice(MASK_PARTS) if draw.random() < 0.5 else ""
    tree.file((*path, stem + part + draw.choice((*ENDINGS, ".png", ".png", ".png"))), draw.choice(("TEXT", "PNG_A")))


def _store(tree: Tree) -> None:
    draw = tree.draw
    path = (*draw.choice(tree.directories), draw.choice(("a.zarr", "train.zarr", "x.n5", "arrays")))
    if path[-1] == "arrays":
        tree.file((*path, draw.choice((".zarray", ".zgroup", "zarr.json"))), "WORDS")
    _images(tree, (*path, "0") if draw.random() < 0.5 else path, 3)


def _clutter(tree: Tree) -> None:
    draw = tree.draw
    path = (*draw.choice(tree.directories), draw.choice(CLUTTER))
    if "." in path[-1] and path[-1] != ".git":
        tree.file(path, "PNG_A")
    else:
        _images(tree, path, 2)


def _dots(tree: Tree) -> None:
    draw = tree.draw
    path = draw.choice(tree.directories)
    _images(tree, (*path, draw.choice((".hidden", ".test"))), 2)
    tree.file((*path, "." + draw.choice(("a.png", "b.txt"))), "PNG_A")


def _empty(tree: Tree) -> None:
    draw = tree.draw
    tree.directory((*draw.choice(tree.directories), draw.choice(("test", "val", "masks", "cat", "empty"))))


# -- options -----------------------------------------------------------------------------------------------------------

PATTERNS = (
    *("class", "split/class", "{split}/{class}", "*/{split}/{class}", "images/{split}", "{split}_images/{class}"),
    *("{class}/{split}", "*/{split}", "{split}", "[dt]*/{class}", "{split}/images/{class}", "?ata*/{split}/{class}"),
)
GLOBS = ("*/dog/*", "*.jpg", "a*", "val/*", "*/b.png", "train*/*", "?.png", "cat/[ab]*", "*")
NAME_GLOBS = ("*.jpg", "a.*", "dog", "dog/", "/train", "train/*", "*/cat/*", "*.TXT", ".*", "__MACOSX", "lost+found/")
ORDERS = (
    ("test", "val", "train"),
    ("val",),
    ("dev", "training"),
    ("fold_2", "fold1"),
    ("query", "gallery"),
    ("TEST",),
    ("val", "vla"),
)


def random_options(draw: random.Random) -> Options:
    """Options that the command line takes together."""

    def rarely(value: Callable[[], Any], otherwise: Any, chance: float = 0.25) -> Any:
        return value() if draw.random() < chance else otherwise

    scope = draw.choice(("class", "split", "all", "all"))
    side_files = rarely(lambda: "keep", "follow", 0.2)
    problems = ("leak", "conflict", "duplicate", *(("side-file",) if side_files == "follow" else ()))
    return Options(
        dedup=draw.choice(("target", "bytes", "bytes", "bytes")),
        dedup_scope=scope,
        layout=rarely(lambda: draw.choice(PATTERNS), "auto", 0.2),
        prefer=rarely(lambda: tuple(draw.sample(GLOBS, draw.randint(1, 2))), ()),
        split_order=rarely(lambda: draw.choice(ORDERS), DEFAULT_ORDER, 0.15),
        conflicts=rarely(
            lambda: draw.choice(("keep", "fail") if scope == "class" else ("keep", "drop", "drop", "fail")),
            "first",
            0.35,
        ),
        side_files=side_files,
        hide=rarely(lambda: tuple(draw.sample(NAME_GLOBS, 1)), (), 0.1),
        show=rarely(lambda: tuple(draw.sample(NAME_GLOBS, 1)), (), 0.1),
        dot_entries=rarely(lambda: "show", "hide", 0.15),
        fail_on=rarely(lambda: (draw.choice(problems),), (), 0.15),
    )


# -- trees as literals -------------------------------------------------------------------------------------------------


def literal(entry: Entry) -> str:
    """A tree as the text that makes it, with the contents by their names."""
    if isinstance(entry, bytes):
        return next(name for name, content in CONTENTS.items() if content == entry)
    if isinstance(entry, Mapping):
        return "{" + ", ".join(f"{name!r}: {literal(inner)}" for name, inner in entry.items()) + "}"
    return repr(entry)


def shrunk(entry: dict[Name, Entry], fails: Callable[[dict[Name, Entry]], bool]) -> dict[Name, Entry]:
    """The tree with everything left out that a failure does not need. `fails` must answer for any tree."""
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for path in list(_paths(entry)):
            smaller = _without(entry, path)
            if fails(smaller):
                entry, is_smaller = smaller, True
                break
    return entry


def _paths(entry: Mapping[Name, Entry], path: tuple[Name, ...] = ()) -> list[tuple[Name, ...]]:
    found: list[tuple[Name, ...]] = []
    for name, inner in entry.items():
        found.append((*path, name))
        if isinstance(inner, Mapping):
            found += _paths(inner, (*path, name))
    return found


def _without(entry: Mapping[Name, Entry], path: tuple[Name, ...]) -> dict[Name, Entry]:
    smaller = dict(entry)
    if len(path) == 1:
        del smaller[path[0]]
    else:
        inner = smaller[path[0]]
        assert isinstance(inner, Mapping)
        smaller[path[0]] = _without(inner, path[1:])
    return smaller
