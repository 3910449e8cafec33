"""What the user can choose, and the kinds of entries a view does not show.

Values are frozen and carry no behaviour beyond answering what they mean; every other module reads them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    """Why an entry of the dataset is not shown."""

    DANGLING = "dangling"
    LOOP = "loop"
    CYCLE = "cycle"
    SPECIAL = "special"
    UNREADABLE = "unreadable"
    RECURSIVE = "recursive"
    MULTIPLIED = "multiplied"
    OUTSIDE = "outside"
    DOT_ENTRY = "dot-entry"
    DIR_LINK = "dir-link"
    NOT_UTF8 = "not-utf8"
    CLUTTER = "clutter"
    EXCLUDED = "excluded"
    DUPLICATE = "duplicate"
    LEAK = "leak"
    CONFLICT = "conflict"
    BROKEN = "broken"
    SIDE_FILE = "side-file"

    @property
    def meaning(self) -> str:
        """One line for the user."""
        return _MEANINGS[self]

    @property
    def is_choice(self) -> bool:
        """True for what the user asked to hide; the rest are problems of the dataset (`--fail-on any`)."""
        return self not in PROBLEMS


_MEANINGS = {
    Kind.DANGLING: "the link's target does not exist",
    Kind.LOOP: "the link leads back to itself, or through more than 40 links",
    Kind.CYCLE: "the directory is one of its own ancestors",
    Kind.SPECIAL: "a fifo, a socket, a device, a file of the kernel's (/proc), or one with content whose size is 0",
    Kind.UNREADABLE: "it cannot be read: no permission, or an error of its file system",
    Kind.RECURSIVE: "the link leads into a mount of symfuse's",
    Kind.MULTIPLIED: "linked directories repeat each other without end in sight",
    Kind.OUTSIDE: "the link leaves the dataset and its target is in no --allow-root directory",
    Kind.DOT_ENTRY: "its name begins with a dot",
    Kind.DIR_LINK: "a link to a directory, and --dir-links hide was given",
    Kind.NOT_UTF8: "its name is not UTF-8, and --non-utf8 hide was given",
    Kind.CLUTTER: "a name that systems and tools leave behind",
    Kind.EXCLUDED: "--hide GLOB was given for it",
    Kind.DUPLICATE: "the same image is shown at another place",
    Kind.LEAK: "the same image is shown in another split",
    Kind.CONFLICT: "the same image is under several classes, and --conflicts drop was given",
    Kind.BROKEN: "the image cannot be decoded",
    Kind.SIDE_FILE: "the image that it belongs to is hidden",
}


class Finding(enum.StrEnum):
    """What is wrong although it is shown. Counted in images, not in files, where it is about images."""

    CONFLICT = "conflict"
    LEAK = "leak"
    UNREAD = "unread"
    EMPTIED = "emptied"
    NOT_UTF8 = "not-utf8"
    NARROWED = "narrowed"

    @property
    def meaning(self) -> str:
        """One line for the user."""
        return {
            Finding.CONFLICT: "one image under several classes of one split",
            Finding.LEAK: "one image in several splits",
            Finding.UNREAD: "not looked into, for it could not be read or changed meanwhile; it is shown",
            Finding.EMPTIED: "a directory of which all, or nearly all, is hidden",
            Finding.NARROWED: "fewer users may read it here than at its source; symfuse why explains it",
            Finding.NOT_UTF8: "a name that is not UTF-8, which ends many loaders; --non-utf8 hide hides it",
        }[self]


#: What a dataset can be refused for.
Problem = Kind | Finding

PROBLEMS = frozenset(Kind) - {
    *(Kind.DOT_ENTRY, Kind.DIR_LINK, Kind.NOT_UTF8, Kind.CLUTTER, Kind.EXCLUDED),
    *(Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT, Kind.BROKEN, Kind.SIDE_FILE),
}


class Backend(enum.StrEnum):
    """Which way the view takes to the kernel."""

    KERNEL = "kernel"
    FUSEPY = "fusepy"


class Io(enum.StrEnum):
    """How the content of files reaches its readers."""

    AUTO = "auto"
    CACHED = "cached"
    PASSTHROUGH = "passthrough"


class Outside(enum.StrEnum):
    """Links whose resolved target lies outside the dataset."""

    FOLLOW = "follow"
    HIDE = "hide"


class DirLinks(enum.StrEnum):
    """Links to directories."""

    FOLLOW = "follow"
    HIDE = "hide"


class DotEntries(enum.StrEnum):
    """Entries whose name begins with a dot."""

    HIDE = "hide"
    SHOW = "show"


class NonUtf8(enum.StrEnum):
    """Entries whose name is not UTF-8."""

    SHOW = "show"
    HIDE = "hide"


class SameBy(enum.StrEnum):
    """What makes two files the same image."""

    OFF = "off"
    TARGET = "target"
    BYTES = "bytes"
    PIXELS = "pixels"


class Scope(enum.StrEnum):
    """Within what the same image is shown once."""

    CLASS = "class"
    SPLIT = "split"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the levels of directories mean: as `pattern` says (`symfuse.pattern`), or, without one, as names say."""

    pattern: bytes | None = None


class Conflicts(enum.StrEnum):
    """What happens to an image that is under several classes of one split."""

    FIRST = "first"
    KEEP = "keep"
    DROP = "drop"
    FAIL = "fail"


class BrokenImages(enum.StrEnum):
    """Images that cannot be decoded."""

    SHOW = "show"
    HIDE = "hide"


class SideFiles(enum.StrEnum):
    """Labels, masks and captions of images that are hidden for their content."""

    FOLLOW = "follow"
    KEEP = "keep"


class Judge(enum.StrEnum):
    """For whom an image is broken: who cannot decode it."""

    PILLOW = "pillow"
    TENSORFLOW = "tensorflow"
    BOTH = "both"


#: Which of the same images in several splits is shown, unless the user says otherwise.
SPLIT_ORDER = (b"train", b"val", b"test")


@dataclass(frozen=True, slots=True)
class Dedup:
    """Which of several same images is shown.

    `prefer` holds globs of paths in the view, `split_order` names of splits; what comes first in them is shown first.
    """

    same_by: SameBy = SameBy.OFF
    scope: Scope = Scope.CLASS
    layout: Layout = Layout()
    prefer: tuple[bytes, ...] = ()
    split_order: tuple[bytes, ...] = SPLIT_ORDER
    conflicts: Conflicts = Conflicts.FIRST


@dataclass(frozen=True, slots=True)
class NameRule:
    """`--hide GLOB` or `--show GLOB`. How a glob is read: `symfuse.rules.Glob`."""

    hides: bool
    glob: bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """What a view shows. `allow_roots` are absolute real paths: outside links into them are always followed.

    Of the `name_rules` that match an entry the last one decides.
    """

    outside: Outside = Outside.FOLLOW
    dir_links: DirLinks = DirLinks.FOLLOW
    dot_entries: DotEntries = DotEntries.HIDE
    non_utf8: NonUtf8 = NonUtf8.SHOW
    name_rules: tuple[NameRule, ...] = ()
    allow_roots: tuple[bytes, ...] = ()
    dedup: Dedup = Dedup()
    broken_images: BrokenImages = BrokenImages.SHOW
    judge: Judge = Judge.PILLOW
    side_files: SideFiles = SideFiles.FOLLOW
    fail_on: frozenset[Problem] = field(default_factory=frozenset)

    @property
    def looks_into_files(self) -> bool:
        """True when what is shown depends on more than names and links: then all is looked at before it is mounted."""
        return self.dedup.same_by is not SameBy.OFF or self.broken_images is BrokenImages.HIDE

    @property
    def reads_files(self) -> bool:
        """True when what is shown depends on the content of files, too."""
        return self.dedup.same_by in {SameBy.BYTES, SameBy.PIXELS} or self.broken_images is BrokenImages.HIDE
