"""The view beside an empty directory: the two layers that a kernel overlay asks for (`mounts/stack.py`).

Without a writable layer overlayfs wants two others. Only where all lie on one file system does it show their inode
numbers as they are, so both must be ours; and neither may hold the other, so neither can be our root. Source:
`ovl_get_lowerstack` and `ovl_check_layer` in `fs/overlayfs/super.c`, `ovl_map_dev_ino` in `fs/overlayfs/inode.c`.
"""

from __future__ import annotations

import os
import stat

from symfuse.counters import Counters
from symfuse.fuse import abi
from symfuse.fuse.abi import Opcode, Request
from symfuse.fuse.server import FOREVER_S, Reply, Server, attr, entry
from symfuse.nodes import Node
from symfuse.view import ROOT_NODEID, View

#: The names of the two layers.
VIEW, EMPTY = b"view", b"empty"
#: Their nodeids, which no view gives to anything.
VIEW_NODEID, EMPTY_NODEID = (1 << 64) - 2, (1 << 64) - 3
_NODEIDS = {VIEW: VIEW_NODEID, EMPTY: EMPTY_NODEID}

_LISTING = frozenset({Opcode.READDIR, Opcode.READDIRPLUS})
_OURS = frozenset({Opcode.LOOKUP, Opcode.GETATTR}) | _LISTING


class Layers:
    """Stands before the `Server` of a view and answers for the directories around it.

    `is_private` closes the view's root to all users but our own. FUSE cannot: an overlay asks in the name of whoever
    mounted it, whoever looks.
    """

    def __init__(self, server: Server, view: View, counters: Counters, *, is_private: bool) -> None:
        self._server = server
        self._view = view
        self._counters = counters
        self._is_private = is_private

    def may_block(self, request: Request) -> bool:
        """As `Server.may_block`."""
        return not _is_ours(request) and self._server.may_block(_for_the_view(request))

    def handle(self, request: Request) -> Reply:
        """As `Server.handle`."""
        if not _is_ours(request):
            return self._server.handle(_for_the_view(request))
        self._counters.tally().requests[Opcode(request.opcode).name.lower()] += 1
        if request.opcode == Opcode.LOOKUP:
            name = request.body.partition(b"\0")[0]
            return _reply(request, self._look_up(name if request.nodeid == ROOT_NODEID else b""))
        if request.opcode == Opcode.GETATTR:
            return _reply(request, abi.ATTR_OUT.pack(FOREVER_S, 0, 0, *attr(self._root())))
        return _reply(request, b"")  # of the empty layer; the root is listed by nobody

    def undelivered(self, request: Request, reply: Reply) -> None:
        """As `Server.undelivered`."""
        self._server.undelivered(request, reply)

    def _look_up(self, name: bytes) -> bytes:
        nodeid = _NODEIDS.get(name)
        if nodeid is None:
            return abi.ENTRY_OUT.pack(0, 0, FOREVER_S, *(0,) * 19)
        return abi.ENTRY_OUT.pack(*entry(self._root()._replace(nodeid=nodeid)))

    def _root(self) -> Node:
        """The view's root as it is shown, which all three directories look like."""
        root = self._view.node(ROOT_NODEID)
        if not self._is_private:
            return root
        mode = root.mode & ~(stat.S_IRWXG | stat.S_IRWXO)
        return root._replace(mode=mode, uid=os.geteuid(), gid=os.getegid())


def _is_ours(request: Request) -> bool:
    if request.nodeid in (ROOT_NODEID, EMPTY_NODEID):
        return request.opcode in _OURS
    return request.nodeid == VIEW_NODEID and request.opcode == Opcode.GETATTR


def _for_the_view(request: Request) -> Request:
    """The request as the view's own server understands it, to whom the view is the root."""
    return request if request.nodeid < EMPTY_NODEID else request._replace(nodeid=ROOT_NODEID)


def _reply(request: Request, payload: bytes) -> Reply:
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(payload), 0, request.unique), payload
