"""What a mount answers is believed only if it is exactly what our own server would say."""

from __future__ import annotations

import copy
import enum
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from symfuse import control
from symfuse.cli import main
from symfuse.control import ANSWERS, BUFFER_BYTES, HIDDEN, MORE, STATUS, WHY, Control, encode
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.errors import ExitStatus, NotMounted
from symfuse.mounts import bounded, probe, stack, table, unmount
from symfuse.mounts.bounded import Report
from symfuse.mounts.table import MountEntry
from symfuse.policy import Finding, Policy
from symfuse.shape import Maybe, Number, Shape, Table, fits
from symfuse.view import View
from tests.support.trees import Entry, Name, fifo, link, tree

#: One of each type that JSON has; and numbers beyond all that can be meant.
ANYTHING = [None, True, 1, -1, 1.5, 1 << 70, 1e300, float("inf"), float("nan"), "text", [], [1], {}, {"a": 1}]


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (str, ["", "x"], [1, None, ["x"]]),
        (bool, [True], [0, 1, "", None]),
        (Number(), [0, 1, (1 << 64) - 1], [-1, 1 << 64, True, 1.0, "1", None]),
        (Number(0, 9, is_whole=False), [0, 0.5, 9], [-0.1, 9.1, float("nan"), float("inf"), True, "1"]),
        (Finding, ["leak"], ["other", "", 1, None]),
        ([str], [[], ["a", "b"]], ["a", {}, [1], ["a", None], None]),
        (Table(Finding, Number()), [{}, {"leak": 1}], [{"other": 1}, {"leak": "1"}, [], None]),
        (Maybe([str]), [None, ["a"]], [[None], "a"]),
        ({"a": str, "b": bool}, [{"a": "", "b": False}], [{}, {"a": ""}, {"a": "", "b": False, "c": 1}, [], None]),
    ],
)
def test_a_shape_lets_through_what_it_means(shape: Shape, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not fits(value, shape)] == []
    assert [value for value in bad if fits(value, shape)] == []


# -- what the server says ----------------------------------------------------------------------------------------------


@pytest.fixture
def answerer(tmp_path: Path) -> Iterator[Control]:
    """Of a dataset with something of everything: hidden entries, a finding, a hint, a source that has changed."""
    entries: dict[Name, Entry] = {"a": b"A", "gone": link("no"), "pipe": fifo(), "deep": {"x": b"x"}, ".dot": b""}
    root = os.fsencode(tree(tmp_path / "dataset", entries | {b"\xff": link("a")}))
    view = View(Dataset(root, Policy()))
    view.freeze_all()
    (tmp_path / "dataset/a").write_bytes(b"changed")
    yield Control(view, Counters(), backend="kernel", source=root, mountpoint=b"/mnt", log="/var/log/x")
    view.close()


QUESTIONS = [(STATUS, ""), (WHY, "gone"), (WHY, "a"), (WHY, os.fsdecode(b"\xff")), (WHY, "nothing"), (HIDDEN, "")]


def told(answerer: Control, command: int, path: str) -> Any:
    question = encode({"path": path})
    return json.loads(answerer.answer(command, question, uid=os.geteuid()).decode("utf-8", "surrogateescape"))["ok"]


@pytest.mark.parametrize(("command", "path"), QUESTIONS)
def test_what_our_server_says_fits(answerer: Control, command: int, path: str) -> None:
    assert fits(told(answerer, command, path), ANSWERS[command])


def asked(command: int, answer: object) -> dict[str, Any]:
    said = encode({"ok": answer})
    return control.ask(lambda _command, _payload: said, command)


@pytest.mark.parametrize(("command", "path"), QUESTIONS)
def test_every_field_must_be_there_and_of_its_type(answerer: Control, command: int, path: str) -> None:
    said = told(answerer, command, path)
    tried = 0
    for shape, way in parts(ANSWERS[command], said):
        for value in ANYTHING:
            if not fits(value, shape):
                tried += 1
                with pytest.raises(NotMounted, match="no symfuse server"):
                    asked(command, changed(said, way, value))
        if way and isinstance(way[-1], str) and isinstance(shape_at(ANSWERS[command], way[:-1]), dict):
            with pytest.raises(NotMounted, match="another version"):
                asked(command, without(said, way))
    with pytest.raises(NotMounted, match="another version"):
        asked(command, said | {"more": 1})
    assert tried > 30
    assert asked(command, said) == said


def parts(shape: Shape, value: Any, way: tuple[object, ...] = ()) -> Iterator[tuple[Shape, tuple[object, ...]]]:
    """Each part of an answer: its shape, and the keys that lead to it."""
    yield shape, way
    if isinstance(shape, Maybe):  # what is in it is a word or a number
        return
    if isinstance(shape, dict):
        for name, field in shape.items():
            yield from parts(field, value[name], (*way, name))
    elif isinstance(shape, Table):
        for name in value:
            yield from parts(shape.values, value[name], (*way, name))
    elif isinstance(shape, list):
        for number, item in enumerate(value):
            yield from parts(shape[0], item, (*way, number))


def shape_at(shape: Shape, way: tuple[object, ...]) -> Shape:
    for key in way:
        if isinstance(shape, dict) and isinstance(key, str):
            shape = shape[key]
        elif isinstance(shape, Table):
            shape = shape.values
        elif isinstance(shape, list):
            shape = shape[0]
    return shape


def changed(value: Any, way: tuple[object, ...], new: object) -> Any:
    if not way:
        return new
    value = copy.copy(value)
    value[way[0]] = changed(value[way[0]], way[1:], new)
    return value


def without(value: Any, way: tuple[object, ...]) -> Any:
    value = copy.deepcopy(value)
    at = value
    for key in way[:-1]:
        at = at[key]
    del at[way[-1]]
    return value


# -- what a command makes of any answer --------------------------------------------------------------------------------


@dataclass
class Fake:
    """A mount of ours at /mnt/view where `answer` is said, whatever is asked."""

    answer: bytes = b""
    is_mounted: bool = True

    def mounts(self) -> list[MountEntry]:
        root = MountEntry(1, 0, 1, b"/", b"/", b"ext4", b"disk", None)
        view = MountEntry(2, 1, 2, b"/", b"/mnt/view", table.FSTYPE, b"/data", os.geteuid())
        return [root, view] if self.is_mounted else [root]

    def ask(self, question: str, *_arguments: object, **_keywords: object) -> list[Report]:
        answer = self.answer if question == probe.EXCHANGE else b""
        return [Report(probe.WALKED, b""), Report(probe.ANSWER, answer)]

    def take_away(self, _mount: MountEntry, *, lazy: bool) -> None:
        del lazy
        self.is_mounted = False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(table, "mounts", fake.mounts)
    monkeypatch.setattr("symfuse.mountinfo.mounts", fake.mounts)
    monkeypatch.setattr(bounded, "ask", fake.ask)
    monkeypatch.setattr(unmount, "take_away", fake.take_away)
    monkeypatch.setattr(stack, "clear_stale", lambda: None)
    monkeypatch.setattr(os, "chdir", lambda _path: None)
    return fake


COMMANDS: dict[tuple[str, ...], int] = {
    ("status",): STATUS,
    ("status", "--json"): STATUS,
    ("status", "--all"): STATUS,
    ("status", "/mnt/view"): STATUS,
    ("why", "/mnt/view/a"): WHY,
    ("why", "--json", "/mnt/view/a"): WHY,
    ("why", "--all", "/mnt/view"): HIDDEN,
    ("umount", "/mnt/view"): STATUS,
}
TEXT = st.text(st.characters(), max_size=8)  # lone surrogates and control characters, too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DEEP = b'{"ok":' + b"[" * 8000 + b"]" * 8000 + b"}"
HUGE = b'{"ok":{"pid":' + b"9" * 8000 + b"}}"


def fitting(shape: Shape) -> st.SearchStrategy[Any]:
    """Whatever has a shape."""
    found: st.SearchStrategy[Any] = TEXT if shape is str else st.booleans()
    if isinstance(shape, Maybe):
        found = st.none() | fitting(shape.shape)
    elif isinstance(shape, Number):
        numbers = st.integers if shape.is_whole else st.floats
        found = st.sampled_from([shape.least, shape.most]) | numbers(shape.least, shape.most)
    elif isinstance(shape, Table):
        found = st.dictionaries(fitting(shape.names), fitting(shape.values), max_size=2)
    elif isinstance(shape, dict):
        found = st.fixed_dictionaries({name: fitting(field) for name, field in shape.items()})
    elif isinstance(shape, list):
        found = st.lists(fitting(shape[0]), max_size=2)
    elif issubclass(shape, enum.StrEnum):
        found = st.sampled_from([str(word) for word in shape])
    return found


def packed(answer: object) -> bytes:
    return json.dumps(answer).encode()


ANSWER = st.one_of(
    st.binary(max_size=40),
    JSON.map(packed),
    st.sampled_from(["ok", "error", "long"]).flatmap(lambda key: JSON.map(lambda value: packed({key: value}))),
    *(fitting(shape).map(lambda value: packed({"ok": value})) for shape in ANSWERS.values()),
    fitting(control.ERROR_SHAPE).map(lambda value: packed({"error": value})),
    fitting(control.LONG_SHAPE).map(lambda value: packed({"long": value})),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWER)
@example(answer=DEEP)
@example(answer=HUGE)
@example(answer=b'{"long":{"id":"x","bytes":1073741824}}')
def test_whatever_is_answered_ends_in_a_documented_status_and_plain_lines(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], answer: bytes
) -> None:
    fake.answer, fake.is_mounted = answer[:BUFFER_BYTES], True
    capsys.readouterr()
    status = main(words)
    said = capsys.readouterr()
    assert "internal error" not in said.err or b"internal" in answer
    assert status in set(ExitStatus)
    assert all(character == "\n" or character.isprintable() for character in said.out + said.err)
    if words[0] == "umount":
        assert not fake.is_mounted, "whatever it says, it is our mount to take away"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_answer_that_fits_is_shown(fake: Fake, words: tuple[str, ...], data: st.DataObject) -> None:
    fake.answer, fake.is_mounted = packed({"ok": data.draw(fitting(ANSWERS[COMMANDS[words]]))}), True
    assert main(words) in (ExitStatus.OK, ExitStatus.NOT_SHOWN, ExitStatus.NOT_MOUNTED)


def test_a_zip_bomb_is_no_answer() -> None:
    bomb = zlib.compress(b" " * (control.MAX_ANSWER_BYTES + 1), 9)
    long = encode({"long": {"id": "x", "bytes": len(bomb)}})
    rounds: list[int] = []

    def exchange(command: int, payload: bytes) -> bytes:
        rounds.append(command)
        if command != MORE:
            return long
        offset = control.decode(payload)["offset"]
        return control.PART + bomb[offset : offset + BUFFER_BYTES - 1]

    with pytest.raises(NotMounted, match="no symfuse server"):
        control.ask(exchange, STATUS)
    assert len(rounds) == 1 + -(-len(bomb) // (BUFFER_BYTES - 1))


@pytest.mark.parametrize("size", [0, 1, 100])
def test_an_impostor_that_gives_one_byte_at_a_time_is_asked_no_more(size: int) -> None:
    rounds = []

    def exchange(command: int, _payload: bytes) -> bytes:
        rounds.append(command)
        return control.PART + b"x" * size if command == MORE else encode({"long": {"id": "x", "bytes": 1 << 20}})

    with pytest.raises(NotMounted, match="no symfuse server"):
        control.ask(exchange, STATUS)
    assert rounds == [STATUS, MORE]
