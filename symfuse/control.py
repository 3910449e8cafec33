"""What a live mount can be asked, and how question and answer are put into words.

One round is a command and a payload there, and a payload back, neither longer than BUFFER_BYTES: an ioctl on the
mount's root directory, or a packet through a socket (`mounts/channel.py`). An ioctl needs no socket, no state file and
no name in the view; it works wherever the mount is visible (other containers too) and ends with it.

A payload is a JSON object, perhaps padded with NULs. The answer is `{"ok": …}` or `{"error": {"kind", "message",
"cure"}}`. A longer one is `{"long": {"id", "bytes"}}`: the server keeps it, compressed, for a while, and MORE fetches
it part by part. An errno says only that nobody of ours was asked (ENOTTY), or that this user may not ask (EACCES).
Source: ioctl(2); `_IOC` in `asm-generic/ioctl.h`; restricted FUSE ioctls in `fs/fuse/ioctl.c`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from symfuse.errors import ExitStatus, NotMounted, SymfuseError, UsageError, raised_elsewhere
from symfuse.explain import EXPLANATION_SHAPE, HIDDEN_SHAPE, explain, hidden_below
from symfuse.progress import PROGRESS_SHAPE
from symfuse.shape import Maybe, Number, Shape, Table, fits

if TYPE_CHECKING:
    from symfuse.counters import Counters
    from symfuse.view import View

#: The buffer's size: the most that a restricted ioctl can carry (`_IOC_SIZEBITS` is 14), rounded down to 8.
BUFFER_BYTES = (1 << 14) - 8
#: How many long answers are kept, and for how long after they were last asked for.
MAX_LONG_ANSWERS = 4
LONG_ANSWER_AGE_S = 60.0
#: No answer is longer, compressed or not. It bounds what an impostor can make a client read: of HIDDEN, a list of
#: millions of paths; of all others, some paths.
MAX_LIST_BYTES = 1 << 30
MAX_ANSWER_BYTES = 1 << 24


def _iowr(number: int) -> int:
    """`_IOWR('s', number, char[BUFFER_BYTES])`."""
    return (3 << 30) | (BUFFER_BYTES << 16) | (ord("s") << 8) | number


STATUS = _iowr(0x51)
#: `path` -> `Explanation.as_dict()`.
WHY = _iowr(0x52)
#: `path` -> all that is hidden there and below, and all that was found (`explain.hidden_below`).
HIDDEN = _iowr(0x53)
#: `id`, `offset` -> PART and the bytes of a long answer from there on.
MORE = _iowr(0x54)
COMMANDS = frozenset({STATUS, WHY, HIDDEN, MORE})
#: What the parts of a long answer begin with: no JSON object does.
PART = b"+"
#: The largest number of a process. Source: PID_MAX_LIMIT in linux/threads.h.
MAX_PID = 1 << 22
#: Longer than any machine has been up: three hundred years.
MAX_UPTIME_S = 10**10

#: What helps where somebody else answers.
CURE_IMPOSTOR = "see what is mounted there with findmnt"

Message = dict[str, Any]
#: One round: command and payload there, payload back.
#: Errors: OSError, NotMounted.
Exchange = Callable[[int, bytes], bytes]

log = logging.getLogger(__name__)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as JSON bytes. Names that are not UTF-8 travel as the bytes they are (surrogateescape)."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def decode(buffer: bytes | bytearray) -> Message:
    """The message in a NUL-padded buffer; an empty buffer is an empty message.

    Errors: ValueError for bytes that are no JSON object.
    """
    text = bytes(buffer).rstrip(b"\0").decode("utf-8", "surrogateescape")
    try:
        message = json.loads(text) if text else {}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


# -- the server's side ---------------------------------------------------------------------------------------------


class Control:
    """Answers the questions. Both FUSE adapters hold one. Safe to use from several threads.

    `watch` tells which parts of the dataset are no longer there, or do not answer (`mounts/presence.py`).
    """

    def __init__(
        self,
        view: View,
        counters: Counters,
        *,
        backend: str,
        source: bytes,
        mountpoint: bytes,
        log: str | None = None,
        watch: Callable[[], Mapping[str, list[str]]] = dict,
    ) -> None:
        self.view = view
        self.counters = counters
        #: How content is read; a backend that knows another way puts its own answer here.
        self.io: Callable[[], str] = lambda: "cached"
        self._watch = watch
        self._fixed: Message = {
            "source": os.fsdecode(source),
            "mountpoint": os.fsdecode(mountpoint),
            "backend": backend,
            "pid": os.getpid(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "uid": os.geteuid(),
            "log": log,
        }
        self._uid = os.geteuid()
        self._started_s = time.monotonic()
        self._long = LongAnswers()

    def answer(self, command: int, payload: bytes, *, uid: int) -> bytes:
        """The reply to one question, at most BUFFER_BYTES long.

        Errors: OSError ENOTTY for a command that is not ours, EACCES for a caller that is neither root nor the user
        who mounted (a reply names paths outside the view). Whatever else is wrong, the reply says.
        """
        if command not in COMMANDS:
            raise OSError(errno.ENOTTY, "not a symfuse ioctl")
        if uid not in (0, self._uid):
            raise OSError(errno.EACCES, "only root and the mount's owner may ask")
        try:
            question = _question(payload)
            if command == MORE:
                return PART + self._long.part(question)
            answer = encode({"ok": self._answer(command, question)})
        except SymfuseError as error:
            answer = in_band(error)
        except OSError as error:
            answer = in_band(SymfuseError(f"the dataset cannot be read ({error.strerror})", "see its file system"))
        except Exception as error:
            log.exception("a question was not answered")
            answer = in_band(SymfuseError(f"internal error: {type(error).__name__}", "see the log of the mount"))
        return answer if len(answer) <= BUFFER_BYTES else encode({"long": self._long.keep(answer)})

    def _answer(self, command: int, question: Message) -> Message:
        if command == STATUS:
            return self.status()
        path = _path(question)
        return hidden_below(self.view, path) if command == HIDDEN else explain(self.view, path).as_dict()

    def status(self) -> Message:
        """What `symfuse status` shows of a live mount. `missing` and `hanging` are paths."""
        stale = self.view.stale()
        return self._fixed | {
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "frozen": self.view.progress().as_dict(),
            "stale": len(stale),
            "stale_examples": [os.fsdecode(self.view.path(nodeid)) for nodeid in stale[:MAX_STALE_EXAMPLES]],
            "missing": [],
            "hanging": [],
            **self._watch(),
            "requests": self.counters.requests(),
            "io": self.io(),
            "bytes_read": self.counters.bytes_read(),
        }


#: What `Control.status` gives.
STATUS_SHAPE: dict[str, Shape] = {
    **dict.fromkeys(("source", "mountpoint", "backend", "pid_namespace", "io"), str),
    "pid": Number(1, MAX_PID),
    "uid": Number(0, (1 << 32) - 1),
    "log": Maybe(str),
    "uptime_s": Number(0, MAX_UPTIME_S, is_whole=False),
    "frozen": PROGRESS_SHAPE,
    **dict.fromkeys(("stale", "bytes_read"), Number()),
    **{name: [str] for name in ("stale_examples", "missing", "hanging")},
    "requests": Table(str, Number()),
}
#: What each question but MORE is answered.
ANSWERS: dict[int, Shape] = {STATUS: STATUS_SHAPE, WHY: EXPLANATION_SHAPE, HIDDEN: HIDDEN_SHAPE}
#: What every question may be answered instead, and what comes instead of an answer that is long.
ERROR_SHAPE: Shape = {"kind": str, "message": str, "cure": str}
LONG_SHAPE: Shape = {"id": str, "bytes": Number()}

#: Paths of sources that changed, which `status` names.
MAX_STALE_EXAMPLES = 5


class LongAnswers:
    """Answers that are too long for one round, kept until they were fetched. Few of them, and not for long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # id -> when last used, the answer; by age

    def keep(self, answer: bytes) -> Message:
        """What the client is told instead. Compressed, because each round costs it a process (`mounts/bounded.py`)."""
        name, packed = secrets.token_hex(8), zlib.compress(answer, 1)
        with self._lock:
            self._kept[name] = time.monotonic(), packed
            self._forget_old()
        return {"id": name, "bytes": len(packed)}

    def part(self, question: Message) -> bytes:
        """The bytes from an offset on that fit into one round; the answer is forgotten with its last ones.

        Errors: UsageError.
        """
        name, offset = question.get("id"), question.get("offset")
        if not isinstance(name, str) or not isinstance(offset, int):
            raise UsageError("malformed question", "ask with the symfuse command")
        with self._lock:
            self._forget_old()
            if name not in self._kept:
                raise UsageError("the rest of this answer is no longer kept", "ask the question again")
            _, packed = self._kept.pop(name)
            end = max(offset, 0) + BUFFER_BYTES - len(PART)
            if end < len(packed):
                self._kept[name] = time.monotonic(), packed
        return packed[max(offset, 0) : end]

    def _forget_old(self) -> None:
        """Called with _lock."""
        oldest_s = time.monotonic() - LONG_ANSWER_AGE_S
        while self._kept and (len(self._kept) > MAX_LONG_ANSWERS or next(iter(self._kept.values()))[0] < oldest_s):
            self._kept.popitem(last=False)


def _question(payload: bytes) -> Message:
    try:
        return decode(payload)
    except ValueError:
        raise UsageError("malformed question", "ask with the symfuse command") from None


def _path(question: Message) -> bytes:
    """Errors: UsageError."""
    path = question.get("path")
    try:
        name = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else b"\0"
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        name = b"\0"
    if b"\0" in name:
        raise UsageError("malformed question: no path", "ask with the symfuse command")
    return name


def in_band(error: SymfuseError) -> bytes:
    """An error as an answer."""
    return encode({"error": {"kind": error.status.name.lower(), "message": error.cause, "cure": error.cure}})


# -- the client's side ---------------------------------------------------------------------------------------------


def ask(exchange: Exchange, command: int, **question: str) -> Message:
    """One question to a mount, answered by its server, in as many rounds as that takes.

    An answer that is not exactly what this version of ours gives (`ANSWERS`) is none.

    Errors: SymfuseError of the kind that the server met; UsageError when the question is too long to be asked;
    NotMounted for an answer that no server of ours gives; whatever `exchange` raises.
    """
    payload = encode(question)
    if len(payload) > BUFFER_BYTES:
        raise UsageError("the path is longer than any path can be", "name a shorter one")
    try:
        answer = decode(exchange(command, payload))
        if "long" in answer:
            answer = decode(_fetch(exchange, answer["long"], MAX_LIST_BYTES if command == HIDDEN else MAX_ANSWER_BYTES))
        if "error" in answer:
            raise _raised(answer["error"])
        if "ok" not in answer:
            raise ValueError("no answer")
    except (ValueError, zlib.error) as error:
        raise NotMounted("what answers there is no symfuse server", CURE_IMPOSTOR) from error
    told = answer["ok"]
    if not fits(told, ANSWERS.get(command, dict)):
        raise NotMounted("what answers there is no symfuse server, or one of another version", CURE_IMPOSTOR)
    assert isinstance(told, dict)
    return told


def _fetch(exchange: Exchange, long: object, limit_bytes: int) -> bytes:
    """A long answer, whole. Errors: SymfuseError when the server has lost it; ValueError."""
    if not (isinstance(long, dict) and fits(long, LONG_SHAPE) and long["bytes"] <= limit_bytes):
        raise ValueError("no length")
    size, packed = long["bytes"], bytearray()
    while len(packed) < size:
        part = exchange(MORE, encode({"id": long["id"], "offset": len(packed)}))
        if not part.startswith(PART):
            raise _raised(decode(part).get("error"))
        wanted = min(size - len(packed), BUFFER_BYTES - len(PART))
        if len(part) < len(PART) + wanted:  # else an impostor could make it as many rounds as bytes
            raise ValueError("less than was asked for")
        packed += part[len(PART) :][:wanted]  # what follows the last part is padding
    inflater = zlib.decompressobj()
    answer = inflater.decompress(packed, limit_bytes)
    if not inflater.eof:
        raise ValueError("longer than any answer")
    return answer


def _raised(told: object) -> SymfuseError:
    """The error that the server met. A kind that only its version knows is any error. Errors: ValueError."""
    if not (isinstance(told, dict) and fits(told, ERROR_SHAPE)):
        raise ValueError("no error of ours")
    status = ExitStatus.__members__.get(told["kind"].upper(), ExitStatus.INTERNAL)
    return raised_elsewhere(status, told["message"], told["cure"])
