"""How `--layout` is read: `symfuse.pattern`."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symfuse.errors import UsageError
from symfuse.pattern import Match, Pattern, layout_of
from symfuse.policy import Layout


def match(pattern: str, name: str, level: int = 1) -> tuple[str | None, str | None] | None:
    found = Pattern(pattern.encode()).match(level, name.encode())
    if found is None:
        return None
    split, category = (None if each is None else each.decode() for each in found)
    return split, category


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{split}", "Train 2017", ("Train 2017", None)),
        ("{class}", "a\nb", (None, "a\nb")),
        ("{split}_images", "train_images", ("train", None)),
        ("{split}_images", "_images", None),
        ("{split}_images", "Train_Images", None),
        ("{class}_{split}", "small_cat_train", ("train", "small_cat")),
        ("{split}_{class}", "train_small_cat", ("train", "small_cat")),
        ("{split}[0-9]*", "train2017", ("train", None)),
        ("*_{split}", "a_b_train", ("train", None)),
        ("v?.{split}", "v1.train", ("train", None)),
        ("v?.{split}", "v12.train", None),
        ("v?.{split}", "v1xtrain", None),
        ("[!ab]{split}", "ctrain", ("train", None)),
        ("[!ab]{split}", "atrain", None),
        ("[]x]{split}", "]train", ("train", None)),
        (r"[\^]{split}", "^train", ("train", None)),
        ("[{]{split}[}]", "{train}", ("train", None)),
        ("a[{split}", "a[train", ("train", None)),
    ],
)
def test_what_a_pattern_finds_in_a_name(
    pattern: str, name: str, expected: tuple[str | None, str | None] | None
) -> None:
    assert match(pattern, name) == expected


def test_each_level_has_its_name_and_below_the_last_every_name_fits() -> None:
    pattern = Pattern(b"/images*/{split}/{class}/")
    assert pattern.split_level == 2
    assert [pattern.match(level, b"images") for level in (1, 2, 3, 4)] == [
        Match(None, None),
        Match(b"images", None),
        Match(None, b"images"),
        Match(None, None),
    ]
    assert pattern.match(1, b"labels") is None


#: Each part of a pattern, as a regular expression has it.
PARTS = {
    "*": ".*",
    "?": ".",
    "a": "a",
    "b": "b",
    "[ab]": "[ab]",
    "{split}": "(?P<split>.+?)",
    "{class}": "(?P<class>.+)",
}


@given(
    st.lists(st.sampled_from(["*", "?", "a", "b", "[ab]"]), max_size=5),
    st.lists(st.sampled_from(["{split}", "{class}"]), min_size=1, unique=True).flatmap(st.permutations),
    st.randoms(use_true_random=False),
    st.text("ab", min_size=1, max_size=8),
)
def test_names_are_taken_apart_as_by_a_regular_expression(
    parts: list[str], placeholders: list[str], random: Random, name: str
) -> None:
    for placeholder in placeholders:
        parts.insert(random.randint(0, len(parts)), placeholder)
    found = re.fullmatch("".join(PARTS[part] for part in parts), name)
    groups = None if found is None else found.groupdict()
    expected = None if groups is None else (groups.get("split"), groups.get("class"))
    assert match("".join(parts), name) == expected


def test_no_name_takes_long() -> None:
    """By a regular expression this one takes longer than anybody waits: 250 letters for 20 stars."""
    assert match("*a" * 20 + "{split}b", "a" * 250) is None


def test_the_words_for_layouts() -> None:
    assert layout_of(b"auto") == Layout()
    assert layout_of(b"class") == Layout(b"{class}")
    assert layout_of(b"split/class") == layout_of(b"{split}/{class}")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "neither"),
        ("images", "neither"),
        ("*/*", "neither"),
        ("{split}/{klass}", r"no \{klass\}"),
        ("{split}/{}", r"no \{\}"),
        ("{split}/{split}", r"\{split\} twice"),
        ("{split}/{class}{class}", r"\{class\} twice"),
        ("a//{split}", "empty name"),
        ("{split", "neither"),
        ("{class}/{split", r"a \{ stands alone"),
        ("{split}}", r"a \} stands alone"),
        ("{split}[z-a]", "cannot be read"),
        ("[]{split}", r"its set \[\] is empty"),
        ("{split}/[!]{class}", r"its set \[!\] is empty"),
    ],
)
def test_what_is_no_pattern_is_refused_with_its_cure(text: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as refused:
        layout_of(text.encode())
    assert refused.value.cure
