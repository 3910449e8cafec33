"""Root with another user's HOME writes nothing there and believes nothing of it; nobody does where others can write."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from symfuse.identity.cache import VerdictCache
from symfuse.identity.content import SAMPLE_BYTES
from tests.conftest import NOBODY
from tests.support.mounting import LET_GO, MYSELF, Run, User
from tests.support.oracle import fingerprint
from tests.support.trees import Entry, Name, attributes, tree

LONG_AGO_NS = 1_700_000_000_123_456_789
#: Runs what follows where root's home is another one, and where no mount is seen from outside.
IN_ANOTHER_HOME = LET_GO + '; mount --bind "$0" /etc/passwd && exec "$@"'
ELSEWHERE = ("unshare", "--mount", "--propagation", "private", "sh", "-c", IN_ANOTHER_HOME)
MOUNT_AND_LOOK = '"$0" -m symfuse mount "$1" "$2" && "$0" -m symfuse status --json "$2" && "$0" -m symfuse umount "$2"'


@pytest.fixture
def them(ordinary_user: User) -> User:
    if ordinary_user.uid is None:
        pytest.skip("needs root and another user")
    return ordinary_user


@pytest.fixture
def dataset(them: User) -> Path:
    """Two images of one size that differ."""
    them.home.chmod(0o755)
    old: dict[Name, Entry] = {name: attributes(name.encode() * 9, mtime_ns=LONG_AGO_NS) for name in ("a.png", "b.png")}
    return tree(them.home / "dataset", {"cat": old})


@pytest.fixture
def poisoned(them: User, dataset: Path, tmp_path: Path) -> Path:
    """Their cache, which says that the two are the same image."""
    directory = them.home / "cache/symfuse"
    cache = VerdictCache.open(str(tmp_path / "cache/symfuse"))
    status = [(dataset / "cat" / name).stat() for name in ("a.png", "b.png")]
    keys = [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in status]
    cache.put(f"bytes/sample/{SAMPLE_BYTES}", [(key, b"the same digest!") for key in keys])
    cache.close()
    shutil.copytree(tmp_path / "cache", them.home / "cache")
    them.owns(them.home / "cache")
    return directory


@pytest.fixture
def roots_home(tmp_path: Path) -> Path:
    home = tmp_path / "root's home"
    home.mkdir(mode=0o700)
    return home


def with_their_environment(
    them: User, home: Path, *command: str | Path, variables: Mapping[str, str] | None = None
) -> Run:
    """Run a command as root, but with their HOME and the like, on a system where root's home is this one."""
    passwd = home.parent / "passwd"
    passwd.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
    environment = {**MYSELF.environment, **them.environment, **(variables or {})}
    environment["PYTHONPATH"] = MYSELF.environment["PYTHONPATH"]
    return dataclasses.replace(MYSELF, environment=environment).run(*ELSEWHERE, passwd, *command)


@pytest.mark.parametrize("variables", ["HOME alone", "all"])
def test_root_with_their_home_leaves_it_alone_and_keeps_a_cache_at_home(
    them: User, dataset: Path, poisoned: Path, roots_home: Path, variables: str
) -> None:
    (them.home / ".cache").symlink_to(poisoned.parent)
    (them.home / "tmp").mkdir()
    for name in (".cache", "tmp"):
        os.chown(them.home / name, NOBODY, NOBODY, follow_symlinks=False)
    named = {"TMPDIR": str(them.home / "tmp")}
    if variables == "HOME alone":
        named |= dict.fromkeys(("XDG_CACHE_HOME", "XDG_STATE_HOME"), "")
    before = fingerprint(them.home)
    symfuse = (MYSELF.python, "-m", "symfuse")
    run = with_their_environment(
        them, roots_home, *symfuse, "run", "--dedup", "bytes", dataset, "--", "ls", "{}/cat", variables=named
    )
    assert run.stdout == "a.png\nb.png\n", "the poisoned cache was believed"
    assert f"the cache is {roots_home}/.cache/symfuse: " in run.stderr
    assert "belongs to another user)" in run.stderr
    assert list((roots_home / ".cache/symfuse").glob("verdicts-*.sqlite"))
    assert fingerprint(them.home) == before
    # The cache is one that would have been believed, had it been theirs to say.
    assert them.symfuse("run", "--dedup", "bytes", dataset, "--", "ls", "{}/cat").stdout == "a.png\n"


def test_root_with_their_home_keeps_the_log_at_home_and_follows_no_planted_link(
    them: User, dataset: Path, roots_home: Path, tmp_path: Path
) -> None:
    victim, mountpoint = tmp_path / "victim", tmp_path / "mnt"
    victim.mkdir()
    mountpoint.mkdir()
    (them.home / "state").symlink_to(victim)
    os.lchown(them.home / "state", NOBODY, NOBODY)
    before = fingerprint(them.home)
    done = with_their_environment(
        them, roots_home, "sh", "-c", MOUNT_AND_LOOK, MYSELF.python, dataset, mountpoint
    )  # fmt: skip
    log = json.loads(done.stdout[done.stdout.index("{\n") :])["log"]
    assert log.startswith(f"{roots_home}/.local/state/symfuse/log/")
    assert f"the log is {log}: {them.home} belongs to another user" in done.stderr
    assert fingerprint(them.home) == before
    assert not any(victim.iterdir())


def test_root_without_any_home_goes_on_without_a_cache(them: User, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "no directory").touch()
    before = fingerprint(them.home)
    run = with_their_environment(
        them,
        tmp_path / "no directory",
        MYSELF.python,
        "-m",
        "symfuse",
        "run",
        "--dedup",
        "bytes",
        dataset,
        "--",
        "true",
    )
    assert "belongs to another user): images are read again at the next mount" in run.stderr
    assert fingerprint(them.home) == before


@pytest.mark.parametrize("opened", [".", "symfuse"])
def test_a_cache_that_others_can_write_to_is_done_without_and_the_cure_is_said(
    them: User, dataset: Path, poisoned: Path, opened: str
) -> None:
    directory = poisoned.parent / opened
    directory.chmod(0o777)
    done = them.symfuse("run", "--dedup", "bytes", dataset, "--", "ls", "{}/cat")
    assert done.stdout == "a.png\nb.png\n"
    assert f"others may write to {directory.resolve()}: chmod go-w it" in done.stderr
    directory.chmod(0o700)
    assert them.symfuse("run", "--dedup", "bytes", dataset, "--", "ls", "{}/cat").stdout == "a.png\n"
