"""symfuse: an image dataset full of symlinks, mounted as a clean, read-only tree of regular files."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "mounted"]

if TYPE_CHECKING:
    from symfuse.mounts.session import mounted


def __getattr__(name: str) -> object:
    """Import `mounted` at its first use: the command line starts without it."""
    if name == "mounted":
        from symfuse.mounts.session import mounted  # noqa: PLC0415 - lazily on purpose

        return mounted
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
