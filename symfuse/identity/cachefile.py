"""Where the cache's file lies, whose it is, and how a damaged one is replaced while others may use it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from symfuse import directories

#: Of the table in the file. Another one lies in another file, so that two versions of symfuse leave each other alone.
SCHEMA = 2
FILE_NAME = f"verdicts-{SCHEMA}.sqlite"
LOCK_NAME = "lock"
#: How long to wait for somebody who replaces the file: that is a matter of milliseconds.
REPLACE_TIMEOUT_S = 2.0
_POLL_S = 0.01
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: What SQLite keeps beside a database.
_COMPANIONS = ("", "-journal", "-wal", "-shm")


class CacheFile:
    """A file in a directory that is ours alone: who can write to it can have images hidden.

    As long as it is held, nobody replaces it: SQLite finds a transaction that somebody did not end by the name of the
    file, and would apply an old file's to a new one. The lock that says so ends with its process, however that ends.

    Errors: OSError; EPERM when somebody else can change the directory, owns the file, or may write to it.
    """

    def __init__(self, directory: str) -> None:
        directory = directories.made(directory)
        self.path = os.path.join(directory, FILE_NAME)
        self._lock_fd: int | None = None
        # Without this lock (a read-only directory, a file system without locks) the file is used, but never replaced.
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._lock_fd = os.open(os.path.join(directory, LOCK_NAME), flags, 0o600)
        try:
            self._hold()
            self._make()
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        """Wait until nobody replaces the file. Errors: TimeoutError."""
        until = time.monotonic() + REPLACE_TIMEOUT_S
        while self._lock_fd is not None:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds it") from None
                time.sleep(_POLL_S)
            except OSError:
                os.close(self._lock_fd)
                self._lock_fd = None

    def _make(self) -> None:
        """SQLite would make a file that others may read.

        Never opened if it is there: closing it would end the locks that SQLite holds on it elsewhere in this process.
        """
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        for companion in _COMPANIONS:
            _refuse_if_foreign(self.path + companion)

    def replace(self) -> None:
        """Put an empty file in its place. No connection to it may be open in this process.

        Errors: OSError; BlockingIOError while other processes hold the file.
        """
        if self._lock_fd is None:
            raise BlockingIOError(errno.EAGAIN, "others may use it")
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for companion in _COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + companion)
        self._make()
        self._hold()

    def close(self) -> None:
        """Let others replace the file."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def _refuse_if_foreign(path: str) -> None:
    """Somebody else may have left it there when the directory was open to them. Errors: OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EEXIST, "something else has its name")
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(errno.EPERM, "others may write to it: remove it")
