"""Request bytes in, reply bytes out. Handlers are tested in the order in which a kernel meets them."""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
from pathlib import Path

import pytest

from symfuse.control import BUFFER_BYTES, STATUS, WHY, Control, decode, encode
from symfuse.counters import Counters
from symfuse.dataset import Dataset
from symfuse.fuse.server import Server
from symfuse.policy import Policy
from symfuse.view import View
from tests.support import wire
from tests.support.wire import Kernel

FOREVER_S = 10 * 365 * 24 * 3600


# -- INIT --------------------------------------------------------------------------------------------------------------


def test_init_agrees_on_the_smaller_minor_version(kernel: Kernel) -> None:
    for offered, agreed in ((23, 23), (45, 45), (99, 45)):
        answer = kernel.init(struct.pack("<IIII", 7, offered, 131072, 0) + bytes(48))
        assert len(answer) == wire.INIT_OUT
        assert struct.unpack_from("<II", answer) == (7, agreed)


def test_init_asks_only_for_what_the_kernel_offers(kernel: Kernel) -> None:
    for offered in (0, 1, 1 << 13, wire.EVERY_FLAG):
        flags = struct.unpack_from("<I", kernel.init(struct.pack("<IIII", 7, 45, 131072, offered)), 12)[0]
        assert flags & ~offered == 0


def test_init_takes_what_makes_requests_few(kernel: Kernel) -> None:
    flags = struct.unpack_from("<I", kernel.init(), 12)[0]
    for bit in (13, 17, 24):  # DO_READDIRPLUS, NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT
        assert flags & 1 << bit
    for bit in (1, 3, 10, 14, 16, 20, 30):  # locks, O_TRUNC, readdirplus "auto", writeback, ACLs, extended flags
        assert not flags & 1 << bit


def test_a_kernel_of_another_age_is_refused(kernel: Kernel) -> None:
    assert kernel.errno(wire.INIT, 0, struct.pack("<IIII", 6, 0, 0, 0)) == errno.EPROTO


# -- names and attributes ----------------------------------------------------------------------------------------------


def test_a_name_is_found_with_its_targets_attributes_for_ever(kernel: Kernel, dataset: Path) -> None:
    payload = kernel.payload(wire.LOOKUP, kernel.walk(b"train/cat"), b"1.png\0")
    nodeid, generation, entry_s, attr_s, entry_ns, attr_ns = struct.unpack_from("<QQQQII", payload)
    attr = wire.Attr._make(wire.ATTR.unpack_from(payload, 40))
    target = (dataset / "store/a.png").stat()
    assert nodeid > 1
    assert (generation, entry_ns, attr_ns) == (0, 0, 0)
    assert min(entry_s, attr_s) > FOREVER_S
    assert attr.mode == target.st_mode & ~0o6222
    assert (attr.size, attr.uid, attr.gid, attr.nlink) == (target.st_size, target.st_uid, target.st_gid, 1)
    assert attr.mtime * 10**9 + attr.mtimensec == target.st_mtime_ns
    assert attr.ctime * 10**9 + attr.ctimensec == target.st_ctime_ns


def test_an_absent_name_is_remembered_as_absent(kernel: Kernel) -> None:
    payload = kernel.payload(wire.LOOKUP, 1, b"nothing\0")
    nodeid, _, entry_s = struct.unpack_from("<QQQ", payload)
    assert len(payload) == wire.ENTRY_OUT
    assert nodeid == 0
    assert entry_s > FOREVER_S


def test_a_hidden_name_is_as_absent(kernel: Kernel) -> None:
    assert kernel.lookup(b"gone", kernel.walk(b"train/cat"))[0] == 0


def test_names_are_the_bytes_they_are(kernel: Kernel) -> None:
    assert kernel.lookup(b"\xff\n")[0]
    assert kernel.lookup(b"n" * 255)[0]


def test_a_name_longer_than_any_is_enametoolong(kernel: Kernel) -> None:
    assert kernel.errno(wire.LOOKUP, 1, b"n" * 256 + b"\0") == errno.ENAMETOOLONG


def test_a_lookup_in_a_file_is_an_error_and_no_absence(kernel: Kernel) -> None:
    assert kernel.errno(wire.LOOKUP, kernel.walk(b"store/a.png"), b"x\0") in (errno.ENOTDIR, errno.ESTALE)


def test_times_before_1970_have_nanoseconds_that_count_upwards(kernel: Kernel, dataset: Path) -> None:
    os.utime(dataset / "store" / "a.png", ns=(-1, -1_500_000_000))
    _, attr = kernel.lookup(b"a.png", kernel.walk(b"store"))
    assert (attr.atime, attr.atimensec) == (-1, 999_999_999)
    assert (attr.mtime, attr.mtimensec) == (-2, 500_000_000)


def test_getattr_says_what_lookup_said(kernel: Kernel) -> None:
    nodeid, attr = kernel.lookup(b"a.png", kernel.walk(b"store"))
    payload = kernel.payload(wire.GETATTR, nodeid, bytes(16))
    assert len(payload) == wire.ATTR_OUT
    assert struct.unpack_from("<QI", payload)[0] > FOREVER_S
    assert wire.Attr._make(wire.ATTR.unpack_from(payload, 16)) == attr


def test_the_root_is_a_directory_with_inode_1(kernel: Kernel) -> None:
    attr = wire.Attr._make(wire.ATTR.unpack_from(kernel.payload(wire.GETATTR, 1, bytes(16)), 16))
    assert attr.ino == 1
    assert stat.S_ISDIR(attr.mode)


@pytest.mark.parametrize("nodeid", [0, 2**31, 1 << 32 | 9999, 2**64 - 1])
@pytest.mark.parametrize("opcode", [wire.GETATTR, wire.LOOKUP, wire.READ, wire.READDIR, wire.READDIRPLUS])
def test_a_nodeid_that_was_never_given_out_is_stale(kernel: Kernel, opcode: int, nodeid: int) -> None:
    body = b"x\0" if opcode == wire.LOOKUP else struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0)
    assert kernel.errno(opcode, nodeid, body) == errno.ESTALE


def test_nothing_is_a_link(kernel: Kernel) -> None:
    assert kernel.errno(wire.READLINK, kernel.walk(b"train/cat/1.png")) == errno.EINVAL


# -- directories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plus", [False, True])
def test_a_listing_is_in_byte_order_with_types_and_inode_numbers(kernel: Kernel, plus: bool) -> None:
    entries = list(kernel.list(1, plus=plus))
    names = [entry.name for entry in entries]
    assert names == [b".", b"..", b"many", b"n" * 255, b"store", b"train", b"\xff\n"]
    assert [entry.type for entry in entries] == [stat.S_IFDIR >> 12] * 3 + [8, 4, 4, 8]
    assert [entry.ino for entry in entries[:2]] == [1, 1]
    for entry in entries[2:]:
        nodeid, attr = kernel.lookup(entry.name)
        assert entry.ino == attr.ino
        if plus:
            assert (entry.nodeid, entry.attr) == (nodeid, attr)


def test_the_two_dots_carry_no_nodeid(kernel: Kernel) -> None:
    # Else the kernel would take them for children: fuse_direntplus_link().
    dots = list(kernel.list(kernel.walk(b"store"), plus=True))[:2]
    assert [(entry.name, entry.nodeid) for entry in dots] == [(b".", 0), (b"..", 0)]
    assert [entry.ino for entry in dots] == [kernel.lookup(b"store")[1].ino, 1]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [256 + wire.DIRENTPLUS, 1000, 4096, 32768])
def test_a_listing_in_pieces_is_the_listing(kernel: Kernel, plus: bool, size: int) -> None:
    many = kernel.walk(b"many")
    names = [entry.name for entry in kernel.list(many, plus=plus, size=size)]
    assert names == [b".", b"..", *(b"%04d" % number for number in range(1000))]


@pytest.mark.parametrize("plus", [False, True])
def test_a_listing_resumes_behind_any_entry(kernel: Kernel, plus: bool) -> None:
    whole = list(kernel.list(1, plus=plus))
    opcode = wire.READDIRPLUS if plus else wire.READDIR
    for number, entry in enumerate(whole):
        payload = kernel.payload(opcode, 1, struct.pack("<QQIIQII", 0, entry.cookie, 4096, 0, 0, 0, 0))
        assert list(wire.dirents(payload, plus=plus)) == whole[number + 1 :]


def test_an_offset_beyond_the_end_lists_nothing(kernel: Kernel) -> None:
    for offset in (10_000, 2**63 - 1, 2**64 - 1):
        body = struct.pack("<QQIIQII", 0, offset, 4096, 0, 0, 0, 0)
        assert kernel.payload(wire.READDIRPLUS, 1, body) == b""


def test_opening_is_not_needed(kernel: Kernel) -> None:
    assert kernel.errno(wire.OPENDIR, 1, bytes(8)) == errno.ENOSYS
    assert kernel.errno(wire.OPEN, kernel.walk(b"store/a.png"), bytes(8)) == errno.ENOSYS


def test_a_kernel_that_must_open_gets_what_lets_it_cache(kernel: Kernel) -> None:
    kernel.init(struct.pack("<IIII", 7, 23, 131072, 1 << 13))
    for opcode, nodeid, flags in ((wire.OPENDIR, 1, 0b1010), (wire.OPEN, kernel.walk(b"store/a.png"), 0b0010)):
        payload = kernel.payload(opcode, nodeid, bytes(8))
        assert len(payload) == wire.OPEN_OUT
        assert struct.unpack_from("<QI", payload) == (0, flags)


# -- files -------------------------------------------------------------------------------------------------------------


def test_content_is_read_by_nodeid(kernel: Kernel) -> None:
    nodeid = kernel.walk(b"train/cat/1.png")
    assert kernel.read(nodeid, 0, 131072) == b"content of a"
    assert kernel.read(nodeid, 8, 2) == b"of"
    assert kernel.read(nodeid, 12, 4096) == b""
    assert kernel.read(nodeid, 2**63 - 1, 4096) == b""


def test_content_beyond_4_gib_is_read(kernel: Kernel) -> None:
    assert kernel.read(kernel.walk(b"train/dog/large"), (1 << 40) - 2, 100) == b"\0\0tail!"


def test_a_changed_source_is_stale_and_logged_once(
    kernel: Kernel, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodeid = kernel.walk(b"train/cat/1.png")
    (dataset / "store" / "a.png").write_bytes(b"longer than it was before")
    for _ in range(2):
        assert kernel.errno(wire.READ, nodeid, struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0)) == errno.ESTALE
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_reading_a_directory_is_refused(kernel: Kernel) -> None:
    for path in (b"store", b"train/dog"):
        body = struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0)
        assert kernel.errno(wire.READ, kernel.walk(path), body) == errno.EISDIR
    assert kernel.errno(wire.READ, 1, struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0)) in (errno.EISDIR, errno.ESTALE)


# -- what never happens here -------------------------------------------------------------------------------------------

MUTATING = {
    "setattr": (wire.SETATTR, bytes(88)),
    "symlink": (wire.SYMLINK, b"new\0target\0"),
    "mknod": (wire.MKNOD, bytes(16) + b"new\0"),
    "mkdir": (wire.MKDIR, bytes(8) + b"new\0"),
    "unlink": (wire.UNLINK, b"store\0"),
    "rmdir": (wire.RMDIR, b"store\0"),
    "rename": (wire.RENAME, struct.pack("<Q", 1) + b"store\0new\0"),
    "rename2": (wire.RENAME2, struct.pack("<QII", 1, 0, 0) + b"store\0new\0"),
    "link": (wire.LINK, struct.pack("<Q", 2) + b"new\0"),
    "write": (wire.WRITE, struct.pack("<QQIIQII", 0, 0, 1, 0, 0, 0, 0) + b"x"),
    "setxattr": (wire.SETXATTR, struct.pack("<II", 1, 0) + b"user.a\0x"),
    "removexattr": (wire.REMOVEXATTR, b"user.a\0"),
    "create": (wire.CREATE, bytes(16) + b"new\0"),
    "fallocate": (wire.FALLOCATE, bytes(32)),
    "copy_file_range": (wire.COPY_FILE_RANGE, bytes(56)),
    "copy_file_range_64": (wire.COPY_FILE_RANGE_64, bytes(56)),
    "tmpfile": (wire.TMPFILE, bytes(16) + b"\0"),
}


@pytest.mark.parametrize("name", MUTATING)
def test_whatever_would_change_something_is_erofs(kernel: Kernel, name: str, dataset: Path) -> None:
    opcode, body = MUTATING[name]
    for nodeid in (1, kernel.walk(b"store/a.png")):
        assert kernel.errno(opcode, nodeid, body) == errno.EROFS


@pytest.mark.parametrize(
    "opcode",
    [wire.FLUSH, wire.FSYNC, wire.GETXATTR, wire.STATX, wire.ACCESS, wire.LSEEK, wire.BMAP, 4095, 9999],
)
def test_what_need_not_be_asked_again_is_enosys(kernel: Kernel, opcode: int) -> None:
    assert kernel.errno(opcode, kernel.walk(b"store/a.png"), bytes(64)) == errno.ENOSYS


def test_there_are_no_extended_attributes(kernel: Kernel) -> None:
    """None, and not "not supported", of which tar and rsync would warn for each file."""
    nodeid = kernel.walk(b"store/a.png")
    assert kernel.payload(wire.LISTXATTR, nodeid, struct.pack("<II", 100, 0)) == b""
    assert kernel.payload(wire.LISTXATTR, nodeid, bytes(8)) == bytes(8)
    assert kernel.errno(wire.LISTXATTR, nodeid, bytes(7)) == errno.EINVAL


@pytest.mark.parametrize("opcode", [wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT])
@pytest.mark.parametrize("body", [b"", bytes(8), bytes(64)])
def test_some_requests_have_no_reply(kernel: Kernel, opcode: int, body: bytes) -> None:
    assert kernel.ask(opcode, 1, body) is None


def test_a_forgotten_node_is_still_there(kernel: Kernel) -> None:
    nodeid = kernel.walk(b"store/a.png")
    kernel.ask(wire.FORGET, nodeid, struct.pack("<Q", 1))
    assert kernel.read(nodeid, 0, 7) == b"content"


def test_statfs_gives_the_datasets_numbers(kernel: Kernel, dataset: Path) -> None:
    payload = kernel.payload(wire.STATFS, 1)
    found = os.statvfs(dataset)
    assert len(payload) == wire.STATFS_OUT
    blocks, _, _, files, _, bsize, namelen, frsize = struct.unpack_from("<QQQQQIII", payload)
    assert (blocks, files, bsize, frsize) == (found.f_blocks, found.f_files, found.f_bsize, found.f_frsize)
    assert namelen == 255


def test_statfs_gives_numbers_that_python_shows_as_negative(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EROFS counts no inodes and says so with the largest number there is."""
    found = os.statvfs(dataset)
    erofs = os.statvfs_result([*found[:5], -1, -31, *found[7:]])
    monkeypatch.setattr(os, "statvfs", lambda _path: erofs)
    view = View(Dataset(os.fsencode(dataset), Policy()))
    kernel = Kernel(Server(view, Control(view, Counters(), backend="kernel", source=b"/dataset", mountpoint=b"/mnt")))
    kernel.init()
    _, _, _, files, free, *_ = struct.unpack_from("<QQQQQIII", kernel.payload(wire.STATFS, 1))
    assert (files, free) == (2**64 - 1, 2**64 - 31)


# -- ioctl -------------------------------------------------------------------------------------------------------------


def ioctl(command: int, payload: bytes = b"", *, out_size: int = BUFFER_BYTES) -> bytes:
    return struct.pack("<QIIQII", 0, 0, command, 0, len(payload), out_size) + payload


def test_is_it_a_terminal_is_answered_no(kernel: Kernel) -> None:
    assert kernel.errno(wire.IOCTL, kernel.walk(b"store/a.png"), ioctl(0x5401)) == errno.ENOTTY


@pytest.mark.parametrize("question", [b"", bytes(BUFFER_BYTES)])
def test_status_is_answered_in_a_full_buffer(kernel: Kernel, question: bytes) -> None:
    payload = kernel.payload(wire.IOCTL, 1, ioctl(STATUS, question))
    assert len(payload) == wire.IOCTL_OUT + BUFFER_BYTES
    assert struct.unpack_from("<iIII", payload) == (0, 0, 0, 0)
    assert decode(payload[wire.IOCTL_OUT :])["ok"]["mountpoint"] == "/mnt"


@pytest.mark.parametrize("out_size", [0, 1, 100, 2**32 - 1])
def test_an_ioctl_is_never_answered_with_more_than_it_has_room_for(kernel: Kernel, out_size: int) -> None:
    payload = kernel.payload(wire.IOCTL, 1, ioctl(STATUS, out_size=out_size))
    assert len(payload) <= wire.IOCTL_OUT + min(out_size, BUFFER_BYTES)


def test_why_is_answered(kernel: Kernel) -> None:
    question = encode({"path": "train/cat/gone"}).ljust(BUFFER_BYTES, b"\0")
    payload = kernel.payload(wire.IOCTL, 1, ioctl(WHY, question))
    assert decode(payload[wire.IOCTL_OUT :])["ok"]["kind"] == "dangling"


def test_strangers_are_not_answered(kernel: Kernel) -> None:
    reply = kernel.ask(wire.IOCTL, 1, ioctl(STATUS), uid=os.geteuid() + 1)
    assert reply is not None
    assert reply.error == errno.EACCES


# -- robustness --------------------------------------------------------------------------------------------------------


def test_a_request_of_our_own_thread_is_refused_at_once(kernel: Kernel, view: View) -> None:
    view.dataset.callers.add(4711)
    for opcode in (wire.LOOKUP, wire.READ, wire.GETATTR, wire.READDIRPLUS, wire.STATFS):
        reply = kernel.ask(opcode, 1, b"x\0" + bytes(60), pid=4711)
        assert reply is not None
        assert reply.error == errno.EDEADLK
    assert kernel.ask(wire.FORGET, 1, bytes(8), pid=4711) is None
    assert kernel.ask(wire.STATFS, 1, pid=4712) is not None


def test_a_bug_is_eio_with_one_traceback_and_the_server_goes_on(
    kernel: Kernel, view: View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(View, "node", broken)
        assert kernel.errno(wire.GETATTR, 1, bytes(16)) == errno.EIO
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert kernel.errno(wire.GETATTR, 1, bytes(16)) == 0


def test_requests_and_bytes_are_counted(kernel: Kernel, counters: Counters) -> None:
    nodeid = kernel.walk(b"store/a.png")
    kernel.read(nodeid, 0, 7)
    kernel.ask(9999, 1)
    assert counters.requests() == {"lookup": 2, "init": 1, "read": 1, "opcode-9999": 1}
    assert counters.bytes_read() == 7


def test_only_what_touches_the_dataset_may_block(kernel: Kernel, view: View) -> None:
    server = kernel.server
    assert server.may_block(wire.request(wire.LOOKUP, 1, b"x\0")), "the root is not frozen yet"
    nodeid = kernel.walk(b"store/a.png")
    list(kernel.list(1, plus=False))
    assert not server.may_block(wire.request(wire.LOOKUP, 1, b"x\0"))
    assert not server.may_block(wire.request(wire.READDIRPLUS, 1, bytes(40)))
    assert not server.may_block(wire.request(wire.GETATTR, nodeid, bytes(16)))
    assert not server.may_block(wire.request(wire.IOCTL, 1, ioctl(0x5401)))
    assert not server.may_block(wire.request(wire.IOCTL, 1, ioctl(STATUS)))
    assert server.may_block(wire.request(wire.IOCTL, 1, ioctl(WHY)))
    read = wire.request(wire.READ, nodeid, bytes(40))
    assert server.may_block(read)
    view.dataset.callers.add(read.pid)
    assert not server.may_block(read), "from a thread of ours it is refused at once"
    assert not server.may_block(wire.request(wire.IOCTL, 1, b"short"))
