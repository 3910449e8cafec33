"""What the documents tell people to type, typed; what they tell them to deploy, deployed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.docker.conftest import DATA, Digits
from tests.docker.engine import LONG_S, command, docker, mounted_anywhere
from tests.support.mounting import REPOSITORY


def blocks(document: str) -> list[str]:
    """The indented commands of the Dockerfile's head, or the ```sh blocks of a page."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    if document == "Dockerfile":
        head = text.partition("\n\n")[0]
        return ["\n".join(line[6:] for line in head.splitlines() if line.startswith("#     "))]
    return list(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def prepared(script: str, environment: Mapping[str, str]) -> str:
    """The same commands for images, data and a shared directory of this test's own."""
    for pattern, here in (
        (r"^docker build .*$", "true  # built by scripts/test-docker"),
        (r"-v /data\b", f"-v {environment['DATA']}"),
        (r"/mnt/symfuse\b", environment["CLEAN"]),
        (r"\bsudo ", "sudo " if os.geteuid() else ""),
        # The name of the image, not the program that runs in another one.
        (r"(?<= )symfuse(?= (run|mount)\b)(?<!-test symfuse)", environment["SYMFUSE_IMAGE"]),
        (r"(?<= )symfuse-test(?= )", environment["TRAINER_IMAGE"]),
    ):
        script = re.sub(pattern, here, script, flags=re.MULTILINE)
    return script


@pytest.fixture
def data(digits: Digits, test_image: str, tmp_path: Path) -> Path:
    """The dataset and its store in one directory, as the documents have them below /data."""
    directory = tmp_path / "data"
    directory.mkdir()
    docker(
        "run", "--rm", "--network=none", "-v", f"{directory}:{DATA}", test_image, "python", "scripts/digits.py", DATA
    )
    return directory


@pytest.fixture
def environment(shared_directory: Path, image: str, test_image: str, data: Path) -> Mapping[str, str]:
    """What compose.yaml takes from the environment."""
    return {
        "SYMFUSE_IMAGE": image,
        "TRAINER_IMAGE": test_image,
        "DATA": str(data),
        "CLEAN": str(shared_directory),
    }


@pytest.mark.usefixtures("open_device")
@pytest.mark.parametrize("document", ["Dockerfile", "docs/containers.md"])
def test_the_commands_of_a_document_work_as_they_stand(document: str, environment: Mapping[str, str]) -> None:
    found = blocks(document)
    assert any("docker run" in block for block in found)
    script = prepared("\n".join(found), environment)
    try:
        done = command("bash", "-eux", "-o", "pipefail", "-c", script, check=False, timeout=LONG_S, cwd=REPOSITORY)
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    finally:
        docker("rm", "--force", "clean", check=False)
    assert mounted_anywhere(DATA, environment["CLEAN"]) == []


def test_every_documented_run_line_is_run() -> None:
    """A line that stands outside the blocks is in no test."""
    page = (REPOSITORY / "docs" / "containers.md").read_text(encoding="utf-8")
    outside = re.sub(r"^```sh\n.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    assert "docker run --" not in outside


def test_compose_trains_beside_the_sidecar(
    compose: list[str], environment: Mapping[str, str], network: str, tmp_path: Path
) -> None:
    # The engine under test may have no network that Compose could make; nothing else is changed.
    override = tmp_path / "network.yaml"
    override.write_text(json.dumps({"services": {"trainer": {"network_mode": network}}}), encoding="utf-8")
    files = ("-f", str(REPOSITORY / "compose.yaml"), "-f", str(override))
    words = (*compose, "--project-name", f"symfuse-test-{os.getpid()}", *files)
    try:
        done = command(
            *words, "up", "--no-build", "--exit-code-from", "trainer", check=False, timeout=LONG_S, env=environment
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "Found 1437 images belonging to 10 classes." in said
        assert "validation accuracy: 0.9" in said
        assert "is mounted read-only on /clean/dataset" in said
    finally:
        command(*words, "down", "--volumes", env=environment)
    assert mounted_anywhere(environment["CLEAN"]) == []


def test_the_pod_is_valid_and_says_what_compose_says() -> None:
    pod = yaml.safe_load((REPOSITORY / "docs" / "kubernetes-pod.yaml").read_text(encoding="utf-8"))
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]

    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(pod, version, strict=True)

    containers = {each["name"]: each for each in pod["spec"]["initContainers"] + pod["spec"]["containers"]}
    assert containers["symfuse"]["args"] == services["symfuse"]["command"]
    assert ["CMD", *containers["symfuse"]["startupProbe"]["exec"]["command"]] == services["symfuse"]["healthcheck"][
        "test"
    ]
    assert containers["trainer"]["command"] == services["trainer"]["command"]


def test_the_validator_refuses_a_pod_that_is_wrong() -> None:
    pod = yaml.safe_load((REPOSITORY / "docs" / "kubernetes-pod.yaml").read_text(encoding="utf-8"))
    pod["spec"]["containers"][0]["volumeMounts"][0]["mountPropagation"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
