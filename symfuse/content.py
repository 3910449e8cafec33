"""The content of files: their sources are opened by name, and verified to be what was frozen.

Sources of large files stay open between reads; no descriptor is kept of anything else.
"""

from __future__ import annotations

import errno
import os
import time
from typing import NamedTuple

from symfuse.dataset import Dataset
from symfuse.source import reader
from symfuse.source.identity import Identity
from symfuse.source.reader import IdleSources

#: Seconds to wait for a descriptor when there is none left.
_WAITS_S = (0.0, 0.01, 0.1)


class File(NamedTuple):
    """Where a file stands in the dataset, and what its source was when it was frozen. `directory` is a real path."""

    directory: bytes
    name: bytes
    is_link: bool
    identity: Identity


class Content:
    """Reads files of one view, which are known by their nodeids. Safe to use from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._idle = IdleSources()

    def read(self, nodeid: int, file: File, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`: fewer only at the end of the file as it was frozen.

        Errors: OSError: ESTALE when the source is no longer what was frozen, whatever else reading it gave.
        """
        wanted = min(size, file.identity.size - offset)
        if wanted <= 0:
            return b""
        fd = self._idle.take(nodeid)
        if fd is None:
            fd = self.open_unverified(file)
        try:
            data = reader.read(fd, wanted, offset, file.identity, self._dataset.volumes)
        except OSError:
            os.close(fd)
            raise
        # Who reads the end of a file seldom comes back; a small file is never kept open at all.
        if offset + wanted == file.identity.size:
            os.close(fd)
        else:
            self._idle.give(nodeid, fd)
        return data

    def open(self, file: File) -> int:
        """A descriptor of the source, which is now what was frozen; the caller's to close. Errors: as `read`."""
        fd = self.open_unverified(file)
        try:
            reader.verify(fd, file.identity, self._dataset.volumes)
        except OSError:
            os.close(fd)
            raise
        return fd

    def open_unverified(self, file: File) -> int:
        """A descriptor of what lies where the source was; the caller's to verify and to close. Errors: as `read`."""
        for wait_s in _WAITS_S:
            try:
                return self._dataset.open(file.directory, file.name, is_link=file.is_link, was=file.identity)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
            self._idle.close()  # whoever reads now needs a descriptor more than whoever may come back
            time.sleep(wait_s)  # for other readers' descriptors
        return self._dataset.open(file.directory, file.name, is_link=file.is_link, was=file.identity)

    def close(self) -> None:
        """Close every descriptor of a source."""
        self._idle.close()
