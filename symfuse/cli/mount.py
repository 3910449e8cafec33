"""`symfuse mount`."""

from __future__ import annotations

import os
from typing import Any

import click

from symfuse.cli.options import as_path, mount_options
from symfuse.cli.output import complain, frozen_line, hidden_lines, quoted, say
from symfuse.cli.progress import ProgressDisplay
from symfuse.control import Message
from symfuse.errors import ExitStatus
from symfuse.mounts import preflight
from symfuse.mounts.launch import launch
from symfuse.mounts.request import MountRequest, request
from symfuse.mounts.serve import MountServer, log_to_stderr
from symfuse.progress import warning_lines


@click.command("mount")
@click.argument("source", type=as_path)
@click.argument("mountpoint", type=as_path)
@mount_options
@click.option("-f", "--foreground", is_flag=True, help="Serve in this process, until it is stopped or unmounted.")
def command(source: bytes, mountpoint: bytes, *, foreground: bool, **options: Any) -> int:
    """Show the dataset SOURCE at MOUNTPOINT, an empty directory, as a clean tree.

    Returns when the mount answers, and leaves it running in the background.
    """
    wanted = request(source, mountpoint, **options)
    preflight.check(wanted, on_note=complain)
    if foreground:
        return _serve_here(wanted)
    with ProgressDisplay() as progress:
        server = launch(wanted, in_background=True, on_progress=progress)
    _announce(wanted, server.frozen)
    return ExitStatus.OK


def _announce(wanted: MountRequest, frozen: Message) -> None:
    source, mountpoint = os.fsdecode(wanted.source), os.fsdecode(wanted.mountpoint)
    say(f"{source} is mounted read-only on {mountpoint}; to unmount: symfuse umount {quoted(mountpoint)}")
    if wanted.scans_first:
        say(frozen_line(frozen))
        for line in hidden_lines(frozen):
            say(f"  {line}")
        for line in warning_lines(frozen):
            complain(f"warning: {line}")
        if frozen["error"]:
            complain(frozen["error"])


def _serve_here(wanted: MountRequest) -> int:
    os.chdir("/")
    log_to_stderr()
    with ProgressDisplay() as progress:

        def report(message: Message) -> None:
            if message["event"] == "progress":
                progress(message["frozen"])
            elif message["event"] == "ready":
                progress.close()
                _announce(wanted, message["frozen"])

        server = MountServer(wanted, report)
        server.run()
    return ExitStatus.OK if server.was_ready else ExitStatus.INTERRUPTED
