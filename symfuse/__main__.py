"""`symfuse` and `python -m symfuse`: the one place where nothing is loaded yet that Ctrl-C could interrupt."""

from __future__ import annotations

import signal
import sys

from symfuse import streams


def main() -> int:
    """Load the command line and run it. Returns the exit status."""
    streams.guard()
    # While modules load, Ctrl-C ends the process as it ends any program: without a word. Then Python's way again.
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.SIG_IGN:  # as in a shell's background job; it stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from symfuse.cli import main as command_line  # noqa: PLC0415 - after the line above, on purpose
    except ImportError as error:
        from symfuse.errors import missing_part  # noqa: PLC0415 - needed here alone

        lacking = missing_part(error)
        sys.stderr.write(f"symfuse: {lacking}\n")
        return int(lacking.status)

    signal.signal(signal.SIGINT, handler)
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
