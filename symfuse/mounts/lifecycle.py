"""One mount, from its preparation to its end: the main thread decides, a worker thread prepares, mounts and serves."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

from symfuse import process
from symfuse.control import Control
from symfuse.counters import Counters
from symfuse.errors import ExitStatus, MountpointError, SymfuseError
from symfuse.fuse import kernelmount
from symfuse.fuse.layers import VIEW_NODEID
from symfuse.fuse.options import MountOptions
from symfuse.mounts import connection, guardian, table, unmount
from symfuse.mounts.claim import Claim, guarded
from symfuse.mounts.guardian import Guardian
from symfuse.mounts.prepare import conclude, politely, prepare
from symfuse.mounts.presence import Presence
from symfuse.mounts.protocol import DETACH, Report
from symfuse.mounts.request import MountRequest
from symfuse.mounts.stack import Place
from symfuse.mounts.table import MountEntry
from symfuse.policy import Backend
from symfuse.view import ROOT_NODEID, View

#: How long the background freeze may take to notice that it is over.
FREEZE_END_TIMEOUT_S = 1.0
#: How long the end may take after the asking process is gone, before our stderr is let go.
QUIET_AFTER_S = 1.0
#: How long after a change of mounts we see what has become of ours, and how often then.
LOOK_INTERVAL_S = 1.0
#: How long the worker may take to end after its mount is gone. It cannot, while storage hangs.
WORKER_END_TIMEOUT_S = 2.0
#: How long preparing may take to notice that it is over, and to keep what it found out. It cannot, while storage hangs.
PREPARING_END_TIMEOUT_S = 5.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: What the worker tells the main thread, beside the numbers of signals.
_READY, _ENDED = b"\xfe", b"\xff"

log = logging.getLogger(__name__)


class MountServer:
    """One mount, from its preparation to its end. Made and run in the main thread, for it handles signals.

    `lifeline` is a descriptor whose end means that the asking process is gone, which ends the mount; DETACH on it
    means that the mount lives on.
    """

    def __init__(self, request: MountRequest, report: Report, *, lifeline: int | None = None) -> None:
        self.was_ready = False
        self._request = request
        self._report = report
        self._lifeline = lifeline
        self._asker: int | None = None  # what watches the asking process for its end
        self._silent_at_s: float | None = None  # when to let go of stderr
        self._retries = False  # our mount is hidden by another, and is unmounted when it can be seen again
        self._look_at_s: float | None = None  # when to see what has become of our mount
        self._over_since_s: float | None = None  # when the last user of our mount was seen to be gone
        self._give_up_at_s: float | None = None  # when the worker has had its time to stop preparing
        self._is_stuck = False  # the worker does not end, because storage hangs
        self._stop = threading.Event()
        self._error: BaseException | None = None  # of the worker; written before it says _ENDED
        self._view: View | None = None  # the worker's until it says _READY
        self._place: Place | None = None  # of a stacked mount; likewise
        self._presence: Presence | None = None  # likewise
        self._claim: Claim | None = None  # likewise
        self._mounted: MountEntry | None = None  # what is shown at the mountpoint; likewise
        self._counters = Counters()
        self._freezer: threading.Thread | None = None
        self._guardian: Guardian | None = None
        self._guardians = 0  # that were started
        self._wakeup, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until the mount is gone, by whomever.

        Errors: SymfuseError when it cannot be mounted; whatever failed while serving, and the mount then stays behind
        dead: programs that see an empty directory instead could take it for the truth.
        """
        raise_descriptor_limit()
        threading.excepthook = _end_at_once
        with self._signals():
            self._watch()
            self._start_guardian()
            threading.Thread(target=self._work, name="worker", daemon=True).start()
            while self._handle_events():
                pass
            self._end()
        if self._is_stuck and not self.was_ready:
            os._exit(ExitStatus.INTERRUPTED)  # Python would wait for the threads that hash
        if self._error is not None:
            raise self._error

    # -- the worker thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._claim = unmount.claim(self._request.mountpoint)
            if self._request.scans_first:
                self._rehearse(self._claim)
            view = prepare(self._request, self._report, self._stop)
            if not self._stop.is_set():
                self._view = view
                self._claim.confirm()
                self._backend(view)(lambda: self._announce(view))
        except BaseException as error:
            self._error = error
        finally:
            self._tell(_ENDED)

    def _rehearse(self, claim: Claim) -> None:
        """Mount and unmount at once, serving nobody: what refuses does so now, and not after minutes of scanning.

        Errors: FuseUnavailable, MountpointError.
        """
        mountpoint = self._request.mountpoint
        with guarded(mountpoint):  # else somebody could take it for a dead mount, and clear it
            fd = kernelmount.mount(self._options(claim))
            try:
                mounted = self._find(mountpoint)
            finally:
                os.close(fd)  # first: whoever looks at the mountpoint now gets an error instead of waiting
            unmount.take_away(mounted, lazy=True)

    def _options(self, claim: Claim) -> MountOptions:
        """How the mountpoint is mounted on, whatever is shown there."""
        request = self._request
        return MountOptions(
            mountpoint=request.mountpoint,
            fsname=request.source,
            allow_other=request.allow_other,
            noexec=request.noexec,
            via=claim.via,
        )

    def _announce(self, view: View) -> None:
        """The mount is there, and no request but INIT was answered yet."""
        mounted = self._mounted = self._find(self._place.fuse if self._place else self._request.mountpoint)
        view.dataset.forbid_device(mounted.device)
        if self._request.backend is Backend.KERNEL:
            kernelmount.raise_readahead(mounted.device)
        self._tell(_READY)

    def _find(self, mountpoint: bytes) -> MountEntry:
        """The mount that we have just made there, even if others are there by now.

        Errors: MountpointError when it is not there: then it is taken away from where it has come to lie.
        """
        ours = list(filter(self._is_made_here, table.symfuse_mounts()))
        there = [mount for mount in ours if mount.mountpoint == mountpoint]
        if not there and not connection.devices():  # the kernel does not say which is ours
            there = [mount for mount in table.symfuse_mounts() if mount.mountpoint == mountpoint]
            there = there if len(there) == 1 else []
        if not there:
            for mount in ours:  # somebody has renamed a directory above it
                with contextlib.suppress(OSError, SymfuseError):
                    unmount.take_away(mount, lazy=True)
            raise MountpointError(f"the mount at {os.fsdecode(mountpoint)} is not ours", "see symfuse status")
        # A shared mountpoint can show a copy of the mount below itself: the one on the directory is meant.
        return next((mount for mount in there if self._claim is not None and self._claim.holds(mount)), there[-1])

    def _is_made_here(self, mount: MountEntry) -> bool:
        """Whether a mount shows what this process serves."""
        if mount.place is not None:
            return self._place is not None and mount.place == self._place.path
        return mount.device in connection.devices()

    def _backend(self, view: View) -> Callable[[Callable[[], None]], None]:
        request = self._request
        self._presence = Presence(view)
        control = Control(
            view,
            self._counters,
            backend=request.backend,
            source=request.source,
            mountpoint=request.mountpoint,
            log=request.log,
            watch=self._presence,
        )
        assert self._claim is not None
        options = replace(
            self._options(self._claim),
            io=request.io,
            max_stack_depth=1 if request.stack else _stack_depth(view.dataset.root),
        )
        if request.stack:
            self._place = Place()
            self._place.listen(control)
            options = replace(options, mountpoint=self._place.fuse, via=None, layered=True)
        if request.backend is Backend.FUSEPY:
            from symfuse.fuse.libfuse import LibfuseBackend  # noqa: PLC0415 - needs libfuse 2, which few have

            return LibfuseBackend(view, control, options=options).run
        from symfuse.fuse.device import KernelBackend  # noqa: PLC0415 - only one of the two is ever needed

        return KernelBackend(view, control, options=options).run

    def _tell(self, what: bytes) -> None:
        os.write(self._wake, what)

    # -- the main thread ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The stop signals wake the main thread, and nothing else happens. Those that are ignored stay so (nohup)."""
        minded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, lambda _number, _frame: None) for number in minded}
        wakeup_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self) -> None:
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_wakeup)
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.epoll()
        self._changes.register(self._mountinfo, select.EPOLLPRI | select.EPOLLERR)
        self._selector.register(self._changes, selectors.EVENT_READ, self._on_mounts_changed)
        if self._lifeline is None:
            return
        os.set_blocking(self._lifeline, False)
        self._selector.register(self._lifeline, selectors.EVENT_READ, self._on_asker)
        # The pipe alone would not do: whoever the asking process forks holds its other end, too.
        with contextlib.suppress(OSError):
            self._asker = process.watch_end(os.getppid())
            self._selector.register(self._asker, selectors.EVENT_READ, self._on_asker)

    def _handle_events(self) -> bool:
        """False when the worker has ended."""
        going = True
        ready = self._selector.select(self._timeout_s())
        for key, _mask in ready:
            if key.fd in self._selector.get_map():  # else released meanwhile
                going = key.data() and going
        now_s = time.monotonic()
        if self._silent_at_s is not None and now_s >= self._silent_at_s:
            self._fall_silent()
        if self._look_at_s is not None and now_s >= self._look_at_s:
            going = self._look() and going
        if going and not self.was_ready and self._give_up_at_s is not None and now_s >= self._give_up_at_s:
            self._is_stuck = True
            going = False
        return going

    def _timeout_s(self) -> float | None:
        give_up_at_s = None if self.was_ready else self._give_up_at_s
        planned = [at_s for at_s in (self._silent_at_s, self._look_at_s, give_up_at_s) if at_s is not None]
        return max(0.0, min(planned) - time.monotonic()) if planned else None

    def _on_wakeup(self) -> bool:
        told = os.read(self._wakeup, 4096)
        if _READY[0] in told:
            self._on_ready()
        if any(number in told for number in STOP_SIGNALS):
            self._on_signal()
        return _ENDED[0] not in told

    def _on_asker(self) -> bool:
        """The asking process said something, or is gone; it may have said DETACH before."""
        assert self._lifeline is not None
        try:
            said = os.read(self._lifeline, len(DETACH))
        except BlockingIOError:  # gone, but somebody it forked holds the pipe
            said = b""
        self._release()
        if said != DETACH:
            self._silent_at_s = time.monotonic() + QUIET_AFTER_S
            if not self._stop.is_set():
                self._stop_serving()
        return True

    def _start_guardian(self) -> None:
        """Have somebody who notices our death. Without one we serve all the same, and say so."""
        # Whoever asked for a mount of their own notices our death themselves, and may wait for the end of our stderr.
        is_silent = self._lifeline is not None and self._request.log is None
        try:
            self._guardian = Guardian(self._request.mountpoint, is_silent=is_silent)
        except OSError as error:
            log.warning("nobody would notice the death of this server: its guardian does not start (%s)", error)
            return
        self._guardians += 1
        self._selector.register(self._guardian, selectors.EVENT_READ, self._on_guardian)
        if self.was_ready:
            self._guard()

    def _guard(self) -> None:
        if self._guardian is None:
            return
        roots = (VIEW_NODEID, ROOT_NODEID) if self._request.stack else (ROOT_NODEID,)
        try:
            self._guardian.watch(connection.find(), roots)
        except OSError as error:
            log.warning("nobody would notice the death of this server: its guardian cannot be told (%s)", error)

    def _on_guardian(self) -> bool:
        """It has ended before us. One that was killed is replaced."""
        status = self._release_guardian()
        if status < 0 and self._guardians < guardian.MAX_REPLACED:
            log.warning("the guardian of this server was killed: another one is started")
            self._start_guardian()
        else:
            log.warning("nobody would notice the death of this server: its guardian has ended (status %d)", status)
        return True

    def _release_guardian(self) -> int:
        """Let the guardian end. Returns its status, as Popen; 0 when there is none."""
        if self._guardian is None:
            return 0
        self._selector.unregister(self._guardian)
        released, self._guardian = self._guardian, None
        return released.close()

    def _release(self) -> None:
        """Watch the asking process no longer."""
        for fd in (self._lifeline, self._asker):
            if fd is not None and fd in self._selector.get_map():
                self._selector.unregister(fd)
                os.close(fd)

    def _on_ready(self) -> None:
        assert self._view is not None
        if not self._is_in_place(self._view):
            return
        self.was_ready = True
        self._guard()
        if self._stop.is_set():
            self._unmount()
            return
        assert self._mounted is not None
        mount = {"mount_id": self._mounted.mount_id, "device": self._mounted.device}
        self._report({"event": "ready", "frozen": self._view.progress().as_dict(), **mount})
        self._freezer = threading.Thread(target=self._freeze, args=(self._view,), name="freezer", daemon=True)
        self._freezer.start()

    def _is_in_place(self, view: View) -> bool:
        """Whether our mount is where it should be, alone; else the mount ends."""
        assert self._claim is not None
        try:
            if self._place is not None:
                self._mounted = self._show(view, self._place)
            assert self._mounted is not None
            self._claim.refuse_on_top(self._mounted)
        except (SymfuseError, OSError) as error:
            self._error = error
            if self._place is not None:
                self._place.detach()
            self._unmount()
            return False
        self._claim.release()
        self._claim = None
        return True

    def _show(self, view: View, place: Place) -> MountEntry:
        """Put the overlay over the mountpoint. Errors: SymfuseError, OSError."""
        self._mounted = None  # what it is made of is no mount to be ended by its path
        assert self._claim is not None
        self._claim.confirm()
        request, before = self._request, view.dataset.forbid_device
        place.show(request.source, request.mountpoint, via=self._claim.via, noexec=request.noexec, before=before)
        return self._find(request.mountpoint)

    def _freeze(self, view: View) -> None:
        try:
            if not self._request.scans_first:
                view.freeze_all(keep_on=politely(self._counters, self._stop))
                if self._stop.is_set():
                    return
                conclude(view, self._request)
            if self._presence is not None:
                self._presence.remember()
            self._report({"event": "frozen", "frozen": view.progress().as_dict()})
        except Exception:
            log.exception("freezing the dataset in the background failed")

    def _on_signal(self) -> None:
        """Whoever sends a second one does not want to wait for the mount's users."""
        if self._stop.is_set():
            log.warning("second signal: exiting now; processes that still use the mount get ENOTCONN")
            os._exit(ExitStatus.INTERRUPTED)
        self._stop_serving()

    def _stop_serving(self) -> None:
        """Unmount, or do not mount at all."""
        self._stop.set()
        if self.was_ready:
            self._unmount()
        else:
            self._give_up_at_s = time.monotonic() + PREPARING_END_TIMEOUT_S

    def _on_mounts_changed(self) -> bool:
        self._changes.poll(0)
        self._look_soon()
        return True

    def _look_soon(self) -> None:
        if self.was_ready and self._look_at_s is None:
            self._look_at_s = time.monotonic() + LOOK_INTERVAL_S

    def _look(self) -> bool:
        """See what has become of our mount; False when it is gone and the worker does not notice."""
        self._look_at_s = None
        mount = None if self._mounted is None else table.find_again(self._mounted)
        if mount is None:
            self._look_soon()
            return not self._is_worker_stuck()
        if self._retries:
            self._unmount(is_retry=True)
        return True

    def _is_worker_stuck(self) -> bool:
        if not all(map(connection.is_over, connection.descriptors())):  # detached, and used
            return False
        now_s = time.monotonic()
        self._over_since_s = self._over_since_s or now_s
        self._is_stuck = now_s - self._over_since_s > WORKER_END_TIMEOUT_S
        return self._is_stuck

    def _fall_silent(self) -> None:
        """The mount is detached, but used, and nobody waits for us: nor must anybody wait for the end of our stderr."""
        self._silent_at_s = None
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)

    def _unmount(self, *, is_retry: bool = False) -> None:
        """Unmount this very mount, wherever it is by now; nothing that was put in its place or over it.

        What hides it may go away: then it is tried again.
        """
        mount = None if self._mounted is None else table.find_again(self._mounted)
        self._retries = False
        if mount is None:  # somebody else was quicker
            return
        self._mounted = mount
        name = os.fsdecode(mount.mountpoint)
        if (over := table.over(mount)) is not None:
            if not is_retry:
                log.error("%s cannot be unmounted yet: %s is mounted over it", name, os.fsdecode(over.fstype))
            self._retries = True
            self._look_soon()
            return
        try:
            try:
                unmount.take_away(mount, lazy=False)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                log.info("%s is busy: detached, and served until its last user is gone", name)
                unmount.take_away(mount, lazy=True)
        except (OSError, SymfuseError) as error:
            if table.find_again(mount) is not None:
                log.error("%s cannot be unmounted: %s", name, error)

    def _end(self) -> None:
        is_watched = self._lifeline is not None and self._lifeline in self._selector.get_map()
        self._stop.set()
        if self._error is not None and self.was_ready and is_watched:
            self._unmount()  # nobody but the asking process knows of this mount
        if self._freezer is not None:
            self._freezer.join(FREEZE_END_TIMEOUT_S)
        if self._is_stuck:
            log.warning("%s does not respond: ended all the same", os.fsdecode(self._request.source))
        elif self._view is not None:
            self._view.close()
        if self._place is not None:
            self._place.remove()
        if self._request.remove_mountpoint:
            with contextlib.suppress(OSError):
                os.rmdir(self._mounted.mountpoint if self._mounted else self._request.mountpoint)
        if self._claim is not None:
            self._claim.release()
        if self._error is None:
            self._remove_empty_log()
        self._release_guardian()
        self._release()
        self._selector.close()
        self._changes.close()
        os.close(self._mountinfo)

    def _remove_empty_log(self) -> None:
        """Leave no file behind that says nothing."""
        log_file = self._request.log
        with contextlib.suppress(OSError):
            if log_file is not None and os.path.getsize(log_file) == 0:
                os.unlink(log_file)


def _end_at_once(failed: threading.ExceptHookArgs) -> NoReturn:
    """A thread has failed as none may: whoever waits for it would wait for ever. A dead server is noticed."""
    error = failed.exc_value or failed.exc_type()
    log.critical("a thread of the server has failed, which ends it", exc_info=error)
    os._exit(ExitStatus.INTERNAL)


def _stack_depth(path: bytes) -> int:
    """How deep in stacked file systems sources may lie that are passed through.

    No more than is of use: with 2, the mount itself cannot be put below an overlay.
    """
    covering = table.covering(path)
    return 2 if covering is not None and covering.fstype == table.OVERLAY else 1


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: many readers at once need many sources."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - some builds of Python lack it

        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
