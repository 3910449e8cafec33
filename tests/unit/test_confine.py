"""Decoders that attack: each tries what it must not be able to do, as root and as an ordinary user, and cannot.

What holds only where the kernel has Landlock and seccomp is tested where it has them, and told apart by what the worker
itself says of them.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image, features

from symfuse import child
from symfuse.identity import confine, image
from symfuse.identity.decoder import COMMAND, Decoder
from symfuse.identity.verdict import Verdict, finding
from tests.conftest import missing
from tests.support.mounting import MYSELF, REPOSITORY, User

#: A worker that tries what the file in its hands says. Its finding's digest is what came of it: nothing, or an error.
HOSTILE = '''
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, subprocess, sys, threading
from symfuse.identity import confine, worker
from symfuse.identity.verdict import Verdict, finding

libc = ctypes.CDLL(None, use_errno=True)

def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), function)
    return result

def have_capabilities():
    """Fails without any, as everything does that needs one."""
    held = ctypes.create_string_buffer(24)
    call("capget", struct.pack("=Ii", 0x20080522, 0), held)
    if not any(held.raw):
        raise OSError(errno.EPERM, "none")

def own_memory():
    """What else could this process reopen?"""
    with open(f"/proc/{os.getpid()}/mem", "r+b"):
        pass

def reopen(fd):
    os.write(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"x")

def run():
    subprocess.run(["/bin/true"], check=True)

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def connect(family, kind, address):
    with socket.socket(family, kind) as it:
        it.connect(address)

def connect_path(path):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, path)

def connect_abstract(name):
    connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + name)

def send_udp(port):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(port)))

def connect_tcp(port):
    connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(port)))

def write_memory_of(pid):
    text = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(text), 8)
    call("process_vm_writev", int(pid), vector, 1, vector, 1, 0)

def ptrace(pid):
    call("ptrace", 16, int(pid), 0, 0)  # PTRACE_ATTACH

def signal_owner(pid):
    """A signal by the kernel: of a descriptor that somebody else is said to own."""
    one, other = os.pipe()
    fcntl.fcntl(one, fcntl.F_SETOWN, int(pid))
    fcntl.fcntl(one, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
    os.write(other, b"x")

def new_namespace():
    call("unshare", 0x10000000)  # CLONE_NEWUSER

def thread():
    it = threading.Thread(target=int)
    it.start()
    it.join()

ATTACKS = {
    "unlink": os.unlink,
    "read": lambda path: open(path, "rb").read(1),
    "create": lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
    "list": os.listdir,
    "rename": lambda path: os.rename(path, path + ".moved"),
    "link": lambda path: os.link(path, path + ".linked"),
    "symlink": lambda path: os.symlink("x", path + ".linked"),
    "mkdir": lambda path: os.mkdir(path + ".made"),
    "chmod": lambda path: os.chmod(path, 0o777),
    "touch": os.utime,
    "truncate": lambda path: os.truncate(path, 0),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"x"),
    "capabilities": have_capabilities,
    "own memory": own_memory,
    "tcp": connect_tcp,
    "udp": send_udp,
    "abstract": connect_abstract,
    "path": connect_path,
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "kill": lambda pid: os.kill(int(pid), signal.SIGKILL),
    "ask for": lambda pid: os.kill(int(pid), 0),
    "stop group": lambda pid: os.kill(-int(pid), signal.SIGSTOP),
    "signal all": lambda: os.kill(-1, signal.SIGURG),
    "queue": lambda pid: call("sigqueue", int(pid), signal.SIGKILL, 0),
    "owner": signal_owner,
    "run": run,
    "fork": fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "ptrace": ptrace,
    "write memory": write_memory_of,
    "starve": lambda pid: resource.prlimit(int(pid), resource.RLIMIT_CPU, (1, 1)),
    "namespace": new_namespace,
    "root": lambda: os.setresuid(0, 0, 0),
    "raise": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16)),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "keyctl": lambda: call("syscall", 250 if os.uname().machine == "x86_64" else 219, 0, -3, 1),
    "ring": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(256)),
    "bpf": lambda: call("syscall", 321 if os.uname().machine == "x86_64" else 280, 0, None, 0),
}
ON_DESCRIPTOR = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "map": lambda fd: mmap.mmap(fd, 1, mmap.MAP_SHARED, mmap.PROT_WRITE),
    "reopen": reopen,
    "fchmod": lambda fd: os.fchmod(fd, 0o777),
    "futimens": lambda fd: os.utime(fd, (1, 1)),
    "fsetxattr": lambda fd: os.setxattr(fd, "user.x", b"x"),
    "ftruncate": lambda fd: os.ftruncate(fd, 0),
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "flags": lambda fd: fcntl.ioctl(fd, 0x40086602, bytes(8)),  # FS_IOC_SETFLAGS
}

def examine(fd):
    word, _, argument = os.pread(fd, 4096, 0).decode().partition(" ")
    word = word.replace("_", " ")
    try:
        if word == "thread":
            thread()
        elif word == "status":
            return finding(Verdict.OK, struct.pack("<IIII", os.getuid(), os.getgid(), len(os.getgroups()), 0))
        elif word in ON_DESCRIPTOR:
            ON_DESCRIPTOR[word](fd)
        elif argument:
            ATTACKS[word](argument)
        else:
            ATTACKS[word]()
    except (subprocess.SubprocessError, ValueError):  # which is what setrlimit raises
        return finding(Verdict.BROKEN, b"EPERM".ljust(16))
    except OSError as error:
        return finding(Verdict.BROKEN, errno.errorcode[error.errno].encode().ljust(16))
    return finding(Verdict.OK)

def main():
    worker.serve(examine)
'''

#: Starts the worker named by the first argument as whoever runs this, and prints what became of each further argument.
ATTACKER = """
import logging, os, sys, tempfile
logging.basicConfig(level=logging.INFO)
sys.path.append(sys.argv[1])
from symfuse import child
from symfuse.identity.decoder import Decoder
orders = [order.replace("PARENT", str(os.getpid())) for order in sys.argv[2:]]
files = [tempfile.NamedTemporaryFile() for _ in orders]
for file, order in zip(files, orders):
    file.write(order.encode())
    file.flush()
with Decoder(command=child.command("hostile")) as decoder:
    fds = [os.open(file.name, os.O_RDONLY) for file in files]
    for order, found in zip(orders, decoder.examine(fds, lambda: False)):
        print(["unknown", "done"][found[0]] if found[0] < 2 else found[1:].decode().strip())
for file, order in zip(files, orders):
    assert file.seek(0) == 0 and file.read().decode() == order, order
    assert os.stat(file.name).st_mode & 0o777 == 0o600
    assert os.listxattr(file.name) == []
"""


@pytest.fixture(params=["root", "user"])
def user(request: pytest.FixtureRequest) -> User:
    """Whose rights the attacker would have."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("not root")
        return MYSELF
    found: User = request.getfixturevalue("ordinary_user")
    return found


@pytest.fixture
def room(user: User, tmp_path: Path) -> Path:
    """A directory where that user may do anything, with a file `victim` and the hostile worker."""
    room = user.home if user.uid is not None else tmp_path
    (room / "victim").write_text("victim")
    (room / "hostile.py").write_text(HOSTILE)
    return user.owns(room)


def attacks(user: User, room: Path, *orders: str) -> tuple[dict[str, str], str]:
    """What became of each, and what was said of the worker."""
    done = user.script(ATTACKER, room, *orders)
    return dict(zip(orders, done.stdout.splitlines(), strict=True)), done.stderr


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Somebody who listens in each way, by what names them."""
    directory = Path(tempfile.mkdtemp())  # a path of a socket is short
    directory.chmod(0o755)
    path, name = str(directory / "s"), f"symfuse-test-{os.getpid()}"
    with (
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as plain,
    ):
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + name)
        plain.bind(path)
        os.chmod(path, 0o777)
        for listening in (tcp, abstract, plain):
            listening.listen()
        yield {
            "tcp": str(tcp.getsockname()[1]),
            "udp": str(udp.getsockname()[1]),
            "abstract": name,
            "path": path,
        }
        udp.setblocking(False)
        for each in (tcp, abstract, plain):
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)
    os.unlink(path)
    directory.rmdir()


def test_nothing_that_a_decoder_has_no_use_for_succeeds(user: User, room: Path, sockets: Mapping[str, str]) -> None:
    victim = room / "victim"
    before = victim.stat()
    on_files = [
        "unlink",
        "read",
        "create",
        "rename",
        "link",
        "symlink",
        "mkdir",
        "chmod",
        "touch",
        "truncate",
        "setxattr",
    ]
    orders = [
        *(f"{word} {victim}" for word in on_files),
        *("read /etc/shadow", "list /", "own_memory", "reopen"),
        *(f"{word} {address}" for word, address in sockets.items()),
        *("packet", "netlink"),
        *(
            "kill PARENT",
            "stop_group PARENT",
            "signal_all",
            "queue PARENT",
            "owner PARENT",
            "starve PARENT",
            "ask_for 1",
        ),
        *("run", "fork", "exec", "ptrace PARENT", "write_memory PARENT", "namespace", "root", "raise", "mount"),
        *("keyctl", "ring", "bpf"),
        *("write", "map", "fchmod", "futimens", "fsetxattr", "ftruncate", "flock", "lock", "flags"),
    ]
    became, said = attacks(user, room, *orders)
    assert "but not" not in said.replace("but not a user of its own", "")
    assert {order: what for order, what in became.items() if not what.startswith("E")} == {}
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    assert sorted(os.listdir(room))[-1] == "victim"


def test_landlock_alone_keeps_an_ordinary_user_from_files_and_others(
    request: pytest.FixtureRequest, ordinary_user: User, sockets: Mapping[str, str]
) -> None:
    """Where nobody knows the numbers of this machine's system calls."""
    try:
        version = confine.landlock_version()
    except OSError as error:
        missing(request.config, f"this kernel has no Landlock ({error})")
    room, victim = ordinary_user.home, ordinary_user.home / "victim"
    victim.write_text("victim")
    (room / "hostile.py").write_text(HOSTILE + "\nconfine._filter_system_calls = lambda: None\n")
    ordinary_user.owns(room)
    words = ["unlink", "read", "create", "rename", "link", "symlink", "mkdir", *(["truncate"] if version >= 3 else [])]
    orders = [f"{word} {victim}" for word in words]
    orders += ["read /etc/passwd", "list /", "reopen", "run"]
    if version >= 4:
        orders.append(f"tcp {sockets['tcp']}")
    if version >= 6:
        orders += [f"abstract {sockets['abstract']}", "kill PARENT", "owner PARENT"]
    became, _said = attacks(ordinary_user, room, *orders)
    assert {order: what for order, what in became.items() if what not in ("EACCES", "EPERM")} == (
        {"owner PARENT": "done"} if version >= 6 else {}
    ), "the kernel says nothing of a signal that it does not send"
    assert victim.read_text() == "victim"


def test_decoders_may_use_threads(user: User, room: Path) -> None:
    assert attacks(user, room, "thread")[0] == {"thread": "done"}


def test_roots_decoders_are_each_a_user_that_nobody_else_is(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    groups = os.getgroups()
    os.setgroups([*groups, 4711])
    request.addfinalizer(lambda: os.setgroups(groups))
    with Decoder(command=child.command("hostile")) as decoder, tempfile.TemporaryFile() as file:
        file.write(b"status")
        file.flush()
        (found,) = decoder.examine([file.fileno()], lambda: False)
        number = confine.FIRST_UID + decoder.pid
        status = Path(f"/proc/{decoder.pid}/status").read_text()
    assert found == finding(Verdict.OK, number.to_bytes(4, "little") * 2 + bytes(8))
    assert re.findall(r"^(?:Uid|Gid):\s(.*)$", status, re.MULTILINE) == ["\t".join([str(number)] * 4)] * 2
    assert re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\s(.*)$", status, re.MULTILINE) == ["0" * 16] * 4
    assert re.findall(r"^(?:NoNewPrivs|Seccomp):\s(.*)$", status, re.MULTILINE) == ["1", "2"]


#: Whether the user who started a decoder can look into it.
LOOK_INTO = """
import tempfile
from symfuse.identity.decoder import COMMAND, Decoder
with Decoder(command=COMMAND) as decoder, tempfile.TemporaryFile() as file:
    list(decoder.examine([file.fileno()], lambda: False))
    try:
        open(f"/proc/{decoder.pid}/mem", "rb").close()
    except PermissionError:
        print("closed")
"""


def test_not_even_its_own_user_looks_into_a_decoder(ordinary_user: User) -> None:
    assert ordinary_user.script(LOOK_INTO).stdout == "closed\n"


def test_a_namespace_without_such_users_costs_that_step_only(tmp_path: Path) -> None:
    """As in a container without root, where a few thousand users are known."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    victim = tmp_path / "victim"
    victim.write_text("victim")
    words = [sys.executable, "-c", ATTACKER, str(tmp_path), f"read {victim}", f"unlink {victim}", "kill PARENT", "run"]
    words.append("capabilities")
    environment = {**os.environ, **MYSELF.environment}
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert "with no capabilities, no new privileges, no debugger, Landlock, seccomp, but not a user of" in done.stderr
    assert "(Invalid argument)" in done.stderr
    assert done.stdout.splitlines() == ["EPERM"] * 5
    assert victim.exists()


def test_without_ctypes_the_rest_still_holds_and_is_said(user: User, room: Path) -> None:
    worker = HOSTILE.replace("import ctypes, ", "import sys; sys.modules['ctypes'] = None\nimport ").replace(
        "libc = ctypes.CDLL(None, use_errno=True)\n", ""
    )
    (room / "hostile.py").write_text(worker)
    became, said = attacks(user, room, "write", "raise", "root")
    assert "but not Landlock (this Python cannot call libc" in said
    assert "but not seccomp (this Python lacks ctypes)" in said
    assert became == {"write": "EBADF", "raise": "EPERM", "root": "EPERM"}
    if user.uid is None:
        became, said = attacks(user, room, f"unlink {room / 'victim'}", "kill PARENT", "read /etc/shadow")
        assert "with a user of its own" in said
        assert set(became.values()) <= {"EPERM", "EACCES", "EMFILE"}


@pytest.mark.parametrize("step", ["Landlock", "seccomp"])
def test_a_kernel_without(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(name: str, *_: object) -> int:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("symfuse.libc.call", refuse)
    assert f"but not {step} (Function not implemented)" in confine.shut_in()


# -- and decoding goes on as before ------------------------------------------------------------------------------------


def encoded(form: str, mode: str, **options: object) -> bytes:
    """An image with some detail, larger than what a decoder buffers."""
    drawn = Image.effect_mandelbrot((500, 400), (-2, -1.5, 1, 1.5), 100).convert("RGB").convert(mode)
    file = io.BytesIO()
    drawn.save(file, form, **options)
    return file.getvalue()


FORMS: Sequence[tuple[str, str, dict[str, object]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "L", {"compression": "raw"}),
    ("PPM", "RGB", {}),
    ("JPEG2000", "RGB", {}),
    ("AVIF", "RGB", {}),
    ("ICO", "RGBA", {}),
    ("ICNS", "RGBA", {}),
    ("TGA", "RGB", {}),
    ("PCX", "P", {}),
    ("SGI", "RGB", {}),
    ("DDS", "RGBA", {}),
    ("MPO", "RGB", {}),
    ("QOI", "RGB", {}),
    ("XBM", "1", {}),
    ("BLP", "P", {}),
    ("SPIDER", "F", {}),
]
NEEDED = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


def test_confined_decoders_find_what_others_find() -> None:
    """Of every format, whole and cut short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", image.MAX_PIXELS // 2)
        Image.init()
        forms = [form for form in FORMS if form[0] not in NEEDED or features.check(NEEDED[form[0]])]
        whole = [encoded(form, mode, **options) for form, mode, options in forms if form in Image.SAVE]
        contents = [content[:length] for content in whole for length in (len(content), len(content) // 2)]
        with ExitStack() as stack, Decoder(command=COMMAND) as decoder:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in contents]
            for file, content in zip(files, contents, strict=True):
                file.write(content)
                file.flush()
            fds = [file.fileno() for file in files]
            expected = [image.examine(fd) for fd in fds]
            found = list(decoder.examine(fds, lambda: False))
    assert found == expected
    assert {Verdict(each[0]) for each in found} >= {Verdict.OK, Verdict.BROKEN, Verdict.RARE}


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import symfuse.identity.confine"
    subprocess.run([sys.executable, "-I", "-S", "-c", script, REPOSITORY], check=True)
