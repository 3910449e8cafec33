"""Fixtures for all tiers, and the checks around the whole run."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

import pytest

from symfuse.dataset import Dataset
from symfuse.policy import Policy
from symfuse.view import View
from tests.support import mounting
from tests.support.mounting import MYSELF, REPOSITORY, Mount, User

NOBODY = 65534


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-fuse",
        action="store_true",
        help="fail instead of skipping where FUSE, libfuse 2 or an ordinary user's access is missing (for CI)",
    )
    parser.addoption(
        "--require-docker",
        action="store_true",
        help="fail instead of skipping where Docker, Compose or the images are missing (for CI)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mount that hangs must end the run with a stack trace instead of blocking it. A hung system call on a mount
    cannot be interrupted by a signal, so the timeout comes from a thread.

    Ordinary users have no stacked mounts: there is nothing to run of their tests then."""
    items[:] = [item for item in items if not ("ordinary_user" in _fixtures(item) and _backend(item) == "stacked")]
    for item in items:
        if "fuse" in _fixtures(item) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180, method="thread"))


def _fixtures(item: pytest.Item) -> list[str]:
    return list(getattr(item, "fixturenames", ()))


def _backend(item: pytest.Item) -> object:
    return (
        item.callspec.params.get("backend") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )


def missing(config: pytest.Config, what: str) -> NoReturn:
    """Skip for a person, fail in CI: a gap is never hidden."""
    if config.getoption("--require-fuse"):
        pytest.fail(f"--require-fuse: {what}", pytrace=False)
    pytest.skip(what)


# -- around the whole run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No mount of this run's datasets, and no descriptor of its files, outlives it."""
    ours = os.fsencode(tmp_path_factory.getbasetemp().resolve()) + b"/"  # pytest-9 must not clear pytest-99's
    files_before = mounting.open_files()
    yield
    gc.collect()
    left = [path for path, source in mounting.mounts().items() if ours in path or ours in source]
    mounting.clear(left)
    assert not left, f"mounts left behind: {left}"
    grown = {fd: path for fd, path in mounting.open_files().items() if files_before.get(fd) != path}
    grown = {fd: path for fd, path in grown.items() if path == "/dev/fuse" or path.startswith(os.fsdecode(ours))}
    assert not grown, f"descriptors left open: {grown}"


@pytest.fixture(scope="session", autouse=True)
def signals_mean_what_they_do_at_a_terminal() -> None:
    """What ignores them (a shell's job in the background, nohup) would have all that we start ignore them, too."""
    defaults: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, default in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Logs and state of the mounts under test go to a directory of the run, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            directory = tmp_path_factory.mktemp(variable.lower())
            directory.chmod(0o700)
            patch.setenv(variable, str(directory))
        yield


@pytest.fixture
def view(dataset: Path) -> Iterator[View]:
    """The view of what the test calls its `dataset`, without any mount."""
    view = View(Dataset(os.fsencode(dataset), Policy()))
    yield view
    view.close()


# -- mounts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fuse(request: pytest.FixtureRequest) -> None:
    """FUSE can be used at all."""
    if not os.path.exists("/dev/fuse"):
        missing(request.config, "this machine has no /dev/fuse")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing(request.config, "no permission to use /dev/fuse")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        missing(request.config, "fusermount3 is not installed (apt install fuse3)")


@pytest.fixture(scope="session", params=list(mounting.WAYS))
def backend(request: pytest.FixtureRequest) -> str:
    """Each way to the kernel (`mounting.WAYS`): the mounted tests promise the same of all."""
    name = str(request.param)
    if name == "stacked" and os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    if name == "fusepy" and find_library("fuse") is None:
        missing(request.config, "libfuse 2 is not installed (apt install libfuse2)")
    return name


class MountMaker(Protocol):
    """Mounts a dataset: `symfuse_mount(dataset, "--dot-entries", "show")`."""

    def __call__(self, dataset: Path, *options: str, at: Path | None = None, user: User = MYSELF) -> Mount: ...


@pytest.fixture
def symfuse_mount(fuse: None, backend: str, tmp_path: Path, homes: list[Path]) -> Iterator[MountMaker]:
    """Mounts made by the real command; when the test ends they are unmounted, and nothing may be left of them."""
    with _mounts(backend, tmp_path) as mount:
        yield mount


@pytest.fixture(scope="module")
def module_mount(fuse: None, backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountMaker]:
    """The same for tests that only look: one mount for all tests of a module."""
    with _mounts(backend, tmp_path_factory.mktemp(backend)) as mount:
        yield mount


@contextlib.contextmanager
def _mounts(backend: str, directory: Path) -> Iterator[MountMaker]:
    made: list[Mount] = []

    def mount(dataset: Path, *options: str, at: Path | None = None, user: User = MYSELF) -> Mount:
        mountpoint = at or directory / f"mount{len(made)}"
        with contextlib.suppress(FileExistsError):  # `exist_ok` would look at it, which fails on a dead mount
            mountpoint.mkdir()
        user.owns(mountpoint)
        made.append(mounting.mount(dataset, mountpoint, *options, backend=backend, user=user))
        return made[-1]

    try:
        yield mount
        for each in reversed(made):
            each.check_nothing_left()
    finally:
        mounting.clear([each.bytes for each in made if each.is_mounted()])


# -- an ordinary user --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def open_device(fuse: None) -> Iterator[None]:
    """/dev/fuse is usable by everybody, as udev makes it on a desktop; the last of several runs puts it back."""
    if os.geteuid() != 0:
        yield
        return
    with open("/run/symfuse-tests.lock", "a+", encoding="ascii") as lock:
        if _alone(lock):
            lock.truncate(0)
            lock.write(f"{stat.S_IMODE(os.stat('/dev/fuse').st_mode):o}")
            lock.flush()
        os.chmod("/dev/fuse", 0o666)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
        if _alone(lock):
            lock.seek(0)
            os.chmod("/dev/fuse", int(lock.read(), 8))


def _alone(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def homes() -> Iterator[list[Path]]:
    """Directories made for users; removed only after everything that was mounted in them."""
    made: list[Path] = []
    yield made
    left = [path for path in mounting.mounts() if path.startswith(tuple(os.fsencode(home) for home in made))]
    mounting.clear(left)
    for home in made:
        MYSELF.run("chmod", "-R", "u+rwX", home)  # tests close directories, also to whoever runs them
        shutil.rmtree(home)
    assert not left, f"mounts left behind: {left}"


@pytest.fixture
def ordinary_user(request: pytest.FixtureRequest, open_device: None, homes: list[Path]) -> User:
    """Somebody without privileges, with a home of their own: whoever runs the tests, or nobody if that is root."""
    if shutil.which("fusermount3") is None:
        missing(request.config, "fusermount3 is not installed (apt install fuse3)")
    home = Path(tempfile.mkdtemp(prefix="symfuse-user-"))
    homes.append(home)
    environment = {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *_site_packages()])}
    environment |= {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("STATE", "CACHE")}
    environment["XDG_RUNTIME_DIR"] = str(home)
    uid = NOBODY if os.geteuid() == 0 else None
    user = User(uid=uid, gid=uid, environment=environment, home=home)
    user.owns(home)
    python = _first_that_runs(user, [sys.executable, "/usr/bin/python3"])
    if python is None:
        missing(request.config, "an ordinary user may not read this checkout, or may run no Python that it works with")
    return dataclasses.replace(user, python=python)


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def _first_that_runs(user: User, pythons: list[str]) -> str | None:
    """The first of these that this user can run symfuse with: root's interpreter may lie in a closed home."""
    for python in pythons:
        with contextlib.suppress(PermissionError):
            if user.run(python, "-c", "import click, psutil, symfuse.policy", check=False).returncode == 0:
                return python
    return None
