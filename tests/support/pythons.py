"""Interpreters that run something of ours before anything else, in the server and whatever else they start.

Such an interpreter is a script that runs a prelude, and then the module or file that it was told to run. It names
itself as sys.executable. A `sitecustomize` would not do: symfuse keeps the user's out of its processes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.support.mounting import MYSELF, REPOSITORY, User

INTERPRETER = """#!{python} -PS
import os, runpy, signal, site, sys
if "-S" not in sys.argv:
    site.main()
{prelude}
sys.executable = {itself!r}
words = sys.argv[1:]
while words[0].startswith("-") and words[0] != "-m":
    words = words[2:] if words[0] == "-X" else words[1:]
if words[0] == "-m":
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
"""


def with_python(user: User, directory: Path, prelude: str) -> User:
    """The same user with such an interpreter."""
    itself = directory / "python"
    itself.write_text(INTERPRETER.format(python=user.python, prelude=prelude, itself=str(itself)))
    itself.chmod(0o755)
    return dataclasses.replace(user, python=str(itself))


def with_server_patched(directory: Path, *lines: str) -> User:
    """Ourselves, but in the server's process these lines run first."""
    patch = "".join(f"    {line}\n" for line in [f"sys.path.insert(0, {str(REPOSITORY)!r})", *lines])
    return with_python(MYSELF, directory, f"if 'symfuse.mounts.serve' in sys.orig_argv:\n{patch}")
