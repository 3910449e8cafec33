"""`/dev/fuse`: a connection, from mount to unmount."""

from __future__ import annotations

import os
from collections.abc import Callable

from symfuse.control import Control
from symfuse.fuse import kernelmount
from symfuse.fuse.layers import Layers
from symfuse.fuse.options import MountOptions
from symfuse.fuse.passthrough import Backing, Opens
from symfuse.fuse.server import Server
from symfuse.fuse.workers import RequestLoop
from symfuse.view import View


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
            RequestLoop(fd, self._server(fd)).serve(on_ready)
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
