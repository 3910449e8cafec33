"""The user's project does not get into our processes: neither its modules, nor what it has Python run and print."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.child import ALONE
from tests.support.mounting import MYSELF, REPOSITORY, Run, User, mounts
from tests.support.pictures import picture
from tests.support.trees import tree

pytestmark = pytest.mark.usefixtures("fuse")

#: Modules of the standard library that our processes use, and some packages that symfuse needs.
SHADOWED = ["resource", "socket", "json", "fcntl", "selectors", "mmap", "platformdirs", "blake3", "click", "fuse"]
#: What a careless `sitecustomize` or `.pth` does.
IN_OURS = "import os, sys\nif 'symfuse.mounts.serve' in str(sys.orig_argv):\n    "
HOOKS = {
    "prints": "print('hello from the project')",
    "prints more than a pipe holds": IN_OURS + "print('x' * (1 << 20), flush=True)",
    "closes stdout": IN_OURS + "sys.stdout.close()",
    "closes descriptor 1": IN_OURS + "os.close(1)",
}
#: Decodes, mounts, asks and unmounts, with everything that a mount starts.
TRAIN = """
import os, sys
{before}
import symfuse
with symfuse.mounted({dataset!r}, dedup="pixels", broken_images="hide", eager=True) as path:
    print(sorted(os.listdir(path + "/cat")), flush=True)
print("done")
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tree(tmp_path / "dataset", {"cat": {"1.png": picture(1), "2.png": picture(1), "3.png": b"no image"}})


@pytest.fixture(autouse=True)
def nothing_is_mounted(dataset: Path) -> Iterator[None]:
    yield
    assert bytes(dataset) not in mounts().values()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's directory, with a module of the name of each that must not be taken for it."""
    poison = "open(__file__ + '.loaded', 'w').close()\nraise SystemExit('the wrong module')\n"
    return tree(tmp_path / "project", {f"{name}.py": poison.encode() for name in SHADOWED})


def trained(user: User, project: Path, dataset: Path, *, before: str = "", **environment: str) -> Run:
    """What becomes of a script in a project."""
    (project / "train.py").write_text(TRAIN.format(before=before, dataset=str(dataset)))
    user = dataclasses.replace(user, environment={**user.environment, **environment})
    return user.run(user.python, project / "train.py", check=False)


def loaded(project: Path) -> list[str]:
    return [path.name for path in project.glob("*.loaded")]


#: The script itself would find its own directory's modules; what it has loaded already it has.
LOADED_BEFORE = f"here = sys.path.pop(0); sys.path.insert(0, {str(REPOSITORY)!r})\n" + (
    "import symfuse.mounts.session, symfuse.mounts.launch\nsys.path.insert(0, here)"
)


def test_modules_beside_the_script_are_not_taken_for_the_standard_librarys(project: Path, dataset: Path) -> None:
    done = trained(MYSELF, project, dataset, before=LOADED_BEFORE)
    assert (done.stdout, done.returncode) == ("['1.png']\ndone\n", 0), done.stderr
    assert loaded(project) == []


@pytest.mark.parametrize("name", ["resource", "mmap"])
def test_a_module_that_only_our_processes_need_may_lie_in_pythonpath(
    tmp_path: Path, project: Path, dataset: Path, name: str
) -> None:
    """The command itself loads what PYTHONPATH has of the modules that it needs, as every Python does."""
    for other in set(SHADOWED) - {name}:
        (project / f"{other}.py").unlink()
    user = dataclasses.replace(
        MYSELF, environment={"PYTHONPATH": os.pathsep.join([str(project), MYSELF.environment["PYTHONPATH"]])}
    )
    done = user.symfuse("run", "--dedup", "pixels", "--broken-images", "hide", dataset, "--", "ls", "{}/cat")
    assert done.stdout == "1.png\n"
    assert loaded(project) == []


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_what_the_project_has_python_run_is_not_run_in_our_processes(
    tmp_path: Path, dataset: Path, name: str, hook: str
) -> None:
    project = tree(tmp_path / "project", {f"{name}.py": HOOKS[hook].encode()})
    path = os.pathsep.join([str(project), MYSELF.environment["PYTHONPATH"]])
    done = trained(MYSELF, project, dataset, PYTHONPATH=path)
    assert done.stdout.endswith("['1.png']\ndone\n"), done.stderr
    assert done.stderr.count("hello") == 0
    user = dataclasses.replace(MYSELF, environment={"PYTHONPATH": path})
    ran = user.symfuse("run", "--dedup", "pixels", "--broken-images", "hide", dataset, "--", "ls", "{}/cat")
    assert ran.stdout.endswith("1.png\n")


#: Says which processes have run it.
RECORDER = "import sys\nwith open({record!r}, 'a') as record:\n    print(*sys.orig_argv, file=record)\n"


def ran_in(record: Path, user: User, dataset: Path) -> list[str]:
    """The processes of ours, of all that a mount starts, that ran the recorder; the command itself is the user's."""
    user.symfuse("run", "--dedup", "pixels", "--broken-images", "hide", dataset, "--", "true")
    lines = record.read_text().splitlines()
    ours = [line for line in lines if str(REPOSITORY / "symfuse") in line]
    assert set(lines) > set(ours), "it is run, but not in ours"
    return ours


@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_what_lies_in_pythonpath_is_run_in_none_of_our_processes(tmp_path: Path, dataset: Path, name: str) -> None:
    record = tmp_path / "record"
    project = tree(tmp_path / "project", {f"{name}.py": RECORDER.format(record=str(record)).encode()})
    path = os.pathsep.join([str(project), MYSELF.environment["PYTHONPATH"]])
    user = User(environment={"PYTHONPATH": with_packages(path)}, python=os.path.realpath(sys.executable))
    assert ran_in(record, user, dataset) == []


@pytest.mark.parametrize("name", ["usercustomize.py", "hook.pth"])
def test_what_the_user_has_every_python_run_is_run_in_none_of_our_processes(
    tmp_path: Path, dataset: Path, name: str
) -> None:
    """In their own directory of packages, which a virtual environment has not."""
    record, home = tmp_path / "record", tmp_path / "home"
    environment = {"HOME": str(home), "PYTHONPATH": with_packages(MYSELF.environment["PYTHONPATH"])}
    user = User(environment=environment, python=os.path.realpath(sys.executable))
    site = Path(user.script("import site; print(site.getusersitepackages())").stdout.strip())
    site.mkdir(parents=True)
    (site / "a_hook.py").write_text(RECORDER.format(record=str(record)))
    (site / name).write_text("import a_hook\n")
    assert ran_in(record, user, dataset) == []


def with_packages(path: str) -> str:
    """A path for a Python that has none of the packages installed."""
    return os.pathsep.join([path, *(each for each in sys.path if each.endswith("site-packages"))])


@pytest.fixture
def virtual(tmp_path: Path) -> User:
    """Ourselves, with a virtual environment made for the test; symfuse and its packages are installed by a `.pth`."""
    site = tmp_path / "venv" / sysconfig.get_path("purelib", vars={"base": "", "platbase": ""}).lstrip("/")
    site.mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "venv/bin/python").symlink_to(os.path.realpath(sys.executable))
    home = os.path.dirname(os.path.realpath(sys.executable))
    (tmp_path / "venv/pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "installed.pth").write_text("\n".join([str(REPOSITORY), *packages]) + "\n")
    return User(python=str(tmp_path / "venv/bin/python"), environment={"PYTHONPATH": ""}, home=site)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["sitecustomize.py", "hook.pth"])
def test_what_this_python_is_set_up_to_run_may_print_and_close_stdout(
    tmp_path: Path, dataset: Path, virtual: User, name: str, hook: str
) -> None:
    (virtual.home / "a_hook.py").write_text(HOOKS[hook] + "\n")
    (virtual.home / name).write_text("import a_hook\n")
    project = tree(tmp_path / "project", {})
    done = trained(virtual, project, dataset)
    assert done.stdout.endswith("['1.png']\ndone\n"), done.stderr
    ran = virtual.symfuse("run", "--dedup", "pixels", "--broken-images", "hide", dataset, "--", "ls", "{}/cat")
    assert ran.stdout.endswith("1.png\n")
    at = tmp_path / "mnt"
    at.mkdir()
    virtual.symfuse("mount", "--dedup", "pixels", dataset, at)
    try:
        status = virtual.symfuse("status", "--json", at).stdout
        assert json.loads(status[status.index("{") :])["state"] == "alive"
    finally:
        virtual.symfuse("umount", at)


def test_what_this_python_is_set_up_to_run_is_not_run_in_processes_that_need_no_packages(
    tmp_path: Path, dataset: Path, virtual: User
) -> None:
    (virtual.home / "a_hook.py").write_text(RECORDER.format(record=str(tmp_path / "record")))
    (virtual.home / "hook.pth").write_text("import a_hook\n")  # Debian has a sitecustomize of its own
    ours = ran_in(tmp_path / "record", virtual, dataset)
    assert {line.split()[-1] for line in ours if ALONE in line or "probe.py" in line} == set()
    assert ours, "the server has packages"


def test_an_editable_install_that_is_a_finder_works(tmp_path: Path, dataset: Path, virtual: User) -> None:
    """As setuptools makes them: no path, but a finder that knows where each package lies."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (virtual.home / "installed.pth").write_text("\n".join(packages) + "\nimport a_finder\n")
    (virtual.home / "a_finder.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'symfuse':\n"
        f"            file = {str(REPOSITORY / 'symfuse/__init__.py')!r}\n"
        "            return importlib.util.spec_from_file_location(name, file)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = trained(virtual, tree(tmp_path / "project", {}), dataset)
    assert done.stdout == "['1.png']\ndone\n", done.stderr
