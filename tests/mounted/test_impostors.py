"""Any user can make a mount that calls itself symfuse. Nobody else's command asks it anything, or believes a word."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from symfuse.errors import ExitStatus
from symfuse.mounts import stack
from tests.conftest import NOBODY
from tests.support.impostor import MANNERS, Impostor, impostor
from tests.support.mounting import MYSELF, User, has_ended
from tests.support.trees import tree

#: A second ordinary user: fusermount3 wants one that /etc/passwd knows.
BYSTANDER = min(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in (0, NOBODY))


@pytest.fixture
def them(ordinary_user: User) -> User:
    """Whose mount it is."""
    if ordinary_user.uid is None:
        pytest.skip("needs several users: run the tests as root")
    return ordinary_user


@pytest.fixture
def bystander(them: User, homes: list[Path]) -> User:
    """Another ordinary user."""
    home = Path(tempfile.mkdtemp(prefix="symfuse-user-"))
    homes.append(home)
    environment = {name: value.replace(str(them.home), str(home)) for name, value in them.environment.items()}
    user = dataclasses.replace(them, uid=BYSTANDER, gid=BYSTANDER, environment=environment, home=home)
    user.owns(home)
    return user


@pytest.fixture
def place(them: User) -> Path:
    """Where the impostor is mounted, in a directory of theirs that everybody may enter."""
    them.home.chmod(0o755)
    path = them.home / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of root's that nobody has to do with."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        assert process.poll() is None, "it was ended"
        process.kill()


@pytest.fixture(params=MANNERS)
def hostile(
    request: pytest.FixtureRequest, them: User, place: Path, victim: subprocess.Popen[bytes]
) -> Iterator[Impostor]:
    with impostor(place, them, str(request.param), str(victim.pid)) as made:
        yield made


def is_plain(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("manner", ["silent", "another's process"])
def test_no_command_of_root_or_of_another_user_asks_it(
    them: User, bystander: User, place: Path, victim: subprocess.Popen[bytes], manner: str
) -> None:
    dataset = tree(bystander.home / "dataset", {"cat": {"a.png": b"A"}})
    bystander.owns(dataset)
    bystander.home.chmod(0o755)
    source = "/" if manner == "silent" else str(dataset)  # what it says that it shows
    with impostor(place, them, manner, str(victim.pid), source=source) as hostile:
        for user, uid in ((MYSELF, 0), (bystander, BYSTANDER)):
            check_commands(user, hostile, dataset)
            assert hostile.asked(uid) == []
        assert hostile.is_mounted()
        MYSELF.symfuse("umount", place)
        assert not hostile.is_mounted()
        assert hostile.asked(0) == []
        assert has_ended(hostile.process.pid)


def check_commands(user: User, hostile: Impostor, dataset: Path) -> None:
    """Everything that a user may try beside it, or on it, ends as documented."""
    place, own = hostile.path, Path(tempfile.mkdtemp(prefix="symfuse-beside-"))
    user.owns(own)
    status = user.symfuse("status", "--json", place)
    assert json.loads(status.stdout)["state"] == "another-user"
    (mine,) = [each for each in json.loads(user.symfuse("status", "--json").stdout) if each["mountpoint"] == str(place)]
    assert mine["state"] == "another-user"
    assert mine["reason"] == f"it is another user's (uid {hostile.user.uid})"
    assert "ask as that user" in user.symfuse("status", place).stdout
    assert "another-user" in user.symfuse("status", "--all", place).stdout
    for words, expected in (
        (("why", place / "cat/a.png"), ExitStatus.MOUNTPOINT),
        (("why", "--all", place), ExitStatus.MOUNTPOINT),
        (("status", place / "cat"), ExitStatus.NOT_MOUNTED),
        (("mount", dataset, place), ExitStatus.MOUNTPOINT),
        (("mount", dataset, place / "cat"), ExitStatus.MOUNTPOINT),
        (("umount", "--dead"), ExitStatus.OK),
        (("why", dataset / "cat/a.png"), ExitStatus.OK),
        (("why", "--all", dataset), ExitStatus.OK),
        (("mount", dataset, own), ExitStatus.OK),
        (("umount", own), ExitStatus.OK),
        (("run", dataset, "--", "true"), ExitStatus.OK),
    ):
        done = user.symfuse(*words, check=False)
        assert done.returncode == expected, (words, done.stderr)
        assert is_plain(done.stdout + done.stderr), words
    if user is not MYSELF:
        assert user.symfuse("umount", place, check=False).returncode == ExitStatus.MOUNTPOINT
    own.rmdir()


def test_its_own_user_is_told_that_it_is_none_of_ours_and_can_unmount_it(
    hostile: Impostor, victim: subprocess.Popen[bytes]
) -> None:
    """Whoever asks their own impostor harms nobody: what it says is not believed, and never breaks a command."""
    owner = hostile.user
    for words in (("status",), ("status", "--json"), ("status", "--all"), ("why", hostile.path / "a")):
        done = owner.symfuse(*words, check=False)
        assert done.returncode in set(ExitStatus) - {ExitStatus.INTERNAL}, done.stderr
        assert "Traceback" not in done.stderr
        assert is_plain(done.stdout + done.stderr)
    assert hostile.asked(owner.uid or 0)
    MYSELF.symfuse("umount", "--lazy", hostile.path)  # the silent one's askers still wait
    assert not hostile.is_mounted()
    assert hostile.asked(0) == []
    assert victim.poll() is None


def test_a_process_that_it_names_is_not_waited_for(them: User, place: Path, victim: subprocess.Popen[bytes]) -> None:
    with impostor(place, them, "another's process", str(victim.pid)) as hostile:
        them.symfuse("umount", place)  # else it would say that the process has not ended
        assert hostile.asked(NOBODY)
        assert not hostile.is_mounted()
        assert victim.poll() is None


def test_root_unmounts_a_busy_one_lazily_and_is_told_who_uses_it(them: User, place: Path) -> None:
    with impostor(place, them, "garbage") as hostile:
        reader = subprocess.Popen(["sleep", "600"], cwd=place, user=them.uid)
        try:
            done = MYSELF.symfuse("umount", place, check=False)
            assert done.returncode == ExitStatus.BUSY
            assert f"process {reader.pid}, working directory" in done.stderr
            MYSELF.symfuse("umount", "--lazy", place)
        finally:
            reader.kill()
            reader.wait()
        assert not hostile.is_mounted()


def test_the_way_to_one_through_another_that_hangs_hangs_nobody(them: User, place: Path) -> None:
    """The inner one can be reached only through the server of the outer one, which falls silent then."""
    silence = them.home / "silence"
    with impostor(place, them, "a way in", str(silence)) as outer, impostor(place / "in", them, "silent") as inner:
        silence.touch()
        for words in (("umount",), ("umount", "--lazy")):
            done = MYSELF.symfuse(*words, inner.path, check=False)
            assert done.returncode == ExitStatus.MOUNTPOINT
            assert "cannot be unmounted (Connection timed out)" in done.stderr
        busy = MYSELF.symfuse("umount", outer.path, check=False)
        assert busy.returncode == ExitStatus.BUSY
        assert f"{inner.path} is mounted on it" in busy.stderr
        MYSELF.symfuse("umount", "--lazy", outer.path)
        assert not outer.is_mounted()
        assert not inner.is_mounted()


def test_a_directory_of_theirs_that_is_named_like_a_place_is_not_looked_into(
    them: User, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--stack` leaves in /tmp is cleared by every umount of root's; who mounts there hangs nobody."""
    path = them.home / "symfuse-stack-theirs"
    path.mkdir()
    monkeypatch.setattr(stack, "BASES", (os.fsencode(them.home),))
    with impostor(path, them, "silent") as hostile:
        stack.clear_stale()
        assert hostile.record.read_text() == "ready\n"
