"""What lies on every file system of the bench: a dataset for each variant of mount, so that none spoils another's."""

from __future__ import annotations

from tests.support.trees import Entry, Name, hardlink, link

#: More than one READ of the kernel's takes.
LARGE = 300_000
SMALL = 5_000

#: How a dataset is mounted: the backend, and options.
VARIANTS: dict[str, tuple[str, ...]] = {
    "kernel": ("kernel", "--io", "cached"),
    "passthrough": ("kernel", "--io", "passthrough"),
    "stacked": ("stacked", "--io", "cached"),
    "fusepy": ("fusepy",),
}

#: What is read of files that stay as they are, in this order.
UNCHANGED = ("first", "dropped", "beside", "again")
#: What is changed before it is read for the first time: how, and whether the kernel then forgets what it knew.
CHANGED = {
    f"{how}{', forgotten' if forgotten else ''}": (how, forgotten)
    for how in ("in place", "replaced", "grown", "truncated")
    for forgotten in (False, True)
}
#: What is changed while somebody reads it.
HALFWAY = {f"{how}, halfway": how for how in ("in place", "replaced")}


def content(name: str) -> bytes:
    """What is in a file of this name, from the beginning."""
    size = LARGE if name in HALFWAY else SMALL
    return (f"{name} ".encode() * size)[:size]


_NAMES = (*UNCHANGED, *CHANGED, *HALFWAY)


def place(name: str) -> str:
    """Where the image of that name is in a dataset."""
    return f"store{1 + _NAMES.index(name) % 2}/{name}"


def _dataset() -> dict[Name, Entry]:
    odd: dict[Name, Entry] = {name: content(name) for name in _NAMES[::2]}
    even: dict[Name, Entry] = {name: content(name) for name in _NAMES[1::2]}
    links: dict[Name, Entry] = {name: link(f"../../{place(name)}") for name in _NAMES}
    return {
        "store1": {**odd, "deep": {"er": {"x": b"deep"}}},
        "store2": even,
        "train": {"cat": links, "dog": link("../store1/deep")},
    }


#: Links that lead to one file, hard links, a way back up, and different files that are alike in nothing but their size.
SHAPES: dict[Name, Entry] = {
    "store1": {"twin.png": b"one", "other.png": b"two", "deep": {"x": b"deep"}},
    "store2": {"twin.png": b"THE", "other.png": b"TWO", "deep": {"y": b"DEEP"}},
    "train": {
        "link": {
            "1.png": link("../../store1/twin.png"),
            "2.png": link("../../store1/twin.png"),
            "3.png": link("1.png"),
        },
        "hard": {
            "1.png": b"hard",
            "2.png": hardlink("shapes/train/hard/1.png"),
            "3.png": hardlink("shapes/train/hard/1.png"),
        },
        "apart": {
            name: link(f"../../{name.replace(' ', '/')}")
            for name in ("store1 twin.png", "store1 other.png", "store2 twin.png", "store2 other.png")
        },
        "deep": link("../store1/deep"),
        "deep2": link("../store2/deep"),
        "cycle": {"up": link(".."), "around": link("../cycle2")},
        "cycle2": {"around": link("../cycle")},
    },
}

DATASETS: dict[Name, Entry] = {"shapes": SHAPES, **dict.fromkeys(VARIANTS, _dataset())}
