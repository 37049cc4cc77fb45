"""Where people's modules are kept: immutable safetensors shards and an SQLite index, committed whole.

A shard holds the module rows of many users as one matrix; the index says whose row is where. A write is a shard under
a new name, then one short transaction: a reader sees all of it or nothing, and nobody waits while numbers are written.
A shard that the index does not know is nobody's once the process that wrote it has let go of it. A user's key stands in
the index only, never in a path. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from peftu.data.sources import no_space, writing_to
from peftu.errors import PeftuError
from peftu.files import held, unheld
from peftu.outside import parse_json

EVERYONE = ""  # the key of a module that all users share; a user table allows no empty user id
SCHEMA_VERSION = 1
PATIENCE = 60.0  # seconds that a writer waits for another: longer than any transaction here
CHECKED = 256  # modules that are held in memory at once while all are looked at
_RECIPE = ("method", "knobs", "region", "prompt", "labels")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, seed INTEGER NOT NULL, base TEXT NOT NULL,
    fingerprint TEXT NOT NULL, width INTEGER NOT NULL, recipe TEXT NOT NULL, UNIQUE (label, seed));
CREATE TABLE IF NOT EXISTS modules (
    collection INTEGER NOT NULL REFERENCES collections (id), user TEXT NOT NULL, version INTEGER NOT NULL,
    shard TEXT NOT NULL, row INTEGER NOT NULL, checksum TEXT NOT NULL, train_rows INTEGER NOT NULL,
    created REAL NOT NULL, deleted REAL, PRIMARY KEY (collection, user, version));
CREATE INDEX IF NOT EXISTS by_shard ON modules (shard);
"""


@dataclass(frozen=True)
class Collection:
    """Modules that fit the same base and layout.

    Attributes:
        label: the method as it stands in the run.
        seed: the run's seed.
        base: name of the base.
        fingerprint: of the base's weights; modules answer on no other.
        width: numbers a module.
        recipe: JSON of everything needed to bind a row again (method, region, prompt, labels).
    """

    label: str
    seed: int
    base: str
    fingerprint: str
    width: int
    recipe: str

    @property
    def made(self) -> dict[str, Any]:
        """Returns the recipe, read.

        Raises:
            PeftuError: it is damaged.
        """
        try:
            read = parse_json(self.recipe, halves=True)
        except ValueError:
            read = None
        if not isinstance(read, dict) or not set(_RECIPE) <= set(read):
            raise PeftuError(f"modules of {self.label}: their recipe is damaged — restore the folder, or train again")
        return read


def is_store(folder: Path) -> bool:
    """Returns whether a folder holds a store."""
    return (Path(folder) / "index.sqlite").exists()


class _GoneError(PeftuError):
    """A shard is not where the index said it is."""


class AdapterStore:
    """Modules by (collection, user), newest version first.

    Args:
        folder: of the store; made when ``create`` is true.
        create: make a new store where there is none.

    Raises:
        PeftuError: there is no store in the folder, or it was made by a newer version.
    """

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.folder = Path(folder)
        self._shards = self.folder / "shards"
        index = self.folder / "index.sqlite"
        if not index.exists() and not create:
            raise PeftuError(f"{self.folder}: no module store here — pass the folder of a run that trained modules")
        if create:
            with writing_to(self.folder):
                self._shards.mkdir(parents=True, exist_ok=True)
        fixed = not os.access(self.folder, os.W_OK)  # where nobody writes, SQLite must not try to keep a log
        place = index.absolute().as_uri() + ("?mode=ro&immutable=1" if fixed else "")
        self._db = sqlite3.connect(place, timeout=PATIENCE, uri=True, isolation_level=None)
        try:
            self._open(create, fixed)
        except BaseException:
            self._db.close()
            raise

    def _open(self, create: bool, fixed: bool) -> None:
        if not fixed:
            self._sql("PRAGMA journal_mode=WAL")  # and it stays: switching back would lock other processes out
        self._sql("PRAGMA secure_delete=ON")  # deletion means deletion, in the index too
        self._sql("PRAGMA foreign_keys=ON")
        version = self._sql("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise PeftuError(f"{self.folder}: store version {version} is newer than this peftu — upgrade peftu")
        if create:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._sql(statement)
                self._sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Lets go of the index; the last to leave folds its log into it."""
        self._db.close()

    def __enter__(self) -> "AdapterStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def add(self, collection: Collection, keys: Sequence[str], rows: Tensor, train_rows: Sequence[int]) -> None:
        """Commits a module for each key, as the newest version, all or none.

        Args:
            collection: what the modules fit.
            keys: user keys, or EVERYONE.
            rows: [keys, width] float32.
            train_rows: rows each was trained on.

        Raises:
            PeftuError: a row has numbers that are not finite, the disk is full, or the collection is there already
                with another base or layout.
        """
        if rows.shape != (len(keys), collection.width):
            raise ValueError(f"rows are {tuple(rows.shape)}, not {(len(keys), collection.width)}")
        if diverged := int((~_finite(rows)).sum()):
            raise PeftuError(
                f"{collection.label}: {diverged} of {len(rows)} modules have numbers that are not finite, none is "
                "stored — train with a lower lr"
            )
        rows = rows.detach().cpu().float()
        sums = [checksum(row) for row in rows]
        with self._new_shard(rows.shape, rows) as shard, self._transaction():
            number = self._number(collection, make=True)
            now = time.time()
            for row, (key, seen) in enumerate(zip(keys, train_rows, strict=True)):
                self._sql(
                    "INSERT INTO modules SELECT ?, ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, NULL"
                    " FROM modules WHERE collection = ? AND user = ?",
                    (number, key, shard, row, sums[row], int(seen), now, number, key),
                )

    def delete(self, user: str, collection: Collection | None = None) -> int:
        """Hides a user's modules, all or a collection's; `gc` removes the bytes. Returns how many were hidden."""
        with self._transaction():
            query = "UPDATE modules SET deleted = ? WHERE user = ? AND deleted IS NULL"
            if collection is None:
                return self._sql(query, (time.time(), user)).rowcount
            return self._sql(f"{query} AND collection = ?", (time.time(), user, self._number(collection))).rowcount

    def gc(self) -> int:
        """Rewrites shards without deleted modules, so that their bytes are gone; returns how many modules went.

        What a killed process left behind goes too. Others read and write meanwhile.

        Raises:
            PeftuError: a shard is damaged, or the disk is full.
        """
        deleted = self._sql("SELECT DISTINCT shard FROM modules WHERE deleted IS NOT NULL").fetchall()
        gone = sum(self._rewrite(shard) for (shard,) in deleted)
        known = {shard for (shard,) in self._sql("SELECT DISTINCT shard FROM modules")}
        for path in self._shards.iterdir():
            if path.name not in known:
                with unheld(path) as free:
                    if free:
                        self._discard(path.name)
        self._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def _rewrite(self, shard: str) -> int:
        """Puts a shard without its deleted modules in its place; returns how many modules went."""
        while True:
            kept = self._living(shard)
            rows = (numbers for _, numbers in self._rows_of(shard, [row for _, row, _ in kept]))
            shape = (len(kept), kept[0][2] if kept else 0)
            try:
                with self._new_shard(shape, rows) as new, self._transaction():
                    if unchanged := self._living(shard) == kept:  # else more were deleted, or another gc was faster
                        for place, (rowid, *_) in enumerate(kept):
                            self._sql("UPDATE modules SET shard = ?, row = ? WHERE rowid = ?", (new, place, rowid))
                        gone = self._sql("DELETE FROM modules WHERE shard = ?", (shard,)).rowcount
            except _GoneError:
                if self._living(shard) == kept:
                    raise
                continue
            if unchanged:
                self._discard(shard)
                return gone

    def _living(self, shard: str) -> list[tuple[int, int, int]]:
        """Returns rowid, row and width of the modules of a shard that are not deleted, in the order of its rows."""
        return self._sql(
            "SELECT modules.rowid, row, width FROM modules JOIN collections ON collections.id = collection"
            " WHERE shard = ? AND deleted IS NULL ORDER BY row",
            (shard,),
        ).fetchall()

    # --- reading ------------------------------------------------------------------------------------------------

    def collections(self) -> list[Collection]:
        """Returns every collection, in the order they were added."""
        query = "SELECT label, seed, base, fingerprint, width, recipe FROM collections ORDER BY id"
        return [Collection(*found) for found in self._sql(query)]

    def keys(self, collection: Collection) -> list[str]:
        """Returns the keys that have a module in a collection, sorted.

        Raises:
            PeftuError: there is no such collection, or it fits another base.
        """
        query = "SELECT DISTINCT user FROM modules WHERE collection = ? AND deleted IS NULL ORDER BY user"
        return [key for (key,) in self._sql(query, (self._number(collection),))]

    def train_rows(self, collection: Collection) -> dict[str, int]:
        """Returns key -> how many rows its newest module was trained on."""
        query = "SELECT user, train_rows FROM modules WHERE collection = ? AND deleted IS NULL ORDER BY user, version"
        return dict(self._sql(query, (self._number(collection),)))

    def missing(self, collection: Collection, keys: Iterable[str]) -> set[str]:
        """Returns those of the keys that have no module in a collection; what others have is not looked at.

        Raises:
            PeftuError: there is no such collection, or it fits another base.
        """
        query = "SELECT 1 FROM modules WHERE collection = ? AND user = ? AND deleted IS NULL LIMIT 1"
        with self._transaction("DEFERRED"):
            number = self._number(collection)
            return {key for key in set(keys) if self._sql(query, (number, key)).fetchone() is None}

    def holding(self, collection: Collection, checksums: Sequence[str]) -> set[str]:
        """Returns those of the checksums that are of modules in a collection, of whatever version."""
        query = "SELECT checksum FROM modules WHERE collection = ? AND deleted IS NULL AND checksum IN"
        marks = f" ({','.join('?' * len(checksums))})"
        with self._transaction("DEFERRED"):
            return {mark for (mark,) in self._sql(query + marks, (self._number(collection), *checksums))}

    def get(self, collection: Collection, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] the newest module of each key, checked against its checksum.

        Raises:
            PeftuError: a key has no module (nothing falls back to the base in silence), the bytes were altered, or
                a module is of numbers that are not finite.
        """
        rows = torch.empty(len(keys), collection.width)
        places: list[tuple[str, int, str]] = []
        while True:
            before, places = places, self._places(collection, keys)
            try:
                self._read(places, rows, collection.label)
                return rows
            except _GoneError:
                if places == before:  # else `gc` has moved them meanwhile
                    raise

    def verify(self) -> int:
        """Returns how many modules are whole.

        Raises:
            PeftuError: one is not.
        """
        whole = 0
        for collection in self.collections():
            keys = self.keys(collection)
            for first in range(0, len(keys), CHECKED):
                whole += len(self.get(collection, keys[first : first + CHECKED]))
        return whole

    # --- parts --------------------------------------------------------------------------------------------------

    def _sql(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Returns the result of a statement.

        Raises:
            PeftuError: the index is damaged, locked for long or on a full disk.
        """
        try:
            return self._db.execute(statement, values)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
                raise no_space(self.folder) from None
            if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # the rest says what it came of
                raise PeftuError(
                    f"{self.folder}: the index is locked by another process that has been writing for over "
                    f"{PATIENCE:.0f} s — wait for the other process, or stop it"
                ) from None
            mend = "restore the folder, or train again"
            raise PeftuError(f"{self.folder}: not a module store that can be used ({error}) — {mend}") from None

    def _number(self, collection: Collection, make: bool = False) -> int:
        """Returns the number of a collection in the index; made if asked for and not there."""
        query = "SELECT id, fingerprint, width, recipe FROM collections WHERE label = ? AND seed = ?"
        found = self._sql(query, (collection.label, collection.seed)).fetchone()
        if found is None and make:
            values = (collection.label, collection.seed, collection.base, collection.fingerprint)
            added = self._sql(
                "INSERT INTO collections (label, seed, base, fingerprint, width, recipe) VALUES (?, ?, ?, ?, ?, ?)",
                (*values, collection.width, collection.recipe),
            )
            return int(added.lastrowid or 0)
        if found is None:
            raise PeftuError(f"{self.folder}: no modules of {collection.label}, seed {collection.seed} — train them")
        number, *fit = found
        if fit != [collection.fingerprint, collection.width, collection.recipe]:
            raise PeftuError(
                f"{self.folder}: {collection.label} was stored for another base, region or prompt — use a new folder"
            )
        return int(number)

    def _places(self, collection: Collection, keys: Sequence[str]) -> list[tuple[str, int, str]]:
        """Returns shard, row and checksum of each key's newest module, all as of one moment."""
        query = (
            "SELECT shard, row, checksum FROM modules WHERE collection = ? AND user = ? AND deleted IS NULL"
            " ORDER BY version DESC LIMIT 1"
        )
        places = []
        with self._transaction("DEFERRED"):
            number = self._number(collection)
            for place, key in enumerate(keys):
                found = self._sql(query, (number, key)).fetchone()
                if found is None:
                    which = "the asked user" if len(keys) == 1 else f"user {place + 1} of {len(keys)}"
                    mend = "train one, or ask a reference method"
                    raise PeftuError(f"{which} has no module in {collection.label} — {mend}")
                places.append(found)
        return places

    @contextmanager
    def _new_shard(self, shape: Sequence[int], rows: Iterable[Tensor]) -> Iterator[str]:
        """Yields the name of a new shard of [rows, width] numbers, on disk; the block commits it, or it is gone again.

        It is written here and not by the library, which has a file of its own beside it: that could not be held, and
        would outlive a killed process.
        """
        name = f"{uuid.uuid4().hex}.safetensors"
        matrix = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0] * shape[1]]}
        header = json.dumps({"__metadata__": {"format": "peftu-rows-1"}, "rows": matrix}).encode()
        header += b" " * (-len(header) % 8)
        try:
            with writing_to(self._shards), held(self._shards / name) as file:
                file.write(len(header).to_bytes(8, "little") + header)
                for row in rows:
                    file.write(_stored(row))
                file.flush()
                os.fsync(file.fileno())
                yield name
        finally:
            self._discard(name)

    def _discard(self, shard: str) -> None:
        """Removes the file of a shard that the index does not know: a Ctrl-C may come right after the commit."""
        if self._sql("SELECT 1 FROM modules WHERE shard = ? LIMIT 1", (shard,)).fetchone() is None:
            (self._shards / shard).unlink(missing_ok=True)

    def _read(self, places: Sequence[tuple[str, int, str]], rows: Tensor, label: str) -> None:
        """Fills [places, width] with the numbers at each place, checked; no more than these rows are in memory."""
        order = sorted(range(len(places)), key=lambda place: places[place][:2])
        for shard, group in groupby(order, key=lambda place: places[place][0]):
            wanted: dict[int, list[int]] = {}
            for place in group:
                wanted.setdefault(places[place][1], []).append(place)
            for row, numbers in self._rows_of(shard, list(wanted)):
                where = f"{self._shards / shard}: row {row}"
                if checksum(numbers) != places[wanted[row][0]][2]:
                    raise PeftuError(f"{where} does not match its checksum — restore or retrain")
                if not _finite(numbers[None]).all():
                    raise PeftuError(
                        f"{where} of {label} has numbers that are not finite "
                        "— delete that user's modules and train again"
                    )
                for place in wanted[row]:
                    rows[place] = numbers

    def _rows_of(self, shard: str, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yields each of these rows of a shard, which are in order, with its [width] numbers; others are not read."""
        if not rows:
            return
        with self._opened_shard(shard) as stored:
            if rows[-1] >= (count := stored.get_shape()[0]):
                raise PeftuError(f"{self._shards / shard}: has no row {rows[-1]}, only {count} — restore or retrain")
            for first, last in _stretches(rows):
                yield from enumerate(stored[first:last], first)

    @contextmanager
    def _opened_shard(self, name: str) -> Iterator[Any]:
        """Yields the rows of a shard, not yet read: a slice of it reads that slice."""
        path = self._shards / name
        try:
            with safe_open(path, framework="pt") as opened:
                yield opened.get_slice("rows")
        except FileNotFoundError:
            raise _GoneError(f"{path}: is missing — restore it or train again") from None
        except (SafetensorError, OSError, KeyError) as error:
            raise PeftuError(f"{path}: not a whole shard ({error}) — restore it or train again") from None

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._sql(f"BEGIN {kind}")
        try:
            yield
            self._sql("COMMIT")
        except BaseException:
            self._db.rollback()
            raise


def _finite(rows: Tensor) -> Tensor:
    """Returns [rows] whether all numbers of a row are finite as they are stored; row by row, for it takes memory."""
    return torch.tensor([bool(row.detach().float().isfinite().all()) for row in rows], dtype=torch.bool)


def _stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields the first row and the one after the last of each stretch of neighbours, of rows in order."""
    for _, stretch in groupby(enumerate(rows), key=lambda row: row[1] - row[0]):
        neighbours = [row for _, row in stretch]
        yield neighbours[0], neighbours[-1] + 1


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(_stored(row)).hexdigest()


def _stored(row: Tensor) -> memoryview:
    """Returns the bytes of [width] numbers as they are stored."""
    return row.detach().cpu().contiguous().float().numpy().data


def recipe(**parts: object) -> str:
    """Returns the canonical JSON kept with a collection."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
