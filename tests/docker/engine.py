"""Docker's command line, driven from the host: containers that say when they are ready, and are always removed."""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from symfuse.mounts import table
from tests.support.mounting import Run

#: Longer than anything but a training takes.
TIMEOUT_S = 60
#: Training, and the tiers of tests inside the image.
LONG_S = 600

#: What a container that mounts is started with: the flags of the Dockerfile's head.
FUSE = ("--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")

TRAIN = ("python", "scripts/train.py", "{}", "--size", "16", "--color", "grayscale")


def command(
    *words: str | Path,
    check: bool = True,
    timeout: float = TIMEOUT_S,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Run:
    """Run a command of the host, with these variables added to the environment; its output is captured."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    if check:
        assert done.returncode == 0, f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def docker(*words: str | Path, check: bool = True, timeout: float = TIMEOUT_S) -> Run:
    """Run the docker command."""
    return command("docker", *words, check=check, timeout=timeout)


def inspect(kind: str, name: str, template: str) -> str:
    """One field of `docker KIND inspect`."""
    return docker(kind, "inspect", "--format", template, name).stdout.strip()


def layers(image: str) -> list[str]:
    """The digests of an image's layers, lowest first."""
    return list(json.loads(inspect("image", image, "{{json .RootFS.Layers}}")))


@dataclass(frozen=True)
class Container:
    """A container that was started in the background."""

    name: str

    def wait_for(self, pattern: str, *, timeout: float = TIMEOUT_S) -> str:
        """The first line of its output that matches; fails when the container ends before."""
        with subprocess.Popen(
            ["timeout", str(timeout), "docker", "logs", "--follow", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as following:
            assert following.stdout is not None
            for line in following.stdout:
                if re.search(pattern, line):
                    following.kill()
                    return line
        raise AssertionError(f"{self.name} has not said {pattern!r}:\n{self.output()}")

    def end(self, how: str) -> tuple[int, float]:
        """`docker stop` or `docker kill`. Returns the exit status and the seconds it took."""
        assert inspect("container", self.name, "{{.State.Running}}") == "true", self.output()
        begun = time.monotonic()
        docker(how, self.name)
        return self.exit_status(), time.monotonic() - begun

    def exit_status(self) -> int:
        """Its exit status; waits for it."""
        return int(docker("wait", self.name, timeout=LONG_S).stdout)

    def execute(self, *words: str, check: bool = True) -> Run:
        """Run a command inside."""
        return docker("exec", self.name, *words, check=check)

    def output(self) -> str:
        """All that it wrote."""
        said = docker("logs", self.name)
        return said.stdout + said.stderr


@dataclass
class Engine:
    """Starts containers of one test, and knows how to be rid of them."""

    network: str = "none"
    label: str = field(default_factory=lambda: f"symfuse-tests={uuid.uuid4()}")

    def run(self, *words: str | Path, check: bool = True, timeout: float = TIMEOUT_S) -> Run:
        """`docker run` to its end."""
        return docker("run", "--rm", *self._common(), *words, check=check, timeout=timeout)

    def start(self, *words: str | Path) -> Container:
        """`docker run` in the background."""
        name = f"symfuse-test-{uuid.uuid4().hex[:12]}"
        docker("run", "--detach", "--name", name, *self._common(), *words)
        return Container(name)

    def remove_all(self) -> None:
        """Remove every container of this test; fails if the engine keeps one."""
        left = self._containers()
        if left:
            docker("rm", "--force", "--volumes", *left)
        assert not self._containers()

    def _common(self) -> tuple[str, ...]:
        return ("--network", self.network, "--label", self.label)

    def _containers(self) -> list[str]:
        return docker("ps", "--all", "--quiet", "--filter", f"label={self.label}").stdout.split()


def mounted_anywhere(*places: str | Path) -> list[str]:
    """The symfuse mounts, in whatever mount namespace of this machine, of datasets or on mountpoints in these places.

    Processes that we may not look into are left out: as root there are none.
    """
    return sorted({mount for mountinfo in _mountinfos() for mount in _ours(mountinfo, places)})


def _mountinfos() -> Iterator[bytes]:
    for name in glob.glob("/proc/[0-9]*/mountinfo"):
        try:
            yield Path(name).read_bytes()
        except OSError:  # ended meanwhile, or somebody else's
            continue


def _ours(mountinfo: bytes, places: tuple[str | Path, ...]) -> Iterator[str]:
    for entry in table.parse(mountinfo):
        paths = (entry.mountpoint, entry.source)
        if entry.is_symfuse and any(table.is_within(path, os.fsencode(place)) for path in paths for place in places):
            yield f"{os.fsdecode(entry.source)} on {os.fsdecode(entry.mountpoint)}"
