"""Workers that misbehave: what each kind of death says of a file, and that nothing is left of any of them."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from symfuse import child
from symfuse.errors import SymfuseError
from symfuse.identity.decoder import WINDOW, Decoder
from symfuse.identity.reason import Reason, refusal
from symfuse.identity.verdict import NO_DIGEST, Verdict, finding
from tests.support.mounting import REPOSITORY, TIMEOUT_S, children

#: A worker that does what the file in its hands says, with the limits of a real one but for one second of CPU time.
OBEDIENT = '''
import os, resource, signal, socket, sys, tempfile, threading, time
from symfuse.identity import worker
from symfuse.identity.reason import Reason, refusal
from symfuse.identity.verdict import Verdict, finding

files_seen = 0

def confined():
    """Whether everything that a decoder has no use for is out of reach."""
    try:
        held = [os.dup(0) for _ in range(worker.MAX_FILES)]
    except OSError:
        pass
    else:
        return False
    return (
        resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        and resource.getrlimit(resource.RLIMIT_FSIZE) == (0, 0)
        and 0 < resource.getrlimit(resource.RLIMIT_AS)[1] <= worker.MEMORY_BYTES  # none is -1
        and os.getcwd() == "/"
        and "SECRET" not in os.environ
    )

def examine(fd):
    global files_seen
    files_seen += 1
    order = os.pread(fd, 100, 0).decode()
    if order.startswith("signal "):
        os.kill(os.getpid(), int(order.split()[1]))
    elif order == "crash in a used worker" and files_seen > 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif order == "exit":
        sys.exit(3)
    elif order == "eat":
        return finding(Verdict.OK, bytes(16) + bytearray(1 << 40))
    elif order == "run away":
        while True:
            pass
    elif order == "sleep":
        time.sleep(1000)
    elif order == "longer":
        return finding(Verdict.OK) + b"x"
    elif order == "much longer":
        return finding(Verdict.OK) * 1000
    elif order == "words":
        return refusal(Verdict.BROKEN, Reason.SAID, words="w" * 100)
    elif order == "words without end":
        return refusal(Verdict.BROKEN, Reason.SAID, words="w" * 80) + b"w"
    elif order == "words that do not print":
        return refusal(Verdict.BROKEN, Reason.SAID, words="w") + b"\x1b[2J"
    elif order == "shorter":
        return finding(Verdict.OK)[:-1]
    elif order == "nothing":
        return b""
    elif order == "a verdict that there is not":
        return bytes([77]) + bytes(16)
    elif order == "twice":
        PARENT.send(b"1234" + finding(Verdict.OK))
    elif order == "ready again":
        PARENT.send(worker.READY + b"+")
    elif order == "close":
        PARENT.shutdown(socket.SHUT_RDWR)
        os.close(int(sys.argv[1]))
        time.sleep(1000)
    elif order == "late":
        threading.Timer(0.05, PARENT.send, [b"1234" + finding(Verdict.OK)]).start()
    elif order == "import":
        try:
            import wave
        except (ImportError, OSError):  # the finder may still know the directory, and fail to open the file
            return finding(Verdict.BROKEN)
    elif order == "confined":
        return finding(Verdict.OK if confined() else Verdict.BROKEN)
    return finding(Verdict.OK, order.encode().ljust(16, b".")[:16])

def main():
    global PARENT
    PARENT = socket.socket(fileno=os.dup(int(sys.argv[1])))
    worker.serve(examine, cpu_s=0)
'''


@pytest.fixture
def obedient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """The command of an obedient worker."""
    (tmp_path / "obedient.py").write_text(OBEDIENT)
    monkeypatch.syspath_prepend(tmp_path)
    return child.command("obedient")


@contextmanager
def files(*orders: str) -> Iterator[list[int]]:
    """Open files of these contents."""
    with ExitStack() as stack:
        opened = [stack.enter_context(tempfile.TemporaryFile()) for _ in orders]
        for file, order in zip(opened, orders, strict=True):
            file.write(order.encode())
            file.flush()
        yield [file.fileno() for file in opened]


def never() -> bool:
    return False


def ok(order: str) -> bytes:
    return finding(Verdict.OK, order.encode().ljust(16, b".")[:16])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, no zombie, no descriptor."""
    others, before = children(), set(os.listdir("/proc/self/fd"))
    yield
    assert children() <= others
    assert set(os.listdir("/proc/self/fd")) <= before  # what earlier tests left may be collected meanwhile


def test_findings_come_in_order(obedient: Sequence[str]) -> None:
    orders = [f"file {number}" for number in range(5 * WINDOW)]
    with Decoder(command=obedient) as decoder, files(*orders) as fds:
        assert list(decoder.examine(fds, never)) == [ok(order) for order in orders]


def test_no_more_files_are_opened_than_a_worker_is_given_ahead(obedient: Sequence[str]) -> None:
    taken: list[int] = []

    def noted(fds: list[int]) -> Iterator[int]:
        for fd in fds:
            taken.append(fd)
            yield fd

    with Decoder(command=obedient) as decoder, files(*"abcdefgh") as fds:
        findings = decoder.examine(noted(fds), never)
        for done in range(1, len(fds) + 1):
            next(findings)
            assert len(taken) <= done - 1 + WINDOW


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ("signal 11", Verdict.BROKEN),
        ("signal 6", Verdict.BROKEN),
        ("signal 8", Verdict.BROKEN),
        ("signal 9", Verdict.UNKNOWN),  # somebody else's doing: the kernel's, when the machine's memory ends
        ("signal 15", Verdict.UNKNOWN),
        ("signal 1", Verdict.UNKNOWN),
        ("signal 7", Verdict.UNKNOWN),  # storage's, under a mapped file
        ("longer", Verdict.UNKNOWN),
        ("much longer", Verdict.UNKNOWN),
        ("words without end", Verdict.UNKNOWN),
        ("words that do not print", Verdict.UNKNOWN),
        ("shorter", Verdict.UNKNOWN),
        ("nothing", Verdict.UNKNOWN),
        ("a verdict that there is not", Verdict.UNKNOWN),
        ("twice", Verdict.UNKNOWN),
        ("ready again", Verdict.UNKNOWN),
        ("close", Verdict.UNKNOWN),
        ("exit", Verdict.BROKEN),
        ("eat", Verdict.BROKEN),
        ("run away", Verdict.BROKEN),
    ],
)
def test_a_file_that_ends_its_worker_costs_its_own_verdict_only(
    obedient: Sequence[str], order: str, verdict: Verdict
) -> None:
    orders = ["a", "b", order, "c", "d", "e", "f"]
    with Decoder(command=obedient) as decoder, files(*orders) as fds:
        said = refusal(verdict, Reason.DEADLY) if verdict is Verdict.BROKEN else finding(verdict)
        assert list(decoder.examine(fds, never)) == [said if each == order else ok(each) for each in orders]


def test_what_a_decoder_says_comes_with_its_finding(obedient: Sequence[str]) -> None:
    with Decoder(command=obedient) as decoder, files("a", "words", "b") as fds:
        said = refusal(Verdict.BROKEN, Reason.SAID, words="w" * 80)
        assert list(decoder.examine(fds, never)) == [ok("a"), said, ok("b")]


@pytest.mark.parametrize("order", ["signal 11", "eat", "exit", "run away"])
def test_what_ends_a_worker_with_less_than_ours_may_take_is_unknown(obedient: Sequence[str], order: str) -> None:
    """Its limits are inherited, and say nothing about the file."""
    limited = ["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", *obedient]
    with Decoder(command=limited) as decoder, files("a", order, "b") as fds:
        assert list(decoder.examine(fds, never)) == [ok("a"), finding(Verdict.UNKNOWN), ok("b")]


def test_a_reply_that_comes_after_the_last_one_counts_for_no_other_file(obedient: Sequence[str]) -> None:
    with Decoder(command=obedient) as decoder, files("late", "a") as fds:
        before = decoder.pid
        assert list(decoder.examine(fds[:1], never)) == [ok("late")]
        assert select.select([decoder._socket], [], [], TIMEOUT_S)[0], "it has said more"
        assert list(decoder.examine(fds[1:], never)) == [ok("a")]
        assert decoder.pid != before


def test_no_verdict_comes_from_a_module_that_cannot_be_loaded_any_more(obedient: Sequence[str]) -> None:
    with Decoder(command=obedient) as decoder, files("import", "a") as fds:
        assert list(decoder.examine(fds, never)) == [finding(Verdict.UNKNOWN), ok("a")]


def test_too_many_descriptors_under_way_cost_a_verdict_and_not_the_mount(
    obedient: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    send_fds, refused = socket.send_fds, [errno.ETOOMANYREFS]

    def refuse_once(to: socket.socket, buffers: list[bytes], fds: list[int]) -> int:
        if refused:
            raise OSError(refused[0], os.strerror(refused.pop()))
        return send_fds(to, buffers, fds)

    monkeypatch.setattr(socket, "send_fds", refuse_once)
    with Decoder(command=obedient) as decoder, files("a", "b") as fds:
        assert list(decoder.examine(fds, never)) == [finding(Verdict.UNKNOWN), ok("b")]


def test_who_meets_a_worker_that_others_have_spoiled_gets_a_second_chance(obedient: Sequence[str]) -> None:
    orders = ["a", "crash in a used worker", "b"]
    with Decoder(command=obedient) as decoder, files(*orders) as fds:
        before = decoder.pid
        assert list(decoder.examine(fds, never)) == [ok(order) for order in orders]
        assert decoder.pid != before


def test_a_worker_killed_between_two_files_is_replaced(obedient: Sequence[str]) -> None:
    with Decoder(command=obedient) as decoder, files("a", "b") as fds:
        assert list(decoder.examine(fds[:1], never)) == [ok("a")]
        os.kill(decoder.pid, signal.SIGKILL)
        assert list(decoder.examine(fds[1:], never)) == [ok("b")]


def test_what_never_ends_is_unknown(obedient: Sequence[str]) -> None:
    with Decoder(command=obedient, wall_s=0.1) as decoder, files("sleep", "a") as fds:
        assert list(decoder.examine(fds, never)) == [finding(Verdict.UNKNOWN, NO_DIGEST), ok("a")]


@pytest.mark.parametrize("order", ["sleep", "run away"])
def test_stopping_does_not_wait_for_a_decoder(obedient: Sequence[str], order: str) -> None:
    stop = threading.Event()
    with Decoder(command=obedient) as decoder, files("a", order, "b") as fds:
        findings = decoder.examine(fds, stop.is_set)
        assert next(findings) == ok("a")
        stop.set()
        assert list(findings) == []


PARENT = """
import sys, tempfile
from symfuse.identity.decoder import Decoder
sys.path.append(sys.argv.pop(1))
with Decoder(command=sys.argv[2:]) as decoder, tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
    one.write(b"a"); one.flush()
    other.write(sys.argv[1].encode()); other.flush()
    for finding in decoder.examine([one.fileno(), other.fileno()], lambda: False):
        print(decoder.pid, flush=True)
"""


@pytest.mark.parametrize("order", ["sleep", "run away"])
def test_a_worker_dies_with_its_parent_in_the_middle_of_a_file(obedient: Sequence[str], order: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.path[0], order, *obedient], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(10)  # not our child, so that psutil polls


def test_a_worker_has_what_it_needs_and_no_more(obedient: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    with Decoder(command=obedient) as decoder, files("confined") as fds:
        assert list(decoder.examine(fds, never)) == [finding(Verdict.OK)]


def test_a_worker_that_does_not_start_is_an_error_not_a_broken_image() -> None:
    with (
        Decoder(command=[sys.executable, "-c", "raise SystemExit(3)"]) as decoder,
        files("a") as fds,
        pytest.raises(SymfuseError, match=r"does not start \(status 3\)"),
    ):
        list(decoder.examine(fds, never))


def test_a_command_that_is_missing_is_an_error() -> None:
    with pytest.raises(SymfuseError, match="does not start"):
        Decoder(command=["/nowhere/python"])


def test_whoever_starts_workers_does_not_load_pillow_decoders() -> None:
    loaded = "import sys, symfuse.identity.pixels; print([name for name in sys.modules if name.startswith('PIL.')])"
    shown = subprocess.run([sys.executable, "-c", loaded], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "['PIL._version']"


def test_a_worker_without_descriptors_for_it_is_an_error_in_one_line(
    obedient: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(SymfuseError, match=r"does not start .*Too many open files"):
        Decoder(command=obedient)
