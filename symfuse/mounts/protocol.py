"""What whoever asks for a mount and the mount's server say to each other, over two pipes.

To the server: the request (`MountRequest.to_json`), then nothing until DETACH or the end of the asking process, which
ends the mount. From it: messages, one JSON object a line.
"""

from __future__ import annotations

from collections.abc import Callable

from symfuse.control import Message

#: What the asking process writes when the mount is to outlive it.
DETACH = b"detach\n"

#: Hears {"event": "progress", "ready" or "frozen", "frozen": Progress}, or
#: {"event": "error", "status": ExitStatus, "cause": …, "cure": …}.
Report = Callable[[Message], None]
