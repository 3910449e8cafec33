"""`symfuse umount`."""

from __future__ import annotations

import os

import click

from symfuse.cli.options import as_path
from symfuse.cli.output import complain, say
from symfuse.errors import ExitStatus
from symfuse.mounts.bounded import real_mountpoint
from symfuse.mounts.unmount import clear_own_dead, unmount


@click.command("umount")
@click.argument("mountpoint", type=as_path, required=False)
@click.option("-l", "--lazy", is_flag=True, help="Detach a busy mount now; it ends with its last user.")
@click.option(
    "--dead", is_flag=True, help="Clear away all of your mounts whose servers have ended, without MOUNTPOINT."
)
def command(mountpoint: bytes | None, *, lazy: bool, dead: bool) -> int:
    """End the mount at MOUNTPOINT.

    Returns when the mount is gone and its server has ended. A dead mount is cleared away.
    """
    if dead == (mountpoint is not None):
        raise click.UsageError("name either MOUNTPOINT or --dead")
    if mountpoint is None:
        return _clear_dead()
    path = real_mountpoint(mountpoint)
    os.chdir("/")  # else we would be among those who keep it busy
    if not unmount(path, lazy=lazy):
        complain(f"{os.fsdecode(path)} is detached; it is served until its last user is gone")
    return ExitStatus.OK


def _clear_dead() -> int:
    cleared = clear_own_dead()
    for mount in cleared:
        say(f"cleared {os.fsdecode(mount.mountpoint)}, a dead mount of {os.fsdecode(mount.source)}")
    if not cleared:
        complain("no mount of yours is dead")
    return ExitStatus.OK
