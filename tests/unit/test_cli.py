"""How the command line reads words and reports failures; no FUSE."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import symfuse
from symfuse import cli
from symfuse.cli import main
from symfuse.cli.mount import command as mount
from symfuse.cli.options import split_options
from symfuse.cli.output import hidden_lines, quoted
from symfuse.cli.progress import ProgressDisplay
from symfuse.errors import ExitStatus, MountBusy, NotMounted
from symfuse.mountinfo import FSTYPE, MountEntry
from symfuse.mounts.request import MountRequest
from symfuse.policy import Backend, DirLinks, DotEntries, Kind, NameRule, Outside
from symfuse.progress import Progress
from tests.support.mounting import MYSELF


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`requested("mount", …)` is the request that a command line makes; SRC, MNT and DIR are directories in it."""
    seen: list[MountRequest] = []

    def check(request: MountRequest, **_: object) -> None:
        seen.append(request)
        raise MountBusy("seen")

    monkeypatch.setattr("symfuse.mounts.preflight.check", check)
    monkeypatch.chdir(tmp_path)
    for name in ("SRC", "MNT", "DIR"):
        (tmp_path / name).mkdir()

    def parse(*arguments: str) -> MountRequest:
        assert main(arguments) == ExitStatus.BUSY
        return seen.pop()

    return parse


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a usage error is."""
    assert main(arguments) == ExitStatus.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("symfuse: ")
    return said.err


def test_version_is_quick_because_it_loads_little() -> None:
    done = MYSELF.run(sys.executable, "-X", "importtime", "-m", "symfuse", "--version")
    assert done.stdout == f"symfuse {symfuse.__version__}\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    heavy = {
        "rich",
        "psutil",
        "platformdirs",
        "PIL",
        "fuse",
        "ctypes",
        "subprocess",
        "symfuse.view",
        "symfuse.mounts.launch",
    }
    assert not loaded & heavy


def test_what_is_asked_for_without_options(requested: Any, tmp_path: Path) -> None:
    asked = requested("mount", "SRC", "MNT")
    assert asked.source == os.fsencode(tmp_path / "SRC")
    assert asked.mountpoint == os.fsencode(tmp_path / "MNT")
    assert asked == MountRequest(source=asked.source, mountpoint=asked.mountpoint)


#: What the options say that take no word from a list, on a command line and after -o.
TEXTS = {
    "fail_on": [
        (["dangling,loop"], "fail_on=dangling:loop"),
        (["dangling", "loop"], "fail_on=dangling,fail_on=loop"),
        (["any"], "fail_on=any"),
    ],
    "allow_root": [(["DIR", "SRC"], "allow_root=DIR,allow_root=SRC")],
    "layout": [
        (["class"], "layout=class"),
        (["*/{split}/{class}"], "layout=*/{split}/{class}"),
        (["[a,b]{split}"], r"layout=[a\,b]{split}"),
    ],
    "prefer": [(["val/*", "*.png"], "prefer=val/*,prefer=*.png")],
    "hide": [(["*.txt", "a\\b,c", "raw/"], r"hide=*.txt,hide=a\\b\,c,hide=raw/")],
    "show": [([".zarray", "/x"], "show=.zarray,show=/x")],
    "split_order": [(["val,train"], "split_order=val:train")],
}
#: What an option needs beside it to mean anything.
BESIDE = dict.fromkeys(
    ("dedup_scope", "layout", "prefer", "split_order", "conflicts", "side_files"),
    (["--dedup", "bytes", "--dedup-scope", "all"], "dedup=bytes,dedup_scope=all"),
)
BESIDE["judge"] = (["--broken-images", "hide"], "broken_images=hide")
BESIDE["dedup_scope"] = (["--dedup", "bytes"], "dedup=bytes")


def every_option() -> Iterator[tuple[list[str], str]]:
    """Every option of `mount` with every word that it takes but for its default, and the same as -o has it."""
    for option in mount.params:
        if not isinstance(option, click.Option) or option.name in (None, "mount_options", "foreground"):
            continue
        name = option.name
        flag = f"--{name.replace('_', '-')}"
        if option.is_flag:
            said: list[tuple[list[str], str]] = [([flag], name)]
        elif isinstance(option.type, click.Choice):
            words = [str(word) for word in option.type.choices if word != option.default]
            said = [([flag, word], f"{name}={word}") for word in words]
        else:
            said = [([part for word in words for part in (flag, word)], short) for words, short in TEXTS[name]]
        long_beside, short_beside = BESIDE.get(name, ([], ""))
        for long, short in said:
            yield [*long, *long_beside], ",".join(filter(None, (short, short_beside)))


@pytest.mark.parametrize(("long", "short"), list(every_option()))
def test_every_option_has_its_mount_option(requested: Any, long: list[str], short: str) -> None:
    plain = requested("mount", "SRC", "MNT")
    asked = requested("mount", *long, "SRC", "MNT")
    assert asked != plain or long == ["--outside", "follow"]  # which is the default, but no other user's
    assert requested("mount", "SRC", "MNT", "-o", short) == asked
    assert requested("SRC", "MNT", "-o", f"rw,{short},nofail") == asked
    assert requested("-o", short, "SRC", "MNT") == asked


def test_the_options_mean_what_they_say(requested: Any, tmp_path: Path) -> None:
    words = "backend=fusepy,outside=hide,dir_links=hide,dot_entries=show,allow_root=DIR,fail_on=cycle,eager,allow_other"
    asked = requested("SRC", "MNT", "-o", words)
    assert asked.backend is Backend.FUSEPY
    assert asked.policy.outside is Outside.HIDE
    assert asked.policy.dir_links is DirLinks.HIDE
    assert asked.policy.dot_entries is DotEntries.SHOW
    assert asked.policy.allow_roots == (os.fsencode(tmp_path / "DIR"),)
    assert asked.policy.fail_on == {Kind.CYCLE}
    assert asked.eager
    assert asked.allow_other


def test_an_option_of_its_own_outweighs_o(requested: Any) -> None:
    assert requested("mount", "-o", "backend=fusepy", "--backend", "kernel", "SRC", "MNT").backend is Backend.KERNEL


def test_hide_and_show_keep_their_order_and_follow_those_of_o(requested: Any) -> None:
    """Of all that match an entry the last decides."""

    def asked(*arguments: str) -> list[str]:
        rules = requested(*arguments).policy.name_rules
        return [("-" if rule.hides else "+") + os.fsdecode(rule.glob) for rule in rules]

    words = ("--hide", "*.txt", "--show=a.txt", "--hide", "raw/")
    assert asked("mount", *words, "SRC", "MNT") == ["-*.txt", "+a.txt", "-raw/"]
    assert asked("mount", "--show", "a", "SRC", "--hide", "b", "MNT", "--show", "c") == ["+a", "-b", "+c"]
    assert asked("SRC", "MNT", "-o", "show=a,hide=b,rw,show=c") == ["+a", "-b", "+c"]
    assert asked("mount", "--hide", "x", "-o", "show=a,hide=b", "SRC", "MNT", "-oshow=c") == ["+a", "-b", "+c", "-x"]
    assert asked("mount", "--hide", os.fsdecode(b"\xff,*"), "SRC", "MNT") == [os.fsdecode(b"-\xff,*")]
    assert asked("mount", "SRC", "MNT") == []


def test_run_keeps_the_order_of_hide_and_show(monkeypatch: pytest.MonkeyPatch, requested: Any) -> None:
    seen: list[MountRequest] = []

    def check(request: MountRequest, **_: object) -> None:
        seen.append(request)
        raise MountBusy("seen")

    monkeypatch.setattr("symfuse.mounts.preflight.check", check)
    assert main(["run", "--show", "a", "--hide", "b", "SRC", "--", "ls", "--hide", "c"]) == ExitStatus.RUN_FAILED
    assert seen[0].policy.name_rules == (NameRule(False, b"a"), NameRule(True, b"b"))


def test_what_mount_and_fstab_add_is_ignored(requested: Any) -> None:
    plain = requested("SRC", "MNT")
    added = "rw,defaults,nofail,noauto,_netdev,x-systemd.automount,x-gvfs-name=my%20data,dev,suid,nosuid,owner,noatime"
    assert requested("SRC", "MNT", "-o", added) == plain
    assert requested("SRC", "MNT", "-oro", "-o", "nosymfollow") == plain


@pytest.mark.parametrize("options", ["noexec", "user", "users", "user=joe", "exec,noexec", "user,exec,noexec"])
def test_what_promises_that_nothing_is_executed_is_kept(requested: Any, options: str) -> None:
    assert requested("SRC", "MNT", "-o", options).noexec
    assert requested("SRC", "MNT", "--noexec", "-o", f"{options},exec").noexec, "an option of its own outweighs"


@pytest.mark.parametrize("options", ["exec", "owner", "group", "noexec,exec", "user,exec", "users,defaults,exec"])
def test_the_last_mount_option_says_whether_files_may_be_executed(requested: Any, options: str) -> None:
    assert not requested("SRC", "MNT", "-o", options).noexec


def test_backslashes_keep_commas_in_a_mount_option() -> None:
    assert split_options(r"a,b=c\,d\\e,,f=") == [("a", None), ("b", r"c,d\e"), ("f", "")]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("bogus", "unknown mount option 'bogus'"),
        ("backend", "takes a value"),
        ("eager=1", "takes no value"),
        ("backend=nfs", "'nfs' is not one of"),
        ("fail_on=ugly", "'ugly'"),
        ("allow_other,outside=follow", "--allow-root"),
    ],
)
def test_mount_options_that_are_refused(
    requested: Any, capsys: pytest.CaptureFixture[str], options: str, word: str
) -> None:
    assert word in refused(capsys, "SRC", "MNT", "-o", options)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["statsu"], "No such command 'statsu'"),
        (["mount"], "Missing argument 'SOURCE'"),
        (["mount", "a", "b", "c"], "unexpected extra argument"),
        (["mount", "--bogus", "a", "b"], "--bogus"),
        (["mount", "", "b"], "an empty path"),
        (["umount"], "MOUNTPOINT"),
        (["mount", "--hide", "", "SRC", "/m"], "--hide: an empty glob matches nothing: write a name or a path"),
        (["mount", "--show", "/", "SRC", "/m"], "--show: an empty glob matches nothing: write a name or a path"),
        (["mount", "-o", "hide=", "SRC", "/m"], "--hide: an empty glob matches nothing: write a name or a path"),
        (["mount", "--dedup", "bytes", "--prefer", "", "SRC", "/m"], "--prefer: an empty glob"),
        (["mount", "--dedup", "bytes", "--prefer", "val/", "SRC", "/m"], "--prefer val/ means directories"),
        (["mount", "--fail-on", "excluded", "SRC", "/m"], "add --hide GLOB"),
        (["mount", "--outside", "follow", "--allow-other", "a", "b"], "--allow-root"),
        (["why", "/etc/passwd", "--source", "/proc"], "/etc/passwd is not in /proc"),
    ],
)
def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], word: str) -> None:
    assert word in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [["run", "SRC"], ["run", "SRC", "--"], ["run", "--bogus", "--", "ls"], ["run"]])
def test_run_keeps_its_own_failures_apart(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == ExitStatus.RUN_FAILED
    assert capsys.readouterr().err.count("\n") == 1


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in (([], ExitStatus.USAGE), (["--help"], ExitStatus.OK)):
        assert main(arguments) == status
        said = capsys.readouterr()
        assert [name for name in cli.COMMANDS if f"\n  {name} " not in said.out + said.err] == []


def test_errors_cannot_forge_lines(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"/no\nsuch\x1b[31m\xff")
    assert main(["mount", name, "/tmp"]) == ExitStatus.SOURCE
    assert r"/no\nsuch\x1b[31m\xff does not exist" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli.Commands, "get_command", lambda *_: command)


def test_the_unexpected_is_one_line_with_a_way_to_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ZeroDivisionError("by\nzero"))
    assert main(["status"]) == ExitStatus.INTERNAL
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert r"by\nzero" in said
    assert "SYMFUSE_DEBUG=1" in said
    monkeypatch.setenv("SYMFUSE_DEBUG", "1")
    assert main(["run"]) == ExitStatus.RUN_FAILED
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [TimeoutError(errno.ETIMEDOUT, "Connection timed out"), NotMounted("the mount is dead: Connection timed out", "-")],
)
def test_a_mount_that_does_not_list_what_it_hides_costs_nobody_elses_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def failing_for_one(mount: str, *_arguments: object, **_keywords: object) -> dict[str, object]:
        if mount == "one":
            raise error
        return {"hidden": []}

    monkeypatch.setattr("symfuse.mounts.table.symfuse_mounts", lambda: ["one", "other"])
    monkeypatch.setattr("symfuse.mounts.live.statuses", lambda mounts: [{"mountpoint": m, "pid": 1} for m in mounts])
    monkeypatch.setattr("symfuse.mounts.channel.ask", failing_for_one)
    assert main(["status", "--all", "--json"]) == ExitStatus.NOT_MOUNTED
    said = capsys.readouterr()
    assert [("all" in status) for status in json.loads(said.out)] == [False, True]
    assert said.err.count("\n") == 1
    assert "Connection timed out" in said.err


def test_a_server_that_answers_with_an_errno_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_arguments: object, **_keywords: object) -> None:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    view = MountEntry(2, 1, 2, b"/", b"/mnt/view", FSTYPE, b"/data", os.geteuid())
    monkeypatch.setattr("symfuse.mounts.table.covering", lambda _path: view)
    monkeypatch.setattr("symfuse.mounts.channel.ask", failing)
    assert main(["why", "/mnt/view/x"]) == ExitStatus.NOT_MOUNTED
    assert "the server of /mnt/view does not answer (Inappropriate ioctl" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    failing(monkeypatch, error)
    assert main(["status"]) == ExitStatus.INTERRUPTED


def test_whoever_reads_our_output_may_stop() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "symfuse", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, **MYSELF.environment},
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (ExitStatus.INTERNAL, b"")


def test_a_full_disk_is_an_error() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this machine has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "symfuse", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, **MYSELF.environment},
            check=False,
        )
    assert done.returncode != 0
    assert os.strerror(errno.ENOSPC).encode() in done.stderr


@pytest.mark.parametrize(
    "name", ["plain", "with space", "quo'te", "new\nline", "back\\slash\n", b"\xe9'\xff", "$HOME", "é"]
)
def test_a_quoted_path_is_that_path_in_a_shell(name: str | bytes) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {quoted(os.fsdecode(name))}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)


def test_hidden_entries_are_told_by_kind() -> None:
    progress = Progress()
    for number in range(7):
        progress.note(Kind.DANGLING, b"x%d" % number)
    (line,) = hidden_lines(progress.as_dict())
    assert line.startswith("7 dangling (")
    assert line.endswith("x0, x1, x2, x3, x4, …")


def test_progress_away_from_a_terminal_is_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    frozen = Progress(directories=2, files=1000).as_dict()
    with ProgressDisplay() as progress:
        for _ in range(25):
            now_s += 1
            progress(frozen)
    said = capsys.readouterr().err.splitlines()
    assert said == ["symfuse: reading the dataset: 1,000 files in 2 directories so far"] * 2


def test_run_without_the_dashes_is_told_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "SRC", "ls", "{}"]) == ExitStatus.RUN_FAILED
    assert "write it after --" in capsys.readouterr().err
