"""Copies of the repository in which one thing is changed, and pytest as a process of its own on each."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from symfuse.mounts import stack
from tests.support import mounting

REPOSITORY = mounting.REPOSITORY
COPIED = ("symfuse", "tests", "pyproject.toml")
#: These tests themselves, and tiers that need more than this machine.
LEFT_OUT = ("mutants", "docker", "keras")

#: How long one test may take in a copy, and a whole run: far longer than any takes.
TEST_TIMEOUT_S = 120
RUN_TIMEOUT_S = 300


@dataclass(frozen=True)
class Mutant:
    """A change after which one of the `noticed_by` must fail. `text` occurs once in `file`.

    `run_with` are options of `symfuse run` that must still work, which proves that the change took away a guard and not
    the program. `by_root`: only root's mounts have this guard. `hangs`: a test notices by never ending, and
    has a timeout of its own.
    """

    name: str
    file: str
    text: str
    replacement: str
    noticed_by: tuple[str, ...]
    run_with: tuple[str, ...] = ()
    by_root: bool = False
    hangs: bool = False

    @property
    def is_mounted(self) -> bool:
        """True for a change of what every mount runs, and not of decoders or of the tests themselves."""
        return self.file.startswith("symfuse/") and not self.file.startswith("symfuse/identity/")


@dataclass(frozen=True)
class Outcome:
    """How pytest ended: its exit status, and what it printed."""

    status: int
    output: str

    @property
    def timed_out(self) -> bool:
        return "+++ Timeout +++" in self.output or "Failed: Timeout" in self.output

    @property
    def skipped_all(self) -> bool:
        """True when no test was run, because this machine lacks what they need."""
        closing = self.output.strip().rpartition("\n")[2]
        return self.status == 0 and "skipped" in closing and "passed" not in closing


class Copy:
    """A copy of the repository, in a directory that everybody may enter. Whatever it leaves is cleared at the end."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "copy"
        self._temporary = directory / "tmp"
        self._pytest = self._temporary / "pytest"
        self._directory = directory
        directory.mkdir()
        directory.chmod(0o755)
        self._temporary.mkdir()
        self._temporary.chmod(0o1777)
        self.path.mkdir()
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, self.path / name, ignore=shutil.ignore_patterns("__pycache__", *LEFT_OUT))
            else:
                shutil.copy2(source, self.path / name)

    def change(self, mutant: Mutant) -> None:
        """Apply a mutant. Errors: AssertionError when its text is not there, or not only once."""
        file = self.path / mutant.file
        before = file.read_text()
        found = before.count(mutant.text)
        assert found == 1, f"{mutant.file} holds the text of {mutant.name!r} {found} times: bring the mutant up to date"
        after = before.replace(mutant.text, mutant.replacement)
        ast.parse(after, mutant.file)
        file.write_text(after)

    def test(self, tests: Sequence[str], *options: str) -> Outcome:
        """Run these tests until one fails."""
        words = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self._pytest}", f"--timeout={TEST_TIMEOUT_S}"]
        return self._run("-m", "pytest", *words, "--rootdir=.", "-c", "pyproject.toml", *options, *tests)

    def try_out(self, options: Sequence[str]) -> Outcome:
        """Mount something, and read it."""
        dataset = self._temporary / "dataset"
        dataset.mkdir(exist_ok=True)
        (dataset / "file").write_text("content")
        return self._run("-m", "symfuse", "run", *options, str(dataset), "--", "cat", "{}/file")

    def _run(self, *words: str) -> Outcome:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.path,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._end_processes()
            output, _ = process.communicate()
            return Outcome(-signal.SIGKILL, output)
        return Outcome(process.returncode, output)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        elsewhere = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path != str(REPOSITORY)]
        path = os.pathsep.join(filter(None, [str(self.path), *elsewhere]))
        return kept | {"PYTHONPATH": path, "TMPDIR": str(self._temporary)}

    def remove(self) -> None:
        """Leave nothing: no process, no mount, no file."""
        self._end_processes()
        within = os.fsencode(self._directory) + b"/"
        mounting.clear([path for path, source in mounting.mounts().items() if within in path or within in source])
        stack.clear_stale()
        shutil.rmtree(self._directory, onerror=_open_and_retry)

    def _end_processes(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self._has_started(process):
                    process.kill()
                    process.wait(5)

    def _has_started(self, process: psutil.Process) -> bool:
        """Our directory is in the command line of our programs, and in the environment of all but decoders."""
        if any(word.startswith(f"{self._directory}/") for word in process.cmdline()):
            return True
        return process.environ().get("TMPDIR") == str(self._temporary)


def _open_and_retry(function: object, path: str, _error: object) -> None:
    """Tests close directories."""
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def copied(directory: Path) -> Iterator[Copy]:
    """A copy, for the length of a block."""
    copy = Copy(directory)
    try:
        yield copy
    finally:
        copy.remove()
