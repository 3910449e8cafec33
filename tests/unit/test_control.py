from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symfuse.control import BUFFER_BYTES, STATUS, WHY, Control, ask, decode, encode
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.errors import NotMounted, UsageError
from symfuse.policy import Policy
from symfuse.view import View
from tests.support.trees import link, tree

US = os.geteuid()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    root = os.fsencode(tree(tmp_path / "dataset", {"a": b"A", "gone": link("nowhere"), b"\xff": link("a")}))
    view = View(Dataset(root, Policy()))
    yield Control(view, Counters(), backend="kernel", source=root, mountpoint=b"/mnt")
    view.close()


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans()))
def test_a_message_survives_the_way(message: dict[str, object]) -> None:
    assert decode(encode(message).ljust(BUFFER_BYTES, b"\0")) == message


@given(st.binary())
def test_a_path_survives_as_the_bytes_it_is(path: bytes) -> None:
    assert os.fsencode(decode(encode({"path": os.fsdecode(path)}))["path"]) == path


@given(st.binary(max_size=64))
def test_bytes_that_are_no_message_are_a_value_error(junk: bytes) -> None:
    try:
        message = decode(junk)
    except ValueError:
        return
    assert message == {} or json.loads(junk.rstrip(b"\0")) == message


def test_the_two_questions_are_distinct_ioctls_that_carry_the_whole_buffer() -> None:
    assert STATUS != WHY
    assert {(number >> 16) & 0x3FFF for number in (STATUS, WHY)} == {BUFFER_BYTES}


def test_status_tells_who_serves_what(control: Control) -> None:
    control.view.freeze_all()
    status = decode(control.answer(STATUS, b"", uid=US))
    assert (status["backend"], status["pid"], status["mountpoint"]) == ("kernel", os.getpid(), "/mnt")
    assert status["frozen"]["files"] == 2
    assert status["frozen"]["hidden"] == {"dangling": 1}


def test_why_explains_a_name_that_is_not_utf8(control: Control) -> None:
    answer = decode(control.answer(WHY, encode({"path": os.fsdecode(b"\xff")}), uid=US))
    assert answer["shown"]
    assert answer["source"].endswith("/dataset/a")


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b"1", b'{"path": 1}', b'{"other": "a"}', b"\xff\xfe", b"null", b'{"path": "a\\u0000b"}']
)
def test_a_malformed_question_is_einval(control: Control, junk: bytes) -> None:
    with pytest.raises(OSError) as error:
        control.answer(WHY, junk, uid=US)
    assert error.value.errno == errno.EINVAL


def test_any_other_ioctl_is_enotty(control: Control) -> None:
    with pytest.raises(OSError) as error:
        control.answer(0x5401, b"", uid=0)
    assert error.value.errno == errno.ENOTTY


def test_another_user_is_not_answered(control: Control) -> None:
    with pytest.raises(OSError) as error:
        control.answer(STATUS, b"", uid=US + 1)
    assert error.value.errno == errno.EACCES


def test_root_is_answered(control: Control) -> None:
    assert decode(control.answer(STATUS, b"", uid=0))["uid"] == US


def test_an_answer_always_fits_into_the_buffer(control: Control) -> None:
    answer = control.answer(WHY, encode({"path": "x" * (BUFFER_BYTES - 20)}), uid=US)
    assert len(answer) <= BUFFER_BYTES
    assert "error" in decode(answer)


def test_asking_where_nothing_of_ours_is_mounted_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotMounted):
        ask(os.fsencode(tmp_path), STATUS)
    with pytest.raises(NotMounted):
        ask(os.fsencode(tmp_path / "none"), STATUS)


def test_a_status_with_long_paths_loses_examples_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    for branch in "abcde":
        deep = root.joinpath(*[branch * 250] * 14)
        deep.mkdir(parents=True)
        (deep / "gone").symlink_to("nowhere")
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    control = Control(view, Counters(), backend="kernel", source=b"/dataset", mountpoint=b"/mnt")
    status = decode(control.answer(STATUS, b"", uid=US))
    view.close()
    assert status["pid"] == os.getpid()
    assert status["frozen"]["hidden"] == {"dangling": 5}
    assert 0 < len(status["frozen"]["examples"]["dangling"]) < 5


def test_a_question_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        ask(os.fsencode(tmp_path), WHY, path="\x01" * 4000)


def test_what_is_no_answer_of_ours_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def junk(_fd: int, _command: int, buffer: bytearray) -> int:
        buffer[:] = b"junk".ljust(len(buffer), b"\0")
        return 0

    monkeypatch.setattr("fcntl.ioctl", junk)
    with pytest.raises(NotMounted, match="no symfuse server"):
        ask(os.fsencode(tmp_path), STATUS)
