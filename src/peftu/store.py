"""Where people's modules are kept: immutable safetensors shards and an SQLite index, committed whole.

A shard holds the module rows of many users as one matrix; the index says whose row is where. A write is a shard put
in place by rename, then one transaction: a reader sees all of it or nothing. A user's key stands in the index only,
never in a path. Nothing is ever unpickled.
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
from safetensors.torch import save_file
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.outside import parse_json

EVERYONE = ""  # the key of a module that all users share; a user table allows no empty user id
SCHEMA_VERSION = 1
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
        self._db = sqlite3.connect(place, uri=True, isolation_level=None)
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
        with self._transaction():
            number = self._number(collection, make=True)
            shard = self._write_shard(rows)
            now = time.time()
            for row, (key, seen) in enumerate(zip(keys, train_rows, strict=True)):
                self._sql(
                    "INSERT INTO modules SELECT ?, ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, NULL"
                    " FROM modules WHERE collection = ? AND user = ?",
                    (number, key, shard, row, checksum(rows[row]), int(seen), now, number, key),
                )

    def delete(self, user: str, collection: Collection | None = None) -> int:
        """Hides a user's modules, all or a collection's; `gc` removes the bytes. Returns how many were hidden."""
        with self._transaction():
            query = "UPDATE modules SET deleted = ? WHERE user = ? AND deleted IS NULL"
            if collection is None:
                return self._sql(query, (time.time(), user)).rowcount
            return self._sql(f"{query} AND collection = ?", (time.time(), user, self._number(collection))).rowcount

    def gc(self) -> int:
        """Rewrites shards without deleted modules, so that their bytes are gone; returns how many modules went."""
        gone = 0
        for (shard,) in self._sql("SELECT DISTINCT shard FROM modules WHERE deleted IS NOT NULL").fetchall():
            with self._transaction():
                query = "SELECT rowid, row FROM modules WHERE shard = ? AND deleted IS NULL ORDER BY row"
                kept = self._sql(query, (shard,)).fetchall()
                new = self._write_shard(self._read_shard(shard)[[row for _, row in kept]]) if kept else ""
                for place, (rowid, _) in enumerate(kept):
                    self._sql("UPDATE modules SET shard = ?, row = ? WHERE rowid = ?", (new, place, rowid))
                gone += self._sql("DELETE FROM modules WHERE shard = ?", (shard,)).rowcount
        with self._transaction():  # while no other process is between its shard and its commit
            known = {shard for (shard,) in self._sql("SELECT DISTINCT shard FROM modules")}
            for path in self._shards.iterdir():  # rewritten above, or left behind by an interrupted write
                if path.name not in known:
                    path.unlink()
        self._sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

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

    def get(self, collection: Collection, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] the newest module of each key, checked against its checksum.

        Raises:
            PeftuError: a key has no module (nothing falls back to the base in silence), the bytes were altered, or
                a module is of numbers that are not finite.
        """
        places: list[tuple[str, int, str]] = []
        while True:
            before, places = places, self._places(collection, keys)
            try:
                read = self._read_rows(places)
                break
            except _GoneError:
                if places == before:  # else `gc` has moved them meanwhile
                    raise
        rows = torch.empty(len(keys), collection.width)
        for place, (shard, row, expected) in enumerate(places):
            stored = read.get((shard, row))
            if stored is None or checksum(stored) != expected:
                raise PeftuError(f"{self._shards / shard}: row {row} does not match its checksum — restore or retrain")
            rows[place] = stored
        for place in (~_finite(rows)).nonzero()[:1, 0].tolist():
            shard, row, _ = places[place]
            raise PeftuError(
                f"{self._shards / shard}: row {row} of {collection.label} has numbers that are not finite "
                "— delete that user's modules and train again"
            )
        return rows

    def verify(self) -> int:
        """Returns how many modules are whole.

        Raises:
            PeftuError: one is not.
        """
        return sum(len(self.get(collection, self.keys(collection))) for collection in self.collections())

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
            mend = "wait for the other process" if "locked" in str(error) else "restore the folder, or train again"
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

    def _write_shard(self, rows: Tensor) -> str:
        name = f"{uuid.uuid4().hex}.safetensors"
        partial = self._shards / f"{name}.part"
        with writing_to(self._shards):
            save_file({"rows": rows.detach().contiguous().float()}, partial, {"format": "peftu-rows-1"})
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(self._shards / name)
        return name

    def _read_rows(self, places: Iterable[tuple[str, int, str]]) -> dict[tuple[str, int], Tensor]:
        """Returns [width] the numbers at each (shard, row) that there is; what other users have is not read."""
        read: dict[tuple[str, int], Tensor] = {}
        wanted = sorted({(shard, row) for shard, row, _ in places})
        for shard, group in groupby(wanted, key=lambda place: place[0]):
            with self._opened_shard(shard) as stored:
                count = stored.get_shape()[0]
                for first, last in _stretches([row for _, row in group if row < count]):
                    read |= {(shard, first + place): row for place, row in enumerate(stored[first:last])}
        return read

    def _read_shard(self, name: str) -> Tensor:
        with self._opened_shard(name) as stored:
            whole: Tensor = stored[:]
        return whole

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
    """Returns [rows] whether all numbers of a row are finite as they are stored."""
    return rows.detach().float().isfinite().all(1)


def _stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields the first row and the one after the last of each stretch of neighbours, of rows in order."""
    for _, stretch in groupby(enumerate(rows), key=lambda row: row[1] - row[0]):
        neighbours = [row for _, row in stretch]
        yield neighbours[0], neighbours[-1] + 1


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(row.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()


def recipe(**parts: object) -> str:
    """Returns the canonical JSON kept with a collection."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
