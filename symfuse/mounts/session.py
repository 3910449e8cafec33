"""`with symfuse.mounted(dataset) as path:` is a mount that ends with the block, and with this process."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator

from symfuse import directories
from symfuse.control import Message
from symfuse.errors import MountBusy, MountpointError, NotMounted, SymfuseError
from symfuse.mounts import preflight, unmount
from symfuse.mounts.launch import OnProgress, ServerProcess, launch
from symfuse.mounts.path import MountedPath
from symfuse.mounts.request import MountRequest, Path, request
from symfuse.mounts.visible import visible
from symfuse.pattern import AUTO
from symfuse.policy import (
    SPLIT_ORDER,
    Backend,
    BrokenImages,
    Conflicts,
    DirLinks,
    DotEntries,
    Io,
    Judge,
    Kind,
    NonUtf8,
    SameBy,
    Scope,
    SideFiles,
)  # fmt: skip
from symfuse.progress import compared_line, hidden_line, warning_lines

#: How long a block waits to hear what is hidden: a small dataset is read by then. Later it is logged meanwhile.
MOMENT_S = 0.5

log = logging.getLogger("symfuse")


@contextlib.contextmanager
def mounted(
    source: Path,
    *,
    at: Path | None = None,
    backend: str = Backend.KERNEL,
    io: str = Io.AUTO,
    stack: bool = False,
    fail_on: Iterable[str] | str = (),
    outside: str | None = None,
    allow_root: Iterable[Path] | Path = (),
    dir_links: str = DirLinks.FOLLOW,
    dot_entries: str = DotEntries.HIDE,
    non_utf8: str = NonUtf8.SHOW,
    hide: Iterable[str | bytes] | str | bytes = (),
    show: Iterable[str | bytes] | str | bytes = (),
    dedup: str = SameBy.OFF,
    dedup_scope: str = Scope.CLASS,
    layout: str | bytes = AUTO,
    prefer: Iterable[str | bytes] | str | bytes = (),
    split_order: Iterable[str | bytes] | str | bytes = SPLIT_ORDER,
    conflicts: str = Conflicts.FIRST,
    broken_images: str = BrokenImages.SHOW,
    judge: str = Judge.PILLOW,
    side_files: str = SideFiles.FOLLOW,
    allow_other: bool = False,
    noexec: bool = False,
    eager: bool = False,
) -> Iterator[MountedPath]:
    """Mount a dataset for the length of a block; the block gets the mountpoint.

    The options are those of `symfuse mount`; here all globs of `show` count after all of `hide`. Without `at` the
    mountpoint is a temporary directory, removed at the end. The server is a process of its own. It unmounts when the
    block ends and when this process dies, even if killed; what still uses the mount then is served until it is done.
    Images under several classes or in several splits are warned of in the log `symfuse`, and so is what is hidden, as
    soon as that is known. The path is a `str` that can be asked: `path.status()`, `path.hidden()`.

    Errors: SymfuseError, before the block, when it cannot be mounted; after it, unless the block itself raised, when
    the server died meanwhile. The log says so at once, and reading fails from then on.
    """
    with place(at) as mountpoint:
        wanted = request(
            source,
            mountpoint,
            backend=backend,
            io=io,
            stack=stack,
            fail_on=fail_on,
            outside=outside,
            allow_root=allow_root,
            dir_links=dir_links,
            dot_entries=dot_entries,
            non_utf8=non_utf8,
            hide=hide,
            show=show,
            dedup=dedup,
            dedup_scope=dedup_scope,
            layout=layout,
            prefer=prefer,
            split_order=split_order,
            conflicts=conflicts,
            broken_images=broken_images,
            judge=judge,
            side_files=side_files,
            allow_other=allow_other,
            noexec=noexec,
            eager=eager,
            remove_mountpoint=at is None,
        )
        with session(wanted) as server:
            server.listener.wait(MOMENT_S)
            server.listener.tell(_log_hidden)
            with _watched(server):
                yield MountedPath(os.fsdecode(wanted.mountpoint))
        if (death := server.death()) is not None:
            raise death


def _log_hidden(frozen: Message) -> None:
    """Say in the log which layout was taken, what is hidden, and what was found to be wrong."""
    for line in filter(None, [frozen["layout"], compared_line(frozen)]):
        log.info("%s", visible(line))
    hidden = hidden_line(frozen)
    if hidden is not None:
        is_problem = any(not Kind(kind).is_choice for kind in frozen["hidden"])
        log.log(logging.WARNING if is_problem else logging.INFO, "%s: path.hidden() lists them", hidden)
    for line in warning_lines(frozen):
        log.warning("%s", visible(line))


@contextlib.contextmanager
def _watched(server: ServerProcess) -> Iterator[None]:
    """Say in the log, at once, that the server has died."""
    is_over = threading.Event()

    def watch() -> None:
        with contextlib.suppress(ChildProcessError):  # somebody else here reaps all children
            os.waitid(os.P_PID, server.process.pid, os.WEXITED | os.WNOWAIT)
        if not is_over.is_set() and (death := server.death()) is not None:
            log.error("%s", visible(str(death)))

    with contextlib.suppress(RuntimeError):  # no more threads can be had; the end of the block says it, too
        threading.Thread(target=watch, name="symfuse-watch", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


@contextlib.contextmanager
def place(at: Path | None) -> Iterator[Path]:
    """Where to mount: as told, or in a temporary directory that is removed at the end. Errors: MountpointError."""
    if at is not None:
        yield at
        return
    try:
        # The number says whose it is, should it be left behind (`unmount.clear_left_behind`).
        directory = tempfile.mkdtemp(prefix=f"symfuse-{os.getpid()}-", dir=directories.temporary())
    except OSError as error:
        cure = "name an empty directory with --at (in Python: at=), or set TMPDIR"
        raise MountpointError(f"no temporary directory can be made for the mount ({error.strerror})", cure) from error
    owner = os.getpid()
    try:
        yield directory
    finally:
        # The server does the same when we cannot. Never a recursive removal: the mount might still be there.
        if os.getpid() == owner:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


@contextlib.contextmanager
def session(
    wanted: MountRequest,
    *,
    on_progress: OnProgress = lambda _frozen: None,
    on_note: Callable[[str], None] = log.warning,
) -> Iterator[ServerProcess]:
    """`mounted` for a request that is made already.

    Errors: SymfuseError, before the block, when it cannot be mounted.
    """
    preflight.check(wanted, on_note=on_note)
    server = launch(wanted, on_progress=on_progress)
    try:
        yield server
    finally:
        if os.getpid() == server.owner:  # a forked child that leaves the block must not end its parent's mount
            _end(server, on_note)


def _end(server: ServerProcess, on_note: Callable[[str], None]) -> None:
    """Unmount, whatever has become of the mount. What stays behind is said, and is no error of the block."""
    timeout_s = unmount.LAZY_END_TIMEOUT_S
    try:
        if (mount := server.mount()) is not None:  # else somebody else was quicker
            unmount.end(mount)
        timeout_s = unmount.END_TIMEOUT_S
    except NotMounted as error:
        if server.mount() is not None:  # hidden by another mount
            on_note(f"{error}: it is unmounted as soon as that is done")
    except MountBusy as busy:
        if (mount := server.mount()) is None:
            on_note(str(busy))
        else:
            on_note(f"{busy.cause}: detached, and served until that ends")
            with contextlib.suppress(SymfuseError):
                unmount.end(mount, lazy=True)
    except SymfuseError as error:
        on_note(str(error))
    finally:
        server.stop(timeout_s=timeout_s)
