"""File systems to mount over, each made once for a module."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from tests.conftest import missing
from tests.filesystems.table import FileSystem, kernel_knows, mounted_below, what_is_missing
from tests.filesystems.trees import DATASETS
from tests.support.trees import Entry, Name


@pytest.fixture(scope="session")
def makes_filesystems(request: pytest.FixtureRequest, fuse: None) -> None:
    """Whoever runs the tests can make file systems. Nobody but root can: this is no gap in an ordinary user's run."""
    if os.geteuid() != 0:
        pytest.skip("only root can make file systems and mount them")
    if not os.path.exists("/dev/loop-control"):
        missing(request.config, "this machine has no loop devices")


@pytest.fixture(scope="module")
def filesystem(
    request: pytest.FixtureRequest, makes_filesystems: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FileSystem]:
    """One of the kind that the test is parametrized with (`KINDS`), with the DATASETS on it."""
    yield from made(request.config, request.param, DATASETS, tmp_path_factory)


def made(
    config: pytest.Config,
    kind: type[FileSystem],
    datasets: Mapping[Name, Entry],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FileSystem]:
    """A file system of a kind with these datasets, for a fixture; nothing of it is left."""
    if not kernel_knows(kind):
        pytest.skip(f"this kernel has no {kind.module}")
    if (tool := what_is_missing(kind)) is not None:
        missing(config, f"{tool} is not installed")
    work = tmp_path_factory.mktemp("filesystem").resolve()
    filesystem = kind(work)
    try:
        filesystem.build(datasets)
        yield filesystem
    finally:
        filesystem.close()
        left = mounted_below(work)
        assert not left, f"left behind: {left}"
