"""What a view shows of the same images, worked out from docs/semantics.md alone: no quicker than it has to be.

Nothing of symfuse is imported. The dataset is walked as `cp -rL` walks it, every image is compared with every other,
and each rule of the page is one function here. Only trees without dangling links and cycles are understood, and images
are compared by target or by bytes.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

# -- the lists of the page ---------------------------------------------------------------------------------------------


def listed(text: str) -> list[str]:
    return text.split()


IMAGE_ENDINGS = tuple(
    listed(
        ".jpg .jpeg .jpe .jfif .png .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .jpx .avif .heic "
        ".heif .tga .ico"
    )
)
SIDE_ENDINGS = tuple(
    listed(".txt .json .xml .npy .npz .mat .pts .csv .yaml .yml .caption .tags .cls .geojson .xmp .aae")
)
IMAGE_WORDS = set(
    listed(
        "image images img imgs photo photos picture pictures jpegimages pngimages jpeg jpg png rgb input inputs data"
    )
)
LABEL_WORDS = set(
    listed(
        "label labels labelmap labelmaps mask masks annotation annotations annos anno annot annots ann anns gt "
        "groundtruth segmentation segmentations seg segmentationclass segmentationobject panoptic semantic caption "
        "captions bbox bboxes trimap trimaps keypoints landmarks polygons alpha manual"
    )
)
STEM_LABEL_WORDS = LABEL_WORDS | set(listed("box boxes target targets depth truth ground xml"))
SPLIT_WORDS = set(listed("train training trainval val valid validation dev eval test testing query gallery"))
CLUTTER = {
    *("__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),
    *("system volume information", "found.000", "lost+found", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle"),
    *("@recently-snapshot", "@__thumb", "network recycle bin", "~snapshot", "__pycache__", "picasa.ini"),
}
SAYS_NOTHING = set(listed("set split part task bounding box v st nd"))
ALL_WORDS = IMAGE_WORDS | STEM_LABEL_WORDS | SPLIT_WORDS | SAYS_NOTHING | {"fold"}
TRAINED_ON = {"train", "training", "trainval", "query", "gallery"}
SAME_MEANING = [{"train", "training"}, {"val", "valid", "validation", "dev"}, {"test", "testing"}]
DEFAULT_ORDER = ("train", "val", "test")
#: How the images begin that the random trees hold.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8")


# -- what is asked, and what is answered -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The options of a mount, in the words of `symfuse.mounted`."""

    dedup: str = "bytes"
    dedup_scope: str = "class"
    layout: str = "auto"
    prefer: tuple[str, ...] = ()
    split_order: tuple[str, ...] = DEFAULT_ORDER
    conflicts: str = "first"
    side_files: str = "follow"
    hide: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    dot_entries: str = "hide"
    fail_on: tuple[str, ...] = ()


@dataclass
class Answer:
    """What the page says of a dataset: the files shown, and of each hidden entry its kind and what is shown instead.

    `refused` holds every reason to refuse the mount: any of them may be the one that the user is told.
    """

    shown: set[str] = field(default_factory=set)
    hidden: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    conflicts: int = 0
    leaks: int = 0
    splits: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    classes: int = 0
    compared: int = 0
    refused: set[str] = field(default_factory=set)


# -- the dataset -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class File:
    """A file by one of its paths. `real` and `numbers` are those of the file behind it."""

    path: str
    real: str
    numbers: tuple[int, int]
    content: bytes
    is_linked: bool

    @cached_property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def stem(self) -> str:
        return stem_of(self.name)

    @cached_property
    def directories(self) -> list[str]:
        return self.path.split("/")[:-1]

    @cached_property
    def has_image_name(self) -> bool:
        return self.name.lower().endswith(IMAGE_ENDINGS)

    def is_image(self, options: Options) -> bool:
        return self.has_image_name or (options.dedup == "bytes" and self.content.startswith(SIGNATURES))


@dataclass(eq=False)
class Directory:
    """A directory by one of its paths; `marks_a_store` where a hidden or shown entry makes it an array store."""

    path: str
    files: list[File] = field(default_factory=list)
    children: list[Directory] = field(default_factory=list)
    marks_a_store: bool = False

    @cached_property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def words(self) -> list[str]:
        return words_of(self.name)

    @cached_property
    def is_store(self) -> bool:
        return self.marks_a_store or self.name.endswith((".zarr", ".n5"))

    @cached_property
    def has_images_itself(self) -> bool:
        return not self.is_store and any(file.has_image_name for file in self.files)

    def below(self) -> Iterator[File]:
        """All files at whatever depth, but for those of array stores."""
        if not self.is_store:
            yield from self.files
            for child in self.children:
                yield from child.below()

    def walk(self) -> Iterator[Directory]:
        yield self
        for child in self.children:
            yield from child.walk()


def stem_of(name: str) -> str:
    return os.path.splitext(name)[0]


def words_of(name: str) -> list[str]:
    """The runs of letters of a name, cut where a small letter is followed by a capital one, in small letters."""
    words: list[str] = []
    for run in re.findall("[A-Za-z]+|[0-9]+", name):
        both = [[a, b] for a in SPLIT_WORDS for b in LABEL_WORDS if a + b == run.lower()]
        if run.lower() in ALL_WORDS:
            words.append(run.lower())
        elif both:
            words += both[0]
        else:
            words += re.sub("(?<=[a-z])(?=[A-Z])", " ", run).lower().split()
    joined = "/".join(words)
    joined = re.sub("(^|(?<=/))ground/truth((?=/)|$)", "groundtruth", joined)
    return [word for word in joined.split("/") if word.isalpha()]


def read(root: str, options: Options, hidden: dict[str, tuple[str, str | None]]) -> Directory:
    """The dataset without what is hidden for its name."""
    root = os.path.realpath(root)

    def directory(path: str) -> Directory:
        made = Directory(path)
        on_disk = os.path.join(root, path)
        for name in sorted(os.listdir(on_disk), key=os.fsencode):
            made.marks_a_store |= name in {".zarray", ".zgroup", "zarr.json"}
            inner, there = os.path.join(path, name), os.path.join(on_disk, name)
            kind = kind_of_name(inner, os.path.isdir(there), options)
            if kind is not None:
                hidden[inner] = (kind, None)
            elif os.path.isdir(there):
                made.children.append(directory(inner))
            else:
                made.files.append(file(inner, there))
        return made

    def file(path: str, there: str) -> File:
        status, real = os.stat(there), os.path.realpath(there)
        with open(there, "rb") as opened:
            return File(path, real, (status.st_dev, status.st_ino), opened.read(), real != there)

    return directory("")


def kind_of_name(path: str, is_directory: bool, options: Options) -> str | None:
    """Why an entry is hidden for its name or its path, or None."""
    rules = [*(("excluded", glob) for glob in options.hide), *((None, glob) for glob in options.show)]
    for kind, glob in reversed(rules):
        if matches_entry(glob, path, is_directory):
            return kind
    name = path.rpartition("/")[2]
    if name.startswith(".") and options.dot_entries == "hide":
        return "dot-entry"
    return "clutter" if name.lower() in CLUTTER else None


def matches_entry(glob: str, path: str, is_directory: bool) -> bool:
    if glob.endswith("/") and not is_directory:
        return False
    glob = glob.removesuffix("/")
    return matches(glob, path if "/" in glob else path.rpartition("/")[2])


def matches(glob: str, path: str) -> bool:
    """Whether a glob means a whole path, or a name. Characters are bytes."""
    return fnmatch.fnmatchcase(as_bytes(path), as_bytes(glob.removeprefix("/")))


def as_bytes(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


# -- files that belong to an image -------------------------------------------------------------------------------------


@dataclass(eq=False)
class LabelDirectory:
    """A label directory and its counterparts; `own` where it is of one by itself, and not of all or of several."""

    directory: Directory
    counterparts: list[Directory]
    own: bool


class Contents:
    """Which directories are label directories, and which hold images: each depends on the other below it."""

    def __init__(self, root: Directory) -> None:
        self.labels: dict[Directory, LabelDirectory] = {}
        self._holds: dict[Directory, bool] = {}
        self._look(root)

    def holds_images(self, directory: Directory) -> bool:
        return self._holds[directory]

    def children(self, directory: Directory) -> list[Directory]:
        """The directories in a directory that hold images and are no label directories."""
        if directory.is_store:
            return []
        return [child for child in directory.children if self._holds[child] and child not in self.labels]

    def topmost(self, directory: Directory) -> Iterator[LabelDirectory]:
        """The label directories below a directory, but for those in label directories and array stores."""
        if directory.is_store:
            return
        for child in directory.children:
            if child in self.labels:
                yield self.labels[child]
            else:
                yield from self.topmost(child)

    def _look(self, directory: Directory) -> None:
        for child in directory.children:
            self._look(child)
        if not directory.is_store:
            self._know_labels(directory)
        self._holds[directory] = directory.has_images_itself or bool(self.children(directory))

    def _know_labels(self, directory: Directory) -> None:
        """The ways of the page, one after the other."""
        candidates = [child for child in directory.children if has_label_word(child) and not child.is_store]
        holding = [child for child in directory.children if self._holds[child]]
        plain = [child for child in holding if not has_label_word(child)]

        def left() -> list[Directory]:
            return [child for child in candidates if child not in self.labels]

        for child in left():
            own = [other for other in plain if is_named_counterpart(child, other)]
            numbered = [other for other in own if has_numbers_of(child, other)]
            if own:
                self.labels[child] = LabelDirectory(child, numbered or own, own=True)
        for child in left():
            found = self._by_names(child, plain)
            if found is not None:
                self.labels[child] = found
        alone = [child for child in left() if not other_words(child)]
        beside = [child for child in holding if child not in self.labels and child not in alone]
        loose = Directory(directory.path, files=directory.files)
        for child in alone:
            if beside and self._is_for_all(child, beside):
                self.labels[child] = LabelDirectory(child, beside, own=False)
            elif not beside and loose.has_images_itself:
                self.labels[child] = LabelDirectory(child, [loose], own=False)
        for child in left():
            of = [other for other in plain if has_split_of(child, other)]
            if len(of) == 1:
                self.labels[child] = LabelDirectory(child, of, own=True)

    def _by_names(self, label: Directory, plain: list[Directory]) -> LabelDirectory | None:
        names = [child.name for child in label.children]
        together = [other for other in plain if other.name in names]
        if together:
            places = [
                (image, [other.name, *place(image, other.path)]) for other in together for image in self._of(other)
            ]
            if self._correspond(label, together, places):
                return LabelDirectory(label, together, own=False)
            return None
        numbered = [other for other in plain if has_numbers_of(label, other)]
        fitting = [
            other
            for other in numbered or plain
            if self._correspond(label, [other], [(image, place(image, other.path)) for image in self._of(other)])
        ]
        if len(fitting) == 1 and len(numbered or plain) <= 20:
            return LabelDirectory(label, fitting, own=True)
        return None

    def _of(self, directory: Directory) -> list[File]:
        """The images that count below a directory."""
        inside = {file for label in self.topmost(directory) for file in files_below(label.directory)}
        return [file for file in directory.below() if file.has_image_name and file not in inside]

    def _correspond(self, label: Directory, others: list[Directory], places: list[tuple[File, list[str]]]) -> bool:
        files = countable(label)
        pairs = [
            (file, image)
            for file in files
            for image, where in places
            if where == place(file, label.path) and has_name_for(file, image)
        ]
        if not files or len({file for file, _ in pairs}) < 0.9 * len(files):
            return False
        is_enough = len({image for _, image in pairs}) >= 0.9 * len(places)
        return is_enough or all(set(other.words) & IMAGE_WORDS for other in others)

    def _is_for_all(self, directory: Directory, beside: list[Directory]) -> bool:
        splits = {split_name(other.name) for other in beside}
        if not self._holds[directory] or None not in splits:
            return True
        meant = {name.split for name in splits if name is not None}
        inner = {name.split for child in directory.children if (name := split_name(child.name)) is not None}
        files, images = countable(directory), [image for other in beside for image in self._of(other)]
        named = [file for file in files if any(has_name_for(file, image) for image in images)]
        return bool(meant & inner) and bool(files) and len(named) >= 0.9 * len(files)


def countable(label: Directory) -> list[File]:
    """The images and side files of a label directory, but for lists of a split."""
    return [
        file
        for file in label.below()
        if file.has_image_name or (file.name.lower().endswith(SIDE_ENDINGS) and not split_words(file.name))
    ]


def has_name_for(file: File, image: File) -> bool:
    """Whether a file has an image's stem, alone or with a word for labels or a sign behind it."""
    rest = file.stem[len(image.stem) :]
    starts_with_sign = file.stem.startswith(image.stem) and re.match("[^A-Za-z0-9]", rest, re.ASCII) is not None
    return file.stem == image.stem or adds_label_word(image.stem, file.stem) or (starts_with_sign and rest[0] < "\x80")


def has_split_of(label: Directory, other: Directory) -> bool:
    names = {child.name for child in other.children}
    return any(child.name in names and split_name(child.name) is not None for child in label.children)


def has_label_word(directory: Directory) -> bool:
    return any(word in LABEL_WORDS for word in directory.words)


def is_named_counterpart(label: Directory, other: Directory) -> bool:
    says_so = set(other.words) & IMAGE_WORDS or split_words(other.name)
    return bool(says_so) and other_words(other) == other_words(label)


def has_numbers_of(label: Directory, other: Directory) -> bool:
    wanted, found = ([int(run) for run in re.findall("[0-9]+", each.name)] for each in (label, other))
    return bool(wanted) and wanted == found


def other_words(directory: Directory) -> list[str]:
    return [word for word in directory.words if word not in LABEL_WORDS | IMAGE_WORDS | SAYS_NOTHING]


def adds_label_word(stem: str, longer: str) -> bool:
    """Whether a stem is another one with a word for labels behind it, and nothing else but digits and signs."""
    rest = longer[len(stem) :]
    if not longer.startswith(stem) or not (words := words_of(rest)) or not set(words) <= STEM_LABEL_WORDS:
        return False
    comes_at_once = rest[0].isascii() and rest[0].isalpha()
    if comes_at_once:
        return words_of(longer) == words_of(stem) + words
    before = re.match("[^A-Za-z]*", rest)
    assert before is not None
    return not re.search("[0-9]", before[0])


def belongs_beside(file: File, image: File) -> bool:
    """Whether a file belongs to an image in the same directory, or to what belongs to one."""
    if file is image:
        return False
    if file.has_image_name:
        return adds_label_word(image.stem, file.stem)
    has_its_stem = file.stem in (image.stem, image.name) or adds_label_word(image.stem, file.stem)
    return file.name.lower().endswith(SIDE_ENDINGS) and has_its_stem


def belongs_by_name(file: File, image: File, images: Iterable[File]) -> bool:
    """Whether a file of a label directory has the name for an image of these."""
    if file.stem in (image.stem, image.name) or adds_label_word(image.stem, file.stem):
        return True
    if not file.stem.startswith(image.stem) or re.match("[A-Za-z0-9]", file.stem[len(image.stem) :]):
        return False
    return not any(len(other.stem) > len(image.stem) and file.stem.startswith(other.stem) for other in images)


def place(file: File, top: str) -> list[str]:
    """The directories between a directory and a file in it."""
    return file.directories[len(top.split("/")) if top else 0 :]


@dataclass
class Pairs:
    """Which files belong to which images, and what is an image then."""

    labels: list[LabelDirectory]
    owners: dict[File, list[File]]
    images: list[File]


def pairs_of(root: Directory, contents: Contents, options: Options) -> Pairs:
    labels = list(contents.topmost(root))
    left_alone = {file for label in labels for file in files_below(label.directory)}
    left_alone |= {file for store in stores(root) for file in files_below(store)}
    others = [file for file in files_below(root) if file not in left_alone]
    owners: dict[File, list[File]] = {}
    for file in others:
        found = [
            image
            for image in others
            if image.has_image_name and image.directories == file.directories and belongs_beside(file, image)
        ]
        if found:
            owners[file] = found
    # What belongs to a file that itself belongs to an image, belongs to that image.
    owners = {file: sorted(owners_of(file, owners), key=lambda image: image.path) for file in owners}
    images = [file for file in others if file.is_image(options) and file not in owners]
    for label in labels:
        owners |= owners_in(label, [image for image in images if image.has_image_name])
    return Pairs(labels, owners, images)


def owners_of(file: File, beside: Mapping[File, list[File]]) -> set[File]:
    """The images that a file belongs to, also by way of what belongs to them; an image's own is itself."""
    if file not in beside:
        return {file}
    return set().union(*(owners_of(other, beside) for other in beside[file]))


def stores(root: Directory) -> Iterator[Directory]:
    if root.is_store:
        yield root
    else:
        for child in root.children:
            yield from stores(child)


def files_below(directory: Directory) -> list[File]:
    return [file for each in directory.walk() for file in each.files]


def owners_in(label: LabelDirectory, images: list[File]) -> dict[File, list[File]]:
    """Whose the files of a label directory are: by their place, or where none has its place, by their names alone."""
    by_place: dict[File, list[File]] = {}
    by_name: dict[File, list[File]] = {}
    above = label.directory.path.rpartition("/")[0]
    beside = [
        (image, [place(image, counterpart.path), *([] if label.own else [place(image, above)])])
        for counterpart in label.counterparts
        for image in images
        if image in set(counterpart.below())
    ]
    for file in label.directory.below():
        at_its_place = [image for image, places in beside if place(file, label.directory.path) in places]
        if found := [image for image in at_its_place if belongs_by_name(file, image, at_its_place)]:
            by_place[file] = found
        anywhere = [image for image, _ in beside]
        if found := [image for image in anywhere if belongs_by_name(file, image, anywhere)]:
            by_name[file] = found
    return by_place or by_name


def cannot_be_decided(pairs: Pairs, hidden: set[File]) -> bool:
    """Whether an image would be hidden that may go with a file of a label directory by their order."""
    for label in pairs.labels:
        inside = {file for other in pairs.labels for file in files_below(other.directory)}
        counterparts = {file for counterpart in label.counterparts for file in counterpart.below()} - inside
        images = [file for file in counterparts if file.has_image_name]
        files = countable(label.directory)
        is_decided = 2 * len([file for file in files if file in pairs.owners]) >= len(files)
        if not label.own and any(file.has_image_name for file in files):
            continue
        if is_decided or 2 * len(files) < len(images):
            continue
        with_labels = {image for file in label.directory.below() for image in pairs.owners.get(file, [])}
        if hidden & set(images) - with_labels:
            return True
    return False


# -- splits and classes ------------------------------------------------------------------------------------------------


def split_words(name: str) -> list[str]:
    """The words for a split in a name, each fold with its number."""
    found = [word for word in words_of(name) if word in SPLIT_WORDS]
    found += [f"fold{int(number)}" for word, number in folds(name) if word == "fold"]
    return found


def folds(name: str) -> list[tuple[str, str]]:
    """The words of a name that have a number behind them."""
    found = []
    for letters, number in re.findall(r"([A-Za-z]+)[^A-Za-z0-9]*([0-9]+)", name):
        found.append((words_of(letters)[-1], number))
    return found


@dataclass(frozen=True)
class SplitName:
    split: str
    others: tuple[str, ...]


def split_name(name: str) -> SplitName | None:
    """The split that a directory's name stands for, and the other words of the name."""
    found = split_words(name)
    if len(found) != 1:
        return None
    left_out = SPLIT_WORDS | IMAGE_WORDS | LABEL_WORDS | SAYS_NOTHING
    left_out |= {"fold"} if found[0].startswith("fold") else set()
    return SplitName(found[0], tuple(word for word in words_of(name) if word not in left_out))


Label = tuple[str | None, str | None]


class Layout:
    """Which split and class each file is of. A split that is called by its path has a slash before it."""

    splits: set[str]
    levels: set[int]

    def label(self, file: File) -> Label:
        raise NotImplementedError

    @property
    def is_one_beside(self) -> bool:
        """Whether all that lies beside the splits is one without a name."""
        meanings = {meaning(split) for split in self.splits}
        is_trained_on = any(word in TRAINED_ON or word.startswith("fold") for word in meanings)
        return not is_trained_on


def meaning(split: str) -> str:
    """The split that a name stands for, or the name itself."""
    named = split_name(split)
    return split if named is None else named.split


class AutoLayout(Layout):
    def __init__(self, root: Directory, contents: Contents) -> None:
        self._root = root
        self._children = contents.children
        self._by_path = {directory.path: directory for directory in root.walk()}
        self._with_images = list(self._below(root))
        self._level, first = self._find_splits()
        self._split_of: dict[Directory, str | None] = {**first, **self._others(first)}
        self.splits = {split for split in self._split_of.values() if split is not None}
        self.levels = {len(directory.path.split("/")) for directory in self._split_of} if self.splits else set()
        beside = self._find_beside() if self.splits and not self.is_one_beside else []
        self._bases = self._find_bases(list(self._split_of))
        for directory in beside:
            self._split_of[directory] = "/" + directory.path
            self._bases |= self._find_bases([directory])
        self._classes_above: set[Directory] = set()
        self._classes_above = self._find_classes_above()

    def _below(self, directory: Directory) -> Iterator[Directory]:
        """The directories below one that hold images; those above come first."""
        for child in self._children(directory):
            yield child
            yield from self._below(child)

    def is_split(self, directory: Directory) -> bool:
        return self._split_of.get(directory) is not None

    def _above(self, directory: Directory) -> list[Directory]:
        """The directories above a file in a directory, from the root on."""
        names = directory.path.split("/") if directory.path else []
        return [self._by_path["/".join(names[:depth])] for depth in range(len(names) + 1)]

    def is_for_images(self, directory: Directory, parent: Directory) -> bool:
        """Whether a directory is named for images alone, and only such, and splits, hold images beside it."""
        beside = self._children(parent)
        return says_images_alone(directory.name) and all(
            says_images_alone(other.name) or self.is_split(other) for other in beside
        )

    def _class_beside(self, above: list[Directory]) -> str | None:
        """The class of what lies beside as one split: the directory at their level, or below, that says something."""
        for parent, directory in list(itertools.pairwise(above))[self._level - 1 :]:
            if not self.is_for_images(directory, parent):
                return directory.name
        return None

    def _find_splits(self) -> tuple[int, dict[Directory, str | None]]:
        for has_splits in (self._has_several, self._has_one_alone):
            level, directories = 1, [self._root]
            while directories:
                having = [directory for directory in directories if has_splits(directory)]
                if having:
                    named = [(child, split_name(child.name)) for each in having for child in self._children(each)]
                    return level, {child: name.split for child, name in named if name is not None}
                directories = [child for directory in directories for child in self._children(directory)]
                level += 1
        return 0, {self._root: None}

    def _has_several(self, directory: Directory) -> bool:
        """Two splits whose names belong together, or nothing but names of splits."""
        names = [split_name(child.name) for child in self._children(directory)]
        named = [name for name in names if name is not None]
        different = [(one, other) for one in named for other in named if one.split != other.split]
        return bool(different) and (
            len(named) == len(names) or any(set(one.others) == set(other.others) for one, other in different)
        )

    def _has_one_alone(self, directory: Directory) -> bool:
        children = self._children(directory)
        names = {child: split_name(child.name) for child in children}
        return any(
            name is not None
            and not name.others
            and (
                not child.has_images_itself
                or all(other is not None and other.split == name.split for other in names.values())
            )
            for child, name in names.items()
        )

    def _others(self, first: Mapping[Directory, str | None]) -> dict[Directory, str | None]:
        """The splits at whatever level whose names have no other words."""
        found: dict[Directory, str | None] = {}
        if self._root in first:
            return found
        for directory in self._with_images:
            name = split_name(directory.name)
            is_in_split = any(is_within(directory, split) for split in (*first, *found))
            has_split = any(is_within(split, directory) for split in first)
            if name is not None and not name.others and not is_in_split and not has_split:
                found[directory] = name.split
        return found

    def _find_beside(self) -> list[Directory]:
        """The topmost directories that neither lie in a split nor have one in them."""
        found: list[Directory] = []
        for directory in self._with_images:
            is_in_any = any(is_within(directory, other) for other in (*self._split_of, *found))
            if not is_in_any and not any(is_within(split, directory) for split in self._split_of):
                found.append(directory)
        return found

    def _find_classes_above(self) -> set[Directory]:
        """The directories in which splits lie, where these are the classes."""
        has_classes = any(
            self._label(self._above(directory))[0] in self.splits and self._label(self._above(directory))[1] is not None
            for directory in self._with_images
            if directory.has_images_itself
        )
        named = [directory for directory, split in self._split_of.items() if split in self.splits]
        above = {self._by_path[directory.path.rpartition("/")[0]] for directory in named}
        if has_classes or len(above) < 2 or self._root in above:
            return set()
        is_nested = any(one is not other and is_within(one, other) for one in above for other in above)
        return set() if is_nested or any(says_images_alone(each.name) for each in above) else above

    def _find_bases(self, splits: Sequence[Directory]) -> dict[Directory, Directory]:
        """The directories below which the next one is a class, and of which split each is.

        These are the splits, and those below that say nothing.
        """
        bases = {directory: directory for directory in splits}
        while True:
            more = {
                child: of
                for base, of in bases.items()
                for child in base.children
                if child not in bases and self._says_nothing(child, base, self._split_of[of])
            } or self._wrappers(bases)
            if not more:
                return bases
            bases |= more

    def _says_nothing(self, directory: Directory, base: Directory, split: str | None) -> bool:
        is_alone = self._children(base) == [directory] and not base.has_images_itself
        names = [split.rpartition("/")[2]] if split is not None and "/" in split else []
        is_again = split in split_words(directory.name) or directory.name in names
        return (is_again and is_alone) or self.is_for_images(directory, base)

    def _wrappers(self, bases: Mapping[Directory, Directory]) -> dict[Directory, Directory]:
        """The single directory that stands, the same one, in all splits before there are classes."""
        inner: dict[Directory, Directory] = {}
        names: dict[Directory, set[str]] = {of: set() for of in bases.values()}
        for base, of in bases.items():
            if base.has_images_itself:
                return {}
            for child in self._children(base):
                if child not in bases:
                    inner[child] = of
                    names[of].add(child.name)
        sets = list(names.values())
        is_single = all(len(each) == 1 and each == sets[0] for each in sets)
        return inner if is_single and not any(child.has_images_itself for child in inner) else {}

    def label(self, file: File) -> Label:
        above = self._above(self._by_path["/".join(file.directories)])
        split, name = self._label(above)
        return split, next((directory.name for directory in above if directory in self._classes_above), name)

    def _label(self, above: list[Directory]) -> Label:
        bases = [depth for depth, directory in enumerate(above) if directory in self._bases]
        if bases:
            last = self._last_of_chain(bases)
            return self._split_of[self._bases[above[last]]], (above[last + 1].name if last + 1 < len(above) else None)
        return None, (self._class_beside(above) if self.is_one_beside else None)

    @staticmethod
    def _last_of_chain(bases: list[int]) -> int:
        last = bases[0]
        while last + 1 in bases:
            last += 1
        return last


def is_within(inner: Directory, outer: Directory) -> bool:
    """Whether a directory is another one or lies in it."""
    return (inner.path + "/").startswith(outer.path + "/" if outer.path else "")


def says_images_alone(name: str) -> bool:
    words = words_of(name)
    return bool(words) and all(word in IMAGE_WORDS for word in words)


class PatternLayout(Layout):
    def __init__(self, pattern: str, images: Sequence[File]) -> None:
        pattern = {"class": "{class}", "split/class": "{split}/{class}"}.get(pattern, pattern).strip("/")
        self._parts = [compiled(part) for part in pattern.split("/")]
        self._has_split, self._has_class = "{split}" in pattern, "{class}" in pattern
        self._level = next((number for number, part in enumerate(pattern.split("/"), 1) if "{split}" in part), 0)
        self._directories = [image.directories for image in images]
        found = [self._found(names) for names in self._directories]
        self.splits = {split for split, _, fits in found if split is not None and fits}
        self.levels = {self._level} if self.splits else set()
        self.matches_nothing = not (self.splits if self._has_split else any(name for _, name, fits in found if fits))

    def label(self, file: File) -> Label:
        names = file.directories
        split, name, fits = self._found(names)
        if (fits and split is not None) or not self._has_split:
            return (split, name) if fits else (None, None)
        top = self._top(names)
        at = self._level - 1 if self.is_one_beside else top
        below = names[at] if self._has_class and 0 < at + 1 <= len(names) and (top or self.is_one_beside) else None
        return ("/" + "/".join(names[:top]) if top else None), name or below

    def _top(self, names: list[str]) -> int:
        """How many directories there are down to the topmost that is a split of its own; 0 where none is."""
        for depth in range(1, len(names) + 1):
            inside = [each for each in self._directories if each[:depth] == names[:depth]]
            splits = [found for found in map(self._found, inside) if found[0] is not None and found[2]]
            split, _, fits = self._found(names[:depth])
            if not self.is_one_beside and inside and not splits and not (split is not None and fits):
                return depth
        return 0

    def _found(self, names: list[str]) -> tuple[str | None, str | None, bool]:
        """What the pattern finds in a path of directories, or in its beginning where it does not match."""
        bound: dict[str, str] = {}
        for part, name in zip(self._parts, names, strict=False):
            match = part.fullmatch(name)
            if match is None:
                return bound.get("split"), bound.get("class_"), False
            bound |= match.groupdict()
        return bound.get("split"), bound.get("class_"), True


def compiled(part: str) -> re.Pattern[str]:
    """One directory's part of a pattern as a regular expression."""
    pieces = re.split(r"\{(split|class)\}", part)
    text = ""
    for number, piece in enumerate(pieces):
        if number % 2:
            text += "(?P<split>.+?)" if piece == "split" else "(?P<class_>.+)"
        else:
            text += glob_pattern(piece)
    return re.compile(text, re.DOTALL)


def glob_pattern(glob: str) -> str:
    """A part of a glob as a regular expression."""
    text = ""
    for sign in re.findall(r"\[!?\]?[^]]*\]|.", glob, re.DOTALL):
        if len(sign) > 1:
            text += "[^" + sign[2:] if sign.startswith("[!") else sign
        else:
            text += {"*": ".*", "?": "."}.get(sign, re.escape(sign))
    return text


# -- what is shown of the same images ----------------------------------------------------------------------------------


def same(one: File, other: File, options: Options) -> bool:
    is_one_file = one.real == other.real or one.numbers == other.numbers
    return is_one_file or (options.dedup == "bytes" and one.content == other.content)


def groups_of(images: list[File], options: Options) -> list[list[File]]:
    """Every image compared with every other."""
    groups: list[list[File]] = []
    left = list(images)
    while left:
        group = [image for image in left if same(left[0], image, options)]
        left = [image for image in left if image not in group]
        groups.append(group)
    return groups


def rank(file: File, split: str | None, layout: Layout, options: Options) -> tuple[int, int, bool, bytes]:
    globs = [number for number, glob in enumerate(options.prefer) if matches(glob, file.path)]
    return (
        min(globs, default=len(options.prefer)),
        split_rank(split, options) if layout.splits else 0,
        file.is_linked,
        os.fsencode(file.path),
    )


def split_rank(split: str | None, options: Options) -> int:
    if split is None or split.startswith("/"):
        return len(options.split_order) + 1
    for number, name in enumerate(options.split_order):
        if split == name or mean_the_same(meaning(split), meaning(name)):
            return number
    return len(options.split_order)


def mean_the_same(one: str, other: str) -> bool:
    return one == other or any({one, other} <= words for words in SAME_MEANING)


def conflicting(files: Iterable[File], label: Mapping[File, Label]) -> set[str | None]:
    """The splits in which an image has several classes."""
    labels = {label[file] for file in files}
    return {
        split
        for split, name in labels
        for other_split, other in labels
        if split == other_split and None not in (name, other) and name != other and not in_store((split, name))
    }


def is_leak(files: Iterable[File], label: Mapping[File, Label]) -> bool:
    return len({label[file][0] for file in files if not in_store(label[file])}) > 1


def in_store(label: Label) -> bool:
    return label[0] is not None and label[0].startswith("//")


def mark_stores(label: dict[File, Label], layout: Layout) -> None:
    """Begin the names of splits that are stores with two slashes."""
    if not layout.splits or layout.is_one_beside:
        return
    stores = {
        split
        for file, (split, _) in label.items()
        for other, (named, _) in label.items()
        if split not in layout.splits and not file.is_linked
        if other.is_linked and other.has_image_name and named in layout.splits and other.numbers == file.numbers
    }
    for file, (split, name) in label.items():
        if split in stores:
            label[file] = (f"/{split or '/'}", name)


def hide_same(answer: Answer, group: list[File], label: Mapping[File, Label], layout: Layout, options: Options) -> None:
    """Hide of one image's files what is not shown, in each scope."""

    def scope(file: File) -> Sequence[str | None]:
        return label[file][: {"class": 2, "split": 1, "all": 0}[options.dedup_scope]]

    answer.conflicts += bool(conflicting(group, label))
    answer.leaks += is_leak(group, label)
    for of in {tuple(scope(file)) for file in group}:
        files = [file for file in group if tuple(scope(file)) == of]
        first = min(files, key=lambda file: rank(file, label[file][0], layout, options))
        kept = [first]
        conflicts = conflicting(files, label) if options.dedup_scope != "class" else set()
        if conflicts and options.conflicts == "drop":
            kept = []
        elif label[first][0] in conflicts and options.conflicts == "keep":
            kept = [file for file in files if label[file][0] == label[first][0]]
        for file in files:
            if file in kept:
                continue
            if not kept:
                answer.hidden[file.path] = ("conflict", None)
            else:
                kind = "leak" if is_leak([file, first], label) else "duplicate"
                answer.hidden[file.path] = (kind, first.path)


def answer(root: str, options: Options) -> Answer:
    """What the page says of the dataset at `root`, with these options."""
    said = Answer()
    top = read(root, options, said.hidden)
    contents = Contents(top)
    pairs = pairs_of(top, contents, options)
    named = [image for image in pairs.images if image.has_image_name]
    layout: Layout
    if options.layout == "auto":
        layout = AutoLayout(top, contents)
    else:
        layout = PatternLayout(options.layout, named)
        if layout.matches_nothing:
            said.refused.add("layout")
    label = {file: layout.label(file) for file in pairs.images}
    mark_stores(label, layout)
    said.splits, said.levels = sorted(layout.splits), sorted(layout.levels)
    said.beside = beside_said(layout, {file: label[file] for file in named})
    said.classes = len({each[1] for each in map(label.__getitem__, named) if each[1] and not in_store(each)})
    said.compared = len(pairs.images)
    for group in groups_of(pairs.images, options):
        hide_same(said, group, label, layout, options)
    gone = {file for file in pairs.images if file.path in said.hidden}
    if options.side_files != "keep":
        if cannot_be_decided(pairs, gone):
            said.refused.add("side-files")
        for file, owners in pairs.owners.items():
            if all(owner in gone for owner in owners):
                said.hidden[file.path] = ("side-file", None)
    said.shown = {file.path for file in files_below(top) if file.path not in said.hidden}
    refuse(said, layout, [label[file] for file in named if not in_store(label[file])], options)
    return said


def beside_said(layout: Layout, label: Mapping[File, Label]) -> list[str]:
    """What lies beside the splits, as it is said; something without a name where all of it is one split."""
    beside = {each[0] for each in label.values() if not in_store(each)} - layout.splits
    if not layout.splits or not beside:
        return []
    if layout.is_one_beside:
        return [""]
    loose = {"/" + ("/".join(file.directories) or ".") for file, (split, _) in label.items() if split is None}
    return sorted(split.removeprefix("/") for split in beside | loose if split is not None)


def refuse(said: Answer, layout: Layout, labels: list[Label], options: Options) -> None:
    """Everything for which the mount is refused, besides what was found before."""
    asks_splits = options.dedup_scope == "split" or options.split_order != DEFAULT_ORDER or "leak" in options.fail_on
    if asks_splits and not layout.splits:
        said.refused.add("splits")
    if layout.splits and "leak" in options.fail_on and len({split for split, _ in labels}) == 1:
        said.refused.add("one split")
    if options.split_order != DEFAULT_ORDER and any(
        name not in layout.splits and split_name(name) is None for name in options.split_order
    ):
        said.refused.add("split-order")
    if (options.conflicts != "first" or "conflict" in options.fail_on) and not has_classes(labels, options):
        said.refused.add("classes")
    found = {kind for kind, _ in said.hidden.values()}
    found |= {"conflict"} if said.conflicts else set()
    found |= {"leak"} if said.leaks else set()
    said.refused |= found & set(options.fail_on)
    if options.conflicts == "fail" and said.conflicts:
        said.refused.add("conflict")


def has_classes(labels: list[Label], options: Options) -> bool:
    if options.layout != "auto":
        return any(name is not None for _, name in labels)
    classes = {label for label in labels if label[1] is not None}
    return any(one[0] == other[0] and one != other for one in classes for other in classes)
