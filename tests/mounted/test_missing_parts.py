"""Pythons that lack a part, and environments meant for another program: what can work does, the rest says why."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from tests.conftest import MountMaker
from tests.support.mounting import MYSELF, REPOSITORY, User, mounts
from tests.support.pictures import picture
from tests.support.pythons import with_python
from tests.support.trees import link, tree


def without_modules(*names: str) -> str:
    return "".join(f"sys.modules[{name!r}] = None\n" for name in names)


def refused(name: str, number: str) -> str:
    """A function of os that the kernel, or a container's seccomp profile, refuses."""
    return (
        f"def refuse(*_arguments): raise OSError({number}, os.strerror({number}))\nos.{name} = refuse\nimport errno\n"
    )


#: What need not be there.
OPTIONAL = {
    "pidfd_open": "del os.pidfd_open\n",
    "pidfd_open and memfd_create": "del os.pidfd_open, os.memfd_create\n",
    "pidfd_open, refused": "import errno\n" + refused("pidfd_open", "errno.EPERM"),
    "pidfd_open and ctypes": "del os.pidfd_open\n" + without_modules("ctypes", "_ctypes"),
    "dynamic loading": "import ctypes\ndef CDLL(*_names, **_words): raise OSError('Dynamic loading not supported')\n"
    "ctypes.CDLL = CDLL\ndel os.pidfd_open\n",
    "sqlite3": without_modules("sqlite3", "_sqlite3"),
    "compression": without_modules("bz2", "_bz2", "lzma", "_lzma"),
    "OpenSSL": without_modules("_ssl", "ssl", "_hashlib"),
    "BLAKE2 (FIPS mode)": "import hashlib\ndef forbidden(*_data, **_words): raise ValueError('disabled for FIPS')\n"
    "hashlib.blake2b = hashlib.blake2s = hashlib.md5 = hashlib.sha1 = forbidden\n",
    "a terminal": without_modules("termios", "readline", "_curses", "curses", "tty"),
    "multiprocessing": without_modules("_multiprocessing", "_posixshmem"),
}
#: Who mounts how, and what they lack. The ways to the kernel differ where Python starts and ends processes.
MOUNTS = [
    *((user, "kernel", part) for user in ("root", "user") for part in OPTIONAL),
    *((user, "fusepy", "pidfd_open and memfd_create") for user in ("root", "user")),
    ("root", "stacked", "pidfd_open and memfd_create"),
]


@pytest.fixture(params=["root", "user"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> User:
    """Whoever runs the tests, and somebody without privileges; with a home."""
    if request.param == "root":
        return dataclasses.replace(MYSELF, home=tmp_path)
    found: User = request.getfixturevalue("ordinary_user")
    return found


@pytest.fixture
def dataset(user: User) -> Path:
    return user.owns(
        tree(user.home / "dataset", {"cat": {"1.png": picture(1), "2.png": link("1.png"), "3.png": b"no"}})
    )


@pytest.mark.parametrize(("user", "backend", "part"), MOUNTS, indirect=["user", "backend"])
def test_a_mount_of_a_python_without(user: User, dataset: Path, symfuse_mount: MountMaker, part: str) -> None:
    user = with_python(user, user.home, OPTIONAL[part])
    at = user.home / "mnt"
    at.mkdir()
    mount = symfuse_mount(dataset, "--dedup", "pixels", "--broken-images", "hide", at=at, user=user)
    if part == "sqlite3":
        mount.expect_in_log("this Python lacks sqlite3: images are read again")
    assert user.run("ls", at / "cat").stdout == "1.png\n"
    assert user.run("cat", at / "cat/1.png").stdout != ""
    assert json.loads(user.symfuse("status", "--json", at).stdout)["state"] == "alive"
    assert user.symfuse("why", at / "cat/3.png", check=False).returncode == ExitStatus.NOT_SHOWN
    mount.umount()


#: It is the command that lacks something here, not the server.
without_for_the_command = pytest.mark.parametrize("part", ["pidfd_open", "pidfd_open and ctypes"])


@pytest.mark.parametrize("user", ["root"], indirect=True)
@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
@without_for_the_command
def test_a_busy_mount_ends_without(user: User, dataset: Path, symfuse_mount: MountMaker, part: str) -> None:
    lacking = with_python(user, user.home, OPTIONAL[part])
    mount = symfuse_mount(dataset, user=user)
    with (mount.path / "cat/1.png").open("rb"):
        assert lacking.symfuse("umount", mount.path, check=False).returncode == ExitStatus.BUSY
        lacking.symfuse("umount", "--lazy", mount.path)
        assert not mount.is_mounted()


@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
@without_for_the_command
def test_a_dead_mount_is_cleared_without(user: User, dataset: Path, symfuse_mount: MountMaker, part: str) -> None:
    lacking = with_python(user, user.home, OPTIONAL[part])
    at = user.home / "mnt"
    at.mkdir()
    mount = symfuse_mount(dataset, at=at, user=user)
    mount.expect_in_log("ended without unmounting")
    os.kill(mount.pid, signal.SIGKILL)
    lacking.symfuse("umount", at)
    assert not mount.is_mounted()


@pytest.mark.parametrize("part", OPTIONAL)
def test_run_and_the_block_of_a_python_without(user: User, dataset: Path, fuse: None, part: str) -> None:
    user = with_python(user, user.home, OPTIONAL[part])
    done = user.symfuse("run", dataset, "--", "ls", "{}/cat")
    assert done.stdout == "1.png\n2.png\n3.png\n"
    (user.home / "train.py").write_text(
        "import os, sys, symfuse\n"
        "with symfuse.mounted(sys.argv[1]) as path: print(*sorted(os.listdir(path + '/cat')))\n"
    )
    (user.home / "train.py").chmod(0o644)
    started = dataclasses.replace(user, environment={**user.environment, "PYTHONPATH": _path(user)})
    assert started.run(user.python, "-m", "train", dataset).stdout == "1.png 2.png 3.png\n"
    assert bytes(dataset) not in mounts().values()


def _path(user: User) -> str:
    return os.pathsep.join([user.environment["PYTHONPATH"], str(user.home)])


def test_a_stack_without_ctypes_is_refused(tmp_path: Path, fuse: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    user = with_python(MYSELF, tmp_path, without_modules("ctypes", "_ctypes"))
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    done = user.symfuse("run", "--stack", dataset, "--", "true", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert "lacks a working ctypes" in done.stderr
    assert "without --stack" in done.stderr
    assert done.stderr.count("\n") == 1


def test_fusepy_without_ctypes_is_refused(tmp_path: Path, fuse: None) -> None:
    user = with_python(MYSELF, tmp_path, without_modules("ctypes", "_ctypes"))
    done = user.symfuse("run", "--backend", "fusepy", tree(tmp_path / "dataset", {}), "--", "true", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert "lacks ctypes" in done.stderr
    assert "--backend kernel" in done.stderr
    assert done.stderr.count("\n") == 1


def test_root_without_ctypes_and_without_a_helper_is_told_both(tmp_path: Path, fuse: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("everybody else needs the helper anyway")
    hidden = f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
    hidden += "from symfuse.fuse import helper\nhelper.candidates = lambda: iter(())\n"
    user = with_python(MYSELF, tmp_path, without_modules("ctypes", "_ctypes") + hidden)
    done = user.symfuse("run", tree(tmp_path / "dataset", {}), "--", "true", check=False)
    assert done.returncode == ExitStatus.RUN_FAILED
    assert "lacks a working ctypes" in done.stderr
    assert "fuse3" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["zlib", "click", "blake3", "PIL"])
def test_a_part_that_is_needed_is_named_in_one_line(tmp_path: Path, fuse: None, name: str) -> None:
    user = with_python(MYSELF, tmp_path, without_modules(name))
    dataset = tree(tmp_path / "dataset", {"1.png": picture(1)})
    at = tmp_path / "mnt"
    at.mkdir()
    done = user.symfuse("mount", "--dedup", "pixels", dataset, at, check=False)
    assert done.returncode == ExitStatus.FUSE
    assert f"lacks a part that symfuse needs (import of {name} halted" in done.stderr
    assert done.stderr.count("\n") == 1
    assert bytes(at) not in mounts()


def test_a_program_that_runs_python_as_a_library_starts_the_real_one(tmp_path: Path, fuse: None) -> None:
    """uWSGI and R leave their own name, or none, in sys.executable."""
    dataset = tree(tmp_path / "dataset", {"a": b"A"})
    for executable in ("'/usr/sbin/uwsgi'", "''", "None"):
        script = (
            f"import os, sys, symfuse; sys.executable = {executable}\n"
            f"with symfuse.mounted({str(dataset)!r}) as path: print(os.listdir(path))"
        )
        assert MYSELF.script(script).stdout == "['a']\n"


# -- what the environment says to another program ----------------------------------------------------------------------

ENVIRONMENTS = [
    {"PYTHONWARNINGS": "error"},
    {"PYTHONDEVMODE": "1"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONSAFEPATH": "1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONVERBOSE": "", "PYTHONPROFILEIMPORTTIME": ""},
]


@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
@pytest.mark.parametrize("variables", ENVIRONMENTS, ids="+".join)
def test_a_users_environment_changes_nothing(
    tmp_path: Path, symfuse_mount: MountMaker, variables: dict[str, str]
) -> None:
    user = dataclasses.replace(MYSELF, environment={**MYSELF.environment, **variables})
    dataset = tree(tmp_path / "datasät", {"bäd.png": link("nowhere"), "ü猫.png": picture(1)})
    mount = symfuse_mount(dataset, "--dedup", "pixels", user=user)
    said = user.symfuse("why", mount.path / "bäd.png", check=False)
    assert said.returncode == ExitStatus.NOT_SHOWN
    assert said.stderr == ""
    assert user.symfuse("umount", mount.path).stderr == ""
    done = user.symfuse("run", dataset, "--", "ls", "{}")
    assert done.stdout == "ü猫.png\n"
    for said in (done, user.symfuse("mount", dataset, mount.path)):
        assert not re.search("Warning|Traceback", said.stderr)


@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
def test_the_server_is_not_told_how_to_run_another_program(
    tmp_path: Path, symfuse_mount: MountMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONINSPECT would have it ask for commands at its end, PYTHONVERBOSE fill its log."""
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    mount = symfuse_mount(tree(tmp_path / "dataset", {"a": b"A"}))
    told = Path(f"/proc/{mount.pid}/environ").read_text().split("\0")
    names = {entry.partition("=")[0] for entry in told if entry.startswith("PYTHON")}
    assert names == {"PYTHONDONTWRITEBYTECODE"}
