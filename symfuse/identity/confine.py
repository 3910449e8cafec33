"""What a process gives up before it meets hostile files: its user's rights, files, the network, other processes.

    said = confine.in_words([confine.change_user(), *confine.shut_in()])

Each step is taken where the kernel and this Python allow it, whatever became of the others, and says what came of it.
None can be taken back. Only the calling thread is confined, and those that it starts: there must be no others yet.
docs/security.md says what each step denies, and what remains possible where one cannot be taken.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator

from symfuse import libc

#: The first of the user ids that nobody gives out (systemd's list ends here, and containers' ranges before). A process
#: takes the one at its own number from here on, so that confined processes can do nothing to each other.
#: Source: UIDS-GIDS.md in systemd
FIRST_UID = 0x7000_0000
#: The one to take in a user namespace that has no such numbers.
NOBODY = 65534

_FAILED = "but not "

# Source: linux/prctl.h, linux/capability.h
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_CAPABILITY_VERSION_3 = 0x20080522


def change_user() -> str:
    """Become a user that nobody else is, in no group."""
    with contextlib.suppress(ImportError):
        importlib.import_module("ctypes")  # all the rest needs it, and that user may not read it
    return _take("a user of its own", _become_nobody)


def shut_in() -> list[str]:
    """All the rest."""
    steps: list[tuple[str, Callable[[], None]]] = [
        ("no capabilities", _drop_capabilities),
        ("no new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        ("no debugger", lambda: _prctl(_PR_SET_DUMPABLE, 0)),
        ("Landlock", _restrict_with_landlock),
        ("seccomp", _filter_system_calls),
    ]
    return [_take(words, step) for words, step in steps]


def in_words(steps: list[str]) -> str:
    """What they say: first what was achieved, then what was not."""
    return ", ".join(sorted(steps, key=lambda step: step.startswith(_FAILED)))


def _take(words: str, step: Callable[[], None]) -> str:
    try:
        step()
    except OSError as error:
        return f"{_FAILED}{words} ({error.strerror})"
    return words


def _prctl(option: int, value: int) -> None:
    libc.call("prctl", option, value, 0, 0, 0)


def _become_nobody() -> None:
    """Errors: OSError; PermissionError for whoever may not, which is everybody but root."""
    failure: OSError | None = None
    for number in (FIRST_UID + os.getpid(), NOBODY):
        try:
            with contextlib.suppress(PermissionError):  # a user namespace may forbid this alone
                os.setgroups([])
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
        except OSError as error:  # EINVAL: no such number in this user namespace
            failure = error
        else:
            return
    assert failure is not None
    raise failure


def _drop_capabilities() -> None:
    """All that this process has, whatever its user. Source: capset(2)."""
    libc.call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


# -- Landlock: no file system, no TCP, nothing that lies outside of this process ---------------------------------------

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_CREATE_RULESET_VERSION = 1
#: For each version from which on there are more rights: how many of files, of the network, and of what lies outside
#: (abstract sockets and signals). Source: linux/landlock.h
_RIGHTS = ((6, 16, 2, 2), (5, 16, 2, 0), (4, 15, 2, 0), (3, 15, 0, 0), (2, 14, 0, 0), (1, 13, 0, 0))


def landlock_version() -> int:
    """What this kernel's Landlock knows. Errors: OSError: ENOSYS or EOPNOTSUPP where there is none."""
    return libc.call("syscall", _CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)


def _restrict_with_landlock() -> None:
    """Handle every right of this kernel, and grant none. Errors: OSError: ENOSYS or EOPNOTSUPP where there is none."""
    version = landlock_version()
    counts = next(counts for since, *counts in _RIGHTS if version >= since)
    handled = [(1 << count) - 1 for count in counts]
    while not handled[-1]:  # the kernel knows no longer a structure
        handled.pop()
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    ruleset = libc.call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        libc.call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


# -- seccomp: none of the system calls that a decoder has no use for ---------------------------------------------------

#: Names, and their numbers on x86-64 and on machines that use asm-generic/unistd.h (arm64, RISC-V); `-` where there is
#: no such call. Of all the calls of Linux 6.18, those that reach anything beyond this process and what it was handed.
#: What needs a capability is not listed: there is none left. tests/unit/test_confine.py has the calls that are allowed.
_DENIED = """
open 2 -            openat 257 56         openat2 437 437        creat 85 -
open_tree 428 428   open_tree_attr 467 467  name_to_handle_at 303 264  open_by_handle_at 304 265
unlink 87 -         unlinkat 263 35       rmdir 84 -             rename 82 -
renameat 264 38     renameat2 316 276     mkdir 83 -             mkdirat 258 34
mknod 133 -         mknodat 259 33        link 86 -              linkat 265 37
symlink 88 -        symlinkat 266 36      truncate 76 45         ftruncate 77 46
chmod 90 -          fchmod 91 52          fchmodat 268 53        fchmodat2 452 452
chown 92 -          lchown 94 -           fchown 93 55           fchownat 260 54
utime 132 -         utimes 235 -          futimesat 261 -        utimensat 280 88
setxattr 188 5      lsetxattr 189 6       fsetxattr 190 7        setxattrat 463 463
getxattr 191 8      lgetxattr 192 9       fgetxattr 193 10       getxattrat 464 464
listxattr 194 11    llistxattr 195 12     flistxattr 196 13      listxattrat 465 465
removexattr 197 14  lremovexattr 198 15   fremovexattr 199 16    removexattrat 466 466
file_getattr 468 468  file_setattr 469 469  readlink 89 -        readlinkat 267 78
flock 73 32         ioctl 16 29           fallocate 285 47       uselib 134 -
sync 162 81         syncfs 306 267        fsync 74 82            fdatasync 75 83
sync_file_range 277 84  chdir 80 49       fchdir 81 50           mount 165 40
statmount 457 457   listmount 458 458     quotactl 179 60        quotactl_fd 443 443
inotify_init 253 -  inotify_init1 294 26  fanotify_init 300 262
socket 41 198       socketpair 53 199     connect 42 203         bind 49 200
listen 50 201       accept 43 202         accept4 288 242
shmget 29 194       shmat 30 196          shmctl 31 195          shmdt 67 197
semget 64 190       semop 65 193          semtimedop 220 192     semctl 66 191
msgget 68 186       msgsnd 69 189         msgrcv 70 188          msgctl 71 187
mq_open 240 180     mq_unlink 241 181     mq_timedsend 242 182   mq_timedreceive 243 183
mq_notify 244 184   mq_getsetattr 245 185  memfd_create 319 279  memfd_secret 447 447
fork 57 -           vfork 58 -            execve 59 221          execveat 322 281
tkill 200 130       rt_sigqueueinfo 129 138  rt_tgsigqueueinfo 297 240
pidfd_open 434 434  pidfd_send_signal 424 424  pidfd_getfd 438 438
process_madvise 440 440  process_mrelease 448 448
ptrace 101 117      process_vm_readv 310 270  process_vm_writev 311 271  kcmp 312 272
unshare 272 97      setns 308 268         setpriority 141 140    ioprio_set 251 30
sched_setparam 142 118  sched_setscheduler 144 119  sched_setattr 314 274  sched_setaffinity 203 122
mbind 237 235       set_mempolicy_home_node 450 450
migrate_pages 256 238  move_pages 279 239  personality 135 92     syslog 103 116
add_key 248 217     request_key 249 218   keyctl 250 219         bpf 321 280
perf_event_open 298 241  userfaultfd 323 282  io_setup 206 0
io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427
"""
#: The first number that no call of Linux 6.18 has, on either kind of machine. What later ones do, nobody has looked at.
_UNKNOWN = 470
#: Those that depend on their first arguments, likewise.
_KILL, _TGKILL, _PRLIMIT, _FCNTL = (62, 129), (234, 131), (302, 261), (72, 25)
_CLONE, _CLONE3, _PRCTL = (56, 220), (435, 435), (157, 167)
#: How processors are called in uname(2) and in a filter, and their column above. Source: linux/audit.h
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}
#: The x32 calls of x86-64 begin here.
_X32 = 0x4000_0000
_CLONE_THREAD = 0x10000
#: Of fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. No locks, no signals, no flags of an open file that
#: others have, too.
_HARMLESS_FCNTL = (0, 1, 2, 3, 1030)
#: Of prctl: PR_SET_NAME, PR_GET_NAME and PR_SET_VMA, by which libraries name threads and memory. Others keep processes
#: apart on the cores (PR_SCHED_CORE), or undo what this module does.
_HARMLESS_PRCTL = (15, 16, 0x53564D41)

# Source: linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _DENY, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_MODE_FILTER = 2


def _filter_system_calls() -> None:
    """Errors: OSError, with ENOSYS for machines that nobody has looked up the numbers for, and without ctypes."""
    name = os.uname().machine
    if name not in _MACHINES or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, "not known for this machine")
    try:
        import ctypes  # noqa: PLC0415 - some builds of Python lack it
    except ImportError as error:
        raise OSError(errno.ENOSYS, "this Python lacks ctypes") from error
    machine, column = _MACHINES[name]
    program = b"".join(_program(machine, column, os.getpid()))
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    libc.call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, described, 0, 0)


def _program(machine: int, column: int, pid: int) -> Iterator[bytes]:
    """The filter, instruction by instruction: what is known and no line speaks of is allowed."""
    yield _instruction(_LOAD, _MACHINE_AT)
    yield from _if(_EQUAL, machine, otherwise=[_returns(_KILL_PROCESS)])
    yield _instruction(_LOAD, _NUMBER_AT)
    if column == 0:
        yield from _if(_AT_LEAST, _X32, [_denied()])
    yield from _if(_AT_LEAST, _UNKNOWN, [_denied(errno.ENOSYS)])  # as an older kernel says
    for number in _denied_numbers(column):
        yield from _if(_EQUAL, number, [_denied()])
    yield from _if(_EQUAL, _CLONE3[column], [_denied(errno.ENOSYS)])  # libc uses clone then, whose flags can be seen
    threads = list(_if(_ANY_BIT, _CLONE_THREAD, [_returns(_ALLOW)]))
    yield from _if(_EQUAL, _CLONE[column], [_instruction(_LOAD, _ARGUMENTS_AT), *threads, _denied()])
    for call, argument, allowed in (
        (_KILL, 0, (pid,)),  # abort(3)
        (_TGKILL, 0, (pid,)),
        (_PRLIMIT, 0, (0, pid)),
        (_FCNTL, 1, _HARMLESS_FCNTL),
        (_PRCTL, 0, _HARMLESS_PRCTL),
    ):
        yield from _if(_EQUAL, call[column], list(_only(argument, allowed)))
    yield _returns(_ALLOW)


def _denied_numbers(column: int) -> Iterator[int]:
    words = _DENIED.split()
    yield from (int(number) for number in words[1 + column :: 3] if number != "-")


def _only(argument: int, allowed: Iterable[int]) -> Iterator[bytes]:
    yield _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument)  # its lower half, which is all that the kernel takes, too
    for value in allowed:
        yield from _if(_EQUAL, value, [_returns(_ALLOW)])
    yield _denied()


def _if(
    test: int, value: int, then: list[bytes] | None = None, otherwise: list[bytes] | None = None
) -> Iterator[bytes]:
    """Instructions for one of the two cases; in the other one the program goes on."""
    body = then or otherwise or []
    yield _instruction(test, value, *((0, len(body)) if then else (len(body), 0)))
    yield from body


def _denied(error: int = errno.EPERM) -> bytes:
    return _returns(_DENY | error)


def _returns(action: int) -> bytes:
    return _instruction(_RETURN, action)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
