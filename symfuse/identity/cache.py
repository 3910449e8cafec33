"""What was once found out about a file's contents, kept in SQLite in the user's cache directory.

A verdict is some bytes (a digest, a yes or no) about the contents that a file had when its key was taken. The cache may
lose what it was given, at any time and without a word; it never answers with what belongs to other contents, and no
fault of its file ever ends a mount.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import operator
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from symfuse import directories
from symfuse.identity.cachefile import SCHEMA, CacheFile

try:
    import sqlite3

    HAS_SQLITE = True
except ImportError:  # some builds of Python lack it: `open` says so, and nothing that needs it is reached
    HAS_SQLITE = False

#: Two numbers that name a source (of its file system and its inode, or a digest of its path), then size, mtime_ns,
#: ctime_ns.
Key = tuple[int, int, int, int, int]

#: How long another process may keep the file locked before this one goes on without it.
LOCK_TIMEOUT_S = 2.0
#: What nobody asked for in so many days is forgotten, and the oldest before that when the file grows beyond MAX_BYTES.
MAX_AGE_DAYS = 90
MAX_BYTES = 1 << 30
#: Days between two looks for what is old, and between two notes that a verdict was used: asking writes next to nothing.
CARE_DAYS = 30
_DAY_S = 86_400

_KEY = struct.Struct(">8s5Q")  # neighbours on the disk are neighbours in the table
_FIELD = (1 << 64) - 1
_SUM_BYTES = 4
_WHOLE = 0x2144DF1C  # what crc32 gives for anything that is followed by its own crc32, lowest byte first
_CARED = b"cared for"  # the row that says when somebody last looked for what is old

_CREATE = "CREATE TABLE verdicts (key BLOB PRIMARY KEY, verdict BLOB NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID"
# A batch is one statement over one packed value: no limit on its size, and no step through Python for each row.
_GET = """
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
SELECT i, verdict, day < :old FROM n CROSS JOIN verdicts
WHERE key = substr(:keys, :key_bytes * i + 1, :key_bytes)
"""
_PUT = """
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
INSERT OR REPLACE INTO verdicts SELECT
    substr(:rows, :row_bytes * i + 1, :key_bytes),
    substr(:rows, :row_bytes * i + :key_bytes + 1, :row_bytes - :key_bytes),
    :day
FROM n
"""

log = logging.getLogger(__name__)


class VerdictCache:
    """Verdicts by kind and key. Safe to use from several threads, and by several processes at once.

    Can an answer be wrong? Its key would have to belong to other contents. A device number may mean another disk after
    a reboot, and an inode number another file after a removal; both cost no more than reading again, because ctime, to
    the nanosecond, is the moment of the last change and nobody can set it (but whoever sets the clock, or writes to the
    disk beneath its file system). Where there is no such ctime, `source/lasting.py` says what may be remembered all the
    same. A store into a shared mapping moves ctime only when the kernel next writes it back.
    """

    def __init__(self, file: CacheFile | None) -> None:
        self._file = file
        self._lock = threading.RLock()  # guards what follows, and all use of the connection
        self._connection: sqlite3.Connection | None = None
        self._may_write = True
        self._may_replace = True

    @classmethod
    def open(cls, directory: str | None = None) -> VerdictCache:
        """The cache in a directory, the user's own if None is named. Where none can be had, one that knows nothing.

        Never raises, whatever is the matter with the directory and the file: one line in the log says what.
        """
        if not HAS_SQLITE:
            log.warning("this Python lacks sqlite3: images are read again at the next mount")
            return cls(None)
        file = _first_of(directories.cache() if directory is None else [directory])
        if file is None:
            return cls(None)
        cache = cls(file)
        try:
            cache._connect()
        except (sqlite3.Error, _Damaged) as error:
            cache._recover(error)
        return cache

    def close(self) -> None:
        """Forget what is too old, and close the file. The cache knows nothing from then on."""
        with self._lock:
            if self._connection is not None and self._may_write:
                try:
                    self._forget_old(self._connection)
                except sqlite3.Error as error:
                    log.debug("the cache was not cleaned up: %s", error)
            self._disconnect()
            if self._file is not None:
                self._file.close()
                self._file = None

    # -- asking and telling -------------------------------------------------------------------------------------

    def get(self, kind: str, keys: Sequence[Key]) -> list[bytes | None]:
        """The verdicts of one kind for these keys, in their order; None where there is none."""
        verdicts: list[bytes | None] = [None] * len(keys)
        if self._connection is None or not keys:
            return verdicts
        packed, used = _packed(kind, keys), []
        for index, row, is_old in self._select(packed):
            if isinstance(row, bytes) and zlib.crc32(row, zlib.crc32(packed[index])) == _WHOLE:
                verdict = verdicts[index] = row[:-_SUM_BYTES]
                if is_old:
                    used.append((keys[index], verdict))
        self.put(kind, used)
        return verdicts

    def put(self, kind: str, verdicts: Iterable[tuple[Key, bytes]]) -> bool:
        """Keep verdicts of one kind. False when they are not kept."""
        lengths: defaultdict[int, list[tuple[Key, bytes]]] = defaultdict(list)
        for key, verdict in verdicts:
            lengths[len(verdict)].append((key, verdict))
        return sum(self._put(kind, alike) for alike in lengths.values()) == len(lengths)

    def _put(self, kind: str, verdicts: list[tuple[Key, bytes]]) -> bool:
        """Keep verdicts that have one length. False when they are not kept."""
        keys = _packed(kind, [key for key, _ in verdicts])
        rows = sorted(map(operator.add, keys, [verdict for _, verdict in verdicts]))  # the order of the table
        packed = b"".join([row + zlib.crc32(row).to_bytes(_SUM_BYTES, "little") for row in rows])
        size = len(rows[0]) + _SUM_BYTES
        assert len(packed) == size * len(rows), "verdicts of one length"
        bound = {"rows": packed, "count": len(rows), "row_bytes": size, "key_bytes": _KEY.size}
        with self._lock:
            if self._connection is None or not self._may_write:
                return False
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(_PUT, bound | {"day": _today()})
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._recover(error, writing=True)
                return False
        return True

    def _select(self, packed: list[bytes]) -> list[tuple[int, object, int]]:
        bound = {"keys": b"".join(packed), "count": len(packed), "key_bytes": _KEY.size}
        with self._lock:
            if self._connection is None:
                return []
            try:
                return self._connection.execute(_GET, bound | {"old": _today() - CARE_DAYS}).fetchall()
            except sqlite3.Error as error:
                self._recover(error)
                return []

    # -- the file -----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Errors: sqlite3.Error, _Damaged."""
        assert self._file is not None
        connection = sqlite3.connect(
            self._file.path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._connection = connection
        connection.text_factory = bytes  # what a damaged file has for text raises nothing
        # A rollback journal, not a write-ahead log: that one needs memory shared by all who use the file, which home
        # directories on NFS do not give. Nothing is waited for to reach the disk: after a loss of power the file may be
        # damaged, and each row's sum tells; a process that is killed damages nothing.
        for pragma in ("journal_mode = DELETE", "synchronous = OFF", "cell_size_check = ON", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        if _version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            if _version(connection) == 0:  # nobody else was quicker
                connection.execute(_CREATE)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
            connection.execute("COMMIT")
        if _version(connection) != SCHEMA:
            raise _Damaged("it is of another version")
        connection.execute("SELECT key, verdict, day FROM verdicts LIMIT 1")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _recover(self, error: Exception, *, writing: bool = False) -> None:
        """After a failure: a damaged file is made anew, once; else go on without writing, or without the file."""
        assert self._file is not None
        path = self._file.path
        if _is_damage(error) and self._may_replace:
            self._may_replace = False
            self._disconnect()
            try:
                self._file.replace()
                self._connect()
            except (sqlite3.Error, _Damaged, OSError) as failure:
                error = failure
            else:
                log.warning("%s was damaged (%s): it was made anew, and images will be read again", path, error)
                return
        if writing and self._connection is not None:
            self._may_write = False
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        else:
            self._disconnect()
        _warn(path, error)

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        """Forget what was not used for long, now and then, and the oldest when the file is too large.

        A look at every row: a tenth of a second for a million. Errors: sqlite3.Error.
        """
        today = _today()
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        is_large = (pages - free) * page_bytes > MAX_BYTES
        row = connection.execute("SELECT day FROM verdicts WHERE key = ?", (_CARED,)).fetchone()
        if row is None or row[0] < today - CARE_DAYS or is_large:
            oldest = today - MAX_AGE_DAYS
            connection.execute("BEGIN IMMEDIATE")
            if is_large:
                oldest = max(oldest, _middle_day(connection) + 1)
            connection.execute("DELETE FROM verdicts WHERE day < ?", (oldest,))
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, x'', ?)", (_CARED, today))
            connection.execute("COMMIT")


def _first_of(candidates: list[str]) -> CacheFile | None:
    """The file in the first of these directories that can be used."""
    refusals: list[OSError] = []
    for directory in candidates:
        try:
            file = CacheFile(directory)
        except OSError as error:
            refusals.append(error)
            continue
        if refusals:
            log.info("the cache is %s: %s is not used (%s)", directory, candidates[0], refusals[0].strerror)
        return file
    _warn(candidates[0], refusals[0])
    return None


class _Damaged(Exception):
    """The file is whole for SQLite, and not for us."""


def _is_damage(error: Exception) -> bool:
    """True when a new file would help. Our own statements are right: one that fails (ERROR) meets other tables."""
    if isinstance(error, _Damaged):
        return True
    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in damage


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _middle_day(connection: sqlite3.Connection) -> int:
    """The day by which half of the rows had been used last."""
    days: list[tuple[int, int]] = connection.execute(
        "SELECT day, count(*) FROM verdicts GROUP BY day ORDER BY day"
    ).fetchall()
    half = sum(count for _day, count in days) / 2
    seen = itertools.accumulate(count for _day, count in days)
    return next(day for (day, _count), number in zip(days, seen, strict=True) if number >= half)


def _today() -> int:
    return int(time.time()) // _DAY_S


def _packed(kind: str, keys: Sequence[Key]) -> list[bytes]:
    """Keys as the table has them: a digest of their kind first."""
    pack, tag = _KEY.pack, hashlib.sha256(kind.encode()).digest()[:8]
    try:
        return [pack(tag, *key) for key in keys]
    except struct.error:  # a time before 1970, or after 2554
        return [pack(tag, *(field & _FIELD for field in key)) for key in keys]


def _warn(path: str, error: Exception) -> None:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    log.warning("%s cannot be used (%s): images are read again at the next mount", path, reason)
