"""The fusepy adapter over a real view, without libfuse and without a mount."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
import threading
import types
from pathlib import Path

import pytest

from symfuse.control import BUFFER_BYTES, STATUS, WHY, Control, decode, encode
from symfuse.counters import Counters
from symfuse.errors import FuseUnavailable
from symfuse.fuse import helper
from symfuse.fuse.libfuse import Caller, LibfuseBackend, Operations, Stderr
from symfuse.fuse.options import MountOptions
from symfuse.view import View
from tests.support.trees import link, tree

US = os.geteuid()
OURS = Caller((US, 0, 4711))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"d": {"a": b"content"}, "l": link("d/a"), b"\xff": b"", "gone": link("nowhere")})


@pytest.fixture
def control(view: View) -> Control:
    return Control(view, Counters(), backend="fusepy", source=b"/dataset", mountpoint=b"/mnt")


@pytest.fixture
def operations(view: View, control: Control) -> Operations:
    return Operations(view, control, on_init=lambda: None, caller=lambda: OURS)


def errno_of(operations: Operations, name: str, *arguments: object) -> int | None:
    with pytest.raises(OSError) as error:
        operations(name, *arguments)
    return error.value.errno


def test_attributes_are_what_fusepy_expects(operations: Operations, dataset: Path) -> None:
    target = (dataset / "d/a").stat()
    found = operations("getattr", "/l", None)
    assert found["st_mode"] == target.st_mode & ~0o6222
    assert (found["st_size"], found["st_mtime"], found["st_nlink"]) == (7, target.st_mtime_ns, 1)
    assert found["st_ino"] != operations("getattr", "/d/a", None)["st_ino"]


def test_names_are_the_bytes_they_are(operations: Operations) -> None:
    assert [name.encode("latin-1") for name, _, _ in operations("readdir", "/", 0)] == [
        b".",
        b"..",
        b"d",
        b"l",
        b"\xff",
    ]
    assert operations("getattr", "/\xff", None)["st_size"] == 0


def test_content_is_read_by_path(operations: Operations) -> None:
    assert operations("read", "/l", 100, 3, 0) == b"tent"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("getattr", "/none", None), errno.ENOENT),
        (("getattr", "/gone", None), errno.ENOENT),
        (("getattr", "/none/x", None), errno.ENOENT),
        (("getattr", "/l/x", None), errno.ENOTDIR),
        (("getattr", "/" + "n" * 256, None), errno.ENAMETOOLONG),
        (("readdir", "/l", 0), errno.ENOTDIR),
        (("read", "/d", 1, 0, 0), errno.EISDIR),
        (("readlink", "/l"), errno.EINVAL),
        (("open", "/l", os.O_RDONLY), errno.ENOSYS),
        (("flush", "/l", 0), errno.ENOSYS),
        (("getxattr", "/l", "user.a"), errno.ENOSYS),
        (("ioctl", "/l", 0x5401, 0, 0, 0, None), errno.ENOTTY),
        (("ioctl", "/l", STATUS, 0, 0, 0, None), errno.ENOTTY),
    ],
)
def test_each_refusal_has_its_errno(
    operations: Operations, call: tuple[str, *tuple[object, ...]], expected: int
) -> None:
    assert errno_of(operations, *call) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("chmod", "chown", "utimens", "truncate", "write", "setxattr", "removexattr"),
        *("create", "mknod", "mkdir", "symlink", "link", "rename", "unlink", "rmdir"),
    ],
)
def test_whatever_would_change_something_is_erofs(operations: Operations, name: str) -> None:
    assert hasattr(operations, name), "else libfuse would say ENOSYS"
    assert errno_of(operations, name, "/l", "/new") == errno.EROFS


def test_there_are_no_extended_attributes(operations: Operations) -> None:
    assert operations("listxattr", "/l") == []


def test_fusepy_is_not_told_of_operations_that_do_not_exist(operations: Operations) -> None:
    for name in ("access", "lock", "bmap", "opendir", "release", "getdir", "utime"):
        assert not hasattr(operations, name)


def test_questions_are_answered_in_the_callers_buffer(operations: Operations) -> None:
    buffer = ctypes.create_string_buffer(encode({"path": "gone"}), BUFFER_BYTES)
    assert operations("ioctl", "/", WHY, 0, 0, 0, ctypes.addressof(buffer)) == 0
    assert decode(buffer.raw)["ok"]["kind"] == "dangling"


def test_a_request_of_our_own_thread_is_refused_at_once(operations: Operations, view: View) -> None:
    view.dataset.callers.add(OURS.thread)
    assert errno_of(operations, "getattr", "/l", None) == errno.EDEADLK
    view.dataset.callers.clear()
    operations("getattr", "/l", None)


def test_a_bug_is_eio_with_one_traceback(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(View, "lookup", broken)
    assert errno_of(operations, "getattr", "/l", None) == errno.EIO
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [(logging.ERROR, True)]


def test_one_thread_has_one_tally_although_it_is_none_of_pythons(operations: Operations, control: Control) -> None:
    def ask() -> None:
        for _ in range(100):
            operations("getattr", "/l", None)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.counters.requests() == {"getattr": 400}


def test_an_option_value_cannot_add_an_option() -> None:
    assert helper.escape(b"/a,allow_other\\,b") == b"/a\\,allow_other\\\\\\,b"


# -- what a user may lack ----------------------------------------------------------------------------------------------


def refused(view: View, control: Control) -> FuseUnavailable:
    options = MountOptions(mountpoint=b"/nonexistent", fsname=b"/dataset")
    with pytest.raises(FuseUnavailable) as error:
        LibfuseBackend(view, control, options=options).run(lambda: pytest.fail("nothing is mounted"))
    assert error.value.cure
    return error.value


def test_a_missing_fusepy_is_named(view: View, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fuse", None)
    assert "pip install fusepy" in str(refused(view, control))


def test_another_module_called_fuse_is_named(view: View, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fuse", types.ModuleType("fuse"))
    assert "not fusepy" in str(refused(view, control))


def test_a_missing_libfuse_is_named(view: View, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fuse", raising=False)
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/nonexistent/libfuse.so.2")
    assert "libfuse2" in str(refused(view, control))


# -- stderr ------------------------------------------------------------------------------------------------------------


def test_what_is_said_on_stderr_is_caught_and_then_goes_its_way_again(capfd: pytest.CaptureFixture[str]) -> None:
    with Stderr() as said:
        os.write(2, b"fuse: mount failed\n")
        assert said.text() == "fuse: mount failed\n"
        os.write(2, b"something else\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "something else\nafterwards\n"
