"""Functions of libc that Python's standard library does not have."""

from __future__ import annotations

import errno
import os


def call(name: str, *arguments: bytes | int) -> int:
    """Call a libc function that returns -1 and sets errno; numbers are passed as `unsigned long`.

    Errors: OSError, with ENOSYS where this Python cannot call libc: it was built without ctypes, or linked statically.
    """
    try:
        import ctypes  # noqa: PLC0415 - some builds of Python lack it, and not every command needs it

        libc = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        raise OSError(errno.ENOSYS, "this Python cannot call libc: it lacks a working ctypes") from error
    converted = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    result: int = getattr(libc, name)(*converted)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
