"""What the images are made of."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.docker.engine import LONG_S, Engine, docker, inspect, layers
from tests.support.mounting import REPOSITORY

#: What the runtime image may add to its base: 38 MB are taken by Pillow, rich and fuse3.
MAX_ADDED_BYTES = 60_000_000


def test_the_labels_name_the_version_inside(engine: Engine, image: str) -> None:
    labelled = inspect("image", image, '{{index .Config.Labels "org.opencontainers.image.version"}}')
    assert engine.run(image, "--version").stdout == f"symfuse {labelled}\n"


def test_the_image_is_small(image: str) -> None:
    base = os.environ["BASE_IMAGE"]
    assert layers(image)[: len(layers(base))] == layers(base)
    added = int(inspect("image", image, "{{.Size}}")) - int(inspect("image", base, "{{.Size}}"))
    assert 0 < added < MAX_ADDED_BYTES


def test_nothing_of_the_installation_is_left(engine: Engine, image: str) -> None:
    script = (
        "find /var/lib/apt/lists /var/cache/apt /root/.cache /src /wheels /pip -type f; command -v pip pip3 || true"
    )
    assert engine.run("--entrypoint", "sh", image, "-c", f"({script}) 2>/dev/null").stdout == ""


def test_files_of_the_image_belong_to_root(engine: Engine, image: str) -> None:
    """Nobody who runs inside may change the program."""
    found = engine.run(
        "--entrypoint",
        "find",
        image,
        "/opt/symfuse",
        "(",
        "!",
        "-user",
        "root",
        "-o",
        "-perm",
        "-2",
        ")",
        "!",
        "-type",
        "l",
    )
    assert found.stdout == ""


@pytest.mark.parametrize(("target", "own_layers"), [("runtime", 1), ("test", 2)])
def test_a_change_of_the_code_installs_no_dependency_again(
    image: str, test_image: str, tmp_path: Path, target: str, own_layers: int
) -> None:
    """All layers are shared but those that hold our own files."""
    for name in docker_context():
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, tmp_path / name)
    with (tmp_path / "symfuse" / "__init__.py").open("a", encoding="utf-8") as code:
        code.write(f"# changed in {tmp_path}\n")
    tag = f"symfuse-test-changed-{target}"

    docker(
        "build", *shlex.split(os.environ.get("DOCKER_BUILD_ARGS", "")),
        "--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}", "--target", target, "-t", tag, tmp_path,
        timeout=LONG_S,
    )  # fmt: skip
    try:
        before, after = layers({"runtime": image, "test": test_image}[target]), layers(tag)
    finally:
        docker("image", "rm", tag)

    assert len(before) == len(after)
    assert before[:-own_layers] == after[:-own_layers]
    assert before[-own_layers:] != after[-own_layers:]


def docker_context() -> list[str]:
    """What .dockerignore lets through."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [".dockerignore", *(line[1:] for line in lines if line.startswith("!"))]
