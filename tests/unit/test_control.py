from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symfuse import control as wire
from symfuse.control import BUFFER_BYTES, COMMANDS, HIDDEN, MORE, STATUS, WHY, Control, Message, ask, decode, encode
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.errors import NotMounted, SymfuseError, UsageError
from symfuse.policy import Kind, Policy
from symfuse.view import HiddenEntry, View
from tests.support.trees import link, tree

US = os.geteuid()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    root = os.fsencode(tree(tmp_path / "dataset", {"a": b"A", "gone": link("nowhere"), b"\xff": link("a")}))
    view = View(Dataset(root, Policy()))
    yield Control(view, Counters(), backend="kernel", source=root, mountpoint=b"/mnt")
    view.close()


def asked(control: Control, command: int, *, uid: int = US, **question: str) -> Message:
    """What a client is told, through a carrier that pads as the kernel does."""

    def exchange(what: int, payload: bytes) -> bytes:
        assert len(payload) <= BUFFER_BYTES
        reply = control.answer(what, payload.ljust(BUFFER_BYTES, b"\0"), uid=uid)
        assert len(reply) <= BUFFER_BYTES
        return reply.ljust(BUFFER_BYTES, b"\0")

    return ask(exchange, command, **question)


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


def test_the_questions_are_distinct_ioctls_that_carry_the_whole_buffer() -> None:
    assert {STATUS, WHY, HIDDEN, MORE} == COMMANDS
    assert len(COMMANDS) == 4
    assert {(number >> 16) & 0x3FFF for number in COMMANDS} == {BUFFER_BYTES}


def test_status_tells_who_serves_what(control: Control) -> None:
    control.view.freeze_all()
    status = asked(control, STATUS)
    assert (status["backend"], status["pid"], status["mountpoint"]) == ("kernel", os.getpid(), "/mnt")
    assert status["frozen"]["files"] == 2
    assert status["frozen"]["hidden"] == {"dangling": 1}
    assert (status["stale"], status["missing"], status["hanging"]) == (0, [], [])


def test_why_explains_a_name_that_is_not_utf8(control: Control) -> None:
    answer = asked(control, WHY, path=os.fsdecode(b"\xff"))
    assert answer["shown"]
    assert answer["source"].endswith("/dataset/a")


DEEP = b'{"path": ' + b"[" * 8000 + b"]" * 8000 + b"}"
HUGE = b'{"path": ' + b"9" * 8000 + b"}"


@pytest.mark.parametrize(
    "junk",
    [
        *(b"", b"{", b"[]", b"1", b'{"path": 1}', b'{"other": "a"}', b"\xff\xfe", b"null", b'{"path": "a\\u0000b"}'),
        *(b'{"path": "\\ud800"}', b'{"path": null}', b'{"id": 1, "offset": "x"}', b'{"id": "x", "offset": -1}'),
        *(b'{"path": 1e999}', b'{"id": "x", "offset": 1e999}', DEEP, HUGE),
    ],
)
@pytest.mark.parametrize("command", [WHY, HIDDEN, MORE])
def test_a_malformed_question_is_told_so_in_the_answer(control: Control, command: int, junk: bytes) -> None:
    error = decode(control.answer(command, junk, uid=US))["error"]
    assert error["kind"] == "usage"
    assert error["message"]


@given(st.binary(max_size=200))
def test_whatever_is_asked_the_answer_is_a_message(question: bytes) -> None:
    view = View(Dataset(b"/proc/self/fdinfo", Policy()))
    control = Control(view, Counters(), backend="kernel", source=b"/", mountpoint=b"/mnt")
    for command in COMMANDS:
        assert decode(control.answer(command, question, uid=US)).keys() & {"ok", "error", "long"}
    view.close()


def test_a_failure_of_ours_is_an_answer_and_one_traceback(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(wire, "explain", fail)
    with pytest.raises(SymfuseError, match="internal error: AssertionError: see the log") as error:
        asked(control, WHY, path="a")
    assert error.value.status == 1
    assert caplog.text.count("Traceback") == 1


def test_any_other_ioctl_is_enotty(control: Control) -> None:
    with pytest.raises(OSError) as error:
        control.answer(0x5401, b"", uid=0)
    assert error.value.errno == errno.ENOTTY


def test_another_user_is_not_answered(control: Control) -> None:
    with pytest.raises(OSError) as error:
        control.answer(STATUS, b"", uid=US + 1)
    assert error.value.errno == errno.EACCES


def test_root_is_answered(control: Control) -> None:
    assert asked(control, STATUS, uid=0)["uid"] == US


def test_a_long_answer_gets_through_whole(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    for branch in "abcdef":
        deep = root.joinpath(*[branch * 250] * 14)
        deep.mkdir(parents=True)
        (deep / "gone").symlink_to("nowhere")
    view = View(Dataset(os.fsencode(root), Policy()))
    view.freeze_all()
    control = Control(view, Counters(), backend="kernel", source=b"/dataset", mountpoint=b"/mnt")
    assert len(asked(control, STATUS)["frozen"]["examples"]["dangling"]) == 5
    hidden = asked(control, HIDDEN, path="")["hidden"]
    assert [len(entry["path"]) for entry in hidden] == [251 * 14 + 4] * 6
    view.close()


def test_a_hundred_thousand_paths_get_through_whole(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"train/class/%08d \xff" % number for number in range(100_000)]
    monkeypatch.setattr(control.view, "hidden_entries", lambda: map(partial(HiddenEntry, Kind.DANGLING), names))
    hidden = asked(control, HIDDEN, path="")["hidden"]
    assert [os.fsencode(entry["path"]) for entry in hidden] == names


def test_a_long_answer_is_kept_for_its_fetching_and_no_longer(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [os.urandom(200).hex().encode() for _ in range(1000)]
    monkeypatch.setattr(control.view, "hidden_entries", lambda: map(partial(HiddenEntry, Kind.DANGLING), names))

    def begin() -> Message:
        told: Message = decode(control.answer(HIDDEN, encode({"path": ""}), uid=US))["long"]
        return told

    def part(told: Message, offset: int = 0) -> bytes:
        return control.answer(MORE, encode({"id": told["id"], "offset": offset}), uid=US)

    first = begin()
    assert part(first).startswith(wire.PART)
    others = [begin() for _ in range(wire.MAX_LONG_ANSWERS)]
    assert b"no longer kept" in part(first)
    assert part(others[0], others[0]["bytes"] - 1).startswith(wire.PART)  # the last of it
    assert b"no longer kept" in part(others[0])
    monkeypatch.setattr(wire, "LONG_ANSWER_AGE_S", -1)
    assert b"no longer kept" in part(others[1])


def test_a_client_hears_when_the_rest_is_gone() -> None:
    answers = [encode({"long": {"id": "x", "bytes": 10}}), wire.in_band(UsageError("gone"))]
    with pytest.raises(UsageError, match="gone"):
        ask(lambda _command, _payload: answers.pop(0), STATUS)


def test_a_question_that_is_too_long_is_refused(control: Control) -> None:
    with pytest.raises(UsageError, match="longer than any path"):
        asked(control, WHY, path="\x01" * 4000)


@pytest.mark.parametrize(
    "junk",
    [
        *(b"", b"junk", b"{}", b'{"ok": 1}', b'{"error": 1}', b'{"error": {}}', b'{"long": {}}', b'{"long": 1}'),
        *(b'{"long": {"id": 1, "bytes": 1e30}}', b'{"long": {"id": "x", "bytes": 9}}', b"+", b"\xff"),
    ],
)
def test_what_is_no_answer_of_ours_says_so(junk: bytes) -> None:
    with pytest.raises(NotMounted, match="no symfuse server"):
        ask(lambda _command, _payload: junk.ljust(BUFFER_BYTES, b"\0"), STATUS)


def test_an_error_of_a_kind_that_we_do_not_know_is_an_error_all_the_same() -> None:
    with pytest.raises(SymfuseError, match="new"):
        ask(lambda _command, _payload: encode({"error": {"kind": "later", "message": "new", "cure": ""}}), STATUS)
