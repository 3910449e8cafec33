"""`docker stop` and `docker kill` in the middle of an epoch."""

from __future__ import annotations

import pytest

from tests.docker.conftest import DATA, Digits
from tests.docker.engine import FUSE, LONG_S, TRAIN, Container, Engine

DATASET = f"{DATA}/dataset"
#: Docker kills after 10 seconds what has not ended by itself.
WELL_WITHIN_S = 5.0

FOR_EVER = (*TRAIN, "--epochs", "100000")
#: Epoch 1 is through, and the next one has just begun.
IN_AN_EPOCH = "^Epoch 2/"


def training(engine: Engine, test_image: str, digits: Digits, *options: str) -> Container:
    """A container whose `symfuse run` is in the middle of an epoch."""
    container = engine.start(
        *FUSE, "-e", "PYTHONUNBUFFERED=1", *options, *digits.volumes, test_image,
        "symfuse", "run", DATASET, "--", *FOR_EVER,
    )  # fmt: skip
    container.wait_for(IN_AN_EPOCH, timeout=LONG_S)
    return container


@pytest.mark.usefixtures("untouched", "open_device")
@pytest.mark.parametrize("user", ["root", "symfuse"])
def test_stop_ends_the_training_and_unmounts(engine: Engine, test_image: str, digits: Digits, user: str) -> None:
    container = training(engine, test_image, digits, "--user", user)
    status, seconds = container.end("stop")
    assert status == 128 + 15
    assert seconds < WELL_WITHIN_S
    assert "Traceback" not in container.output()


@pytest.mark.usefixtures("untouched")
def test_kill_leaves_nothing(engine: Engine, test_image: str, digits: Digits) -> None:
    container = training(engine, test_image, digits)
    status, seconds = container.end("kill")
    assert status == 128 + 9
    assert seconds < WELL_WITHIN_S


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("how", "status"), [("stop", 0), ("kill", 128 + 9)])
def test_a_mount_in_the_foreground_that_another_process_trains_on(
    engine: Engine, test_image: str, digits: Digits, how: str, status: int
) -> None:
    """Process 1 is the mount; the training came with `docker exec`."""
    container = engine.start(
        *FUSE, *digits.volumes, test_image, "symfuse", "mount", "--foreground", DATASET, "/mnt/clean"
    )
    container.wait_for("is mounted read-only")
    words = " ".join(word.replace("{}", "/mnt/clean") for word in FOR_EVER)
    container.execute("sh", "-c", f"PYTHONUNBUFFERED=1 {words} >/proc/1/fd/1 2>&1 &")
    container.wait_for(IN_AN_EPOCH, timeout=LONG_S)

    ended, seconds = container.end(how)

    assert ended == status
    assert seconds < WELL_WITHIN_S
