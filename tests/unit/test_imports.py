"""The house's rules about itself, read from the source: imports run one way, and one module touches the dataset."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import REPOSITORY

PACKAGE = REPOSITORY / "symfuse"

#: Each layer imports from those before it, never from those after. docs/design.md has the same list.
LAYERS = [
    *(
        "errors",
        "shape",
        "owners",
        "libc",
        "process",
        "streams",
        "child",
        "mountinfo",
        "directories",
        "names",
        "words",
        "lines",
        "policy",
        "rules",
        "pattern",
        "progress",
        "source",
        "access",
        "links",
        "dataset",
        "stores",
        "content",
        "table",
        "inos",
        "repeats",
    ),
    *(
        "nodes",
        "view",
        "census",
        "pairs",
        "identity",
        "layout",
        "sameness",
        "dedup",
        "selection",
        "explain",
        "counters",
    ),
    "control",
    *("fuse", "mounts", "cli"),
]
#: The package's front door and the `python -m` entry: they hold nothing but a lazy import of what is behind them.
DOORS = {"symfuse", "symfuse.__main__"}

#: Calls that open, list or look at a file. Only dataset.py may make them on what a dataset holds.
TOUCHING = {"open", "listdir", "lstat", "pread", "readlink", "scandir", "stat", "walk"}
#: Modules between the dataset and the kernel. None of them has a reason to touch any file but through dataset.py.
BETWEEN = [
    "content",
    "table",
    "inos",
    "repeats",
    "nodes",
    "view",
    "census",
    "pairs",
    "layout",
    "sameness",
    "dedup",
    "selection",
    "explain",
    "progress",
    "control",
    "counters",
    "policy",
    "errors",
    "fuse.server",
    "fuse.layers",
    "fuse.passthrough",
    "fuse.abi",
    "fuse.libfuse",
]
#: What those may do all the same, each with its reason.
EXCEPTIONS = {
    ("control", "os.readlink"): "/proc/self/ns/pid, which says in which namespace our pid counts",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """Names for annotations are no dependency at run time: `if TYPE_CHECKING:` is left out."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    kept = Drop().visit(tree)
    assert isinstance(kept, ast.Module)
    return kept


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


@pytest.mark.parametrize("module", sorted(set(modules()) - DOORS))
def test_imports_run_one_way(module: str) -> None:
    tree = without_type_checking(ast.parse(modules()[module].read_text(encoding="utf-8")))
    ours = {name for name in imported(tree) if name.startswith("symfuse.") and name != "symfuse.__version__"}
    upwards = {name for name in ours if layer(name) > layer(module)}
    assert not upwards, f"{module} imports from a layer above it"


def test_the_order_is_the_one_that_the_design_names() -> None:
    design = " ".join((REPOSITORY / "docs/design.md").read_text(encoding="utf-8").split())
    stated = design.partition("Imports run one way, down this list (`")[2].partition("`")[0]
    assert stated.split(" < ") == LAYERS


@pytest.mark.parametrize("module", BETWEEN)
def test_only_the_dataset_module_touches_dataset_files(module: str) -> None:
    tree = ast.parse(modules()[f"symfuse.{module}"].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    touching = {name for name in called if name.removeprefix("self.").rpartition(".")[2] in TOUCHING}
    # A method of our own that is called `open` is no open(2).
    touching = {name for name in touching if name == "open" or name.startswith(("os.", "io.", "shutil."))}
    assert {(module, name) for name in touching} <= set(EXCEPTIONS)


def test_nothing_opens_a_dataset_file_for_writing() -> None:
    tree = ast.parse(modules()["symfuse.dataset"].read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}
    changing = {"chmod", "chown", "link", "mkdir", "mknod", "pwrite", "remove", "rename", "rmdir", "symlink"}
    changing |= {"truncate", "unlink", "utime", "write"}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {name for name in called if name.startswith("os.") and name[3:] in changing}
    assert "open" not in called
