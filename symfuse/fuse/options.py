"""What a backend must know to mount."""

from __future__ import annotations

from dataclasses import dataclass

from symfuse.policy import Io


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`fsname` is what mount(8) and df(1) show as the device: the dataset's absolute path.

    The rest is for the kernel backend alone. `via` is another path to the mountpoint, which no rename leads elsewhere;
    root mounts by it. `io` and `max_stack_depth`: see `passthrough.py`. `layered` makes the view one of two
    directories, for an overlay (`layers.py`).
    """

    mountpoint: bytes
    fsname: bytes
    allow_other: bool = False
    noexec: bool = False
    via: bytes | None = None
    io: Io = Io.CACHED
    max_stack_depth: int = 1
    layered: bool = False
