"""Images, datasets and containers for the tests that drive Docker from the host."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.docker.engine import LONG_S, Engine, command, docker, mounted_anywhere
from tests.support.oracle import fingerprint

#: Where every container of this tier has its data. Nobody else's dataset lies there.
DATA = "/data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A command that hangs has its own limit; this one is for all that a test does together."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_S + 60, method="thread"))


def missing_docker(config: pytest.Config, what: str) -> NoReturn:
    """Skip for a person, fail in CI: a gap is never hidden."""
    if config.getoption("--require-docker"):
        pytest.fail(f"--require-docker: {what}", pytrace=False)
    pytest.skip(what)


def _named(config: pytest.Config, variable: str) -> str:
    return os.environ.get(variable) or missing_docker(config, "no image was built: run scripts/test-docker")


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config) -> str:
    """The image of the `runtime` target."""
    return _named(pytestconfig, "SYMFUSE_IMAGE")


@pytest.fixture(scope="session")
def test_image(pytestconfig: pytest.Config) -> str:
    """The image of the `test` target."""
    return _named(pytestconfig, "SYMFUSE_TEST_IMAGE")


@pytest.fixture(scope="session")
def compose(pytestconfig: pytest.Config) -> list[str]:
    """Compose, as a plugin of docker or as the program of its own that it was before."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and command(*words, "version", check=False).returncode == 0:
            return words
    missing_docker(pytestconfig, "Compose is not installed (apt install docker-compose)")


@pytest.fixture(scope="session")
def network() -> str:
    """What containers are connected to: nothing, for nothing here needs it."""
    return os.environ.get("SYMFUSE_DOCKER_NETWORK", "none")


@pytest.fixture
def engine(network: str) -> Iterator[Engine]:
    """Containers of one test: all are removed at its end."""
    made = Engine(network)
    yield made
    made.remove_all()


@dataclass(frozen=True)
class Digits:
    """The demo's dataset of links in a directory of the host, and its store in a volume."""

    root: Path
    store: str
    image: str

    @property
    def dataset(self) -> tuple[str, str]:
        """The dataset without its store. Not read-only: that nothing changes must be symfuse's doing."""
        return ("-v", f"{self.root}:{DATA}/dataset")

    @property
    def volumes(self) -> tuple[str, ...]:
        """Both, where the links expect them."""
        return (*self.dataset, "-v", f"{self.store}:{DATA}/store")

    def state(self) -> object:
        """All that must not change: the dataset's every attribute, the digests and times of the files in the store."""
        script = "cd /store && find . -type f -printf '%p %s %T@ %C@ %m %U %G\\n' -exec sha256sum {} \\; | sort"
        listed = docker(
            "run", "--rm", "--network=none", "-v", f"{self.store}:/store:ro", "--entrypoint", "sh", self.image,
            "-c", script,
        )  # fmt: skip
        assert listed.stdout.count(".png") >= 2 * 1797
        return fingerprint(self.root), listed.stdout


@pytest.fixture(scope="session")
def digits(test_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Digits]:
    """1,797 real images and all the mess of `scripts/digits.py`, made inside the test image."""
    made = Digits(tmp_path_factory.mktemp("digits") / "dataset", f"symfuse-test-{uuid.uuid4().hex[:12]}", test_image)
    made.root.mkdir()
    docker("volume", "create", made.store)
    try:
        docker("run", "--rm", "--network=none", *made.volumes, test_image, "python", "scripts/digits.py", DATA)
        yield made
    finally:
        docker("volume", "rm", "--force", made.store)


@pytest.fixture(autouse=True)
def nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No mount of this tier outlives its test, on the host or in any container."""
    places = (DATA, tmp_path_factory.getbasetemp())
    assert mounted_anywhere(*places) == []
    yield
    assert mounted_anywhere(*places) == []


@pytest.fixture
def untouched(digits: Digits) -> Iterator[None]:
    """Whatever the test does, the dataset and its store stay as they were."""
    before = digits.state()
    yield
    assert digits.state() == before


@pytest.fixture
def shared_directory(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Path]:
    """A directory of the host whose mounts are seen in containers, and theirs on the host."""
    if os.geteuid() != 0:
        missing_docker(pytestconfig, "only root can make a shared mount on the host")
    directory = tmp_path / "shared"
    directory.mkdir()
    command("mount", "--bind", directory, directory)
    try:
        command("mount", "--make-shared", directory)
        (directory / "dataset").mkdir()
        yield directory
        assert mounted_anywhere(directory) == []
    finally:
        command("umount", "--lazy", "--recursive", directory, check=False)
        command("umount", "--lazy", directory, check=False)
        assert os.fsencode(directory) not in Path("/proc/self/mountinfo").read_bytes()
