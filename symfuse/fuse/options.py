"""What a backend must know to mount."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`fsname` is what mount(8) and df(1) show as the device: the dataset's absolute path.

    `layered` makes the view one of two directories, for an overlay (`layers.py`); the kernel backend alone knows it.
    """

    mountpoint: bytes
    fsname: bytes
    allow_other: bool = False
    layered: bool = False
