"""Without a check that guards access, a test fails: each check is taken out of a copy, where the tests named run."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.mutants.table import MUTANTS
from tests.mutants.workshop import Mutant, Outcome, copied

TESTS = sorted({test for mutant in MUTANTS for test in mutant.noticed_by})

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("open_device")]


class Laboratory:
    """Runs several copies at once. What is not asked for is not run."""

    def __init__(self, directory: Path, options: list[str], pool: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._options = options
        self._pool = pool
        self._runs: dict[str, Future[tuple[Outcome, Outcome | None]]] = {}

    def start(self, mutant: Mutant) -> None:
        if mutant.name not in self._runs:
            self._runs[mutant.name] = self._pool.submit(self._examine, mutant, f"{len(self._runs):03}")

    def result(self, mutant: Mutant) -> tuple[Outcome, Outcome | None]:
        """What the tests said of a mutant, and how an ordinary mount went, if that has to do with it."""
        self.start(mutant)
        return self._runs[mutant.name].result()

    def unchanged(self) -> Outcome:
        """What all the named tests say of symfuse as it is."""
        with copied(self._directory / "unchanged") as copy:
            return copy.test(TESTS, *self._options)

    def _examine(self, mutant: Mutant, name: str) -> tuple[Outcome, Outcome | None]:
        with copied(self._directory / name) as copy:
            copy.change(mutant)
            tried = copy.try_out(mutant.run_with) if mutant.is_mounted else None
            return copy.test(mutant.noticed_by, *self._options), tried


@pytest.fixture(scope="session")
def laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """All mutants that this run asks for are under way from the first on."""
    options = ["--require-fuse"] if request.config.getoption("--require-fuse") else []
    directory = Path(tempfile.mkdtemp(prefix="symfuse-mutants-"))  # pytest's own are closed to other users
    directory.chmod(0o755)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        laboratory = Laboratory(directory, options, pool)
        for item in request.session.items:
            if isinstance(item, pytest.Function) and "mutant" in getattr(item, "fixturenames", ()):
                mutant = item.callspec.params["mutant"]
                assert isinstance(mutant, Mutant)
                laboratory.start(mutant)
        yield laboratory
        pool.shutdown(cancel_futures=True)
    directory.rmdir()


def test_the_named_tests_pass_on_what_is_not_changed(request: pytest.FixtureRequest, laboratory: Laboratory) -> None:
    """Else their failures would prove nothing."""
    outcome = laboratory.unchanged()
    if outcome.skipped_all:
        missing(request.config, "all tests of the guards are skipped here")
    assert outcome.status == 0, outcome.output


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_guard_that_is_missing_is_noticed(
    request: pytest.FixtureRequest, laboratory: Laboratory, mutant: Mutant
) -> None:
    if mutant.by_root and os.geteuid() != 0:
        missing(request.config, "only root's mounts have this guard")
    noticed, tried = laboratory.result(mutant)
    if noticed.skipped_all:
        missing(request.config, f"the tests of this guard are skipped here:\n{noticed.output}")
    assert noticed.status == 1, f"{mutant.noticed_by} have not failed (pytest: {noticed.status}):\n{noticed.output}"
    assert noticed.timed_out == mutant.hangs, noticed.output
    assert mutant.hangs or re.search(r"^FAILED ", noticed.output, re.MULTILINE), noticed.output
    if tried is not None:
        assert (tried.status, "content" in tried.output) == (0, True), f"it works no longer:\n{tried.output}"


def test_each_mutant_has_a_name_of_its_own_and_tests() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.noticed_by for mutant in MUTANTS)
