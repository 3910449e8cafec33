"""`symfuse run` where things go wrong around it: dead servers, orphans, ignored signals, closed descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from symfuse.errors import ExitStatus
from tests.conftest import missing
from tests.support.mounting import MYSELF, TIMEOUT_S, WAYS, Run, has_ended, mounts
from tests.support.pythons import with_server_patched
from tests.support.trees import tree

pytestmark = pytest.mark.usefixtures("fuse")

SYMFUSE = f"{sys.executable} -m symfuse"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"cat": {"1.jpg": b"one"}, "dog": {"2.jpg": b"two"}})


def shell(script: str, *arguments: str | Path, cwd: Path = Path("/")) -> Run:
    """A script of sh, in which `symfuse` is ours."""
    return subprocess.run(
        ["sh", "-c", f'symfuse() {{ {SYMFUSE} "$@"; }}; {script}', "sh", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **MYSELF.environment},
        timeout=TIMEOUT_S,
        check=False,
        cwd=cwd,
    )


def server_of(mountpoint: Path | str) -> int:
    return int(json.loads(MYSELF.symfuse("status", "--json", "--", mountpoint).stdout)["pid"])


@contextlib.contextmanager
def running(
    dataset: Path, *command: str | Path, options: tuple[str, ...] = (), **popen: object
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`symfuse run` of a command whose first line is the mountpoint, and that line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "symfuse", "run", *options, dataset, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **MYSELF.environment},
        **popen,  # type: ignore[call-overload]
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def nothing_is_left(dataset: Path, place: str) -> bool:
    return os.fsencode(dataset) not in mounts().values() and not os.path.exists(place)


# -- the server dies -----------------------------------------------------------------------------------------------


def test_when_the_server_dies_the_command_is_ended_and_run_fails(dataset: Path, backend: str) -> None:
    command = ["sh", "-c", 'echo "$SYMFUSE_MOUNT"; exec sleep 600']
    with running(dataset, *command, options=WAYS[backend]) as (process, place):
        os.kill(server_of(place), signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == ExitStatus.RUN_FAILED
        assert process.stderr is not None
        said = process.stderr.read()
    assert f"the server of {place} was killed (SIGKILL)" in said
    assert said.count("\n") == 1
    assert nothing_is_left(dataset, place)


def test_a_command_that_ignores_sigterm_is_killed(dataset: Path, tmp_path: Path) -> None:
    script = 'trap "" TERM; echo "$SYMFUSE_MOUNT"; while :; do sleep 600; done'
    patch = "import sys\nif 'run' in sys.argv:\n    import symfuse.cli.run\n    symfuse.cli.run.GRACE_S = 0.2\n"
    tree(tmp_path, {"site": {"sitecustomize.py": patch.encode()}})
    path = f"{tmp_path / 'site'}:{MYSELF.environment['PYTHONPATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "symfuse", "run", dataset, "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        place = process.stdout.readline().strip()
        os.kill(server_of(place), signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == ExitStatus.RUN_FAILED
        assert nothing_is_left(dataset, place)
        os.killpg(process.pid, signal.SIGKILL)  # what the shell had started


def test_a_thread_that_fails_ends_the_server_and_hangs_nobody(dataset: Path, tmp_path: Path) -> None:
    lines = ("from symfuse.fuse.workers import RequestLoop", "RequestLoop._finish = lambda *_: 1 / 0")
    user = with_server_patched(tmp_path, *lines)
    done = user.symfuse("run", dataset, "--", "cat", "{}/cat/1.jpg", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert "ended too early (status 1)" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert os.fsencode(dataset) not in mounts().values()


def test_a_command_that_ends_well_on_a_dead_mount_does_not_pass(dataset: Path) -> None:
    """It may have listed a part of the dataset, and never have noticed."""
    script = (
        "import json, os, signal, subprocess, sys\n"
        "status = subprocess.run([sys.executable, '-m', 'symfuse', 'status', '--json', sys.argv[1]],"
        " capture_output=True)\n"
        "os.kill(json.loads(status.stdout)['pid'], signal.SIGKILL)\n"
    )
    done = MYSELF.symfuse("run", dataset, "--", sys.executable, "-c", script, "{}", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert "was killed (SIGKILL)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unmount", ["umount", "umount --lazy"])
def test_who_unmounts_meanwhile_raises_no_alarm(dataset: Path, unmount: str) -> None:
    done = shell(f"symfuse run \"$1\" -- sh -c '{SYMFUSE} {unmount} {{}}; sleep 0.2; exit 3'", dataset)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_run_that_was_killed_with_its_server_is_cleared_by_the_next_command(dataset: Path) -> None:
    with running(dataset, "sh", "-c", 'echo "$SYMFUSE_MOUNT"; exec sleep 600') as (process, place):
        server = psutil.Process(server_of(place))
        killed = [psutil.Process(process.pid), server, *server.children()]
        for each in killed:
            each.suspend()
        orphans = [child for child in killed[0].children() if child != server]
        for each in [*killed, *orphans]:
            each.kill()
        process.wait(TIMEOUT_S)
        assert all(has_ended(each.pid) for each in killed)
    assert os.fsencode(place) in mounts()
    assert MYSELF.symfuse("run", dataset, "--", "true").returncode == 0
    assert nothing_is_left(dataset, place)


# -- process 1 -----------------------------------------------------------------------------------------------------

LEAVES_ORPHANS = """
import glob, os, sys
read, write = os.pipe()
for _ in range(200):
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(read)
            os.read(0, 1)  # an orphan by then: its parent ends first, and we wait for that
            os._exit(0)
        os._exit(0)
    os.wait()
os.close(write)
os.set_inheritable(read, False)
while os.read(read, 1):
    pass  # until the last of them has ended
def zombies():
    found = 0
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            found += open(path).read().rpartition(')')[2].split()[:2] == ['Z', str(os.getppid())]
        except OSError:
            pass
    return found
import time
deadline = time.monotonic() + 20
while (left := zombies()) and time.monotonic() < deadline:
    pass
print(os.getppid(), left)
"""


def test_as_process_1_it_reaps_what_others_leave(dataset: Path, request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        missing(request.config, "a pid namespace needs root and unshare (apt install util-linux)")
    done = MYSELF.run(
        *("unshare", "--pid", "--fork", "--mount-proc"),
        *(sys.executable, "-m", "symfuse", "run", dataset, "--", sys.executable, "-c", LEAVES_ORPHANS),
    )
    assert done.stdout == "1 0\n"


def test_as_a_subreaper_it_reaps_what_others_leave(dataset: Path) -> None:
    """The mark stays when a program is replaced by another. Source: PR_SET_CHILD_SUBREAPER(2const)."""
    become = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.argv[1], sys.argv[1:])"
    done = MYSELF.run(
        *(sys.executable, "-c", become),
        *(sys.executable, "-m", "symfuse", "run", dataset, "--", sys.executable, "-c", LEAVES_ORPHANS),
    )
    assert done.stdout.split()[1] == "0"


# -- signals that were ignored when it was started -----------------------------------------------------------------


@contextlib.contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """What is started meanwhile inherits that the signal is ignored."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "QUIT", "USR1"])
def test_what_was_ignored_stays_ignored(dataset: Path, name: str) -> None:
    """By run, by the command and by the server: nohup, a shell's background job, a supervisor."""
    number = getattr(signal, f"SIG{name}")
    script = 'echo "$SYMFUSE_MOUNT"; read line; cat "$SYMFUSE_MOUNT/cat/1.jpg"'
    with ignored(number), running(dataset, "sh", "-c", script, stdin=subprocess.PIPE) as (process, place):
        children = psutil.Process(process.pid).children()
        for each in [psutil.Process(process.pid), *children]:
            each.send_signal(number)
        assert process.communicate("\n", timeout=TIMEOUT_S)[0] == "one"
        assert process.returncode == 0
    assert nothing_is_left(dataset, place)


def test_nohup_outlives_its_terminal(dataset: Path) -> None:
    done = shell(f"nohup {SYMFUSE} run \"$1\" -- sh -c 'kill -HUP $PPID; cat {{}}/cat/1.jpg'", dataset)
    assert (done.returncode, done.stdout) == (0, "one"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_foreground_server_that_was_told_to_ignore_a_signal_serves_on(
    dataset: Path, mountpoint: Path, number: signal.Signals
) -> None:
    with ignored(number):
        server = subprocess.Popen(
            [sys.executable, "-m", "symfuse", "mount", "-f", dataset, mountpoint],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **MYSELF.environment},
        )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline()
        server.send_signal(number)
        assert (mountpoint / "cat/1.jpg").read_bytes() == b"one"
        assert server.poll() is None
        server.terminate()
        assert server.wait(TIMEOUT_S) == 0


# -- closed and broken descriptors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| true"])
def test_mount_and_umount_do_not_mind(
    dataset: Path, mountpoint: Path, tmp_path: Path, broken: str, backend: str
) -> None:
    def status_of(command: str) -> str:
        status = tmp_path / "status"
        shell(f'{{ symfuse {command}; echo $? >"$3"; }} {broken}', dataset, mountpoint, status)
        return status.read_text()

    assert status_of(f'mount --eager {" ".join(WAYS[backend])} "$1" "$2"') == "0\n"
    server = server_of(mountpoint)
    try:
        assert (mountpoint / "cat/1.jpg").read_bytes() == b"one"
        assert "/dev/fuse" not in {os.readlink(f"/proc/{server}/fd/{fd}") for fd in range(3)}
    finally:
        assert status_of('umount "$2"') == "0\n"
    assert has_ended(server)


@pytest.mark.parametrize("broken", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true"])
def test_a_foreground_server_whose_output_nobody_reads_serves_on(
    dataset: Path, mountpoint: Path, broken: str, backend: str
) -> None:
    """Until it is unmounted, and then it ends well."""
    options = " ".join(WAYS[backend])
    script = f'{{ {SYMFUSE} mount -f --eager {options} "$1" "$2"; echo $? >"$3"; }} {broken}'
    status = mountpoint.parent / "status"
    with subprocess.Popen(
        ["sh", "-c", script, "sh", dataset, mountpoint, status],
        env={**os.environ, **MYSELF.environment},
    ) as started:
        while '"alive"' not in MYSELF.symfuse("status", "--json", mountpoint, check=False).stdout:
            assert not status.exists(), "it ended too early"
        assert (mountpoint / "cat/1.jpg").read_bytes() == b"one"
        assert "/dev/fuse" not in {os.readlink(f"/proc/{server_of(mountpoint)}/fd/{fd}") for fd in range(3)}
        MYSELF.symfuse("umount", mountpoint)
        started.wait(TIMEOUT_S)
    assert status.read_text() == "0\n"


@pytest.mark.parametrize(
    ("broken", "out"),
    [("<&-", "on/dev/null"), (">&-", ""), ("2>&-", "on/dev/null"), ("2>/dev/full", "on/dev/null"), (">/dev/full", "")],
)
def test_a_command_is_run_all_the_same(dataset: Path, broken: str, out: str) -> None:
    script = "import os; print('on' + os.readlink('/proc/self/fd/0'), end='')"
    redirected = broken if broken == "<&-" else f"</dev/null {broken}"
    done = shell(f'symfuse run "$1" {redirected} -- {sys.executable} -c "$2"', dataset, script)
    assert done.returncode == (1 if broken == ">/dev/full" else 0)  # Python's own, when its output is lost
    assert done.stdout == out


@pytest.mark.parametrize("command", ["status --json", "why dataset/cat/1.jpg", "--version", "--help"])
@pytest.mark.parametrize(
    ("broken", "status", "said"),
    [(">&-", 0, ""), ("2>&-", 0, ""), (">/dev/full", 1, "the output cannot be written (No space left on device)")],
)
def test_what_only_answers_says_when_nobody_can_hear_it(
    dataset: Path, command: str, broken: str, status: int, said: str
) -> None:
    done = shell(f"symfuse {command} {broken}", cwd=dataset.parent)
    assert done.returncode == status
    assert done.stderr == (f"symfuse: {said}\n" if said else "")
