"""Which names nobody trains on, and how the globs of `--hide`, `--show` and `--prefer` are read."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from symfuse.policy import NameRule

#: Names that systems and tools leave behind in directories of others, in lower case. docs/semantics.md has the same
#: list. Names that begin with a dot are none of it: they are hidden as dot entries.
CLUTTER = frozenset(
    {
        # macOS: what Finder packs and shares. Classic Mac OS on shared volumes.
        *(b"__macosx", b"icon\r", b"network trash folder", b"temporary items", b"thevolumesettingsfolder"),
        # Windows: thumbnails, recycle bins, restore points, what chkdsk found.
        *(b"thumbs.db", b"ehthumbs.db", b"ehthumbs_vista.db", b"desktop.ini", b"$recycle.bin", b"recycler"),
        *(b"system volume information", b"found.000"),
        # Linux: what fsck found.
        b"lost+found",
        # Network storage: Synology, QNAP, NetApp.
        *(b"@eadir", b"@tmp", b"#recycle", b"#snapshot", b"@recycle", b"@recently-snapshot", b"@__thumb"),
        *(b"network recycle bin", b"~snapshot"),
        # Programs: Python, Picasa.
        *(b"__pycache__", b"picasa.ini"),
    }
)


def is_clutter(name: bytes) -> bool:
    """Whether a name is of `CLUTTER`, in whatever case (of ASCII letters)."""
    return name.lower() in CLUTTER


class Glob:
    """A glob of names or paths in a view, bytes against bytes.

    `*` is any run of characters, slashes and leading dots included, `?` one, `[…]` and `[!…]` one of or none of some;
    in brackets each stands for itself, and a backslash is a character like any other. A slash at the end means
    directories only. With a slash anywhere else the whole path must match, without one the name. A slash at the
    beginning is the root of the view.

    Errors: ValueError for a glob that is empty but for such slashes.
    """

    __slots__ = ("_match", "is_for_directories", "is_for_paths")

    def __init__(self, text: bytes) -> None:
        body = text.removeprefix(b"/").removesuffix(b"/")
        if not body:
            raise ValueError("an empty glob matches nothing")
        self.is_for_directories = text.endswith(b"/")
        self.is_for_paths = text.startswith(b"/") or b"/" in body
        # Each byte as one character, there and back, as `fnmatch` itself does it.
        self._match = re.compile(fnmatch.translate(body.decode("latin-1")).encode("latin-1")).match

    def fits(self, text: bytes) -> bool:
        """Whether a name, or a path without a slash at its beginning, matches."""
        return self._match(text) is not None


class NameRules:
    """The rules of `--hide` and `--show`, in the order in which they were given."""

    def __init__(self, rules: Iterable[NameRule]) -> None:
        self._last_first = [(rule, Glob(rule.glob)) for rule in rules][::-1]
        #: True when what a rule says of a name depends on where in the view it stands.
        self.need_paths = any(glob.is_for_paths for _rule, glob in self._last_first)
        #: True when what a rule says depends on whether the entry is a directory.
        self.need_types = any(glob.is_for_directories for _rule, glob in self._last_first)

    def __bool__(self) -> bool:
        return bool(self._last_first)

    def deciding(self, name: bytes, within: bytes, *, is_directory: bool) -> NameRule | None:
        """The last rule that matches an entry of the directory `within`, a path in the view; None where none does.

        `within` may be anything unless `need_paths`.
        """
        path = within + b"/" + name if within else name
        for rule, glob in self._last_first:
            if (is_directory or not glob.is_for_directories) and glob.fits(path if glob.is_for_paths else name):
                return rule
        return None
