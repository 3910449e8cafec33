"""`symfuse mount`."""

from __future__ import annotations

import os
from typing import Any

import click

from symfuse.cli.options import InOrder, as_path, mount_options
from symfuse.cli.output import complain, frozen_line, quoted, say, say_hidden, summary_lines, warn
from symfuse.cli.progress import ProgressDisplay
from symfuse.control import Message
from symfuse.errors import ExitStatus
from symfuse.mounts import preflight
from symfuse.mounts.launch import launch
from symfuse.mounts.lifecycle import MountServer
from symfuse.mounts.request import MountRequest, request
from symfuse.mounts.serve import log_to_stderr

#: How long `mount` waits to hear what is hidden: a small dataset is read by then.
MOMENT_S = 1.0


@click.command("mount", cls=InOrder)
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
        server = launch(wanted, in_background=True, on_progress=progress, on_note=complain)
    _announce(wanted, server.frozen)
    if not wanted.scans_first:
        _say_hidden(wanted, server.listener.wait(MOMENT_S))
    return ExitStatus.OK


def _say_hidden(wanted: MountRequest, frozen: Message | None) -> None:
    if frozen is not None:
        say_hidden(frozen, "status", wanted.mountpoint)
    else:
        status = f"symfuse status {quoted(os.fsdecode(wanted.mountpoint))}"
        say(f"the dataset is still being read: {status} will say what is hidden")


def _announce(wanted: MountRequest, frozen: Message) -> None:
    source, mountpoint = os.fsdecode(wanted.source), os.fsdecode(wanted.mountpoint)
    say(f"{source} is mounted read-only on {mountpoint}; to unmount: symfuse umount {quoted(mountpoint)}")
    if wanted.scans_first:
        say(frozen_line(frozen))
        for line in summary_lines(frozen):
            say(f"  {line}")
        warn(frozen)


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
            elif message["event"] == "frozen" and not wanted.scans_first:
                say_hidden(message["frozen"], "status", wanted.mountpoint)

        server = MountServer(wanted, report)
        server.run()
    return ExitStatus.OK if server.was_ready else ExitStatus.INTERRUPTED
