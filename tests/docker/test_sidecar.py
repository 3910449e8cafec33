"""A mount made in one container and used from another and from the host."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.docker.conftest import DATA, Digits
from tests.docker.engine import FUSE, LONG_S, TRAIN, Container, Engine, mounted_anywhere

DATASET = f"{DATA}/dataset"
CLEAN = "/clean/dataset"


def sidecar(engine: Engine, image: str, shared: Path, digits: Digits) -> Container:
    """The container that mounts, ready."""
    container = engine.start(
        *FUSE, *digits.volumes, *bind(shared, "rshared"), image,
        "mount", "--foreground", "--allow-other", "--allow-root", DATA, DATASET, CLEAN,
    )  # fmt: skip
    container.wait_for("is mounted read-only")
    return container


def bind(shared: Path, propagation: str) -> tuple[str, ...]:
    readonly = "" if propagation == "rshared" else ",readonly"
    return ("--mount", f"type=bind,source={shared},target=/clean,bind-propagation={propagation}{readonly}")


@pytest.mark.usefixtures("untouched")
def test_an_unmodified_trainer_without_privileges(
    shared_directory: Path, engine: Engine, image: str, test_image: str, digits: Digits
) -> None:
    mount = sidecar(engine, image, shared_directory, digits)
    assert len(list((shared_directory / "dataset").rglob("*.png"))) == 1797

    # Neither the links nor the store are in the trainer's container, and it is nobody there.
    words = [word.replace("{}", CLEAN) for word in TRAIN]
    done = engine.run(
        "--user", "65534:65534", "--cap-drop", "ALL", *bind(shared_directory, "rslave"), test_image, *words,
        "--at-least", "0.95", timeout=LONG_S,
    )  # fmt: skip

    assert "Found 1437 images belonging to 10 classes." in done.stdout
    status, seconds = mount.end("stop")
    assert (status, seconds < 5) == (0, True)
    assert os.listdir(shared_directory / "dataset") == []


@pytest.mark.usefixtures("untouched")
def test_a_trainer_that_runs_before_and_after_the_mount_sees_it_come_and_go(
    shared_directory: Path, engine: Engine, image: str, digits: Digits
) -> None:
    trainer = engine.start(*bind(shared_directory, "rslave"), "--entrypoint", "sleep", image, "infinity")
    count = ("sh", "-c", f"find {CLEAN} -type f | wc -l")
    assert trainer.execute(*count).stdout == "0\n"
    mount = sidecar(engine, image, shared_directory, digits)
    assert trainer.execute(*count).stdout == "1797\n"
    mount.end("stop")
    assert trainer.execute(*count).stdout == "0\n"


@pytest.mark.usefixtures("untouched")
def test_a_killed_sidecar_leaves_a_dead_mount_that_the_next_one_clears(
    shared_directory: Path, engine: Engine, image: str, digits: Digits
) -> None:
    trainer = engine.start(*bind(shared_directory, "rslave"), "--entrypoint", "sleep", image, "infinity")
    first = sidecar(engine, image, shared_directory, digits)
    assert first.end("kill")[0] == 128 + 9

    # Dead, and not an empty directory that could be taken for the truth.
    with pytest.raises(OSError, match="not connected") as dead:
        os.listdir(shared_directory / "dataset")
    assert dead.value.errno == errno.ENOTCONN
    assert "not connected" in trainer.execute("ls", CLEAN, check=False).stderr

    second = sidecar(engine, image, shared_directory, digits)
    assert "cleared a dead mount at /clean/dataset" in second.output()
    assert trainer.execute("sh", "-c", f"find {CLEAN} -type f | wc -l").stdout == "1797\n"
    second.end("stop")
    assert mounted_anywhere(DATA) == []


@pytest.mark.usefixtures("untouched")
def test_a_sidecar_stopped_under_a_trainer_that_keeps_a_file_open(
    shared_directory: Path, engine: Engine, image: str, digits: Digits
) -> None:
    """It serves the open file for the ten seconds that Docker gives it; nothing of the mount is left then."""
    mount = sidecar(engine, image, shared_directory, digits)
    trainer = engine.start(
        *bind(shared_directory, "rslave"), "--entrypoint", "sh", image,
        "-c", f"exec <{CLEAN}/val/0/0010.png && echo open && exec sleep infinity",
    )  # fmt: skip
    trainer.wait_for("^open")
    status, _seconds = mount.end("stop")
    assert status == 128 + 9
    assert os.listdir(shared_directory / "dataset") == []
    assert mounted_anywhere(DATA) == []
