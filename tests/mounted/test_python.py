"""`with symfuse.mounted(…) as path:` for notebooks and scripts."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import symfuse
from symfuse.errors import DatasetRefused, MountpointError, NotMounted, SourceError, SymfuseError, UsageError
from symfuse.mounts import live
from symfuse.mounts.unmount import find
from symfuse.policy import PROBLEMS
from tests.support.mounting import KEYWORDS, MYSELF, TIMEOUT_S, has_ended, mounts
from tests.support.trees import link, tree

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "dataset", {"cat": {"1.jpg": b"one", "2.jpg": link("1.jpg"), "gone": link("no")}, ".d": {"x": b""}}
    )


def server_of(path: str) -> int:
    return int(live.status(find(os.fsencode(path)))["pid"])


def test_the_block_sees_the_mount_and_nothing_is_left(dataset: Path, backend: str) -> None:
    with symfuse.mounted(dataset, **KEYWORDS[backend]) as path:
        assert isinstance(path, str)
        assert os.fsencode(path) in mounts()
        assert sorted(os.listdir(f"{path}/cat")) == ["1.jpg", "2.jpg"]
        assert Path(path, "cat/2.jpg").read_bytes() == b"one"
        server = server_of(path)
        assert server != os.getpid()
    assert not os.path.exists(path)
    assert not psutil.pid_exists(server)


@pytest.mark.parametrize("as_type", [str, os.fsencode, Path])
def test_paths_of_every_type_and_a_mountpoint_of_ones_own(
    dataset: Path, tmp_path: Path, as_type: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "at").mkdir()
    monkeypatch.chdir(tmp_path)
    with symfuse.mounted(as_type("dataset"), at=as_type("at"), dot_entries="show", allow_root=as_type("at")) as path:
        assert path == str(tmp_path / "at")
        assert sorted(os.listdir(path)) == [".d", "cat"]
    assert os.listdir("at") == []


def test_the_mount_ends_when_the_block_raises(dataset: Path) -> None:
    with pytest.raises(ZeroDivisionError), symfuse.mounted(dataset) as path:
        raise ZeroDivisionError
    assert not os.path.exists(path)


@pytest.mark.parametrize("fail_on", ["dangling", {"dangling"}, ["loop", "dangling"], "any", PROBLEMS])
def test_fail_on(dataset: Path, fail_on: str) -> None:
    with pytest.raises(DatasetRefused, match="1 dangling"), symfuse.mounted(dataset, fail_on=fail_on):
        pytest.fail("it was mounted")
    assert os.fsencode(dataset) not in mounts().values()


def test_errors_come_before_the_block(dataset: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], source: Path = dataset, **options: object) -> None:
        with pytest.raises(error), symfuse.mounted(source, **options):  # type: ignore[arg-type]
            pytest.fail("it was mounted")

    refused(SourceError, tmp_path / "nothing")
    refused(MountpointError, at=dataset)
    refused(UsageError, backend="nfs")
    refused(UsageError, fail_on="ugliness")
    refused(UsageError, dir_links="chase")
    refused(UsageError, allow_other=True, outside="follow")
    refused(UsageError, allow_root=[tmp_path / "nothing"])
    assert os.fsencode(dataset) not in mounts().values()


def test_two_blocks_at_once(dataset: Path) -> None:
    with symfuse.mounted(dataset) as one, symfuse.mounted(dataset, dir_links="hide") as two:
        assert one != two
        assert os.listdir(one) == os.listdir(two)


def test_a_busy_mount_is_detached_and_says_who(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "symfuse"), symfuse.mounted(dataset) as path:
        file = open(f"{path}/cat/1.jpg", "rb")  # noqa: SIM115 - closed below
        server = server_of(path)
    with file:
        assert not os.path.exists(path)
        assert file.read() == b"one"
        assert f"(process {os.getpid()}, open file)" in caplog.text
    assert has_ended(server)


def test_a_forked_child_that_leaves_the_block_ends_nothing(dataset: Path) -> None:
    script = (
        "import os, sys, symfuse\n"
        "with symfuse.mounted(sys.argv[1]) as path:\n"
        "    if child := os.fork():\n"
        "        os.waitpid(child, 0)\n"
        "        print(open(path + '/cat/1.jpg').read())\n"
    )
    assert MYSELF.script(script, dataset).stdout == "one\n"


@pytest.mark.parametrize("fork", ["", "if os.fork() == 0: time.sleep(60)\n    "])
def test_killing_the_interpreter_ends_the_mount(dataset: Path, fork: str) -> None:
    """Also where a forked worker outlives it and holds copies of all its descriptors."""
    script = (
        "import os, sys, time, symfuse\n"
        "with symfuse.mounted(sys.argv[1]) as path:\n"
        f"    {fork}print(path, os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, dataset],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **MYSELF.environment},
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        path = running.stdout.readline().split()[0]
        server = server_of(path)
        running.kill()
        running.wait(TIMEOUT_S)
        assert has_ended(server)
        assert os.fsencode(path) not in mounts()
        assert not os.path.exists(path)
        if fork:
            os.killpg(running.pid, signal.SIGKILL)


def test_a_signal_that_ends_the_interpreter_ends_the_mount(dataset: Path) -> None:
    script = (
        "import os, signal, sys, symfuse\n"
        "with symfuse.mounted(sys.argv[1]) as path:\n"
        "    print(path, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = MYSELF.run(sys.executable, "-c", script, dataset, check=False)
    assert done.returncode == -signal.SIGINT
    assert not os.path.exists(done.stdout.strip())


def test_the_server_finds_symfuse_where_the_caller_did(dataset: Path, tmp_path: Path) -> None:
    """A notebook may have found it through `sys.path`; and what lies in the current directory is not taken."""
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')")
    script = "import symfuse, sys\nwith symfuse.mounted(sys.argv[1]) as path: print('mounted')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, dataset],
        cwd=tmp_path,
        env={**os.environ, **MYSELF.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.stdout == "mounted\n", done.stderr


# -- what is hidden ------------------------------------------------------------------------------------------------


def test_what_is_hidden_is_logged_and_can_be_asked(
    dataset: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "symfuse"), symfuse.mounted(dataset, **KEYWORDS[backend]) as path:
        hidden = sorted((kind, name) for kind, name, *_ in path.hidden())
        assert hidden == [("dangling", "cat/gone"), ("dot-entry", ".d")]
        assert path.status()["frozen"]["hidden"] == {"dangling": 1, "dot-entry": 1}
        assert path.status()["mountpoint"] == path
    (said,) = [record for record in caplog.records if "hidden" in record.message]
    assert said.levelno == logging.WARNING
    assert said.message == "2 entries hidden (1 dangling, 1 dot-entry): path.hidden() lists them"


def test_what_is_hidden_by_choice_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = tree(tmp_path / "dataset", {".git": {}, "a": b"A"})
    with caplog.at_level(logging.INFO, "symfuse"), symfuse.mounted(dataset):
        assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_what_is_emptied_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = tree(tmp_path / "dataset", {"cat": {"gone": link("no")}, "dog": {"a": b"A"}})
    with symfuse.mounted(dataset):
        assert "1 emptied" in caplog.text


def test_the_path_is_text_like_any_other(dataset: Path) -> None:
    with symfuse.mounted(dataset) as path:
        plain = os.fspath(Path(path))
        assert path == plain
        assert hash(path) == hash(plain)
        assert f"{path}/cat" == os.path.join(path, "cat") == plain + "/cat"
        assert json.loads(json.dumps({"path": path})) == {"path": plain}
        assert pickle.loads(pickle.dumps(path)) == plain
        assert os.fsencode(path) == os.fsencode(plain)
        copied = copy.deepcopy(path)
        assert copied.status()["state"] == "alive"
    with pytest.raises(NotMounted):
        path.status()
    with pytest.raises(NotMounted):
        path.hidden()


# -- the server dies during the block ------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_block_is_told_at_once_and_at_the_end(
    dataset: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SymfuseError, match=r"was killed \(SIGKILL\)"), caplog.at_level(logging.ERROR, "symfuse"):
        with symfuse.mounted(dataset, **KEYWORDS[backend]) as path:
            assert sorted(os.listdir(f"{path}/cat")) == ["1.jpg", "2.jpg"]
            kill_server(path)
            while not caplog.records:
                time.sleep(0.01)
            assert f"the server of {path} was killed (SIGKILL)" in caplog.text
            errors: list[OSError] = []
            assert list(os.walk(path, onerror=errors.append)) == []
            assert len(errors) == 1
        pytest.fail("the end of the block said nothing")
    assert not os.path.exists(path)
    assert len(caplog.records) == 1


def kill_server(path: str) -> None:
    """Kill it and wait until its guardian has done its work."""
    server = psutil.Process(server_of(path))
    guardians = server.children()
    server.kill()
    assert all(has_ended(each.pid) for each in [server, *guardians])


def test_what_the_block_raises_goes_before(dataset: Path) -> None:
    with pytest.raises(OSError, match="not connected"), symfuse.mounted(dataset) as path:
        kill_server(path)
        os.listdir(path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("words", [["umount"], ["umount", "--lazy"]])
def test_who_unmounts_during_the_block_raises_no_alarm(
    dataset: Path, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "symfuse"):
        with symfuse.mounted(dataset, fail_on=()) as path:
            caplog.clear()
            server = server_of(path)
            MYSELF.symfuse(*words, path)
            assert has_ended(server)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_fork_that_leaves_the_block_after_the_servers_death_raises_nothing_of_its_own(dataset: Path) -> None:
    script = (
        "import os, sys, symfuse\n"
        "try:\n"
        "    with symfuse.mounted(sys.argv[1]) as path:\n"
        "        child = os.fork()\n"
        "except symfuse.errors.SymfuseError:\n"
        "    os._exit(9)\n"
        "if child == 0: os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert MYSELF.script(script, dataset).stdout == "0\n"


def test_who_ignores_the_end_of_children_hears_no_false_alarm(dataset: Path) -> None:
    """Nobody then knows with which status the server ended."""
    script = (
        "import signal, sys, symfuse\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "with symfuse.mounted(sys.argv[1]) as path: print(open(path + '/cat/1.jpg').read())\n"
    )
    assert MYSELF.script(script, dataset).stdout == "one\n"
