from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symfuse.dataset import Dataset, Entry
from symfuse.errors import SourceError
from symfuse.links import Hop, Unresolvable
from symfuse.policy import DirLinks, DotEntries, Kind, Outside, Policy
from symfuse.source import reader
from symfuse.source.identity import Identity
from symfuse.source.reader import MAX_IDLE_SOURCES, IdleSources
from symfuse.source.volumes import Volumes
from tests.support.trees import Entry as Literal
from tests.support.trees import Name, attributes, device, fifo, link, tree, unixsocket
from tests.support.watching import Touched


def opened(root: Path, policy: Policy | None = None, *, confined: bool = False) -> Dataset:
    return Dataset(os.fsencode(root), policy or Policy(), confined=confined)


def entries(root: Path, policy: Policy | None = None, *, below: str = "", confined: bool = False) -> dict[bytes, Entry]:
    """The entries of one directory by name."""
    return listed(opened(root, policy, confined=confined), root.resolve() / below)


def listed(dataset: Dataset, directory: Path) -> dict[bytes, Entry]:
    path = os.fsencode(directory)
    listed, names = dataset.names(path)
    entries = dataset.entries(path, names, listed=listed)
    return {name: entry for (name, _), entry in zip(names, entries, strict=True)}


def problems(root: Path, policy: Policy | None = None, *, confined: bool = False) -> dict[bytes, Kind | None]:
    return {name: entry.problem for name, entry in entries(root, policy, confined=confined).items()}


# -- the root ----------------------------------------------------------------------------------------------------------


def test_a_root_that_is_a_link_is_the_directory_it_leads_to(tmp_path: Path) -> None:
    tree(tmp_path / "real", {"a": b"A"})
    (tmp_path / "dataset").symlink_to("real")
    assert opened(tmp_path / "dataset").root == os.fsencode((tmp_path / "real").resolve())


@pytest.mark.parametrize("name", ["missing", "file", "dangling"])
def test_a_root_that_is_no_directory_is_refused_with_a_cure(tmp_path: Path, name: str) -> None:
    tree(tmp_path / "x", {"file": b"", "dangling": link("nowhere")})
    with pytest.raises(SourceError, match=name) as error:
        opened(tmp_path / "x" / name)
    assert error.value.cure


# -- listing -----------------------------------------------------------------------------------------------------------


def test_entries_come_in_byte_order_with_their_sources(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"b": link("a"), "a": b"A", b"\xff": b"", "B": {}, "line\nbreak": b""})
    found = entries(root)
    assert list(found) == [b"B", b"a", b"b", b"line\nbreak", b"\xff"]
    assert found[b"b"].target == os.fsencode(root.resolve() / "a")
    assert found[b"a"].target is None
    assert found[b"b"].status == (root / "a").stat()


PROBLEMATIC: dict[str, tuple[dict[Name, Literal], Kind]] = {
    "a link to nothing": ({"x": link("nowhere")}, Kind.DANGLING),
    "a link through a missing directory": ({"x": link("nowhere/a")}, Kind.DANGLING),
    "a link through a file": ({"x": link("a/b"), "a": b""}, Kind.DANGLING),
    "a link to a file with a slash behind it": ({"x": link("a/"), "a": b""}, Kind.DANGLING),
    "a link to a name that is too long": ({"x": link("n" * 300)}, Kind.DANGLING),
    "a link to itself": ({"x": link("x")}, Kind.LOOP),
    "two links to each other": ({"x": link("y"), "y": link("x")}, Kind.LOOP),
    "a link through itself": ({"x": link("x/a")}, Kind.LOOP),
    "a fifo": ({"x": fifo()}, Kind.SPECIAL),
    "a link to a fifo": ({"x": link("p"), "p": fifo()}, Kind.SPECIAL),
    "a socket": ({"x": unixsocket()}, Kind.SPECIAL),
    "a link to a device": ({"x": link("/dev/null")}, Kind.SPECIAL),
    "a file with a dot": ({"x": b"", ".x": b""}, Kind.DOT_ENTRY),
}


@pytest.mark.parametrize("case", PROBLEMATIC)
def test_what_cannot_be_shown_has_its_kind(tmp_path: Path, case: str) -> None:
    literal, kind = PROBLEMATIC[case]
    found = problems(tree(tmp_path / "dataset", {**literal, "beside": b""}))
    assert found[b".x" if kind is Kind.DOT_ENTRY else b"x"] is kind
    assert found[b"beside"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_special(tmp_path: Path) -> None:
    assert problems(tree(tmp_path / "dataset", {"x": device()})) == {b"x": Kind.SPECIAL}


def test_forty_links_are_followed_and_no_more(tmp_path: Path) -> None:
    # As the kernel: path_resolution(7).
    chain: dict[Name, Literal] = {"l000": b"the end"}
    chain |= {f"l{number:03}": link(f"l{number - 1:03}") for number in range(1, 42)}
    root = tree(tmp_path / "dataset", chain)
    (root / "l040").stat()
    with pytest.raises(OSError, match="Too many levels"):
        (root / "l041").stat()
    assert [name for name, kind in problems(root).items() if kind] == [b"l041"]


def test_a_chain_through_a_missing_link_names_every_hop(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": link("b"), "b": link("d/c"), "d": link("e"), "e": {"c": link("nowhere")}})
    top, hops = os.fsencode(root.resolve()), list[Hop]()
    with pytest.raises(Unresolvable) as error:
        opened(root).links.trace(top, b"a", hops=hops)
    assert error.value.kind is Kind.DANGLING
    assert hops == [
        (top + b"/a", b"b"),
        (top + b"/b", b"d/c"),
        (top + b"/d", b"e"),
        (top + b"/e/c", b"nowhere"),
    ]


# -- what the user chose -----------------------------------------------------------------------------------------------


def test_dot_entries_are_shown_on_request(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {".a": b"", "..b": b""})
    assert problems(root, Policy(dot_entries=DotEntries.SHOW)) == {b".a": None, b"..b": None}


def test_linked_directories_are_hidden_on_request_and_linked_files_are_not(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"d": {}, "f": b"", "ld": link("d"), "lf": link("f")})
    assert problems(root, Policy(dir_links=DirLinks.HIDE)) == {
        b"d": None, b"f": None, b"ld": Kind.DIR_LINK, b"lf": None,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["outside hide", "confined"])
def test_links_that_leave_the_dataset_are_hidden_where_that_is_asked_or_others_may_look(
    tmp_path: Path, way: str
) -> None:
    tree(tmp_path / "store", {"a": b"", "back": link("../dataset/in")})
    tree(tmp_path / "dataset2", {"a": b""})
    root = tree(
        tmp_path / "dataset",
        {
            "in": b"",
            "inside": link("in"),
            "absolute": link(str((tmp_path / "dataset" / "in").resolve())),
            "there and back": link("../store/back"),
            "out": link("../store/a"),
            "like a prefix": link("../dataset2/a"),
            "directory": link("../store"),
        },
    )
    policy = Policy(outside=Outside.HIDE) if way == "outside hide" else Policy()
    hidden = {name for name, kind in problems(root, policy, confined=way == "confined").items() if kind}
    assert hidden == {b"out", b"like a prefix", b"directory"}


def test_an_allowed_root_is_followed_into_whatever_leads_to_it(tmp_path: Path) -> None:
    tree(tmp_path, {"store": {"a": b""}, "alias": link("store"), "other": {"a": b""}})
    root = tree(tmp_path / "dataset", {"a": link("../store/a"), "b": link("../alias/a"), "c": link("../other/a")})
    policy = Policy(allow_roots=(os.fsencode(tmp_path.resolve() / "alias"),))
    assert problems(root, policy, confined=True) == {b"a": None, b"b": None, b"c": Kind.OUTSIDE}


@pytest.mark.parametrize("way", ["outside hide", "confined"])
def test_a_directory_that_gives_way_to_a_link_opens_no_way_out(tmp_path: Path, way: str) -> None:
    tree(tmp_path, {"secret": {"s": b"secret"}})
    root = tree(
        tmp_path / "dataset",
        {"sub": {"f": b""}, "one": {"a": link("{}/dataset/sub/f")}, "two": {"b": link("{}/dataset/sub/s")}},
    )
    for name in ("one/a", "two/b"):
        text = os.readlink(root / name).format(tmp_path.resolve())
        (root / name).unlink()
        (root / name).symlink_to(text)
    policy = Policy(outside=Outside.HIDE) if way == "outside hide" else Policy()
    dataset = opened(root, policy, confined=way == "confined")

    assert (
        listed(dataset, root.resolve() / "one")[b"a"].problem is None
    )  # `dataset/sub` is remembered as a directory without links
    (root / "sub").rename(root / "aside")
    (root / "sub").symlink_to(tmp_path / "secret")
    assert listed(dataset, root.resolve() / "two")[b"b"].problem is Kind.OUTSIDE


def test_a_linked_directory_is_known_by_its_real_path_whatever_took_the_place_of_one_above(tmp_path: Path) -> None:
    """All that lies below it is opened by that path, on which no link is followed."""
    root = tree(
        tmp_path.resolve() / "dataset",
        {"sub": {"a": {}, "b": {}}, "train": {"a": link("../sub/a"), "b": link("../sub/b")}},
    )
    dataset = opened(root)
    found, names = dataset.names(os.fsencode(root / "train"))
    looked_at = dataset.entries(os.fsencode(root / "train"), names, listed=found)
    assert next(looked_at).target == os.fsencode(root / "sub/a")  # and `sub` is remembered
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to("moved")
    assert next(looked_at).target == os.fsencode(root / "moved/b")


def test_the_mountpoint_in_a_linked_directory_is_hidden(tmp_path: Path) -> None:
    other = tree(tmp_path / "other", {"mnt": {}, "file": b""}).resolve()
    root = tree(tmp_path / "dataset", {})
    dataset = Dataset(os.fsencode(root), Policy(), mountpoint=os.fsencode(other / "mnt"))
    found = {name: entry.problem for name, entry in listed(dataset, other).items()}
    assert found == {b"file": None, b"mnt": Kind.RECURSIVE}
    dataset.forbid_device(other.stat().st_dev)
    with pytest.raises(OSError, match="into the mount itself"):  # whatever name the mount goes by
        listed(dataset, other)


def test_a_link_into_the_mountpoint_is_never_walked(tmp_path: Path) -> None:
    mountpoint = tmp_path.resolve() / "mnt"
    tree(mountpoint, {"a": b""})
    root = tree(
        tmp_path / "dataset",
        {
            "m": link("../mnt"),
            "n": link("../mnt/a"),
            "o": link(str(mountpoint)),
            "p": link("../mnt/../dataset/f"),
            "f": b"",
        },
    )
    dataset = Dataset(os.fsencode(root), Policy(), mountpoint=os.fsencode(mountpoint))
    found = {name: entry.problem for name, entry in listed(dataset, root).items()}
    assert found == {b"f": None} | dict.fromkeys([b"m", b"n", b"o", b"p"], Kind.RECURSIVE)


# -- resolution, against the kernel's and the standard library's -------------------------------------------------------

PARTS = st.sampled_from(["a", "b", "c", "..", ".", "missing", "file", ""])
TEXTS = st.tuples(st.booleans(), st.lists(PARTS, min_size=1, max_size=5)).map(
    lambda drawn: ("ROOT/" if drawn[0] else "") + ("/".join(drawn[1]) or ".")
)
NODES = st.recursive(
    st.just(b"content") | TEXTS,
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c", "file"]), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", "file"]), NODES, max_size=4))
def test_links_lead_where_the_kernel_says(drawn: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        top = os.path.realpath(os.path.join(scratch, "dataset"))

        def literal(node: object) -> Literal:
            if isinstance(node, str):
                return link(node.replace("ROOT", top))
            return {name: literal(inner) for name, inner in node.items()} if isinstance(node, dict) else b"content"

        root = tree(Path(top), {name: literal(node) for name, node in drawn.items()})
        for directory, _, _ in os.walk(top):
            for name, entry in entries(root, below=os.path.relpath(directory, top)).items():
                check_against_the_kernel(os.path.join(os.fsencode(directory), name), entry)


def check_against_the_kernel(path: bytes, entry: Entry) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        expected = {errno.ELOOP: Kind.LOOP, errno.ENOENT: Kind.DANGLING, errno.ENOTDIR: Kind.DANGLING}
        assert error.errno is not None
        assert entry.problem is expected[error.errno], (path, entry)
        return
    assert entry.problem is None, (path, entry)
    assert entry.status is not None
    assert os.path.samestat(entry.status, status)
    assert entry.target == (os.path.realpath(path) if os.path.islink(path) else None)


def test_a_link_to_a_neighbour_and_one_into_the_root_directory_are_not_mixed_up(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", {"a": link("file"), "b": link("/usr"), "c": link("file"), "file": b"", "usr": {}})
    targets = {name: entry.target for name, entry in entries(root).items()}
    file, usr = os.fsencode(root / "file"), os.path.realpath(b"/usr")
    assert targets == {b"a": file, b"b": usr, b"c": file, b"file": None, b"usr": None}


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_source_is_opened_for_reading_and_closed_on_exec(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": b"content", "b": link("a")})
    fd = opened(root).open(os.fsencode(root.resolve()), b"b", is_link=True)
    try:
        assert os.read(fd, 99) == b"content"
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def replace_by(entry: Literal) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        tree(path.parent, {path.name: entry})

    return replace


NO_FILES: list[Literal] = [{}, fifo(), unixsocket()]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("change", [Path.unlink, *(replace_by(entry) for entry in NO_FILES)])
def test_a_source_that_is_gone_or_is_no_file_any_more_is_stale(
    tmp_path: Path, change: Callable[[Path], None], *, is_link: bool
) -> None:
    root = tree(tmp_path / "dataset", {"a": b"content", "l": link("a")})
    change(root / "a")
    with pytest.raises(OSError) as error:
        opened(root).open(os.fsencode(root.resolve()), b"l" if is_link else b"a", is_link=is_link)
    assert error.value.errno == errno.ESTALE


def kernels_files() -> list[Path]:
    """Some that may be read: of size 0 as all in /proc, of another one in /sys."""
    paths = [f"/proc/{os.getpid()}/maps", "/proc/version", "/sys/devices/system/cpu/online"]
    return [*map(Path, paths), *(path for path in map(Path, ["/proc/kmsg"]) if os.access(path, os.R_OK))]


@pytest.mark.parametrize("confined", [False, True])
def test_a_file_that_the_kernel_makes_up_is_hidden_and_not_opened(tmp_path: Path, *, confined: bool) -> None:
    files = kernels_files()
    root = tree(tmp_path / "dataset", {path.name: link(str(path)) for path in files})
    with Touched(files) as touched:
        hidden = problems(root, Policy(allow_roots=(b"/proc", b"/sys")), confined=confined)
        assert touched.opened() == set()
    assert hidden == {os.fsencode(path.name): Kind.SPECIAL for path in files}


@pytest.mark.parametrize("is_link", [False, True])
def test_a_link_that_leads_to_the_kernels_files_by_now_has_none_of_them_opened(
    tmp_path: Path, *, is_link: bool
) -> None:
    files = kernels_files()
    root = tree(tmp_path / "dataset", {path.name: link(str(path)) for path in files})
    with Touched(files) as touched:
        for path in files:
            directory = root.resolve() if is_link else path.parent
            with pytest.raises(OSError) as error:
                opened(root).open(os.fsencode(directory), os.fsencode(path.name), is_link=is_link)
            assert error.value.errno == errno.ESTALE
        assert touched.opened() == set()


def test_a_source_that_became_a_link_is_stale(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": b"content"})
    replace_by_link(root / "a")
    with pytest.raises(OSError) as error:
        opened(root).open(os.fsencode(root.resolve()), b"a", is_link=False)
    assert error.value.errno == errno.ESTALE


def read(dataset: Dataset, name: str, *, is_link: bool) -> bytes:
    directory, _, last = os.fsencode(name).rpartition(b"/")
    fd = dataset.open(os.path.join(dataset.root, directory), last, is_link=is_link)
    try:
        return os.read(fd, 99)
    finally:
        os.close(fd)


@pytest.mark.parametrize("confined", [False, True])
def test_a_store_that_has_moved_and_left_a_link_is_found_by_links_alone(tmp_path: Path, *, confined: bool) -> None:
    root = tree(tmp_path / "dataset", {"store": {"a": b"A", "b": b"B"}, "links": {"a": link("../store/a")}})
    dataset = opened(root, confined=confined)
    listed(dataset, root.resolve() / "links")
    for moved in ("elsewhere", "again", "store"):  # and back
        (root / "store").unlink() if (root / "store").is_symlink() else None
        next(root.glob("*/b")).parent.rename(root / moved)
        if moved != "store":
            (root / "store").symlink_to(moved)
            with pytest.raises(OSError) as error:
                read(dataset, "store/b", is_link=False)
            assert error.value.errno == errno.ESTALE
        assert read(dataset, "links/a", is_link=True) == b"A"
    assert read(dataset, "store/b", is_link=False) == b"B"


def test_a_linked_directory_that_is_found_through_one_that_moved_has_its_real_path(tmp_path: Path) -> None:
    texts: dict[Name, Literal] = {"a": link("../store/a"), "b": link("../store/b"), "c": link("../store/c")}
    root = tree(tmp_path / "dataset", {"store": {"a": b"A", "b": {}, "c": b"C"}, "links": texts})
    dataset = opened(root)
    directory = os.fsencode(root.resolve() / "links")
    was, names = dataset.names(directory)
    assert next(dataset.entries(directory, names[:1], listed=was)).problem is None  # the store is remembered
    (root / "store").rename(root / "elsewhere")
    (root / "store").symlink_to("elsewhere")
    found = dict(zip("abc", dataset.entries(directory, names, listed=was), strict=True))
    assert found["b"].target == os.fsencode(root.resolve() / "elsewhere/b")
    assert found["c"].target == os.fsencode(root.resolve() / "elsewhere/c")


def test_access_times_are_spared_after_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "dataset", {"mine": b"", "theirs": b""})
    dataset = opened(root)
    real_open, spared = os.open, []

    def pretend(path: bytes, flags: int) -> int:
        name = os.path.basename(os.readlink(path))  # sources are opened by way of /proc/self/fd
        if flags & os.O_NOATIME:
            if name == b"theirs":
                raise PermissionError(errno.EPERM, "O_NOATIME is for owners")
            spared.append(name)
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", pretend)
    for name in (b"theirs", b"mine"):
        os.close(dataset.open(dataset.root, name, is_link=False))
    assert spared == [b"mine"]


@pytest.mark.parametrize("content", [b"CONTENT", b"content and more", b"con", b""])
def test_a_changed_source_is_never_served(tmp_path: Path, content: bytes) -> None:
    root = tree(tmp_path / "dataset", {"a": attributes(b"content", mtime_ns=1)})
    identity = Identity.of((root / "a").stat())
    (root / "a").write_bytes(content)
    with open(root / "a", "rb") as file, pytest.raises(OSError) as error:
        reader.read(file.fileno(), 7, 0, identity, Volumes())
    assert error.value.errno == errno.ESTALE


def test_an_unchanged_source_gives_exactly_what_was_asked_for(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": b"0123456789"})
    identity = Identity.of((root / "a").stat())
    with open(root / "a", "rb") as file:
        assert reader.read(file.fileno(), 4, 3, identity, Volumes()) == b"3456"
        assert reader.read(file.fileno(), 0, 10, identity, Volumes()) == b""
        with pytest.raises(OSError) as error:
            reader.read(file.fileno(), 11, 0, identity, Volumes())
    assert error.value.errno == errno.EIO


def test_no_descriptor_is_left_open_behind_a_listing_that_was_given_up(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"a": b"", "b": b""})
    dataset = opened(root)
    before = set(os.listdir("/proc/self/fd"))
    listed, names = dataset.names(dataset.root)
    listing = dataset.entries(dataset.root, names, listed=listed)
    next(listing)
    assert dataset.callers
    del listing
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not dataset.callers


def test_a_directory_that_was_replaced_is_not_listed_as_the_old_one(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"d": {"a": b""}})
    dataset = opened(root)
    path = dataset.root + b"/d"
    listed, names = dataset.names(path)
    (root / "d").rename(root / "e")
    tree(root / "d", {"b": b""})
    with pytest.raises(OSError) as error:
        list(dataset.entries(path, names, listed=listed))
    assert error.value.errno == errno.ESTALE


def test_idle_descriptors_are_few_and_each_has_one_owner() -> None:
    idle = IdleSources()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(MAX_IDLE_SOURCES + 3)]
    for nodeid, fd in enumerate(fds):
        idle.give(nodeid, fd)
    assert [idle.take(nodeid) for nodeid in range(3)] == [None, None, None], "the oldest are closed"
    taken = idle.take(5)
    assert taken == fds[5]
    assert idle.take(5) is None, "whoever takes one has it alone"
    idle.give(5, taken)
    idle.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_shown_source_is_a_file_or_a_directory(tmp_path: Path) -> None:
    root = tree(tmp_path / "dataset", {"f": b"", "d": {}, "lf": link("f"), "ld": link("d")})
    for name, entry in entries(root).items():
        assert entry.status is not None
        assert stat.S_ISDIR(entry.status.st_mode) == name.endswith(b"d")
