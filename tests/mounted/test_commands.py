"""The commands of daily use, with real mounts: what they say, how they end, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from symfuse.errors import ExitStatus, SymfuseError
from symfuse.mounts.launch import ServerProcess, launch
from symfuse.mounts.request import request
from tests.conftest import MountMaker, missing
from tests.support.mounting import MYSELF, TIMEOUT_S, WAYS, User, flags, has_ended, mounts
from tests.support.pythons import with_server_patched
from tests.support.trees import Name, link, tree

HOSTILE_NAMES: list[Name] = [
    "two\nlines",
    "carriage\rreturn",
    "a,b",
    "back\\slash",
    "-rf",
    "--help",
    "with space",
    "quote'\"s",
    "octal\\040",
    "$HOME",
    "\x1b[31mred",
    b"latin-1 \xe9",
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "dataset",
        {
            "train": {
                "cat": {"1.jpg": b"one", "2.jpg": link("1.jpg"), "gone.jpg": link("../nowhere.jpg")},
                "dog": link("cat"),
                "loop": link(".."),
            },
            ".git": {"config": b""},
        },
    )


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A dataset without problems."""
    return tree(tmp_path / "clean", {"cat": {"1.jpg": b"one", "2.jpg": link("1.jpg")}})


@contextmanager
def process(*command: str | Path, user: User = MYSELF, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the test does something else."""
    running = subprocess.Popen(
        [user.python, "-m", "symfuse", *(os.fspath(word) for word in command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **user.environment},
        **options,  # type: ignore[call-overload]
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=TIMEOUT_S)


def server_of(mountpoint: Path | str) -> psutil.Process:
    return psutil.Process(json.loads(MYSELF.symfuse("status", "--json", "--", mountpoint).stdout)["pid"])


# -- mount and umount --------------------------------------------------------------------------------------------------


def test_mount_says_what_is_where_and_how_to_end_it_and_what_is_hidden(
    fuse: None, dataset: Path, mountpoint: Path, backend: str
) -> None:
    done = MYSELF.symfuse("mount", *WAYS[backend], dataset, mountpoint)
    mounted, hidden = done.stdout.splitlines()
    assert str(dataset) in mounted
    assert f"symfuse umount {mountpoint}" in mounted
    assert hidden == f"4 entries hidden (2 dangling, 1 cycle, 1 dot-entry): see symfuse status {mountpoint}"
    assert done.stderr == ""
    server = server_of(mountpoint)
    MYSELF.symfuse("umount", mountpoint)
    assert has_ended(server.pid, within_s=0.1)
    assert os.listdir(mountpoint) == []


def test_the_background_server_holds_nothing_of_who_started_it(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    server = psutil.Process(mount.pid)
    assert server.cwd() == "/"
    assert os.getsid(mount.pid) == mount.pid
    targets = {os.readlink(f"/proc/{mount.pid}/fd/{fd}") for fd in (0, 1, 2)}
    assert targets == {"/dev/null", str(mount.log)}


def test_eager_reads_everything_first_and_says_what_is_hidden(fuse: None, dataset: Path, mountpoint: Path) -> None:
    done = MYSELF.symfuse("mount", "--eager", dataset, mountpoint)
    try:
        assert "2 dangling" in done.stdout
        assert "1 cycle" in done.stdout
        assert "1 dot-entry" in done.stdout
        assert "train/cat/gone.jpg" in done.stdout
        status = json.loads(MYSELF.symfuse("status", "--json", mountpoint).stdout)
        assert status["frozen"]["complete"] is True
    finally:
        MYSELF.symfuse("umount", mountpoint)


def test_without_eager_the_background_freeze_completes(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    wait_until(lambda: mount.status()["frozen"]["complete"])
    assert mount.status()["frozen"]["hidden"] == {"cycle": 1, "dangling": 2, "dot-entry": 1}


def wait_until(condition: object) -> None:
    """Until a condition that nothing announces holds; asks again at once, each asking takes a process."""
    assert callable(condition)
    for _attempt in range(100):
        if condition():
            return
    pytest.fail("it never came true")


@pytest.mark.parametrize("kinds", ["dangling", "cycle", "any", "loop,cycle"])
def test_fail_on_refuses_with_an_example(fuse: None, dataset: Path, mountpoint: Path, kinds: str) -> None:
    done = MYSELF.symfuse("mount", "--fail-on", kinds, dataset, mountpoint, check=False)
    assert done.returncode == ExitStatus.REFUSED
    assert done.stderr.count("\n") == 1
    assert "train/" in done.stderr


def test_fail_on_lets_pass_what_it_does_not_name(fuse: None, dataset: Path, mountpoint: Path) -> None:
    MYSELF.symfuse("mount", "--fail-on", "loop", dataset, mountpoint)
    MYSELF.symfuse("umount", mountpoint)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_of_dataset_and_mountpoint(tmp_path: Path, symfuse_mount: MountMaker, name: Name) -> None:
    base = os.fsencode(tmp_path)
    dataset = tree(Path(os.fsdecode(os.path.join(base, b"data", os.fsencode(name)))), {"a": b"1", "b": link("a")})
    at = Path(os.fsdecode(os.path.join(base, b"mounts", os.fsencode(name))))
    at.parent.mkdir()
    mount = symfuse_mount(dataset, at=at)
    assert sorted(os.listdir(mount.bytes)) == [b"a", b"b"]
    status = mount.status()
    assert os.fsencode(status["source"]) == os.fsencode(dataset)
    assert os.fsencode(status["mountpoint"]) == mount.bytes
    listed = MYSELF.symfuse("status", "--", mount.path).stdout
    assert "\x1b" not in listed
    assert listed.splitlines()[0].startswith(str(tmp_path))
    mount.umount()
    assert os.listdir(mount.bytes) == []


@pytest.mark.parametrize("name", ["-rf", "--help"])
def test_a_relative_name_that_looks_like_an_option(fuse: None, tmp_path: Path, name: str) -> None:
    tree(tmp_path / name, {"a": b"1"})
    (tmp_path / "-at").mkdir()
    environment = {**os.environ, **MYSELF.environment}
    symfuse = [sys.executable, "-m", "symfuse"]
    subprocess.run([*symfuse, "mount", "--", name, "-at"], cwd=tmp_path, env=environment, check=True, timeout=TIMEOUT_S)
    assert os.listdir(tmp_path / "-at") == ["a"]
    subprocess.run([*symfuse, "umount", "--", "-at"], cwd=tmp_path, env=environment, check=True, timeout=TIMEOUT_S)
    assert os.fsencode(tmp_path / "-at") not in mounts()


def test_the_mountpoint_may_be_named_through_a_link(fuse: None, dataset: Path, mountpoint: Path) -> None:
    alias = mountpoint.with_name("alias")
    alias.symlink_to(mountpoint)
    MYSELF.symfuse("mount", dataset, alias)
    assert os.fsencode(mountpoint) in mounts()
    assert json.loads(MYSELF.symfuse("status", "--json", alias).stdout)["mountpoint"] == str(mountpoint)
    MYSELF.symfuse("umount", alias)


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"], ["fusermount", "-u"], ["umount", "-l"]])
def test_other_ways_to_unmount_are_as_clean(symfuse_mount: MountMaker, dataset: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    mount = symfuse_mount(dataset)
    subprocess.run([*command, mount.path], check=True, timeout=TIMEOUT_S)
    assert not mount.is_mounted()
    assert has_ended(mount.pid)
    assert os.listdir(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_server_unmounts(symfuse_mount: MountMaker, dataset: Path, number: int) -> None:
    mount = symfuse_mount(dataset)
    os.kill(mount.pid, number)
    assert has_ended(mount.pid)
    assert not mount.is_mounted()


def test_a_signal_to_a_busy_server_detaches_and_serves_on(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    with open(mount.path / "train/cat/1.jpg", "rb") as file:
        os.kill(mount.pid, signal.SIGTERM)
        wait_until(lambda: not mount.is_mounted() or MYSELF.run("true"))
        assert file.read() == b"one"
    assert has_ended(mount.pid)


def test_a_second_mount_at_the_same_place_is_refused(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset)
    again = MYSELF.symfuse("mount", dataset, mount.path, check=False)
    assert again.returncode == ExitStatus.MOUNTPOINT
    assert "already mounted" in again.stderr
    assert "umount" in again.stderr
    assert mount.status()["pid"] == mount.pid


def test_one_dataset_at_two_places(symfuse_mount: MountMaker, dataset: Path) -> None:
    one, two = symfuse_mount(dataset), symfuse_mount(dataset)
    everything = json.loads(MYSELF.symfuse("status", "--json").stdout)
    assert {str(one.path), str(two.path)} <= {status["mountpoint"] for status in everything}
    one.umount()
    assert (two.path / "train/cat/1.jpg").read_bytes() == b"one"


# -- busy mounts -------------------------------------------------------------------------------------------------------

HOLD = """
import ctypes, os, sys
how, path = sys.argv[1:]
if how == "question":
    with open("/proc/self/comm", "w") as name:
        name.write("symfuse-probe")
    root = os.open(path, os.O_RDONLY)
elif how == "working directory":
    os.chdir(path)
elif how == "open file":
    file = open(os.path.join(path, "cat/1.jpg"), "rb")
elif how == "mapped file":
    with open(os.path.join(path, "cat/1.jpg"), "rb") as file:  # the mmap module would keep it open
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_ssize_t
        assert libc.mmap(None, ctypes.c_size_t(1), 1, 2, file.fileno(), ctypes.c_long(0)) != -1
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(how: str, path: Path) -> Iterator[int]:
    """A process that keeps the mount busy in one way or another."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, how, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        yield running.pid
        assert running.stdin is not None
        running.stdin.close()


@pytest.mark.parametrize("how", ["working directory", "open file", "mapped file"])
def test_umount_of_a_busy_mount_names_who_holds_it(symfuse_mount: MountMaker, clean: Path, how: str) -> None:
    mount = symfuse_mount(clean)
    with holder(how, mount.path) as pid:
        done = MYSELF.symfuse("umount", mount.path, check=False)
        assert done.returncode == ExitStatus.BUSY
        assert done.stderr.count("\n") == 1
        assert f"process {pid}, {how}" in done.stderr
        assert "--lazy" in done.stderr
        assert mount.is_mounted()
    mount.umount()


def test_umount_waits_while_somebody_asks_for_the_status(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    with holder("question", mount.path):
        running = subprocess.Popen(
            [sys.executable, "-m", "symfuse", "umount", mount.path], env={**os.environ, **MYSELF.environment}
        )
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
    assert running.wait(60) == 0
    assert not mount.is_mounted()


def test_lazy_umount_detaches_now_and_ends_with_the_last_user(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    with holder("open file", mount.path):
        done = MYSELF.symfuse("umount", "--lazy", mount.path)
        assert "detached" in done.stderr
        assert not mount.is_mounted()
        assert psutil.pid_exists(mount.pid)
    assert has_ended(mount.pid)


def test_one_of_two_places_of_a_mount_ends_alone(symfuse_mount: MountMaker, clean: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a bind mount")
    mount = symfuse_mount(clean)
    (tmp_path / "alias").mkdir()
    subprocess.run(["mount", "--bind", mount.path, tmp_path / "alias"], check=True)
    MYSELF.symfuse("umount", tmp_path / "alias")
    assert os.fsencode(tmp_path / "alias") not in mounts()
    assert (mount.path / "cat/2.jpg").read_bytes() == b"one"


def test_a_mount_on_the_mount_is_named(symfuse_mount: MountMaker, clean: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount on a directory of the view")
    mount = symfuse_mount(clean)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount.path / "cat"], check=True)
    try:
        done = MYSELF.symfuse("umount", mount.path, check=False)
        assert done.returncode == ExitStatus.BUSY
        assert f"{mount.path}/cat is mounted on it" in done.stderr
    finally:
        subprocess.run(["umount", mount.path / "cat"], check=True)


def test_umount_from_inside_names_the_shell_only(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m symfuse umount .; exit $?"],
        cwd=mount.path,
        env={**os.environ, **MYSELF.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == ExitStatus.BUSY
    assert done.stderr.count("process ") == 1
    assert "working directory" in done.stderr


def test_umount_of_what_is_no_mount(fuse: None, tmp_path: Path, symfuse_mount: MountMaker, clean: Path) -> None:
    done = MYSELF.symfuse("umount", tmp_path, check=False)
    assert done.returncode == ExitStatus.NOT_MOUNTED
    assert MYSELF.symfuse("umount", "/proc", check=False).returncode == ExitStatus.NOT_MOUNTED
    mount = symfuse_mount(clean)
    inside = MYSELF.symfuse("umount", mount.path / "cat", check=False)
    assert inside.returncode == ExitStatus.NOT_MOUNTED
    assert f"it lies on the mount {mount.path}" in inside.stderr
    assert mount.is_mounted()


# -- dead and stopped servers ------------------------------------------------------------------------------------------


def test_a_dead_mount_stays_and_is_told(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    mount.kill_server()
    assert mount.is_mounted()
    with pytest.raises(OSError, match=r"not connected|connection abort"):  # the latter while it still is dying
        (mount.path / "cat/never looked at").read_bytes()
    status = json.loads(MYSELF.symfuse("status", "--json", mount.path).stdout)
    assert status["state"] == "dead"
    assert "dead" in MYSELF.symfuse("status").stdout
    why = MYSELF.symfuse("why", mount.path / "cat", check=False)
    assert why.returncode == ExitStatus.NOT_MOUNTED
    MYSELF.symfuse("umount", mount.path)


def test_a_mount_that_another_hides_is_told_and_disturbs_no_other(
    symfuse_mount: MountMaker, clean: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount over a directory")
    (tmp_path / "above").mkdir()
    mount = symfuse_mount(clean, at=tmp_path / "above/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "above"], check=True)
    try:
        statuses = json.loads(MYSELF.symfuse("status", "--json").stdout)
        assert [status["state"] for status in statuses if status["mountpoint"] == str(mount.path)] == ["hidden"]
        assert MYSELF.symfuse("why", clean / "cat/2.jpg").returncode == ExitStatus.OK
    finally:
        subprocess.run(["umount", tmp_path / "above"], check=True)
    assert mount.status()["state"] == "alive"


def test_the_next_mount_clears_a_dead_one_and_says_so(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    os.listdir(mount.path)  # now the caches answer for the dead server
    mount.kill_server()
    done = MYSELF.symfuse("mount", clean, mount.path)
    assert done.stderr.count("\n") == 1
    assert "cleared a dead mount" in done.stderr
    assert (mount.path / "cat/1.jpg").read_bytes() == b"one"
    MYSELF.symfuse("umount", mount.path)


def test_a_server_that_does_not_answer_hangs_nobody(symfuse_mount: MountMaker, clean: Path) -> None:
    mount = symfuse_mount(clean)
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        status = json.loads(MYSELF.symfuse("status", "--json", mount.path).stdout)
        assert status["state"] == "not-responding"
        done = MYSELF.symfuse("umount", mount.path, check=False)
        assert done.returncode == ExitStatus.BUSY
        assert "does not respond" in done.stderr
        MYSELF.symfuse("umount", "--lazy", mount.path)
        assert not mount.is_mounted()
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    assert has_ended(mount.pid)


def test_a_server_that_dies_while_it_starts_is_told_at_once(
    fuse: None, clean: Path, mountpoint: Path, tmp_path: Path
) -> None:
    user = with_server_patched(
        tmp_path, "from symfuse.mounts.request import MountRequest", "MountRequest.from_json = None"
    )
    done = user.symfuse("mount", clean, mountpoint, check=False)
    assert done.returncode == ExitStatus.INTERNAL
    assert done.stderr.count("\n") == 1
    assert "ended too early (status 1): TypeError: 'NoneType' object is not callable" in done.stderr


def test_a_server_that_dies_before_it_is_left_alone_leaves_no_mount(
    fuse: None, clean: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detach = ServerProcess.detach

    def die_first(server: ServerProcess) -> None:
        server.process.kill()
        server.process.wait()
        detach(server)

    monkeypatch.setattr(ServerProcess, "detach", die_first)
    with pytest.raises(SymfuseError, match="was killed"):
        launch(request(clean, mountpoint), in_background=True)
    assert os.fsencode(mountpoint) not in mounts()


# -- foreground --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground_serves_until_a_signal(
    fuse: None, clean: Path, mountpoint: Path, number: signal.Signals, backend: str
) -> None:
    with process("mount", "--foreground", *WAYS[backend], clean, mountpoint) as running:
        assert running.stdout is not None
        assert str(mountpoint) in running.stdout.readline()
        assert (mountpoint / "cat/2.jpg").read_bytes() == b"one"
        assert server_of(mountpoint).pid == running.pid
        running.send_signal(number)
        assert running.wait(TIMEOUT_S) == 0
    assert os.listdir(mountpoint) == []


def test_foreground_ends_when_it_is_unmounted(fuse: None, clean: Path, mountpoint: Path) -> None:
    with process("mount", "-f", clean, mountpoint) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        MYSELF.symfuse("umount", mountpoint)
        assert running.wait(TIMEOUT_S) == 0


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_gives_the_mountpoint_and_returns_the_status(fuse: None, clean: Path, backend: str) -> None:
    done = MYSELF.symfuse(
        "run", clean, *WAYS[backend], "--", "sh", "-c", 'echo "$SYMFUSE_MOUNT" "$1"; cat "$1"/cat/2.jpg; exit 7',
        "-", "{}", check=False,
    )  # fmt: skip
    assert done.returncode == 7
    said, content = done.stdout.split("\n")
    place, named = said.split()
    assert place == named
    assert content == "one"
    assert not os.path.exists(place)
    assert done.stderr == ""


def test_run_replaces_every_placeholder_and_nothing_else(fuse: None, clean: Path, mountpoint: Path) -> None:
    done = MYSELF.symfuse(
        "run", clean, "--at", mountpoint, "--", "printf", "%s\n", "{}/train", "--a={}:{}", "--", "-o", "{x}"
    )
    assert done.stdout.split("\n") == [f"{mountpoint}/train", f"--a={mountpoint}:{mountpoint}", "--", "-o", "{x}", ""]
    assert mountpoint.is_dir()


def test_run_inherits_stdin(fuse: None, clean: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "symfuse", "run", clean, "--", "cat"],
        input=b"through",
        capture_output=True,
        env={**os.environ, **MYSELF.environment},
        check=True,
        timeout=TIMEOUT_S,
    )
    assert done.stdout == b"through"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["/nonexistent"], ExitStatus.RUN_NOT_FOUND),
        (["no such command"], ExitStatus.RUN_NOT_FOUND),
        (["/etc/passwd"], ExitStatus.RUN_NOT_EXECUTABLE),
        (["/"], ExitStatus.RUN_NOT_EXECUTABLE),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -PIPE $$"], 128 + signal.SIGPIPE),
    ],
)
def test_run_exit_statuses(fuse: None, clean: Path, command: list[str], status: int) -> None:
    assert MYSELF.symfuse("run", clean, "--", *command, check=False).returncode == status
    assert os.fsencode(clean) not in mounts().values()


@pytest.mark.parametrize(
    "arguments", [["nowhere", "--", "true"], ["{}"], ["--backend", "x", "{}", "--", "true"], ["--fail-on", "any"]]
)
def test_run_reports_its_own_failures_apart(fuse: None, dataset: Path, arguments: list[str]) -> None:
    words = [word.replace("{}", str(dataset)) for word in arguments]
    if arguments[-1] == "any":
        words += [str(dataset), "--", "true"]
    done = MYSELF.symfuse("run", *words, check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert done.stderr.count("\n") == 1


SHELL = 'trap "echo got it; exit 5" {name}; echo "$SYMFUSE_MOUNT"; while :; do sleep 0.05; done'


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1", "USR2", "QUIT"])
def test_run_forwards_signals_and_waits(fuse: None, clean: Path, name: str) -> None:
    with process("run", clean, "--", "sh", "-c", SHELL.replace("{name}", name)) as running:
        assert running.stdout is not None
        place = running.stdout.readline().strip()
        running.send_signal(getattr(signal, f"SIG{name}"))
        assert running.stdout.read() == "got it\n"
        assert running.wait(TIMEOUT_S) == 5
    assert not os.path.exists(place)


def test_control_c_reaches_the_command_once(fuse: None, clean: Path) -> None:
    """On a terminal of its own: the terminal signals the whole group, and run must not do it a second time."""
    import pty  # noqa: PLC0415 - Unix only

    script = (
        "import os, signal, sys, time\n"
        "count = 0\n"
        "def caught(number, frame):\n"
        "    global count; count += 1\n"
        "signal.signal(signal.SIGINT, caught)\n"
        "print(os.environ['SYMFUSE_MOUNT'], flush=True)\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print('count', count, flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(MYSELF.environment)
        os.execv(
            sys.executable,
            [sys.executable, "-m", "symfuse", "run", os.fspath(clean), "--", sys.executable, "-c", script],
        )
    output = read_until(terminal, b"\n")
    os.write(terminal, b"\x03")
    output += read_until(terminal, None)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"count 1" in output
    assert not os.path.exists(output.split()[0])


def read_until(fd: int, end: bytes | None) -> bytes:
    """What comes from a terminal until some bytes, or until its other side is closed."""
    output = b""
    while end is None or end not in output:
        try:
            more = os.read(fd, 4096)
        except OSError:  # EIO: how a terminal says end of file
            break
        if not more:
            break
        output += more
    return output


def test_killing_run_leaves_no_mount(fuse: None, clean: Path, backend: str) -> None:
    command = ["sh", "-c", 'echo "$SYMFUSE_MOUNT"; exec sleep 60']
    with process("run", *WAYS[backend], clean, "--", *command) as running:
        assert running.stdout is not None
        place = running.stdout.readline().strip()
        server = server_of(place)
        (orphan,) = [child for child in psutil.Process(running.pid).children() if child.pid != server.pid]
        running.kill()
        running.wait(TIMEOUT_S)
        assert has_ended(server.pid)
        assert os.fsencode(place) not in mounts()
        assert not os.path.exists(place)
        orphan.kill()


def test_killing_run_lets_a_busy_orphan_finish(fuse: None, clean: Path) -> None:
    """What the orphan has open is served on; nothing is left in the tree of mounts, or in the end at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0symfuse-test-%d" % os.getpid())
        listener.listen()
        script = (
            "import os, socket, sys\n"
            "file = open(os.environ['SYMFUSE_MOUNT'] + '/cat/1.jpg', 'rb')\n"
            "line = socket.socket(socket.AF_UNIX); line.connect(b'\\0' + sys.argv[1].encode())\n"
            "line.send(os.environ['SYMFUSE_MOUNT'].encode()); line.recv(1); line.send(file.read())\n"
        )
        name = f"symfuse-test-{os.getpid()}"
        with process("run", clean, "--", sys.executable, "-c", script, name) as running:
            orphan, _address = listener.accept()
            with orphan:
                place = orphan.recv(4096).decode()
                server = server_of(place)
                running.kill()
                running.wait(TIMEOUT_S)
                wait_until(lambda: os.fsencode(place) not in mounts() or not MYSELF.run("true"))
                orphan.send(b".")
                assert orphan.recv(3) == b"one"
            assert has_ended(server.pid)
            assert not os.path.exists(place)


def test_run_with_a_grandchild_that_stays_busy(fuse: None, clean: Path) -> None:
    command = 'cd "$SYMFUSE_MOUNT"; sleep 60 >/dev/null 2>&1 & echo "$SYMFUSE_MOUNT" $!'
    done = MYSELF.symfuse("run", clean, "--", "sh", "-c", command)
    place, grandchild = done.stdout.split()
    try:
        assert os.fsencode(place) not in mounts()
        assert not os.path.exists(place)
        assert f"(process {grandchild}, working directory)" in done.stderr  # sh, until it has become sleep
        assert done.stderr.count("\n") == 1
    finally:
        os.kill(int(grandchild), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", ["run", "mount"])
def test_interrupted_while_it_reads_the_dataset(
    fuse: None, tmp_path: Path, mountpoint: Path, number: signal.Signals, command: str
) -> None:
    """A scan that takes for ever ends with who asked for it."""
    dataset = tree(tmp_path / "dataset", {"cat": {}})
    arguments = ["--at", mountpoint, dataset, "--", "true"] if command == "run" else [dataset, mountpoint]
    user = with_server_patched(
        tmp_path,
        "import time, symfuse.view",
        "def freeze_all(self, *, keep_on, **_):",
        "    while keep_on(): time.sleep(0.01)",
        "    return self.progress()",
        "symfuse.view.View.freeze_all = freeze_all",
    )
    with process(command, "--eager", *arguments, user=user) as running:
        children = psutil.Process(running.pid).children
        while not children():
            assert running.poll() is None
        (server,) = children()
        running.send_signal(number)
        status = running.wait(TIMEOUT_S)
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143 if command == "run" else -15, signal.SIGKILL: -9}
        assert status == expected[number]
        assert has_ended(server.pid)
    assert os.fsencode(mountpoint) not in mounts()


# -- why ---------------------------------------------------------------------------------------------------------------


def test_why_on_a_mount_and_in_its_dataset(symfuse_mount: MountMaker, dataset: Path) -> None:
    mount = symfuse_mount(dataset, "--dot-entries", "show")
    for root in (mount.path, dataset):
        shown = json.loads(MYSELF.symfuse("why", "--json", root / "train/cat/2.jpg").stdout)
        assert shown["shown"] is True
        assert shown["source"] == str(dataset / "train/cat/1.jpg")
        assert shown["of"] == f"the mount {mount.path}"
        hidden = MYSELF.symfuse("why", "--json", root / "train/cat/gone.jpg", check=False)
        assert hidden.returncode == ExitStatus.NOT_SHOWN
        assert json.loads(hidden.stdout)["kind"] == "dangling"
        # The live mount's own policy answers, not the default.
        assert MYSELF.symfuse("why", root / ".git").returncode == 0
    mount.umount()
    assert MYSELF.symfuse("why", "--source", dataset, dataset / ".git", check=False).returncode == ExitStatus.NOT_SHOWN


@pytest.mark.parametrize("path", ["train", "train/loop", "train/cat/gone.jpg", "no/such/path"])
def test_why_in_a_dataset_named_relatively(dataset: Path, path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "symfuse", "why", f"dataset/{path}"],
        cwd=dataset.parent,
        env={**os.environ, **MYSELF.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if path == "train" else ExitStatus.NOT_SHOWN)
    assert f"the dataset {dataset}" in done.stdout


def test_why_with_a_name_that_is_not_utf8(symfuse_mount: MountMaker, tmp_path: Path) -> None:
    dataset = tree(tmp_path / "dataset", {b"\xe9\n.jpg": b"1", b"\xff": link(b"\xe9\n.jpg")})
    mount = symfuse_mount(dataset)
    done = MYSELF.symfuse("why", os.path.join(mount.bytes, b"\xff"))
    assert r"\xff: shown" in done.stdout
    assert r"\xe9\n.jpg" in done.stdout


# -- mount(8) and fstab ------------------------------------------------------------------------------------------------


def test_the_form_that_mount_calls(fuse: None, clean: Path, mountpoint: Path) -> None:
    options = "rw,nosuid,nodev,noexec,user,x-systemd.automount,_netdev,backend=fusepy,fail_on=dangling:loop,eager"
    MYSELF.symfuse(clean, mountpoint, "-o", options)
    assert json.loads(MYSELF.symfuse("status", "--json", mountpoint).stdout)["backend"] == "fusepy"
    MYSELF.symfuse("umount", mountpoint)


def test_mount_by_type(
    fuse: None, clean: Path, mountpoint: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`mount -t fuse.symfuse`, which finds symfuse on PATH; mount.fuse gives it a path of its own."""
    if os.geteuid() != 0 or shutil.which("mount.fuse3") is None:
        missing(request.config, "mount -t fuse.symfuse needs root and mount.fuse3 (apt install fuse3)")
    program = Path("/usr/local/bin/symfuse")
    if program.exists():
        pytest.skip(f"{program} is there already")
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={MYSELF.environment["PYTHONPATH"]} exec {sys.executable} -m symfuse "$@"\n'
    )
    program.chmod(0o755)
    try:
        options = "ro,user,dot_entries=show,noatime"
        subprocess.run(["mount", "-t", "fuse.symfuse", clean, mountpoint, "-o", options], check=True, timeout=TIMEOUT_S)
        assert (mountpoint / "cat/2.jpg").read_bytes() == b"one"
        assert "noexec" in flags(mountpoint), "what `user` implies"
        subprocess.run(["umount", mountpoint], check=True, timeout=TIMEOUT_S)
    finally:
        program.unlink()


# -- an ordinary user --------------------------------------------------------------------------------------------------


def test_an_ordinary_users_daily_use(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    dataset = tree(ordinary_user.home / "dataset", {"cat": {"1.jpg": b"one", "2.jpg": link("1.jpg")}})
    at = ordinary_user.home / "mnt"
    at.mkdir()
    if ordinary_user.uid is not None:
        os.chown(at, ordinary_user.uid, -1)
    mount = symfuse_mount(dataset, at=at, user=ordinary_user)
    assert ordinary_user.run("cat", at / "cat/2.jpg").stdout == "one"
    assert ordinary_user.symfuse("why", at / "cat/2.jpg").returncode == 0
    assert mount.log is not None
    assert mount.log.is_relative_to(ordinary_user.home)
    done = ordinary_user.symfuse("run", dataset, "--", "cat", "{}/cat/1.jpg")
    assert done.stdout == "one"
    mount.umount()


def test_another_users_mount_is_private(symfuse_mount: MountMaker, ordinary_user: User, tmp_path: Path) -> None:
    if ordinary_user.uid is None:
        pytest.skip("needs two users: run the tests as root")
    base = ordinary_user.home
    dataset = tree(base / "roots dataset", {"a": b"1"})
    mount = symfuse_mount(dataset, at=base / "roots mount")
    status = json.loads(ordinary_user.symfuse("status", "--json", mount.path).stdout)
    assert status["state"] == "another-user"
    assert "another-user: it is root's; ask as that user" in ordinary_user.symfuse("status").stdout
    done = ordinary_user.symfuse("umount", mount.path, check=False)
    assert done.returncode == ExitStatus.MOUNTPOINT
    assert "another user" in done.stderr
    assert done.stderr.count("\n") == 1


def test_root_unmounts_a_users_mount(symfuse_mount: MountMaker, ordinary_user: User) -> None:
    if ordinary_user.uid is None:
        pytest.skip("needs root")
    dataset = tree(ordinary_user.home / "dataset", {"a": b"1"})
    at = ordinary_user.home / "mnt"
    at.mkdir()
    os.chown(at, ordinary_user.uid, -1)
    mount = symfuse_mount(dataset, at=at, user=ordinary_user)
    MYSELF.symfuse("umount", at)
    assert not mount.is_mounted()
    assert has_ended(mount.pid)


def test_what_a_user_may_not(fuse: None, ordinary_user: User, tmp_path: Path) -> None:
    if ordinary_user.uid is None:
        pytest.skip("needs root, to make what the user may not")
    dataset = tree(ordinary_user.home / "dataset", {"a": b"1"})
    foreign = ordinary_user.home / "foreign"
    foreign.mkdir(mode=0o755)
    done = ordinary_user.symfuse("mount", dataset, foreign, check=False)
    assert done.returncode == ExitStatus.MOUNTPOINT
    assert "no write access" in done.stderr
    assert "use a directory that you may write to" in done.stderr
    own = ordinary_user.home / "own"
    own.mkdir()
    os.chown(own, ordinary_user.uid, -1)
    done = ordinary_user.symfuse("mount", "--allow-other", dataset, own, check=False)
    assert done.returncode == ExitStatus.FUSE
    assert "user_allow_other" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_log_that_says_nothing_is_not_left_behind(fuse: None, dataset: Path, mountpoint: Path) -> None:
    MYSELF.symfuse("mount", dataset, mountpoint)
    log = Path(json.loads(MYSELF.symfuse("status", "--json", "--", mountpoint).stdout)["log"])
    assert log.exists()
    MYSELF.symfuse("umount", mountpoint)
    assert not log.exists()
