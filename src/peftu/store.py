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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError

EVERYONE = ""  # the key of a module that all users share; a user table allows no empty user id
SCHEMA_VERSION = 1
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
        self._db = sqlite3.connect(index, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA secure_delete=ON")  # deletion means deletion, in the index too
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise PeftuError(f"{self.folder}: store version {version} is newer than this peftu — upgrade peftu")
        if create:
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Folds the write-ahead log into the index and lets go of it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("PRAGMA journal_mode=DELETE")
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
            PeftuError: the disk is full, or the collection is there already with another base or layout.
        """
        if rows.shape != (len(keys), collection.width):
            raise ValueError(f"rows are {tuple(rows.shape)}, not {(len(keys), collection.width)}")
        number = self._collection_id(collection)
        with self._transaction():
            shard = self._write_shard(rows)
            now = time.time()
            for row, (key, seen) in enumerate(zip(keys, train_rows, strict=True)):
                self._db.execute(
                    "INSERT INTO modules SELECT ?, ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, NULL"
                    " FROM modules WHERE collection = ? AND user = ?",
                    (number, key, shard, row, checksum(rows[row]), int(seen), now, number, key),
                )

    def delete(self, user: str) -> int:
        """Hides every module of a user at once; `gc` removes the bytes. Returns how many were hidden."""
        with self._transaction():
            found = self._db.execute(
                "UPDATE modules SET deleted = ? WHERE user = ? AND deleted IS NULL", (time.time(), user)
            )
            return found.rowcount

    def gc(self) -> int:
        """Rewrites shards without deleted modules, so that their bytes are gone; returns how many modules went."""
        gone = 0
        shards = [s for (s,) in self._db.execute("SELECT DISTINCT shard FROM modules WHERE deleted IS NOT NULL")]
        for shard in shards:
            kept = self._db.execute(
                "SELECT rowid, row FROM modules WHERE shard = ? AND deleted IS NULL ORDER BY row", (shard,)
            ).fetchall()
            rows = self._read_shard(shard)[[row for _, row in kept]] if kept else None
            with self._transaction():
                new = self._write_shard(rows) if rows is not None else ""
                for place, (rowid, _) in enumerate(kept):
                    self._db.execute("UPDATE modules SET shard = ?, row = ? WHERE rowid = ?", (new, place, rowid))
                gone += self._db.execute("DELETE FROM modules WHERE shard = ?", (shard,)).rowcount
            (self._shards / shard).unlink(missing_ok=True)
        known = {s for (s,) in self._db.execute("SELECT DISTINCT shard FROM modules")}
        for path in self._shards.iterdir():  # what an interrupted write left behind
            if path.name not in known:
                path.unlink()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # --- reading ------------------------------------------------------------------------------------------------

    def collections(self) -> list[Collection]:
        """Returns every collection, in the order they were added."""
        query = "SELECT label, seed, base, fingerprint, width, recipe FROM collections ORDER BY id"
        return [Collection(*found) for found in self._db.execute(query)]

    def keys(self, collection: Collection) -> list[str]:
        """Returns the keys that have a module in a collection, sorted."""
        query = "SELECT DISTINCT user FROM modules WHERE collection = ? AND deleted IS NULL ORDER BY user"
        return [key for (key,) in self._db.execute(query, (self._collection_id(collection),))]

    def get(self, collection: Collection, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] the newest module of each key, checked against its checksum.

        Raises:
            PeftuError: a key has no module (nothing falls back to the base in silence), or the bytes were altered.
        """
        number, shards, rows = self._collection_id(collection), {}, []
        for place, key in enumerate(keys):
            found = self._db.execute(
                "SELECT shard, row, checksum FROM modules WHERE collection = ? AND user = ? AND deleted IS NULL"
                " ORDER BY version DESC LIMIT 1",
                (number, key),
            ).fetchone()
            if found is None:
                which = "the asked user" if len(keys) == 1 else f"user {place + 1} of {len(keys)}"
                raise PeftuError(f"{which} has no module in {collection.label} — train one, or ask a reference method")
            shard, row, expected = found
            if shard not in shards:
                shards[shard] = self._read_shard(shard)
            if row >= len(shards[shard]) or checksum(shards[shard][row]) != expected:
                raise PeftuError(f"{self._shards / shard}: row {row} does not match its checksum — restore or retrain")
            rows.append(shards[shard][row])
        return torch.stack(rows)

    def verify(self) -> int:
        """Returns how many modules are whole.

        Raises:
            PeftuError: one is not.
        """
        return sum(len(self.get(c, [key])) for c in self.collections() for key in self.keys(c))

    # --- parts --------------------------------------------------------------------------------------------------

    def _collection_id(self, collection: Collection) -> int:
        query = "SELECT id, fingerprint, width FROM collections WHERE label = ? AND seed = ?"
        found = self._db.execute(query, (collection.label, collection.seed)).fetchone()
        if found is None:
            values = (collection.label, collection.seed, collection.base, collection.fingerprint)
            added = self._db.execute(
                "INSERT INTO collections (label, seed, base, fingerprint, width, recipe) VALUES (?, ?, ?, ?, ?, ?)",
                (*values, collection.width, collection.recipe),
            )
            return int(added.lastrowid or 0)
        number, fingerprint, width = found
        if (fingerprint, width) != (collection.fingerprint, collection.width):
            raise PeftuError(f"{self.folder}: {collection.label} was stored for another base — use a new folder")
        return int(number)

    def _write_shard(self, rows: Tensor) -> str:
        name = f"{uuid.uuid4().hex}.safetensors"
        partial = self._shards / f"{name}.part"
        with writing_to(self._shards):
            save_file({"rows": rows.detach().contiguous().float()}, partial, {"format": "peftu-rows-1"})
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(self._shards / name)
        return name

    def _read_shard(self, name: str) -> Tensor:
        path = self._shards / name
        try:
            return load_file(path)["rows"]
        except (SafetensorError, OSError, KeyError) as error:
            raise PeftuError(f"{path}: not a whole shard ({error}) — restore it or train again") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(row.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()


def recipe(**parts: object) -> str:
    """Returns the canonical JSON kept with a collection."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
