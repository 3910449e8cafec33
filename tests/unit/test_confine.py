"""Decoders that attack: each tries what it must not be able to do, as root and as an ordinary user, and cannot.

What holds only where the kernel has Landlock and seccomp is tested where it has them, and told apart by what the worker
itself says of them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import struct
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

def numbered(on_x86_64, elsewhere, *arguments):
    """A system call that may lack a function in libc."""
    call("syscall", on_x86_64 if os.uname().machine == "x86_64" else elsewhere, *arguments)

def attach(id):
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(id, None, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmat")
    ctypes.memmove(address, b"x", 1)

def room():
    """Where the kernel may write."""
    return ctypes.create_string_buffer(4096)

def on_ipc(attack):
    return lambda id: attack(int(id))

ONE_MORE = struct.pack("HhH", 0, 1, 0)  # struct sembuf
MESSAGE = struct.pack("l8s", 1, b"x")

ATTACKS = {
    "attach": on_ipc(attach),
    "look at segment": on_ipc(lambda id: call("shmctl", id, 2, room())),  # IPC_STAT
    "remove segment": on_ipc(lambda id: call("shmctl", id, 0, None)),  # IPC_RMID
    "detach": lambda: call("shmdt", None),
    "raise semaphore": on_ipc(lambda id: call("semop", id, ONE_MORE, 1)),
    "raise semaphore in time": on_ipc(lambda id: call("semtimedop", id, ONE_MORE, 1, struct.pack("ll", 1, 0))),
    "set semaphore": on_ipc(lambda id: call("semctl", id, 0, 16, 7)),  # SETVAL
    "remove semaphore": on_ipc(lambda id: call("semctl", id, 0, 0, 0)),
    "send": on_ipc(lambda id: call("msgsnd", id, MESSAGE, 8, 0o4000)),  # IPC_NOWAIT
    "receive": on_ipc(lambda id: call("msgrcv", id, room(), 8, 0, 0o4000)),
    "remove queue": on_ipc(lambda id: call("msgctl", id, 0, None)),
    "make segment": lambda: call("shmget", 0, 4096, 0o600),
    "remove posix queue": lambda name: numbered(241, 181, name[1:].encode()),  # libc changes the error
    "kernel log": lambda: call("klogctl", 10, None, 0),  # SYSLOG_ACTION_SIZE_BUFFER
    "go": os.chdir,
    "read link": lambda: os.readlink("/proc/self"),
    "getxattr": lambda path: os.getxattr(path, "user.kept"),
    "listxattr": os.listxattr,
    "getxattrat": lambda path: call("syscall", 464, -100, path.encode(), 0, b"user.kept", room(), 16),
    "open tree": lambda path: call("syscall", 467, -100, path.encode(), 0, None, 0),
    "mounts": lambda: call("syscall", 458, struct.pack("=IIQQQ", 32, 0, (1 << 64) - 1, 0, 0), room(), 8, 0),
    "quota": lambda: numbered(179, 60, 0x80000100, None, 0, None),  # Q_SYNC
    "sync": lambda: numbered(162, 81),
    "memory file": lambda: os.memfd_create("x"),
    "asynchronous": lambda: numbered(206, 0, 1, room()),
    "share a core": lambda pid: call("prctl", 62, 2, int(pid), 0, None),  # PR_SCHED_CORE
    "debuggable": lambda: call("prctl", 4, 1, 0, 0, 0),  # PR_SET_DUMPABLE
    "handle": lambda: numbered(304, 265, -10002, struct.pack("IIQ", 8, 0, 1), 0),  # of a process: FD_PIDFS_ROOT
    "newer": lambda: call("syscall", 470, None, None, 0, 0),
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
    "fsync": os.fsync,
    "fgetxattr": lambda fd: os.getxattr(fd, "user.x"),
    "policy": lambda fd: numbered(237, 235, ctypes.c_void_p(0), 0, 0, None, 0, 0),
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
    os.setxattr(room / "victim", "user.kept", b"kept")
    (room / "hostile.py").write_text(HOSTILE)
    return user.owns(room)


def attacks(user: User, room: Path, *orders: str) -> tuple[dict[str, str], str]:
    """What became of each, and what was said of the worker."""
    done = user.script(ATTACKER, room, *orders)
    return dict(zip(orders, done.stdout.splitlines(), strict=True)), done.stderr


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Somebody who listens in each way, by what names them."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))  # a path of a socket is short
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
        *("keyctl", "ring", "bpf", "asynchronous", "handle", "debuggable", "share_a_core PARENT"),
        *("kernel_log", "go /", "read_link", "mounts", "quota", "sync", "memory_file", "newer"),
        *(f"{word} {victim}" for word in ("getxattr", "listxattr", "getxattrat", "open_tree")),
        *("fsync", "fgetxattr", "policy"),
        *("write", "map", "fchmod", "futimens", "fsetxattr", "ftruncate", "flock", "lock", "flags"),
    ]
    became, said = attacks(user, room, *orders)
    assert "but not" not in said.replace("but not a user of its own", "")
    assert {order: what for order, what in became.items() if not what.startswith("E")} == {}
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    assert sorted(os.listdir(room))[-1] == "victim"


#: Makes a segment, a semaphore, a queue with a message, and a POSIX queue, with a mode and a name that are given.
MAKE_IPC = """
import ctypes, os, struct, sys
libc, mode, name = ctypes.CDLL(None, use_errno=True), int(sys.argv[1]), sys.argv[2].encode()
segment, semaphore, queue = libc.shmget(0, 4096, mode), libc.semget(0, 1, mode), libc.msgget(0, mode)
libc.shmat.restype = ctypes.c_void_p
ctypes.memmove(libc.shmat(segment, None, 0), b"kept", 4)
assert libc.msgsnd(queue, struct.pack("l4s", 1, b"kept"), 4, 0) == 0
os.umask(0)
assert libc.mq_open(name, os.O_CREAT | os.O_RDWR, mode, None) >= 0
print(segment, semaphore, queue)
"""
#: What is left of them, as text, and nothing afterwards.
END_IPC = """
import ctypes, sys
libc, (segment, semaphore, queue) = ctypes.CDLL(None, use_errno=True), map(int, sys.argv[1:4])
libc.shmat.restype = ctypes.c_void_p
message = ctypes.create_string_buffer(16)
print(ctypes.string_at(libc.shmat(segment, None, 0), 4).decode(), libc.semctl(semaphore, 0, 12, 0))
print(libc.msgrcv(queue, message, 4, 0, 0o4000), message.raw[8:12].decode(), libc.mq_unlink(sys.argv[4].encode()))
print(libc.shmctl(segment, 0, None), libc.semctl(semaphore, 0, 0, 0), libc.msgctl(queue, 0, None))
"""


def test_what_others_share_with_each_other_is_out_of_reach(user: User, room: Path) -> None:
    """System V IPC, whose numbers can be guessed, and POSIX queues: the decoder's user may do anything to them."""
    made = f"/symfuse-test-{os.getpid()}"
    segment, semaphore, queue = user.script(MAKE_IPC, str(0o666 if user.uid is None else 0o600), made).stdout.split()
    orders = [
        *(f"{word} {segment}" for word in ("attach", "look_at_segment", "remove_segment")),
        *(f"{word} {semaphore}" for word in ("raise_semaphore", "raise_semaphore_in_time", "set_semaphore")),
        *(f"{word} {queue}" for word in ("send", "receive", "remove_queue")),
        *(f"remove_semaphore {semaphore}", f"remove_posix_queue {made}", "detach", "make_segment"),
    ]
    try:
        became, _said = attacks(user, room, *orders)
    finally:
        left = user.script(END_IPC, segment, semaphore, queue, made).stdout
    assert became == dict.fromkeys(orders, "EPERM")
    assert left.split() == ["kept", "0", "4", "kept", "0", "0", "0", "0"]


#: System calls of Linux 6.18 that a decoder may use, by what they reach.
ALLOWED = {
    "memory of its own": """
        mmap munmap mprotect mremap brk madvise mincore mlock mlock2 mlockall munlock munlockall msync remap_file_pages
        pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal get_mempolicy set_mempolicy membarrier futex
        futex_wait futex_waitv futex_wake futex_requeue set_robust_list rseq""",
    "descriptors that it was handed or that reach nothing but itself": """
        read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek close close_range dup dup2 dup3
        sendfile splice tee vmsplice copy_file_range fadvise64 readahead cachestat getdents getdents64 fstat fstatfs
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        epoll_ctl_old epoll_wait_old pipe pipe2 eventfd eventfd2 signalfd signalfd4
        timerfd_create timerfd_gettime timerfd_settime
        sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown getsockname getpeername setsockopt getsockopt""",
    "what it has no descriptor for": """
        io_destroy io_getevents io_pgetevents io_submit io_cancel inotify_add_watch inotify_rm_watch fanotify_mark
        landlock_add_rule""",
    "itself": """
        exit exit_group getpid gettid getppid getpgrp setpgid setsid getuid geteuid getgid getegid getresuid getresgid
        getgroups setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid capget capset umask getcwd
        set_tid_address arch_prctl modify_ldt set_thread_area get_thread_area seccomp landlock_create_ruleset
        landlock_restrict_self lsm_get_self_attr lsm_set_self_attr getrlimit setrlimit getrusage times wait4 waitid
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack pause
        restart_syscall alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_settime
        nanosleep clock_nanosleep sched_yield getcpu uprobe uretprobe arch_specific_syscall""",
    "what everybody may see of the machine, of paths, and of other processes": """
        stat lstat newfstatat fstatat statx access faccessat faccessat2 statfs ustat sysfs uname sysinfo time
        gettimeofday clock_gettime clock_getres getrandom lsm_list_modules getpgid getsid getpriority ioprio_get
        get_robust_list sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_get_priority_max sched_get_priority_min adjtimex clock_adjtime""",
    "by their arguments": "kill tgkill prlimit64 fcntl clone clone3 prctl",
    "nothing without a capability": """
        mount_setattr move_mount fsopen fsconfig fsmount fspick umount2 pivot_root chroot swapon swapoff reboot
        sethostname setdomainname iopl ioperm init_module finit_module delete_module kexec_load kexec_file_load acct
        settimeofday clock_settime vhangup setgroups lookup_dcookie""",
    "nothing any more": """
        create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver
        _sysctl""",
}
#: The kernel's own lists, as distributions ship them. Those of Linux 6.1 end at 450, before cachestat.
HEADERS = {1: Path("/usr/include/asm-generic/unistd.h")}
if os.uname().machine == "x86_64":
    HEADERS[0] = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.parametrize("column", HEADERS)
def test_every_system_call_has_been_judged_and_has_its_number(request: pytest.FixtureRequest, column: int) -> None:
    if not HEADERS[column].exists():
        missing(request.config, "the kernel's headers are not installed (apt install linux-libc-dev)")
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text(), re.MULTILINE)
    kernels = {name: int(number) for name, number in defined if name != "syscalls" and not name.endswith("time64")}
    words = confine._DENIED.split()
    denied = dict(zip(words[::3], words[1 + column :: 3], strict=True))
    allowed = [name for names in ALLOWED.values() for name in names.split()]
    assert len(allowed) == len(set(allowed)) and not denied.keys() & set(allowed)
    unjudged = {name for name, number in kernels.items() if str(number) not in denied.values()} - set(allowed)
    unjudged -= {name for name, number in kernels.items() if number >= confine._UNKNOWN}
    assert unjudged == set()
    assert {name: number for name, number in denied.items() if number != str(kernels.get(name, number))} == {}
    newest = max(kernels.values())
    assert {name for name, number in denied.items() if number.isdigit() and int(number) <= newest} <= kernels.keys()
    assert {name for name, number in denied.items() if number == "-"} & kernels.keys() == set()


def judged(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """What a filter answers: a small interpreter of the few instructions that it is made of. Source: linux/filter.h"""
    data = struct.pack("<iIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    at, held = 0, 0
    tests = {0x15: lambda value: held == value, 0x35: lambda value: held >= value, 0x45: lambda value: held & value}
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, 8 * at)
        if code == 0x06:
            return int(value)
        if code == 0x20:
            (held,) = struct.unpack_from("<I", data, value)
            at += 1
        else:
            at += 1 + (if_true if tests[code](value) else if_false)


#: The answers: allowed; denied with EPERM, or with ENOSYS; and the end.
ALLOW, DENY, NO_SUCH_CALL, END = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS, 0x8000_0000


@pytest.mark.parametrize("name", confine._MACHINES)
def test_the_filter_refuses_what_nobody_has_judged(name: str) -> None:
    machine, column = confine._MACHINES[name]
    program = b"".join(confine._program(machine, column, 4711))

    def asked(number: int, *arguments: int) -> int:
        return judged(program, machine, number, *arguments)

    assert {asked(number) for number in confine._denied_numbers(column)} == {DENY}
    assert {asked(number) for number in (470, 471, 512, 547, 9999, 0x3FFF_FFFF)} == {NO_SUCH_CALL}
    assert asked(0x4000_0000 | 62) == (DENY if column == 0 else NO_SUCH_CALL), "the other numbers of x86-64 (x32)"
    assert judged(program, machine ^ 1, 0) == END, "a call by the numbers of another machine"
    read, kill, prctl, clone, clone3 = (0, 62, 157, 56, 435) if column == 0 else (63, 129, 167, 220, 435)
    assert (asked(read), asked(clone3)) == (ALLOW, NO_SUCH_CALL)
    assert (asked(kill, 4711), asked(kill, 1), asked(kill, 2**32 - 1)) == (ALLOW, DENY, DENY)
    assert (asked(prctl, 15), asked(prctl, 4), asked(prctl, 62)) == (ALLOW, DENY, DENY)
    assert (asked(clone, 0x10000), asked(clone, 0x11)) == (ALLOW, DENY)


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
