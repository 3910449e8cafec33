"""What a Python process that we start must be told."""

from __future__ import annotations

import os
import sys


def python_path() -> str:
    """PYTHONPATH with which a child finds the same packages as we did, and nothing in the current directory."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [path for path in sys.path if path and os.pathsep not in path]
    return os.pathsep.join(paths if package in paths else [package, *paths])
