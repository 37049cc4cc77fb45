"""The SQLite index of a store: a connection for each thread, and a log that several processes share."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from peftu.data.sources import no_space, writing_to
from peftu.errors import PeftuError
from peftu.files import owner_only, private_file

INDEX = "index.sqlite"
SCHEMA_VERSION = 2
PATIENCE = 60.0  # seconds that a writer waits for another: longer than any transaction here
_SCHEMA = """
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, seed INTEGER NOT NULL, base TEXT NOT NULL,
    fingerprint TEXT NOT NULL, width INTEGER NOT NULL, recipe TEXT NOT NULL, UNIQUE (label, seed));
CREATE TABLE IF NOT EXISTS modules (
    collection INTEGER NOT NULL REFERENCES collections (id), user TEXT NOT NULL, version INTEGER NOT NULL,
    shard TEXT NOT NULL, row INTEGER NOT NULL, checksum TEXT NOT NULL, train_rows INTEGER NOT NULL,
    created REAL NOT NULL, deleted REAL, PRIMARY KEY (collection, user, version));
CREATE INDEX IF NOT EXISTS by_shard ON modules (shard)
"""
_ADDED = {  # by schema version: what it has beyond the one before
    2: """
CREATE TABLE provenance (id INTEGER PRIMARY KEY, facts TEXT NOT NULL UNIQUE);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
ALTER TABLE modules ADD COLUMN status TEXT NOT NULL DEFAULT 'approved';
ALTER TABLE modules ADD COLUMN provenance INTEGER REFERENCES provenance (id)
"""
}
_FIRST_AS_SECOND = """
CREATE TEMP TABLE provenance (id INTEGER PRIMARY KEY, facts TEXT NOT NULL);
CREATE TEMP TABLE settings (name TEXT, value TEXT);
CREATE TEMP VIEW modules AS SELECT *, 'approved' AS status, NULL AS provenance FROM main.modules
"""

_Stamp = tuple[object, ...]


class Index:
    """Statements and transactions on a store's index, by any number of threads.

    Args:
        folder: of the store.
        create: make a new index where there is none.
        settings: of a new one.

    Raises:
        PeftuError: there is none, it was made by a newer version, or cannot be read.
    """

    def __init__(self, folder: Path, create: bool, settings: Mapping[str, str]) -> None:
        self.folder, self.path = folder, folder / INDEX
        self.writable = create or all(os.access(path, os.W_OK) for path in (folder, self.path))
        self._held: dict[threading.Thread, tuple[sqlite3.Connection, _Stamp]] = {}
        self._left_alone = self._held
        self._alone = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        if create:
            with writing_to(folder):
                private_file(self.path)
        if self.writable:
            with suppress(OSError):  # another's: SQLite makes the log with the index's rights
                owner_only(folder), owner_only(self.path)
        try:
            self._check_version(create, settings)
        except BaseException:
            self.close()
            raise

    @property
    def db(self) -> sqlite3.Connection:
        """Returns this thread's connection."""
        if self._process != os.getpid():  # forked: SQLite's connections are the parent's, to use and to close
            self._left_alone, self._held, self._alone = self._held, {}, threading.Lock()
            self._process = os.getpid()
        thread = threading.current_thread()
        connection, stamp = self._held.get(thread, (None, ()))
        if connection is not None:
            if self.writable or connection.in_transaction or stamp == self._stamp():
                return connection
            connection.close()  # nobody told a fixed connection that another process has written
        with self._alone:
            if self._closed:
                raise sqlite3.ProgrammingError("the store is closed")
            for other in [other for other in self._held if not other.is_alive()]:
                self._held.pop(other)[0].close()
            stamp = self._stamp()
            connection = self._connected()
            self._held[thread] = connection, stamp
        return connection

    def _stamp(self) -> _Stamp:
        """Returns what changes when another process writes, for one that may not lock."""
        if self.writable:
            return ()
        stats = self.path.stat()
        return stats.st_ino, stats.st_mtime_ns, stats.st_size, self._logged()

    def _logged(self) -> int:
        """Returns the bytes in the log: changes, deletions among them, that are not in the index's own file yet."""
        try:
            return self.path.with_name(f"{INDEX}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _connected(self) -> sqlite3.Connection:
        """Returns a new connection; where nobody writes and no log is left, SQLite must not try to keep one."""
        mode = "" if self.writable else "?mode=ro" if self._logged() else "?mode=ro&immutable=1"
        place = self.path.absolute().as_uri() + mode
        connection = sqlite3.connect(place, timeout=PATIENCE, uri=True, isolation_level=None, check_same_thread=False)
        try:
            if self.writable:
                self._run(connection, "PRAGMA journal_mode=WAL")  # for good: a switch back would lock others out
            self._run(connection, "PRAGMA secure_delete=ON")  # deletion means deletion, in the index too
            self._run(connection, "PRAGMA foreign_keys=ON")
            self._run(connection, "PRAGMA temp_store=MEMORY")
            if not self.writable and self._run(connection, "PRAGMA user_version").fetchone()[0] == 1:
                for statement in _FIRST_AS_SECOND.split(";"):
                    self._run(connection, statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, create: bool, settings: Mapping[str, str]) -> None:
        version = self._version()
        if version > SCHEMA_VERSION:
            raise PeftuError(f"{self.folder}: store version {version} is newer than this peftu — upgrade peftu")
        if version == SCHEMA_VERSION or not self.writable or not (version or create):
            return
        with self.transaction():
            if not (made := self._version()):
                for statement in _SCHEMA.split(";"):
                    self.sql(statement)
            for later in range((made or 1) + 1, SCHEMA_VERSION + 1):  # another process may have been faster
                for statement in _ADDED[later].split(";"):
                    self.sql(statement)
            for setting in settings.items() if not made else ():
                self.sql("INSERT INTO settings VALUES (?, ?)", setting)
            self.sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    @property
    def revision(self) -> tuple[object, ...]:
        """Returns what is another once anybody else has committed a change; this thread's own do not count."""
        return threading.get_ident(), *self._stamp(), self.sql("PRAGMA data_version").fetchone()[0]

    def setting(self, name: str) -> str | None:
        """Returns a setting; None: it was never set."""
        found = self.sql("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def set(self, settings: Mapping[str, str]) -> None:
        """Changes settings, all at once."""
        with self.transaction():
            for setting in settings.items():
                self.sql("INSERT OR REPLACE INTO settings VALUES (?, ?)", setting)

    def _version(self) -> int:
        return int(self.sql("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Lets go of the index; the last to leave folds its log into it."""
        with self._alone:
            self._closed = True
            while self._held:
                self._held.popitem()[1][0].close()

    def sql(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Returns the result of a statement.

        Raises:
            PeftuError: the index is damaged, locked for long or on a full disk.
        """
        return self._run(self.db, statement, values)

    def _run(self, db: sqlite3.Connection, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return db.execute(statement, values)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            raise self._clear(error) from None

    def _clear(self, error: sqlite3.DatabaseError) -> PeftuError:
        """Returns what is wrong with the index, in one line."""
        code = getattr(error, "sqlite_errorcode", 0)
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
            return no_space(self.folder)
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # the rest says what it came of
            return PeftuError(
                f"{self.folder}: the index is locked by another process that has been writing for over "
                f"{PATIENCE:.0f} s — wait for the other process, or stop it"
            )
        if not self.writable and self._logged() and code & 0xFF == sqlite3.SQLITE_CANTOPEN:
            unread = "the index has a log that cannot be read without writing"
            return PeftuError(f"{self.folder}: {unread} — open it once where its folder may be written")
        mend = "restore the folder, or train again"
        return PeftuError(f"{self.folder}: not a module store that can be used ({error}) — {mend}")

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Commits what the block does as one, or none of it; a ``DEFERRED`` one reads as of one moment."""
        self.sql(f"BEGIN {kind}")
        try:
            yield
            self.sql("COMMIT")
        except BaseException:
            self.db.rollback()
            raise

    def fold(self) -> None:
        """Moves the log into the index and empties it, so that no deleted key stands in either.

        Raises:
            PeftuError: another process has been reading all the while.
        """
        end = time.monotonic() + PATIENCE
        while self.sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:  # for another that does it SQLite waits not
            if time.monotonic() > end:
                raise PeftuError(
                    f"{self.folder}: what is deleted is hidden, but still stands in the index's log, for another "
                    "process is reading — run 'peftu store gc' when it has ended"
                )
            time.sleep(0.01)
