"""The store itself: modules by collection and user."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import owner_only
from peftu.store import shards as numbers
from peftu.store.collection import Collection
from peftu.store.deletion import MOST_NAMES, Collector
from peftu.store.index import INDEX, Index
from peftu.store.reading import Place, fill
from peftu.store.seal import KEY_FILE, given_seal
from peftu.store.shards import FOLDER, NUMBER, GoneError, Shards, checksum
from peftu.store.versions import ANSWERING, APPROVED, COLUMNS, JOINED, Status, Version, Versions

SEAL = "seal"  # the setting of an encrypted store
CHECKED_BYTES = 8 << 20  # of modules that are in memory at once while all are looked at


def is_store(folder: Path) -> bool:
    """Returns whether a folder holds a store."""
    return (Path(folder) / INDEX).exists()


class AdapterStore:
    """Modules by (collection, user) in versions, of which the newest approved one answers; any thread may use it.

    Args:
        folder: of the store; made when ``create`` is true.
        create: make a new store where there is none.

    A new store is encrypted where the environment names a key file (`PEFTU_STORE_KEY`), and needs it from then on.

    Raises:
        PeftuError: there is no store in the folder, it was made by a newer version, or is encrypted with another key.
    """

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.folder = Path(folder)
        if not create and not is_store(self.folder):
            raise PeftuError(f"{self.folder}: no module store here — pass the folder of a run that trained modules")
        shards = self.folder / FOLDER
        if create:
            with writing_to(shards):
                owner_only(shards)
        seal = given_seal()
        self._index = Index(self.folder, create, {SEAL: seal.mark()} if seal and create else {})
        mark = self._index.setting(SEAL)
        if mark and seal and not seal.fits(mark):
            self.close()
            raise PeftuError(f"{self.folder}: is encrypted with another key — name its key file in {KEY_FILE}")
        self._shards = Shards(shards, self._knows_shard, self._index.setting, mark is not None, seal)
        self._versions = Versions(self._index)

    def close(self) -> None:
        """Lets go of the index; the last to leave folds its log into it."""
        self._index.close()

    def __enter__(self) -> "AdapterStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def add(
        self,
        collection: Collection,
        keys: Sequence[str],
        rows: Tensor,
        train_rows: Sequence[int],
        status: Status = APPROVED,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        """Commits a module for each key, as the newest version, all or none.

        Args:
            collection: what the modules fit.
            keys: user keys, or EVERYONE.
            rows: [keys, width] float32.
            train_rows: rows each was trained on.
            status: quarantined ones do not answer until they are approved.
            provenance: what all of them were made of, as JSON values: data, split, settings, decision.

        Raises:
            PeftuError: a row has numbers that are not finite, the disk is full, or the collection is there already
                with another base or layout.
        """
        if rows.shape != (len(keys), collection.width):
            raise ValueError(f"rows are {tuple(rows.shape)}, not {(len(keys), collection.width)}")
        if diverged := int((~numbers.finite(rows)).sum()):
            raise PeftuError(
                f"{collection.label}: {diverged} of {len(rows)} modules have numbers that are not finite, none is "
                "stored — train with a lower lr"
            )
        form = self._shards.form(collection.width)
        rows, cells = self._shards.as_kept(rows.detach().cpu().float(), form)
        sums = [checksum(row) for row in rows]
        with (
            self._shards.written(len(rows), form, cells) as places,
            self._index.transaction(),
        ):
            number = self._number(collection, make=True)
            facts, now = self._versions.provenance(provenance), time.time()
            for key, place, mark, seen in zip(keys, places, sums, train_rows, strict=True):
                self._index.sql(
                    "INSERT INTO modules SELECT ?, ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, NULL, ?, ?"
                    " FROM modules WHERE collection = ? AND user = ?",
                    (number, key, *place, mark, int(seen), now, status, facts, number, key),
                )

    def delete(self, user: str, collection: Collection | None = None) -> int:
        """Hides a user's modules, all or a collection's; `gc` removes the bytes. Returns how many were hidden."""
        query, values = "UPDATE modules SET deleted = ? WHERE user = ? AND deleted IS NULL", (time.time(), user)
        with self._index.transaction():
            if collection is None:
                return self._index.sql(query, values).rowcount
            return self._index.sql(f"{query} AND collection = ?", (*values, self._number(collection))).rowcount

    def erase(self, user: str) -> int:
        """Returns how many modules of a user are gone to the byte, those a killed process had hidden among them.

        Raises:
            PeftuError: as `gc`; the modules are hidden all the same.
        """
        query = "SELECT count(*) FROM modules WHERE user = ? AND deleted NOT NULL"
        modules = int(self._index.sql(query, (user,)).fetchone()[0]) + self.delete(user)
        self.gc()
        return modules

    def gc(self) -> int:
        """Rewrites shards without deleted modules, so that their bytes are gone; returns how many modules went.

        What killed processes left behind goes first, and many small shards become few. Others read and write meanwhile.

        Raises:
            PeftuError: a shard is damaged, the disk is full, or a process that reads all the while keeps the index's
                log from being emptied.
        """
        return Collector(self._index, self._shards).collect()

    def pack(self, int8: bool = False, home: str | None = None) -> int:
        """Returns how many modules were written anew: as all are from now on, in int8 or elsewhere.

        Modules in int8 are others, of numbers nearby, with checksums of their own; there is no way back. Who is stopped
        at it goes on by the same call. Others read and write meanwhile.

        Args:
            int8: a byte a number, and four for each 64.
            home: a URL that fsspec writes to, under which the store's shards come to lie in a folder of their own;
                'here': in the store's folder; None: where they are.

        Raises:
            PeftuError: it cannot be written there, the key is missing, or a module is not whole.
        """
        self._index.set(self._shards.changed(int8, home))
        written = Collector(self._index, self._shards).settle()
        self._shards.sweep()
        self._index.set(self._shards.left())
        return written

    def mark(self, collection: Collection, user: str, version: int, status: Status) -> None:
        """Gives one version of a user's module another status; the newest approved one answers.

        Raises:
            PeftuError: there is no such version.
        """
        with self._index.transaction():
            self._versions.mark(self._number(collection), user, version, status)

    def rollback(self, collection: Collection, user: str, version: int | None = None) -> int:
        """Returns the version of a user's module that answers from now on; those after it are revoked.

        Args:
            collection: whose module.
            user: the user's key.
            version: None: the approved one before the one that answers.

        Raises:
            PeftuError: there is no such approved version.
        """
        with self._index.transaction():
            return self._versions.roll_back(self._number(collection), user, version)

    # --- reading ------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> tuple[object, ...]:
        """Returns what is another once anybody else has committed a change; what this thread itself did is left out."""
        return self._index.revision

    def collections(self) -> list[Collection]:
        """Returns every collection, in the order they were added."""
        query = "SELECT label, seed, base, fingerprint, width, recipe FROM collections ORDER BY id"
        return [Collection(*found) for found in self._index.sql(query)]

    def row_bytes(self, collection: Collection) -> int:
        """Returns the bytes that a module takes as modules are written now."""
        return self._shards.form(collection.width).size

    def keys(self, collection: Collection) -> list[str]:
        """Returns the keys that have a module in a collection, sorted.

        Raises:
            PeftuError: there is no such collection, or it fits another base.
        """
        query = f"SELECT DISTINCT user FROM modules WHERE collection = ? AND {ANSWERING} ORDER BY user"  # noqa: S608
        return [key for (key,) in self._index.sql(query, (self._number(collection),))]

    def train_rows(self, collection: Collection) -> dict[str, int]:
        """Returns key -> how many rows its newest module was trained on."""
        query = f"SELECT user, train_rows FROM modules WHERE collection = ? AND {ANSWERING} ORDER BY user, version"  # noqa: S608
        return dict(self._index.sql(query, (self._number(collection),)))

    def missing(self, collection: Collection, keys: Iterable[str]) -> set[str]:
        """Returns those of the keys that have no module in a collection; what others have is not looked at.

        Raises:
            PeftuError: there is no such collection, or it fits another base.
        """
        asked = set(keys)
        with self._index.transaction("DEFERRED"):
            return asked - self._newest(self._number(collection), asked, "user").keys()

    def holding(self, collection: Collection, checksums: Sequence[str]) -> set[str]:
        """Returns those of the checksums that are of modules in a collection, of whatever version."""
        query = "SELECT checksum FROM modules WHERE collection = ? AND deleted IS NULL AND checksum IN"
        marks = f" ({','.join('?' * len(checksums))})"
        with self._index.transaction("DEFERRED"):
            return {mark for (mark,) in self._index.sql(query + marks, (self._number(collection), *checksums))}

    def versions(self, collection: Collection, user: str) -> list[Version]:
        """Returns all versions of a user's module, of whatever status, newest first; none: the user is not known."""
        with self._index.transaction("DEFERRED"):
            return self._versions.of(self._number(collection), user)

    def answering(self, collection: Collection, keys: Iterable[str]) -> dict[str, Version]:
        """Returns key -> the version that `get` reads, of those keys that have one, all as of one moment."""
        with self._index.transaction("DEFERRED"):
            found = self._newest(self._number(collection), dict.fromkeys(keys), COLUMNS, JOINED)
        return {key: Version.of(*row) for key, row in found.items()}

    def get(self, collection: Collection, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] the newest approved module of each key, checked against its checksum.

        Raises:
            PeftuError: a key has no module (nothing falls back to the base in silence), the bytes were altered, or
                a module is of numbers that are not finite.
        """
        return self._read(collection, lambda: [Place(*row) for row in self._asked(collection, keys)])

    def verify(self) -> int:
        """Returns how many modules are whole, of whatever version.

        Raises:
            PeftuError: one is not.
        """
        whole = 0
        for collection in self.collections():
            number = self._number(collection)
            query = "SELECT user, version FROM modules WHERE collection = ? AND deleted IS NULL ORDER BY shard, row"
            modules = self._index.sql(query, (number,)).fetchall()
            step = max(CHECKED_BYTES // (NUMBER * collection.width or 1), 1)
            for first in range(0, len(modules), step):
                look = partial(self._kept, number, modules[first : first + step])
                whole += len(self._read(collection, look))
        return whole

    # --- parts --------------------------------------------------------------------------------------------------

    def _knows_shard(self, name: str) -> bool:
        return self._index.sql("SELECT 1 FROM modules WHERE shard = ? LIMIT 1", (name,)).fetchone() is not None

    def _number(self, collection: Collection, make: bool = False) -> int:
        """Returns the number of a collection in the index; made if asked for and not there."""
        query = "SELECT id, fingerprint, width, recipe FROM collections WHERE label = ? AND seed = ?"
        found = self._index.sql(query, (collection.label, collection.seed)).fetchone()
        if found is None and make:
            values = (collection.label, collection.seed, collection.base, collection.fingerprint)
            added = self._index.sql(
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

    def _newest(self, number: int, keys: Iterable[str], columns: str, tables: str = "modules") -> dict[str, list[Any]]:
        """Returns key -> columns of the newest approved module, of those keys that have one."""
        query = f"SELECT user, max(version), {columns} FROM {tables} WHERE collection = ? AND {ANSWERING} AND user IN"  # noqa: S608
        found: dict[str, list[Any]] = {}
        rest = iter(keys)
        while part := list(islice(rest, MOST_NAMES)):
            marks = f"({','.join('?' * len(part))}) GROUP BY user"
            found |= {user: row for user, _, *row in self._index.sql(f"{query} {marks}", (number, *part))}
        return found

    def _asked(self, collection: Collection, keys: Sequence[str]) -> list[list[Any]]:
        """Returns shard, row and checksum of each key's newest approved module, all as of one moment.

        Raises:
            PeftuError: a key has none.
        """
        with self._index.transaction("DEFERRED"):
            found = self._newest(self._number(collection), dict.fromkeys(keys), "shard, row, checksum")
        for place, key in enumerate(keys, 1):
            if key not in found:
                which = "the asked user" if len(keys) == 1 else f"user {place} of {len(keys)}"
                mend = "train one, or ask a reference method"
                raise PeftuError(f"{which} has no module in {collection.label} — {mend}")
        return [found[key] for key in keys]

    def _kept(self, number: int, modules: Sequence[tuple[str, int]]) -> list[Place]:
        """Returns where those (user, version) are that have not been deleted meanwhile."""
        query = "SELECT shard, row, checksum FROM modules WHERE collection = ? AND user = ? AND version = ?"
        query = f"{query} AND deleted IS NULL"
        with self._index.transaction("DEFERRED"):
            found = [self._index.sql(query, (number, *module)).fetchone() for module in modules]
        return [Place(*place) for place in found if place is not None]

    def _read(self, collection: Collection, look: Callable[[], list[Place]]) -> Tensor:
        """Returns [places, width] the numbers at the places that are found; again where `gc` has moved them since."""
        places: list[Place] | None = None
        while True:
            before, places = places, look()
            try:
                rows = torch.from_numpy(np.empty((len(places), collection.width), dtype=np.float32))  # in large pages
                fill(self._shards, rows, places, collection.label)
            except GoneError:
                if places == before:
                    raise
            else:
                return rows
