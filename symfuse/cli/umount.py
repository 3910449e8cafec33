"""`symfuse umount`."""

from __future__ import annotations

import os

import click

from symfuse.cli.options import as_path
from symfuse.cli.output import complain
from symfuse.errors import ExitStatus
from symfuse.mounts.unmount import unmount


@click.command("umount")
@click.argument("mountpoint", type=as_path)
@click.option("-l", "--lazy", is_flag=True, help="Detach a busy mount now; it ends with its last user.")
def command(mountpoint: bytes, *, lazy: bool) -> int:
    """End the mount at MOUNTPOINT.

    Returns when the mount is gone and its server has ended. A dead mount is cleared away.
    """
    path = os.path.realpath(mountpoint)
    os.chdir("/")  # else we would be among those who keep it busy
    if not unmount(path, lazy=lazy):
        complain(f"{os.fsdecode(path)} is detached; it is served until its last user is gone")
    return ExitStatus.OK
