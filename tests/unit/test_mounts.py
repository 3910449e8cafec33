"""The parts of a mount's life that need no FUSE."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from symfuse import directories
from symfuse.counters import Counters
from symfuse.dataset import real_root
from symfuse.errors import DatasetRefused, FuseUnavailable, MountpointError, NotMounted, SourceError, UsageError
from symfuse.mounts import holders, launch, preflight, table, unmount
from symfuse.mounts.prepare import YIELD_S, politely, prepare, refuse
from symfuse.mounts.request import MountRequest, absolute, kinds, request
from symfuse.mounts.session import place
from symfuse.mounts.table import MountEntry
from symfuse.mounts.visible import visible
from symfuse.policy import PROBLEMS, Backend, DirLinks, DotEntries, Finding, Judge, Kind, NameRule, Outside, Policy
from symfuse.progress import Progress
from tests.support.trees import tree

# -- table ------------------------------------------------------------------------------------------------------------

MOUNTINFO = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
29 27 0:25 / /data rw shared:7 master:3 - tmpfs tmpfs rw
36 27 0:39 / /mnt/a\040b ro,nosuid - fuse.symfuse /data/x\134y\012z ro,user_id=1000,group_id=100
37 27 0:39 /cat /mnt/part ro - fuse.symfuse /data/x ro,user_id=0,group_id=0
"""


def test_a_carriage_return_in_a_name_ends_no_line_of_mountinfo() -> None:
    (found,) = table.parse(b"36 27 0:39 / /mnt/a\rb ro - fuse.symfuse /data/x ro,user_id=0\n")
    assert found.mountpoint == b"/mnt/a\rb"


def test_mountinfo_is_read_with_its_escapes_and_optional_fields() -> None:
    root, data, view, part = table.parse(MOUNTINFO)
    assert root.mountpoint == b"/"
    assert root.user is None
    assert (data.fstype, data.source) == (b"tmpfs", b"tmpfs")
    assert view == MountEntry(36, 27, os.makedev(0, 39), b"/", b"/mnt/a b", b"fuse.symfuse", b"/data/x\\y\nz", 1000)
    assert view.is_symfuse
    assert not part.is_symfuse, "a bind mount of a part is nothing to unmount or ask"


def test_the_mounts_of_this_machine_can_be_read() -> None:
    mount = table.covering(b"/proc/self")
    assert mount is not None
    assert mount.fstype == b"proc"
    assert mount.device == os.stat("/proc").st_dev


def entry(mount_id: int, parent_id: int, mountpoint: bytes) -> MountEntry:
    return MountEntry(mount_id, parent_id, 0, b"/", mountpoint, b"ext4", b"disk", None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", 1),
        (b"/mnt", 1),
        (b"/mnt/ab", 1),
        (b"/mnt/a", 3),
        (b"/mnt/a/x/y", 3),
        (b"/over", 5),
        (b"/over/below", 5),
        (b"/over/below/x", 5),
        (b"/home/x", 6),
    ],
)
def test_the_mount_a_path_lies_on(path: bytes, expected: int) -> None:
    entries = [
        entry(1, 0, b"/"),
        entry(2, 1, b"/mnt/a"),
        entry(3, 2, b"/mnt/a"),  # on top of 2
        entry(4, 1, b"/over/below"),
        entry(5, 1, b"/over"),  # hides 4
        entry(6, 1, b"/home"),
    ]
    found = table.covering(path, entries)
    assert found is not None
    assert found.mount_id == expected


def test_in_a_chroot_the_root_mount_may_be_missing() -> None:
    found = table.covering(b"/mnt/x", [entry(8, 7, b"/mnt")])
    assert found is not None
    assert found.mount_id == 8
    assert table.covering(b"/other", [entry(8, 7, b"/mnt")]) is None


# -- request ----------------------------------------------------------------------------------------------------------


def test_a_request_survives_the_pipe() -> None:
    asked = MountRequest(
        source=b"/data/\xff\n",
        mountpoint=b"/mnt/\xc3\xa9,\\",
        policy=Policy(
            outside=Outside.HIDE,
            dir_links=DirLinks.HIDE,
            dot_entries=DotEntries.SHOW,
            name_rules=(NameRule(False, b"\xff,*"), NameRule(True, b"raw/")),
            allow_roots=(b"/srv/\xfe", b"/x"),
            fail_on=frozenset({Kind.LOOP, Kind.CYCLE}),
        ),
        backend=Backend.FUSEPY,
        allow_other=True,
        noexec=True,
        eager=True,
        remove_mountpoint=True,
        log="/var/log/x",
    )
    line = asked.to_json()
    assert line.count(b"\n") == 1
    assert MountRequest.from_json(line) == asked
    assert MountRequest.from_json(MountRequest(source=b"/", mountpoint=b"/m").to_json()).policy == Policy()


def test_paths_become_absolute_and_the_mountpoint_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    made = request("alias/", "alias", allow_root="alias")
    assert made.source == os.fsencode(tmp_path / "alias"), "the dataset keeps the name the user gave it"
    assert made.mountpoint == os.fsencode(tmp_path / "real")
    assert made.policy.allow_roots == (os.fsencode(tmp_path / "real"),)


def test_dot_dot_is_resolved_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("a/b")
    assert absolute(tmp_path / "alias/../b") == os.fsencode(tmp_path / "a/b")
    assert absolute(b"//x/./y//") == b"/x/y"


@pytest.mark.parametrize("words", ["any", {"any"}, ["any", "loop"]])
def test_any_is_every_problem_and_no_choice(words: str) -> None:
    assert kinds(words) == {*PROBLEMS, Finding.EMPTIED}
    assert Kind.DOT_ENTRY not in kinds(words)


def test_in_python_all_that_is_shown_counts_after_all_that_is_hidden() -> None:
    made = request("/", "/m", show="a", hide=["b", b"\xff"], name_rules=[NameRule(False, b"first")])
    assert [(rule.hides, rule.glob) for rule in made.policy.name_rules] == [
        *((False, b"first"), (True, b"b"), (True, b"\xff"), (False, b"a")),
    ]


def test_words_that_are_no_choice_are_refused_with_the_choices() -> None:
    for options in ({"fail_on": "ugly"}, {"backend": "ugly"}, {"outside": "ugly"}, {"dot_entries": "ugly"}):
        with pytest.raises(UsageError, match=r"'ugly': choose from \w+"):
            request("/", "/m", **options)  # type: ignore[arg-type]


def test_outside_follow_with_allow_other_names_the_way_out() -> None:
    with pytest.raises(UsageError, match="--allow-root"):
        request("/", "/m", allow_other=True, outside="follow")
    assert request("/", "/m", allow_other=True).policy.outside is Outside.FOLLOW


@pytest.mark.parametrize("choice", [{"stack": True}, {"io": "passthrough"}])
def test_what_the_kernel_backend_alone_can_do_names_the_way_out(choice: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"needs the kernel backend.*leave out --(stack|io) or --backend fusepy"):
        request("/", "/m", backend="fusepy", **choice)
    for io in ("auto", "cached"):
        assert request("/", "/m", backend="fusepy", io=io).io == io


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"dedup_scope": "all"}, "--dedup-scope"),
        ({"layout": "class"}, "--layout"),
        ({"prefer": "*.png"}, "--prefer"),
        ({"split_order": "test,train"}, "--split-order"),
        ({"conflicts": "keep"}, "--conflicts"),
        ({"fail_on": "leak"}, "--fail-on leak"),
    ],
)
def test_what_does_nothing_without_dedup_is_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} does nothing.*: add --dedup"):
        request("/", "/m", **options)
    assert request("/", "/m", dedup="target", **options).policy.looks_into_files


@pytest.mark.parametrize("options", [{"side_files": "keep"}, {"fail_on": "side-file"}])
def test_side_files_go_with_images_that_are_hidden_for_their_content(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="add --dedup target, bytes or pixels, or --broken-images hide"):
        request("/", "/m", **options)
    for hides in ({"dedup": "target"}, {"broken_images": "hide"}):
        assert request("/", "/m", **hides, **options).policy.looks_into_files  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave out one of them"):
        request("/", "/m", dedup="bytes", side_files="keep", fail_on="side-file")


def test_narrowed_is_a_word_for_mounts_that_others_may_look_at() -> None:
    with pytest.raises(UsageError, match=r"^--fail-on narrowed does nothing on a private mount: add --allow-other"):
        request("/", "/m", fail_on="narrowed")
    assert request("/", "/m", fail_on="narrowed", allow_other=True).policy.fail_on == {Finding.NARROWED}


def test_other_choices_about_images_that_do_nothing_are_refused() -> None:
    for idle in ({"fail_on": "broken"}, {"judge": "tensorflow"}, {"judge": "both"}):
        with pytest.raises(UsageError, match="add --broken-images hide"):
            request("/", "/m", **idle)  # type: ignore[arg-type]
    assert request("/", "/m", broken_images="hide", judge="both").policy.judge is Judge.BOTH
    assert request("/", "/m", judge="pillow").policy.judge is Judge.PILLOW
    with pytest.raises(UsageError, match="add --dedup-scope split"):
        request("/", "/m", dedup="bytes", conflicts="drop")


# -- preflight --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "dataset/class").mkdir(parents=True)
    return tmp_path / "dataset"


def refusal(mountpoint: Path, dataset: Path) -> str:
    with pytest.raises(MountpointError) as refused:
        preflight.check_mountpoint(os.path.realpath(os.fsencode(mountpoint)), os.fsencode(dataset))
    assert refused.value.cure
    return refused.value.cause


def test_mountpoints_that_are_refused(dataset: Path, tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere", dataset)
    (tmp_path / "file").touch()
    assert "not a directory" in refusal(tmp_path / "file", dataset)
    assert "Not a directory" in refusal(tmp_path / "file/below", dataset)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    assert "not empty" in refusal(tmp_path / "full", dataset)


def test_mountpoints_entangled_with_the_dataset(dataset: Path, tmp_path: Path) -> None:
    assert "is the dataset itself" in refusal(dataset, dataset)
    assert "is inside the dataset" in refusal(dataset / "class", dataset)
    assert "contains the dataset" in refusal(tmp_path, dataset)
    assert "contains the dataset" in refusal(Path("/"), dataset)
    (tmp_path / "alias").symlink_to(dataset)
    assert "is the dataset itself" in refusal(tmp_path / "alias", dataset)
    assert "is inside the dataset" in refusal(tmp_path / "alias/class", dataset)
    assert "is inside the dataset" in refusal(dataset / "class", tmp_path / "alias")
    (tmp_path / "other").mkdir()
    preflight.check_mountpoint(os.fsencode(tmp_path / "other"), os.fsencode(dataset))
    (tmp_path / "dataset2").mkdir()
    preflight.check_mountpoint(os.fsencode(tmp_path / "dataset2"), os.fsencode(dataset))


def test_sources_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, cause in (("nowhere", "does not exist"), ("file", "not a directory"), ("file/x", "Not a directory")):
        with pytest.raises(SourceError, match=cause):
            real_root(os.fsencode(tmp_path / name))


def test_without_libfuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSE_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    with pytest.raises(FuseUnavailable, match="libfuse2"):
        preflight.check_fuse(Backend.FUSEPY)
    preflight.check_fuse(Backend.KERNEL)


def test_fusepy_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes.util", None)
    with pytest.raises(FuseUnavailable, match=r"ctypes.*--backend kernel"):
        preflight.check_fuse(Backend.FUSEPY)


# -- serving, launching, unmounting -----------------------------------------------------------------------------------


def test_the_background_freeze_steps_aside_while_there_are_requests() -> None:
    rests: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout or 0)
            return self.is_set()

    counters, stop = Counters(), Stop()
    keep_on = politely(counters, stop)
    assert keep_on()
    for name in ("read", "lookup", "ioctl", "readdirplus", "readdir"):
        counters.tally().requests[name] += 1
        assert keep_on()
        assert keep_on(), "it rests once for each request, and goes on when there are no more"
    listing = [0.0, 0.0]  # who lists waits for just what the freeze does
    assert rests == [0, *[YIELD_S, 0] * 3, *listing, *listing]
    stop.set()
    assert not keep_on()


def test_a_refusal_shows_names_as_people_may_read_them(tmp_path: Path) -> None:
    leak = tree(tmp_path / "leak", {"a\x1b[31m\n": {"1.png": b"1"}, "b": {"1.png": b"1"}})
    pair = tree(tmp_path / "pair", {"images": {"1.png": b"1", "2\x1b.png": b"1"}, "masks": {"x": {"3.png": b"1"}}})
    for root, fail_on in ((leak, "leak"), (pair, ())):
        wanted = request(root, "/m", dedup="bytes", fail_on=fail_on)
        with pytest.raises(DatasetRefused) as refused:
            prepare(wanted, lambda _event: None, threading.Event())
        assert "\\x1b" in str(refused.value)
        assert "\x1b" not in str(refused.value)


def test_a_refusal_counts_each_kind_and_names_the_first_five() -> None:
    progress = Progress()
    progress.note(Kind.DANGLING, b"a/x")
    progress.note(Kind.DANGLING, b"a/y")
    progress.note(Kind.LOOP, b"new\nline")
    for number in range(6):
        progress.note(Kind.SPECIAL, b"%d" % number)
    progress.note(Kind.DOT_ENTRY, b".git")
    with pytest.raises(DatasetRefused) as refused:
        refuse(progress, Policy(fail_on=PROBLEMS))
    assert refused.value.cause == (
        r"the dataset has 2 dangling (a/x; a/y), 1 loop (new\nline), 6 special (0; 1; 2; 3; 4; …)"
    )
    refuse(progress, Policy(fail_on=frozenset({Kind.CYCLE})))


@pytest.fixture
def no_home_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password database knows no home where root could write instead."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)


def test_a_log_is_begun_again_when_it_has_grown_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked = MountRequest(source=b"/data", mountpoint=b"/mnt")
    for written, kept in ((launch.MAX_LOG_BYTES, launch.MAX_LOG_BYTES), (1, 0), (10, 10)):
        with launch._open_log(asked, pytest.fail)[0] as file:
            file.write(b"x" * written)
        with launch._open_log(asked, pytest.fail)[0] as file:
            assert os.fstat(file.fileno()).st_size == kept


@pytest.mark.usefixtures("no_home_of_root")
def test_no_log_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = MountRequest(source=b"/data", mountpoint=b"/mnt")
    file, noted = launch._open_log(asked, pytest.fail)
    file.close()
    assert noted.log is not None
    os.unlink(noted.log)
    (tmp_path / "victim").touch()
    os.symlink(tmp_path / "victim", noted.log)
    file, elsewhere = launch._open_log(asked, pytest.fail)
    with file:
        file.write(b"x")
    assert elsewhere.log not in (None, noted.log)
    assert (tmp_path / "victim").read_bytes() == b""


@pytest.mark.usefixtures("no_home_of_root")
@pytest.mark.parametrize("planted", ["another name of a file", "a fifo", "a directory"])
def test_nothing_but_a_file_of_its_own_is_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = MountRequest(source=b"/data", mountpoint=b"/mnt")
    file, noted = launch._open_log(asked, pytest.fail)
    file.close()
    assert noted.log is not None
    os.unlink(noted.log)
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    {"a fifo": os.mkfifo, "a directory": os.mkdir}.get(planted, lambda log: os.link(victim, log))(noted.log)
    file, elsewhere = launch._open_log(asked, pytest.fail)
    with file:
        file.write(b"x")
    assert elsewhere.log is not None
    assert Path(elsewhere.log).parent == tmp_path
    assert victim.read_bytes() == b"kept"


@pytest.mark.usefixtures("no_home_of_root")
def test_the_log_falls_back_where_the_home_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = MountRequest(source=b"/data", mountpoint=b"/mnt/-rf \n" + b"x" * 300)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file, noted = launch._open_log(asked, pytest.fail)
    with file:
        assert noted.log is not None
        assert noted.log.startswith(str(tmp_path / "state"))
        assert stat.S_IMODE(os.stat(noted.log).st_mode) == 0o600

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file, noted = launch._open_log(asked, pytest.fail)
    with file:
        assert noted.log is not None
        assert os.path.dirname(noted.log) == str(tmp_path)

    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(directories, "_TEMPORARY", (str(tmp_path / "file"),))
    file, noted = launch._open_log(asked, pytest.fail)
    with file:
        assert noted.log is None
        file.write(b"Traceback\n  there\nValueError: what it died of\n\n")
        assert launch._last_line(file) == "ValueError: what it died of"

    monkeypatch.delattr(os, "memfd_create")  # builds of Python made on an older system lack it
    file, noted = launch._open_log(asked, pytest.fail)
    with file:
        assert noted.log is None
        file.write(b"lost")
        assert launch._last_line(file) == "it wrote nothing"


def test_holders_are_found_by_mount_and_not_by_path(tmp_path: Path) -> None:
    mount = table.covering(os.path.realpath(os.fsencode(tmp_path)))
    assert mount is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path) as child:
        found = {holder.pid: holder for holder in holders.holders(mount)}
        assert found[child.pid].how == "working directory"
        assert f"(process {child.pid}, working directory)" in str(found[child.pid])
        elsewhere = {holder.pid for holder in holders.holders(mount._replace(mount_id=-1, device=os.makedev(999, 999)))}
        assert child.pid not in elsewhere
        child.kill()


def test_unmounting_what_is_no_mount_of_ours(tmp_path: Path) -> None:
    with pytest.raises(NotMounted, match="nothing is mounted"):
        unmount.unmount(os.fsencode(tmp_path))
    with pytest.raises(NotMounted, match=r"no symfuse mount but proc.*use umount"):
        unmount.unmount(b"/proc")
    assert not unmount.clear_dead(os.fsencode(tmp_path))
    assert not unmount.clear_dead(b"/proc")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcode 猫 🐈", "plain Ünïcode 猫 🐈"),
        ("a\nb\tc\x1b[0m", r"a\nb\tc\x1b[0m"),
        (os.fsdecode(b"\xff"), r"\xff"),
        ("\u2028\u202e\ud800", r"\u2028\u202e\ud800"),
    ],
)
def test_names_are_shown_on_one_line(text: str, shown: str) -> None:
    assert visible(text) == shown
    visible(text).encode()


# -- session -----------------------------------------------------------------------------------------------------------


def test_no_place_for_a_temporary_mountpoint_is_said_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(directories, "_TEMPORARY", ())
    with pytest.raises(MountpointError, match="--at"), place(None):
        raise AssertionError("there is no place")
