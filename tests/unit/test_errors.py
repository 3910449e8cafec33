from __future__ import annotations

import re

import pytest

from symfuse import errors
from symfuse.errors import ExitStatus, SymfuseError
from tests.support.mounting import REPOSITORY

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SymfuseError)]


def test_the_readme_lists_the_exit_statuses_that_exist() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^#+ .*exit status.*$", readme, maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| *`?(\d+)`? *\|", section, flags=re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(ExitStatus)


@pytest.mark.parametrize("kind", ERRORS)
def test_each_error_has_a_status_that_is_not_success(kind: type[SymfuseError]) -> None:
    assert kind.status in set(ExitStatus) - {ExitStatus.OK}


def test_only_the_base_class_stands_for_a_bug() -> None:
    assert [kind for kind in ERRORS if kind.status is ExitStatus.INTERNAL] == [SymfuseError]


def test_an_error_names_the_cause_and_then_the_cure() -> None:
    assert str(SymfuseError("no device", "run modprobe fuse")) == "no device: run modprobe fuse"
    assert str(SymfuseError("no device")) == "no device"
