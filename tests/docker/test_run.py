"""`docker run … symfuse run`: training, what is hidden, and the ways in which containers are restricted."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.docker.conftest import DATA, Digits
from tests.docker.engine import FUSE, LONG_S, TRAIN, Engine

DATASET = f"{DATA}/dataset"


@pytest.mark.usefixtures("untouched")
def test_the_unmodified_script_trains_to_95_percent_on_links_into_a_second_volume(
    engine: Engine, test_image: str, digits: Digits
) -> None:
    done = engine.run(
        *FUSE, *digits.volumes, test_image, "symfuse", "run", DATASET, "--", *TRAIN, "--at-least", "0.95",
        timeout=LONG_S,
    )  # fmt: skip
    assert "Found 1437 images belonging to 10 classes." in done.stdout
    assert "Found 360 images belonging to 10 classes." in done.stdout
    assert "validation accuracy: 0.9" in done.stdout


def test_without_symfuse_the_same_training_fails(engine: Engine, test_image: str, digits: Digits) -> None:
    words = [word.replace("{}", DATASET) for word in TRAIN]
    done = engine.run(*digits.volumes, test_image, *words, check=False, timeout=LONG_S)
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_links_whose_targets_are_not_in_the_container_are_hidden_and_reported(
    engine: Engine, image: str, digits: Digits, backend: str
) -> None:
    script = 'find "$1" ! -type d | wc -l; ls -R "$1" >/dev/null && symfuse why "$1/train/0/0036.png"'
    links = sum(path.is_symlink() for path in digits.root.rglob("*")) - 1  # one leads to its own directory
    done = engine.run(
        *FUSE, *digits.dataset, image, "run", "--eager", "--backend", backend, DATASET, "--",
        "sh", "-c", script, "sh", "{}",
        check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert f"{links:,} dangling (the link's target does not exist)" in done.stderr
    assert done.stdout.startswith("0\n")
    assert "not shown: the link's target does not exist (dangling)" in done.stdout


@pytest.mark.usefixtures("untouched")
def test_a_read_only_root_file_system(engine: Engine, image: str, digits: Digits) -> None:
    readonly = (*FUSE, "--read-only", *digits.volumes)
    count = ("--", "sh", "-c", "find {} -type f | wc -l")

    assert engine.run(*readonly, image, "run", "--at", "/mnt/clean", DATASET, *count).stdout == "1797\n"
    assert engine.run(*readonly, "--tmpfs", "/tmp", image, "run", DATASET, *count).stdout == "1797\n"

    refused = engine.run(*readonly, image, "run", DATASET, *count, check=False)
    assert refused.returncode == 125
    assert len(refused.stderr.splitlines()) == 1
    assert "--at" in refused.stderr


def test_what_is_on_the_containers_own_overlay_is_passed_through_or_cached(engine: Engine, image: str) -> None:
    script = (
        "grep -q '^overlay / ' /proc/mounts && mkdir -p /d/store /d/links && "
        "head -c 5000000 /dev/urandom >/d/store/a && "
        "ln -s ../store/a /d/links/a && cp -rL /d/links /d/copy && "
        'symfuse run --io passthrough /d/links -- sh -c \'diff -r "$1" /d/copy && symfuse status "$1"\' sh {}'
    )
    done = engine.run(*FUSE, "--entrypoint", "sh", image, "-c", script)
    (way,) = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.split()[:1] == ["io"])
    assert way == "passthrough" or way.startswith("cached (passthrough: ")


@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_a_dataset_on_the_containers_own_overlay(engine: Engine, image: str, backend: str) -> None:
    script = (
        "grep -q '^overlay / ' /proc/mounts && mkdir -p /d/store /d/links && "
        "head -c 5000000 /dev/urandom >/d/store/a && "
        "ln -s ../store/a /d/links/a && cp -rL /d/links /d/copy && "
        'symfuse run --backend "$1" /d/links -- diff -r {} /d/copy && echo same'
    )
    done = engine.run(*FUSE, "--entrypoint", "sh", image, "-c", script, "sh", backend)
    assert done.stdout == "same\n"


@pytest.mark.usefixtures("untouched", "open_device")
def test_an_ordinary_user(engine: Engine, image: str, digits: Digits) -> None:
    done = engine.run(
        *FUSE, "--user", "symfuse", *digits.volumes, image, "run", DATASET, "--",
        "sh", "-c", "id -u; find {} -type f | wc -l; touch {}/new",
        check=False,
    )  # fmt: skip
    assert done.stdout == "1000\n1797\n"
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


@pytest.mark.usefixtures("open_device")
def test_a_user_whom_the_image_does_not_know(engine: Engine, image: str, digits: Digits) -> None:
    done = engine.run(*FUSE, "--user", "1234:1234", *digits.volumes, image, "run", DATASET, "--", "ls", check=False)
    assert done.returncode == 125
    assert len(done.stderr.splitlines()) == 1
    assert "use a uid that /etc/passwd knows" in done.stderr


@pytest.mark.usefixtures("untouched")
def test_a_command_that_eats_all_memory_is_killed_and_the_mount_goes_on(
    engine: Engine, image: str, digits: Digits
) -> None:
    script = "python3 -c 'bytearray(1 << 30)'; echo $?; find {} -type f | wc -l"
    done = engine.run(
        *FUSE,
        "--memory",
        "64m",
        "--memory-swap",
        "64m",
        *digits.volumes,
        image,
        "run",
        DATASET,
        "--",
        "sh",
        "-c",
        script,
    )
    assert done.stdout == "137\n1797\n"


NO_DEVICE = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
NO_CAPABILITY = ("--device", "/dev/fuse")


@pytest.mark.usefixtures("open_device")
@pytest.mark.parametrize("user", ["root", "symfuse"])
@pytest.mark.parametrize(
    ("flags", "cause", "cure"),
    [
        (NO_DEVICE, "/dev/fuse does not exist|fuse device not found", "--device /dev/fuse"),
        (NO_CAPABILITY, "mount", "--cap-add SYS_ADMIN --security-opt apparmor=unconfined"),
    ],
    ids=["no device", "no capability"],
)
def test_what_is_missing_is_named_with_its_cure_in_one_line(
    engine: Engine, image: str, tmp_path: Path, *, flags: tuple[str, ...], cause: str, cure: str, user: str
) -> None:
    tmp_path.chmod(0o755)
    start = (*flags, "--user", user, "-v", f"{tmp_path}:{DATASET}:ro", image)
    for words, status in (
        (("run", DATASET, "--", "echo", "ran"), 125),
        (("mount", "--foreground", DATASET, "/mnt/clean"), 5),
    ):
        done = engine.run(*start, *words, check=False)
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert re.search(cause, done.stderr)
        assert cure in done.stderr


@pytest.mark.usefixtures("open_device")
def test_a_container_that_may_gain_no_privileges_says_so(engine: Engine, image: str, tmp_path: Path) -> None:
    """fusermount3 is setuid root, and `no-new-privileges` takes just that from it."""
    tmp_path.chmod(0o755)
    done = engine.run(
        *FUSE, "--security-opt", "no-new-privileges", "--user", "symfuse", "-v", f"{tmp_path}:{DATASET}:ro", image,
        "mount", "--foreground", DATASET, "/mnt/clean",
        check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert "no-new-privileges" in done.stderr


def test_the_host_mount_handed_in_needs_no_device_and_no_capability(
    engine: Engine, image: str, shared_directory: Path, digits: Digits
) -> None:
    """What docs/containers.md advises where the device or the capability cannot be had."""
    mount = engine.start(
        *FUSE, *digits.volumes, *_propagated(shared_directory), image,
        "mount", "--foreground", DATASET, "/clean/dataset",
    )  # fmt: skip
    mount.wait_for("is mounted read-only")
    done = engine.run(
        "-v", f"{shared_directory}/dataset:/mnt/clean:ro", "--entrypoint", "sh", image,
        "-c", "find /mnt/clean -type f | wc -l",
    )  # fmt: skip
    assert done.stdout == "1797\n"
    mount.end("stop")
    assert os.listdir(shared_directory / "dataset") == []


def _propagated(directory: Path) -> tuple[str, ...]:
    return ("--mount", f"type=bind,source={directory},target=/clean,bind-propagation=rshared")
