"""TensorFlow, imported once for the whole run and only where a test needs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.keras.datasets import Linked, messy_digits, numbered, photographs

# Read by TensorFlow when it is imported. Without oneDNN sums do not depend on how the work is cut into threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture(scope="session")
def tf(pytestconfig: pytest.Config) -> Any:
    """The tensorflow module."""
    try:
        import tensorflow  # noqa: PLC0415 - takes seconds
    except ImportError:
        missing(pytestconfig, "TensorFlow is not installed (scripts/test installs it)")
    return tensorflow


@pytest.fixture
def photos(tmp_path: Path) -> Linked:
    """Real photographs behind links."""
    return photographs(tmp_path)


@pytest.fixture
def digits(tmp_path: Path) -> Linked:
    """Some of the demo's digits, with all of its mess."""
    return messy_digits(tmp_path, limit=200)


@pytest.fixture
def two_classes(tmp_path: Path) -> Linked:
    """Two classes of ten linked digits each."""
    return numbered(tmp_path)
