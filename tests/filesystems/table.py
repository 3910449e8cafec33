"""File systems that datasets lie on, each made for a test, mounted, changed, mounted again, and taken away.

Each says what it is in a few lines: how a tree gets onto it, how it is mounted so that its device number is another
than before, and what of a change it cannot tell anybody (`cannot_tell`). Only root can make them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.filesystems.automount import Automounts
from tests.filesystems.source import Source
from tests.support.mounting import TIMEOUT_S
from tests.support.oracle import walk
from tests.support.trees import Entry, Name, tree

#: What is done to a file without its size or mtime showing it, or with its size alone.
CHANGES = ("in place", "replaced", "grown", "truncated")

_NO_CTIME = "the protocol has no time of change, so a time of writing that was put back looks like none"


def run(*command: str | Path) -> str:
    """A command that must succeed; returns what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode()


def drop_inodes() -> None:
    """Have the kernel forget every inode and name that nobody uses, as memory pressure does."""
    Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")


class FileSystem:
    """One file system below `work`. `path` is where its files are; a dataset is a directory there."""

    name: ClassVar[str]
    #: Commands without which it cannot be made, and the name that the kernel must know.
    tools: ClassVar[tuple[str, ...]] = ()
    module: ClassVar[str | None] = None
    #: How long a change must wait to be told from what was before.
    tick_s: ClassVar[float] = 0.0
    #: Which changes it shows to nobody, and why.
    cannot_tell: ClassVar[Mapping[str, str]] = {}
    #: Whether times can be less exact at the second look.
    times_move: ClassVar[bool] = False
    can_mount_again: ClassVar[bool] = True
    #: Whether links stay links.
    has_links: ClassVar[bool] = True
    #: Whether two names of one file are seen to be that.
    tells_hard_links: ClassVar[bool] = True
    #: Whether a file can change while somebody reads it.
    changes_in_use: ClassVar[bool] = True

    def __init__(self, work: Path, *, at: Path | None = None) -> None:
        self.work = work
        self.path = self._directory("fs") if at is None else at
        self._placeholders: list[Path] = []

    # What each of them does in its own way.

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        """Make it with these trees, and mount it."""
        self.mount()
        self._fill(self.path, datasets)

    def mount(self) -> None:
        """Mount it at `path`; not under the device number that it had before."""
        raise NotImplementedError

    def unmount(self) -> None:
        """Unmount it, and end what served it."""
        unmount(self.path)

    def place(self, path: str) -> Path:
        """Where a file is changed by those who may."""
        return self.path / path

    def freshen(self, dataset: str) -> None:
        """Make times exact that were so at first."""

    def rest(self) -> None:
        """Do what is done to a file system that nobody has used for a while."""

    def close(self) -> None:
        """Leave nothing."""
        for path in [*mounted_below(self.path), *map(str, reversed(self._placeholders))]:
            subprocess.run(["umount", "-l", path], capture_output=True, check=False)

    # What all of them do.

    def mount_again(self) -> None:
        """Unmount it, and mount it under another device number."""
        self.unmount()
        # The kernel gives the lowest free number: somebody else has it now.
        self._placeholders.append(self._directory(f"placeholder{len(self._placeholders)}"))
        run("mount", "-t", "tmpfs", "placeholder", self._placeholders[-1])
        self.mount()

    def change(self, changes: Mapping[str, str], content: bytes) -> None:
        """Change files, by path: each gets `content`, or more or less of it, with its time of writing put back."""
        time.sleep(self.tick_s)
        for path, how in changes.items():
            change(self.place(path), how, content)

    def _directory(self, name: str) -> Path:
        path = self.work / name
        path.mkdir()
        return path

    def _fill(self, root: Path, datasets: Mapping[Name, Entry]) -> None:
        tree(root, datasets)


def change(path: Path, how: str, content: bytes) -> None:
    """Change a file in one of the CHANGES; its access and modification times are those from before."""
    before = os.stat(path)
    if how == "in place":
        with open(path, "r+b") as file:
            file.write(content[: before.st_size])
    elif how == "grown":
        with open(path, "ab") as file:
            file.write(content)
    elif how == "truncated":
        os.truncate(path, before.st_size // 2)
    else:
        new = path.with_name(path.name + ".new")
        new.write_bytes(content[: before.st_size])
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.rename(new, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def mounted_below(path: Path) -> list[str]:
    """What is mounted at a path and below, the last mount first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        places = [fields[4] for fields in (line.split(" ") for line in lines) if len(fields) > 4]
    return [each for each in reversed(places) if (each + "/").startswith(f"{path}/")]


def unmount(path: Path) -> None:
    """Unmount what is there, though it may be in use for moments: of a file that was just closed, say."""
    deadline = time.monotonic() + 5
    while True:
        done = subprocess.run(["umount", path], capture_output=True, encoding="utf-8", check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.02)


# -- on a disk ---------------------------------------------------------------------------------------------------------


class OnDisk(FileSystem):
    """An image on a loop device; another one at each mount."""

    size_mb: ClassVar[int] = 24
    options: ClassVar[str] = "rw"

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self.image = self.work / "image"
        with open(self.image, "wb") as file:
            file.truncate(self.size_mb << 20)
        self.format()
        super().build(datasets)

    def format(self) -> None:
        raise NotImplementedError

    def mount(self) -> None:
        self._attach()

    def mount_again(self) -> None:
        device = run("losetup", "--find", "--show", self.image).strip()  # while the old one is still taken
        self.unmount()
        self._attach(device)

    def _attach(self, device: str = "") -> None:
        device = device or run("losetup", "--find", "--show", self.image).strip()
        try:
            run("mount", "-t", self.module or "", "-o", self.options, device, self.path)
        finally:
            run("losetup", "--detach", device)  # which the kernel does once nobody uses it


class Ext4(OnDisk):
    name = "ext4"
    tools = ("mkfs.ext4",)
    module = "ext4"

    def format(self) -> None:
        run("mkfs.ext4", "-q", "-F", self.image)


class OldExt4(Ext4):
    """With inodes of 128 bytes: nanoseconds are there until the inode is evicted."""

    name = "ext4 with inodes of 128 bytes"
    tick_s = 1.1
    times_move = True

    def format(self) -> None:
        run("mkfs.ext4", "-q", "-F", "-I", "128", self.image)

    def freshen(self, dataset: str) -> None:
        for path in walk(self.path / dataset):
            os.utime(path, follow_symlinks=False)


class Xfs(OnDisk):
    name = "xfs"
    tools = ("mkfs.xfs",)
    module = "xfs"
    size_mb = 320
    options = "rw,nouuid"

    def format(self) -> None:
        run("mkfs.xfs", "-q", "-f", self.image)


class Btrfs(OnDisk):
    """Each directory that holds images is a subvolume: a device of its own, with the same inode numbers."""

    name = "btrfs with subvolumes"
    tools = ("mkfs.btrfs", "btrfs")
    module = "btrfs"
    size_mb = 120

    def format(self) -> None:
        run("mkfs.btrfs", "-q", "-f", self.image)

    def _fill(self, root: Path, datasets: Mapping[Name, Entry]) -> None:
        for dataset, entries in datasets.items():
            assert isinstance(dataset, str)
            assert isinstance(entries, Mapping)
            (root / dataset).mkdir()
            for name in entries:
                if isinstance(name, str) and name.startswith("store"):
                    run("btrfs", "subvolume", "create", root / dataset / name)
        super()._fill(root, datasets)


# -- images that are made once -----------------------------------------------------------------------------------------


class Packed(OnDisk):
    """Read-only: what changes is the image, by one in whose inodes all else is equal."""

    options = "ro"
    changes_in_use = False
    cannot_tell: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("in place", "replaced"), "two images number their files alike, and the only time in them is that of writing"
    )

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self.image = self.work / "image0"
        self._content = tree(self._directory("content"), datasets)
        self.format()
        self.mount()

    def change(self, changes: Mapping[str, str], content: bytes) -> None:
        for path, how in changes.items():
            change(self._content / path, how, content)
        old, self.image = self.image, self.work / f"{self.image.name}0"
        self.format()
        self.mount_again()
        old.unlink()


class Squashfs(Packed):
    name = "squashfs"
    tools = ("mksquashfs",)
    module = "squashfs"

    def format(self) -> None:
        run("mksquashfs", self._content, self.image, "-noappend", "-quiet", "-no-progress")


class Erofs(Packed):
    name = "erofs"
    tools = ("mkfs.erofs",)
    module = "erofs"

    def format(self) -> None:
        run("mkfs.erofs", "--quiet", self.image, self._content)


# -- in memory, and in layers ------------------------------------------------------------------------------------------


class Tmpfs(FileSystem):
    name = "tmpfs"
    module = "tmpfs"
    can_mount_again = False  # it would be empty

    def mount(self) -> None:
        run("mount", "-t", "tmpfs", "files", self.path)


class Overlay(FileSystem):
    """Images in one layer, links in another, each on a file system of its own."""

    name = "overlay with xino=on"
    module = "overlay"
    options: ClassVar[str] = "xino=on"

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._layers = [self._directory(name) for name in ("images", "links", "upper")]
        for layer in self._layers:
            run("mount", "-t", "tmpfs", "layer", layer)
        for part in ("changed", "work"):
            (self._layers[2] / part).mkdir()
        for dataset, entries in datasets.items():
            assert isinstance(entries, Mapping)
            for name, entry in entries.items():
                layer = self._layers[0 if str(name).startswith("store") else 1]
                tree(layer, {dataset: {name: entry}})
        self.mount()

    def mount(self) -> None:
        images, links, upper = self._layers
        layers = f"lowerdir={links}:{images},upperdir={upper}/changed,workdir={upper}/work"
        run("mount", "-t", "overlay", "overlay", "-o", f"{self.options},{layers}", self.path)

    def close(self) -> None:
        super().close()
        for layer in self._layers:
            subprocess.run(["umount", "-l", layer], capture_output=True, check=False)


class OverlayWithoutXino(Overlay):
    name = "overlay with xino=off"
    options = "xino=off"


# -- served by a process -----------------------------------------------------------------------------------------------


class Served(FileSystem):
    """A directory shown by a program that runs in the foreground; another process at each mount."""

    module = "fuse"

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._backing = self._directory("backing")
        self._fill(self._backing, datasets)
        self.mount()

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def mount(self) -> None:
        self._log = open(self.work / "log", "ab")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True
        )
        deadline = time.monotonic() + TIMEOUT_S
        while os.fspath(self.path) not in mounted_below(self.path):
            assert self._process.poll() is None, (self.work / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "nothing is mounted"
            time.sleep(0.005)

    def unmount(self) -> None:
        super().unmount()
        self._process.wait(TIMEOUT_S)
        self._log.close()

    def close(self) -> None:
        super().close()
        with contextlib.suppress(AttributeError):
            self._process.terminate()
            self._process.wait(TIMEOUT_S)
            self._log.close()


class Bindfs(Served):
    name = "bindfs"
    tools = ("bindfs",)

    def command(self) -> list[str | Path]:
        return ["bindfs", "-f", self._backing, self.path]


class Mergerfs(Served):
    """Two branches: images in one, links in the other."""

    name = "mergerfs"
    tools = ("mergerfs",)
    tells_hard_links = False
    options: ClassVar[str] = "allow_other"

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._other = self._directory("other")
        self._backing = self._directory("backing")
        for dataset, entries in datasets.items():
            assert isinstance(entries, Mapping)
            for name, entry in entries.items():
                assert isinstance(name, str)
                branch = self._other if name.startswith("store") else self._backing
                tree(branch, {dataset: {name: entry}})
        self.mount()

    def command(self) -> list[str | Path]:
        return ["mergerfs", "-f", "-o", self.options, f"{self._backing}:{self._other}", self.path]


class MergerfsWithInodes(Mergerfs):
    name = "mergerfs with use_ino"
    tells_hard_links = True
    options = "allow_other,use_ino"


class Sshfs(Served):
    """Debian's sshfs; in the place of ssh a script that starts the server of files itself."""

    name = "sshfs"
    tells_hard_links = False
    tools = ("sshfs", "/usr/lib/openssh/sftp-server")
    cannot_tell: ClassVar[Mapping[str, str]] = dict.fromkeys(("in place", "replaced", "in place, halfway"), _NO_CTIME)

    def command(self) -> list[str | Path]:
        script = self.work / "ssh"
        script.write_text("#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n", encoding="ascii")
        script.chmod(0o755)
        # Since 2026 sshfs refuses to read a link that leads up, unless told otherwise.
        options = f"ssh_command={script}"
        if "no_contain_symlinks" in subprocess.run(["sshfs", "-h"], capture_output=True, text=True, check=False).stdout:
            options += ",no_contain_symlinks"
        return ["sshfs", "-f", "-o", options, f"nowhere:{self._backing}", self.path]


class Rclone(Served):
    """Changed behind its back, as a bucket is. It follows links itself, round and round."""

    name = "rclone"
    has_links = False
    tools = ("rclone",)
    cannot_tell: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("in place", "replaced", "in place, halfway", "replaced, halfway"), _NO_CTIME
    )

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        super().build({name: entries for name, entries in datasets.items() if name != "shapes"})

    def command(self) -> list[str | Path]:
        kept = ["--dir-cache-time", "100ms", "--attr-timeout", "100ms", "--poll-interval", "0", "--copy-links"]
        own = ["--config", "/dev/null", "--cache-dir", os.fspath(self.work / "cache")]
        return ["rclone", "mount", *own, *kept, "--read-only", f":local:{self._backing}", self.path]

    def place(self, path: str) -> Path:
        return self._backing / path

    def change(self, changes: Mapping[str, str], content: bytes) -> None:
        super().change(changes, content)
        time.sleep(0.25)  # until what it remembers is out of date


class Own(FileSystem):
    """The tests' own, which is as bad as it is told to be."""

    name = "fuse with numbers that move"
    tells_hard_links = False
    options: ClassVar[Mapping[str, Any]] = {"ino": "moves"}

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._backing = tree(self._directory("backing"), datasets)
        self._source = Source(self._backing, self.path, **self.options)
        self._source.start()

    def mount(self) -> None:
        self._source.start()

    def unmount(self) -> None:
        unmount(self.path)
        self._source.stop()

    def place(self, path: str) -> Path:
        return self._backing / path

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._source.stop()
        super().close()


class OwnWithEqualNumbers(Own):
    name = "fuse with equal numbers"
    tells_hard_links = True
    options: ClassVar[Mapping[str, Any]] = {"ino": "equal", "timeout_s": 1.0}


class OwnWithCoarseTimes(Own):
    name = "fuse with times that lose their nanoseconds"
    tells_hard_links = False  # one name was looked at twice, another once
    options: ClassVar[Mapping[str, Any]] = {"times": "seconds"}
    tick_s = 1.1
    times_move = True

    def freshen(self, dataset: str) -> None:
        drop_inodes()


class OwnWithoutTypes(Own):
    name = "fuse without types"
    tells_hard_links = True
    options: ClassVar[Mapping[str, Any]] = {"types": False, "twice": True}


# -- mounted when somebody looks ---------------------------------------------------------------------------------------


class DirectAutofs(FileSystem):
    """Every directory of a dataset's root is a trigger, for a directory of a file system on a disk."""

    name = "autofs, direct"
    module = "autofs"
    tools = ("mkfs.ext4",)

    def build(self, datasets: Mapping[Name, Entry]) -> None:
        self._inner = Ext4(self._directory("inner"))
        self._inner.build(datasets)
        self._datasets = {str(dataset): list(_entries(entries)) for dataset, entries in datasets.items()}
        for dataset in self._datasets:
            (self.path / dataset).mkdir()
        self.mount()

    def mount(self) -> None:
        direct = {}
        for dataset, names in self._datasets.items():
            for name in names:
                (self.path / dataset / name).mkdir()
                direct[self.path / dataset / name] = self._inner.path / dataset / name
        self._automounts = Automounts(direct=direct)

    def mount_again(self) -> None:
        self.rest()
        self._inner.mount_again()

    def rest(self) -> None:
        self._automounts.expire()

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._automounts.close()
        super().close()
        with contextlib.suppress(AttributeError):
            self._inner.close()


class IndirectAutofs(DirectAutofs):
    """The dataset's root is the automounter's, and can be listed before anything is mounted."""

    name = "autofs, indirect"

    def mount(self) -> None:
        self._automounts = Automounts(
            indirect={
                self.path / dataset: {name: self._inner.path / dataset / name for name in names}
                for dataset, names in self._datasets.items()
            }
        )


def _entries(entry: Entry) -> Iterator[str]:
    assert isinstance(entry, Mapping)
    for name in entry:
        yield str(name)


KINDS: tuple[type[FileSystem], ...] = (
    Ext4, OldExt4, Xfs, Btrfs, Tmpfs, Overlay, OverlayWithoutXino, Squashfs, Erofs,
    Bindfs, Mergerfs, MergerfsWithInodes, Sshfs, Rclone,
    Own, OwnWithEqualNumbers, OwnWithCoarseTimes, OwnWithoutTypes,
    DirectAutofs, IndirectAutofs,
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}


def what_is_missing(kind: type[FileSystem]) -> str | None:
    """Which command is not installed, if so."""
    return next((tool for tool in kind.tools if shutil.which(tool) is None and not os.path.exists(tool)), None)


def kernel_knows(kind: type[FileSystem]) -> bool:
    """Whether this kernel has it, now or when it is asked for."""
    if kind.module is None:
        return True
    if shutil.which("modprobe") is not None:
        subprocess.run(["modprobe", "-q", kind.module], check=False)
    return any(line.split()[-1] == kind.module for line in Path("/proc/filesystems").read_text().splitlines())
