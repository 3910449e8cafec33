from __future__ import annotations

import dataclasses

import pytest

from symfuse.policy import PROBLEMS, Kind, Policy


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_says_in_one_line_what_it_means(kind: Kind) -> None:
    assert kind.meaning
    assert "\n" not in kind.meaning


def test_what_the_user_asked_to_hide_is_no_problem_of_the_dataset() -> None:
    asked = {
        *(Kind.DOT_ENTRY, Kind.DIR_LINK, Kind.NOT_UTF8, Kind.CLUTTER, Kind.EXCLUDED),
        *(Kind.DUPLICATE, Kind.LEAK, Kind.CONFLICT, Kind.BROKEN, Kind.SIDE_FILE),
    }
    assert set(Kind) - PROBLEMS == asked


def test_a_policy_cannot_change_under_a_mount() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().allow_roots = (b"/",)  # type: ignore[misc]
