"""How a Python process of ours is started, so that nothing of the user's own program gets into it.

    python -P -s -S -X utf8 child.py MODULE ARGUMENT…

runs `main()` of a module of ours. That module sees the standard library first, then symfuse, then what its parent could
import, and what lies beside the user's script last: a `resource.py` or `socket.py` there, or in PYTHONPATH, is never
taken for the standard library's, nor is a `sitecustomize` there run.
What this Python itself is set up to run (`.pth` files, a `sitecustomize` in site-packages) is run: editable installs
need it. It may print, or close stdout: messages travel on descriptors of their own.
"""

from __future__ import annotations

import contextlib
import os
import sys

#: What Python needs to start at all, and where it may write. All else that begins with PYTHON was meant for the user's
#: own program: PYTHONWARNINGS=error would end our process at the next deprecation, PYTHONINSPECT keep it alive.
NEEDED_VARIABLES = frozenset({"PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"})
#: Where a child looks for packages after the standard library.
PATH_VARIABLE = "SYMFUSE_PYTHONPATH"
#: Only the standard library and symfuse itself, which takes 10 ms less: no packages, and nothing that is set up to run.
ALONE = "--alone"


def command(module: str, *, alone: bool = False) -> tuple[str, ...]:
    """What starts a module of ours, in UTF-8 whatever the locale. `alone`: it needs no packages."""
    return (*script(__file__), *([ALONE] if alone else []), module)


def script(path: str) -> tuple[str, ...]:
    """What starts a file of ours that sees only the standard library, and runs nothing that Python is set up to run."""
    return (python(), "-P", "-s", "-S", "-X", "utf8", os.path.abspath(path))


def environment() -> dict[str, str]:
    """Our own environment, as a child needs it."""
    return {name: value for name, value in os.environ.items() if not _is_pythons(name)} | needed_environment()


def needed_environment() -> dict[str, str]:
    """What a child needs to start and to find the same packages as we did."""
    kept = {name: os.environ[name] for name in NEEDED_VARIABLES if name in os.environ}
    return kept | {PATH_VARIABLE: os.pathsep.join(_search_path())}


def _is_pythons(name: str) -> bool:
    return name.startswith("PYTHON")


def python() -> str:
    """This Python's interpreter. Where another program runs it as a library, sys.executable names that, or nothing."""
    usual = os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if "py" in os.path.basename(sys.executable or "") or not os.path.exists(usual):
        return sys.executable or usual
    return usual


def _search_path() -> list[str]:
    """What we can import from. The user's own directory comes last: their `click.py` is not the one that we know."""
    paths = [path for path in sys.path if os.path.isabs(path) and os.pathsep not in path]
    return sorted(paths, key=_own_directories().__contains__)


def _own_directories() -> set[str]:
    """Where Python looks first for the user's sake: beside the script, or where it was started."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    found = {os.path.dirname(os.path.abspath(script))} if script else set()
    with contextlib.suppress(OSError):  # it may be gone
        found.add(os.getcwd())
    return found


# -- the child's own process -----------------------------------------------------------------------------------------


def main() -> None:
    """Run the module that the arguments name, and end with the status that it returns."""
    del sys.argv[0]
    is_alone = sys.argv[0] == ALONE
    del sys.argv[: int(is_alone)]
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not is_alone:
        _add_packages()
    import importlib  # noqa: PLC0415 - after the path is set

    sys.exit(importlib.import_module(sys.argv[0]).main())


def _add_packages() -> None:
    import site  # noqa: PLC0415 - -S leaves it to us, so that it comes after the standard library and symfuse

    first = len(sys.path)
    site.main()
    paths = [*os.environ.get(PATH_VARIABLE, "").split(os.pathsep), *sys.path[first:]]
    sys.path[first:] = dict.fromkeys(path for path in paths if path and path not in sys.path[:first])


if __name__ == "__main__":
    main()
