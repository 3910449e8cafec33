"""How a Python process of ours is started, and what it must be told."""

from __future__ import annotations

import os
import sys

#: What Python needs to start at all, and where it may write. All else that begins with PYTHON was meant for the user's
#: own program: PYTHONWARNINGS=error would end our process at the next deprecation, PYTHONINSPECT keep it alive.
NEEDED_VARIABLES = frozenset({"PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"})


def command(module: str) -> tuple[str, ...]:
    """What starts a module of ours, in UTF-8 whatever the locale."""
    return (python(), "-P", "-X", "utf8", "-m", module)


def environment() -> dict[str, str]:
    """Our own environment, as a child needs it."""
    kept = {name: value for name, value in os.environ.items() if not _is_pythons(name) or name in NEEDED_VARIABLES}
    return kept | {"PYTHONPATH": python_path()}


def _is_pythons(name: str) -> bool:
    return name.startswith("PYTHON")


def python() -> str:
    """This Python's interpreter. Where another program runs it as a library, sys.executable names that, or nothing."""
    usual = os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if "py" in os.path.basename(sys.executable or "") or not os.path.exists(usual):
        return sys.executable or usual
    return usual


def python_path() -> str:
    """PYTHONPATH with which a child finds the same packages as we did, and nothing in the current directory."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [path for path in sys.path if path and os.pathsep not in path]
    return os.pathsep.join(paths if package in paths else [package, *paths])
