"""The demo's training script, which knows nothing of symfuse, started by `symfuse run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.keras.datasets import messy_digits
from tests.support.mounting import MYSELF, REPOSITORY, mounts


@pytest.mark.timeout(300, method="thread")
def test_the_unmodified_script_trains_to_95_percent(tf: Any, fuse: None, tmp_path: Path) -> None:
    dataset = messy_digits(tmp_path)
    before = dataset.originals()
    script = [sys.executable, str(REPOSITORY / "scripts" / "train.py"), "{}", "--size", "16", "--color", "grayscale"]

    done = MYSELF.symfuse("run", dataset.root, "--", *script, "--at-least", "0.95", timeout=240)

    assert "Found 1437 images belonging to 10 classes." in done.stdout
    assert "Found 360 images belonging to 10 classes." in done.stdout
    assert "validation accuracy: 0.9" in done.stdout
    assert dataset.originals() == before
    assert os.fsencode(dataset.root) not in mounts().values()


def test_the_script_fails_below_the_accuracy_asked_for(tf: Any, tmp_path: Path) -> None:
    """The demo's and the test's threshold can fail: nobody reaches 1.01."""
    dataset = messy_digits(tmp_path, limit=100)
    script = REPOSITORY / "scripts" / "train.py"
    done = MYSELF.run(
        sys.executable, script, dataset.root / "val", "--epochs", "1", "--size", "8", "--at-least", "1.01",
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the validation accuracy is below 1.01" in done.stderr
