"""What of a source's permissions a mode may show, case by case. The brute force is in tests/mounted/test_readers.py."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from symfuse import dataset as datasets
from symfuse.access.grants import UNKNOWN, Guard, Way, shown_mode
from symfuse.access.mounter import Mounter
from symfuse.access.ways import guard_of
from symfuse.dataset import Dataset
from symfuse.owners import OVERFLOW
from symfuse.policy import Kind, Policy
from symfuse.source.volumes import Volumes
from tests.support import readers
from tests.support.trees import Entry, Name, attributes, link, tree

#: The owner and the group of every source here, and people whom neither is.
OWNER, GROUP, NAMED_USER, NAMED_GROUP, ROOT = 1, 2, 5, 9, 0
NOBODY_NAMED = 0xFFFFFFFF


def listed(bits: int, *, mask: int = 7, user: int | None = None, group: int | None = None) -> Guard:
    """A file with an access list: what `bits` says of owner, group and others, and of one more user or group."""
    entries = [
        (readers.USER_OBJ, bits >> 6 & 7, NOBODY_NAMED),
        (readers.GROUP_OBJ, bits >> 3 & 7, NOBODY_NAMED),
        (readers.MASK, mask, NOBODY_NAMED),
        (readers.OTHER, bits & 7, NOBODY_NAMED),
    ]
    if user is not None:
        entries.append((readers.USER, user, NAMED_USER))
    if group is not None:
        entries.append((readers.GROUP, group, NAMED_GROUP))
    return Guard(bits & 0o707 | mask << 3, OWNER, GROUP, readers.encoded(sorted(entries)))


def directory(bits: int, uid: int = ROOT, gid: int = GROUP) -> Way:
    return frozenset({Guard(stat.S_IFDIR | bits, uid, gid)})


FREE: Way = frozenset()

#: A source, the way to it, and the mode that others are judged by.
SHOWN: dict[str, tuple[Guard, Way, int]] = {
    "as it is": (Guard(0o644, OWNER, GROUP), FREE, 0o644),
    "behind an open directory": (Guard(0o644, OWNER, GROUP), directory(0o711), 0o644),
    "behind root's closed directory": (Guard(0o644, OWNER, GROUP), directory(0o700), 0o200),
    "behind its owner's closed directory": (Guard(0o644, OWNER, GROUP), directory(0o700, OWNER), 0o600),
    "behind its group's directory": (Guard(0o644, OWNER, GROUP), directory(0o750), 0o240),
    "behind another group's directory": (Guard(0o644, OWNER, GROUP), directory(0o750, gid=NAMED_GROUP), 0o200),
    "behind a directory that its group may not search": (Guard(0o644, OWNER, GROUP), directory(0o701), 0o204),
    "a user is denied, who may be of the group": (listed(0o644, user=0), FREE, 0o620),
    "a user is granted no more than others": (listed(0o644, user=4), FREE, 0o664),
    "a group is denied, and others may be of it": (listed(0o644, group=0), FREE, 0o660),
    "the mask takes from a user what the list grants": (listed(0o644, mask=2, user=4), FREE, 0o620),
    "the mask takes from a group what the list grants": (listed(0o644, mask=2, group=4), FREE, 0o620),
    "a list that cannot be read": (Guard(0o644, OWNER, GROUP, UNKNOWN), FREE, 0o600),
    "a list that is none": (Guard(0o644, OWNER, GROUP, b"junk"), FREE, 0o600),
}


@pytest.mark.parametrize("case", SHOWN)
def test_a_class_is_shown_what_all_of_it_are_granted(case: str) -> None:
    source, way, mode = SHOWN[case]
    assert f"{shown_mode(source, way):o}" == f"{mode:o}"


@pytest.mark.parametrize(("error", "acl"), [(errno.ENODATA, b""), (errno.EOPNOTSUPP, b""), (errno.EIO, UNKNOWN)])
def test_only_a_file_system_that_says_so_has_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, acl: bytes
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "getxattr", refuse)
    fd = os.open(tmp_path, os.O_PATH)
    assert guard_of(fd, os.fstat(fd)).acl == acl
    os.close(fd)


# -- in a dataset ------------------------------------------------------------------------------------------------------


def for_all(root: Path) -> Dataset:
    """As with --allow-other."""
    return Dataset(os.fsencode(root), Policy(), confined=True)


def entries(dataset: Dataset, path: Path) -> dict[str, datasets.Entry]:
    found, names = dataset.names(os.fsencode(path))
    looked_at = dataset.entries(os.fsencode(path), names, listed=found)
    return {os.fsdecode(name): entry for (name, _), entry in zip(names, looked_at, strict=True)}


def test_every_directory_above_a_target_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path.resolve() / "dataset",
        {
            "closed": attributes({"open": {"open, too": {"file": b"secret"}}}, mode=0o700),
            "train": {"file": link("../closed/open/open, too/file"), "directory": link("../closed/open/open, too")},
        },
    )
    dataset = for_all(root)
    shown = {name: entry.mode for name, entry in entries(dataset, root / "train").items()}
    assert {name: mode is None or stat.S_IMODE(mode) & 0o055 for name, mode in shown.items()} == {
        "file": 0,
        "directory": 0,
    }
    dataset.close()


def test_the_root_of_the_dataset_does_not_count_for_a_link_that_leads_back_into_it(tmp_path: Path) -> None:
    """Everybody on the mount has passed it."""
    top = tmp_path.resolve()
    root = tree(top / "dataset", {"file": b""})
    root.chmod(0o750)
    store = tree(top / "store", {"link": link(str(root / "file"))})
    dataset = Dataset(os.fsencode(root), Policy(allow_roots=(os.fsencode(store),)), confined=True)
    (entry,) = entries(dataset, store).values()
    assert entry.mode == os.stat(root / "file").st_mode
    dataset.close()


def test_however_deep_a_target_lies_few_directories_are_open_at_once(tmp_path: Path) -> None:
    deep = "d/" * 300
    root = tree(tmp_path.resolve() / "dataset", {"train": {"file": link(f"../{deep}file")}})
    (root / deep).mkdir(parents=True)
    (root / deep / "file").touch()
    dataset = for_all(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        (entry,) = entries(dataset, root / "train").values()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert entry.problem is None
    dataset.close()


def test_a_directory_above_that_is_replaced_meanwhile_shows_nothing(tmp_path: Path) -> None:
    """Who has come to a directory has passed those above it, and not others at the same paths."""
    top = tmp_path.resolve()
    root = tree(top / "dataset", {"above": {"train": {"a": b"", "b": link("../other/file")}}})
    dataset = for_all(root)
    found, names = dataset.names(os.fsencode(root / "above/train"))
    looked_at = dataset.entries(os.fsencode(root / "above/train"), names, listed=found)
    assert next(looked_at).problem is None
    (root / "above").rename(root / "moved")
    tree(root / "above", {"train": {}, "other": {"file": b"secret"}})
    assert next(looked_at).problem is Kind.UNREADABLE
    del looked_at
    dataset.close()


def test_what_an_automount_shows_may_be_for_one_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is mounted while it is looked at: what was known of the mounts before says nothing of it."""
    root = tree(tmp_path.resolve() / "dataset", {"automount": {"file": b""}})
    dataset = for_all(root)
    device = root.stat().st_dev
    dataset.volumes.triggers = frozenset({device})
    (seen,) = entries(dataset, root).values()
    assert seen.mode == (root / "automount").stat().st_mode
    was_mounted = iter([False, True])  # when the directory is listed, and when it was looked at
    monkeypatch.setattr(dataset.links, "refresh", lambda: next(was_mounted))
    monkeypatch.setattr(dataset.volumes, "refresh", lambda: dataset.volumes.private.update({device: 4242}))
    (seen,) = entries(dataset, root).values()
    assert seen.mode is not None
    assert (seen.mode & 0o777, seen.is_narrowed) == (0o200, True)
    dataset.close()


@pytest.mark.parametrize(("has_number", "mode"), [(True, 0o640), (False, 0o644)])
def test_a_group_that_a_user_namespace_has_no_number_for_counts_as_others(
    monkeypatch: pytest.MonkeyPatch, has_number: bool, mode: int
) -> None:
    """As in Apptainer, or Podman with keep-groups: the kernel knows such a group of a process, but not of a mount."""
    monkeypatch.setattr("symfuse.owners.everybody_has_a_number", lambda: has_number)
    monkeypatch.setattr("symfuse.access.mounter._is_capable", lambda: False)
    monkeypatch.setattr(os, "getgroups", lambda: [GROUP, OVERFLOW])
    status = os.stat_result((stat.S_IFREG | 0o640, 2, 3, 1, os.geteuid() + 1, OVERFLOW, 7, 0, 0, 0))
    assert stat.S_IMODE(Mounter(Volumes()).shown_mode(status)) == mode


def test_where_a_server_decides_each_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere one answer is enough for whoever may read everything."""
    root = tree(tmp_path.resolve() / "dataset", {"a": b"a", "b": b"b"})
    monkeypatch.setattr("symfuse.access.mounter._is_capable", lambda: True)
    monkeypatch.setattr("symfuse.owners.everybody_has_a_number", lambda: True)
    monkeypatch.setattr("symfuse.dataset.may_all", lambda _need, path, _directory: path == b"a")
    for is_local, problem in ((True, None), (False, Kind.UNREADABLE)):
        dataset = Dataset(os.fsencode(root), Policy())
        monkeypatch.setattr(dataset.volumes, "is_local", lambda _device, _path, is_local=is_local: is_local)
        assert [entry.problem for entry in entries(dataset, root).values()] == [None, problem]
        dataset.close()


def test_a_link_that_leaves_a_closed_directory_again_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would not walk through it, but the resolver, which works on texts, could."""
    links: dict[Name, Entry] = {"link": link("closed/../file"), "other": link("open/../file")}
    root = tree(tmp_path.resolve() / "dataset", {"closed": {"file": b""}, "open": {}, "file": b"", **links})
    real_access = os.access

    def closed(path: bytes, mode: int, **options: bool) -> bool:
        return os.path.basename(path) != b"closed" and real_access(path, mode, **options)

    monkeypatch.setattr(os, "access", closed)
    dataset = Dataset(os.fsencode(root), Policy())
    problems = {name: entry.problem for name, entry in entries(dataset, root).items()}
    assert (problems["link"], problems["other"]) == (Kind.UNREADABLE, None)
    dataset.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("owner", "shown"), [((OVERFLOW, 0), 0o044), ((0, OVERFLOW), 0o404)])
def test_in_a_user_namespace_the_number_of_all_without_one_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[int, int], shown: int
) -> None:
    """Whoever has that number there is not who owns the file outside."""
    monkeypatch.setattr("symfuse.owners.everybody_has_a_number", lambda: False)
    root = tree(tmp_path / "dataset", {"a.png": attributes(b"a", mode=0o444, owner=owner)})
    dataset = Dataset(os.fsencode(root), Policy(), confined=True)
    listed_now, names = dataset.names(dataset.root)
    (entry,) = dataset.entries(dataset.root, names, listed=listed_now)
    dataset.close()
    assert entry.mode == stat.S_IFREG | shown
