"""`/dev/fuse`: the connection, and the threads that serve it."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from symfuse.control import Control
from symfuse.fuse import kernelmount
from symfuse.fuse.layers import Layers
from symfuse.fuse.options import MountOptions
from symfuse.fuse.passthrough import Backing, Opens
from symfuse.fuse.server import Server
from symfuse.view import View

#: Room for the largest request: one of our ioctls carries 16 KiB, and a WRITE (refused) 4 KiB.
REQUEST_BYTES = 32 * 1024
#: Threads that may wait for the dataset at once, plus one at the door.
MAX_THREADS = 17
#: How long the threads may take to end after the mount is gone; one that hangs in slow storage is left behind.
END_TIMEOUT_S = 1.0

_RETRY = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT})
_OVER = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})

log = logging.getLogger(__name__)


class KernelBackend:
    """Serves a view through `/dev/fuse` itself, without libfuse."""

    def __init__(self, view: View, control: Control, *, options: MountOptions) -> None:
        self._view = view
        self._control = control
        self._options = options

    def run(self, on_ready: Callable[[], None]) -> None:
        """Mount, call `on_ready` when the mount answers, serve; return when it is unmounted, by whomever.

        Errors: FuseUnavailable, MountpointError before `on_ready`.
        """
        fd = kernelmount.mount(self._options)
        try:
            Door(fd, self._server(fd)).serve(on_ready)
        finally:
            os.close(fd)

    def _server(self, fd: int) -> Server | Layers:
        view, control, options = self._view, self._control, self._options
        backing = Backing(fd) if os.geteuid() == 0 else None
        opens = Opens(view, io=options.io, backing=backing, max_stack_depth=options.max_stack_depth)
        server = Server(view, control, opens)
        if not options.layered:
            return server
        return Layers(server, view, control.counters, is_private=not options.allow_other)


class Door:
    """The threads that serve one connection; one of them is always at the door.

    A thread that must touch the dataset leaves the door to another, made now if there is none, so that what can be
    answered from memory never waits for storage: not for slow storage, and not for storage that waits for us (a path
    that leads into our own mount is refused by whoever is at the door). When all threads are made and only one is left
    there, it puts the request on the bench and stays; whoever comes back takes it from there.

    Invariant, under `_lock`: `_at_door` >= 1 from the first request to the last, unless the machine gives us no second
    thread.
    """

    def __init__(self, fd: int, server: Server | Layers) -> None:
        self._fd = fd
        self._server = server
        self._lock = threading.Lock()
        self._at_door = 1
        self._threads = 1
        self._was_refused = False  # a thread, by the machine
        self._bench: deque[bytes] = deque()
        self._over = threading.Event()

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the mount is gone. `on_ready` is called after the kernel's INIT was answered."""
        init = self._receive()
        if init is None:
            return
        self._send(init)
        on_ready()
        self._loop()
        self._over.wait(END_TIMEOUT_S)

    def _loop(self) -> None:
        while (request := self._receive()) is not None:
            if not self._server.may_block(request):
                self._send(request)
            elif self._leave(request):
                self._send(request)
                self._return()
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._over.set()

    def _leave(self, request: bytes) -> bool:
        """Leave the door to another thread; False when there is none, and the request waits on the bench."""
        with self._lock:
            if self._at_door > 1:
                self._at_door -= 1
                return True
            if self._threads < MAX_THREADS and self._hire():
                return True
            if self._threads > 1:  # all others are away, and will come back
                self._bench.append(request)
                return False
            self._at_door -= 1  # nobody else can be had: all that comes waits for this one request
            return True

    def _hire(self) -> bool:
        """Make one more thread, which goes to the door; False when the machine has none left. Called with _lock."""
        thread = threading.Thread(target=self._loop, name=f"door-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._was_refused:
                log.warning("served by %d threads, for there are no more: %s", self._threads, error)
            self._was_refused = True
            return False
        self._threads += 1
        return True

    def _return(self) -> None:
        """Come back to the door, after all that waits on the bench."""
        while True:
            with self._lock:
                if not self._bench:
                    self._at_door += 1
                    return
                request = self._bench.popleft()
            self._send(request)

    def _receive(self) -> bytes | None:
        """The next request, or None when the mount is gone."""
        while True:
            try:
                return os.read(self._fd, REQUEST_BYTES)
            except OSError as error:
                if error.errno in _RETRY:
                    continue
                if error.errno not in _OVER:
                    log.error("reading from %s failed: %s", kernelmount.DEVICE, error)
                return None

    def _send(self, request: bytes) -> None:
        """Answer one request."""
        reply = self._server.handle(request)
        if not reply:
            return
        try:
            os.writev(self._fd, reply)
        except OSError as error:
            self._server.undelivered(request)
            # ENOENT: nobody waits for it any more. ENODEV: the next read says so, too.
            if error.errno not in _RETRY | _OVER:
                log.error("the kernel refused a reply of %d bytes: %s", sum(map(len, reply)), error)
