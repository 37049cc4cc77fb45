"""Where the module rows of a fitted method are: in memory, or in a store that is read a user at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from peftu.errors import PeftuError
from peftu.store import AdapterStore, Collection, checksum

Provenance = Mapping[str, object]  # what a row was made of, as JSON values


class ModuleRows(Protocol):
    """Module rows by user key."""

    def keys(self) -> list[str]:
        """Returns whose rows there are, sorted."""
        ...

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Returns those of the keys that have no row; the rows of others are not looked at."""
        ...

    def holds(self, key: str) -> bool:
        """Returns whether there is any row of a key, one that does not answer included."""
        ...

    def get(self, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] rows; a key without one is an error."""
        ...

    def holding(self, checksums: Sequence[str]) -> set[str]:
        """Returns those of the checksums that are of rows which are there."""
        ...

    def put(self, key: str, row: Tensor, train_rows: int, provenance: Provenance) -> None:
        """Takes [width] as a key's row, with what it was made of."""
        ...

    def drop(self, key: str) -> None:
        """Lets go of a key's row."""
        ...


class MemoryRows:
    """Rows in memory.

    Args:
        keys: whose each row is.
        rows: [keys, width].
        train_rows: how many rows each was trained on.
    """

    def __init__(self, keys: Sequence[str], rows: Tensor, train_rows: Sequence[int]) -> None:
        self.rows, self.train_rows = rows, list(train_rows)
        self.order = list(keys)
        self._place = {key: place for place, key in enumerate(keys)}

    def keys(self) -> list[str]:
        """Returns whose rows there are, sorted."""
        return sorted(self.order)

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Returns those of the keys that have no row."""
        return set(keys) - self._place.keys()

    def holds(self, key: str) -> bool:
        """Returns whether there is a row of a key."""
        return key in self._place

    def get(self, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] rows.

        Raises:
            PeftuError: a key has none.
        """
        if missing := self.missing(keys):
            raise PeftuError(f"{len(missing)} of {len(keys)} asked users have no module — enrol them first")
        if list(keys) == self.order:  # a thousand users' rows are a gigabyte
            return self.rows
        return self.rows[[self._place[key] for key in keys]]

    def holding(self, checksums: Sequence[str]) -> set[str]:
        """Returns those of the checksums that are of rows which are there."""
        return set(checksums) & {checksum(row) for row in self.rows}

    def put(self, key: str, row: Tensor, train_rows: int, provenance: Provenance) -> None:
        """Takes [width] as a key's row; what it was made of is not kept."""
        if key in self._place:
            self.rows = self.rows.clone()
            self.rows[self._place[key]], self.train_rows[self._place[key]] = row, train_rows
            return
        self._place[key] = len(self.order)
        self.order.append(key)
        self.train_rows.append(train_rows)
        self.rows = torch.cat([self.rows, row[None].to(self.rows)])

    def drop(self, key: str) -> None:
        """Lets go of a key's row."""
        place = self._place[key]
        kept = [other for other in range(len(self.order)) if other != place]
        self.rows = self.rows[kept]
        del self.order[place], self.train_rows[place]
        self._place = {other: number for number, other in enumerate(self.order)}


class StoredRows:
    """Rows of one collection of a module store; what is changed is committed at once.

    Args:
        folder: of the store.
        collection: which rows.
    """

    def __init__(self, folder: Path, collection: Collection) -> None:
        self.folder, self.collection = folder, collection

    @contextmanager
    def reading(self) -> Iterator[AdapterStore]:
        """Yields the store, to be read."""
        with AdapterStore(self.folder) as store:
            yield store

    def keys(self) -> list[str]:
        """Returns whose rows there are, sorted."""
        with self.reading() as store:
            return store.keys(self.collection)

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Returns those of the keys that have no row."""
        with self.reading() as store:
            return store.missing(self.collection, keys)

    def holds(self, key: str) -> bool:
        """Returns whether there is any version of a key's row, of whatever status."""
        with AdapterStore(self.folder) as store:
            return bool(store.versions(self.collection, key))

    def get(self, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] rows; raises where a key has none."""
        with self.reading() as store:
            return store.get(self.collection, keys)

    def holding(self, checksums: Sequence[str]) -> set[str]:
        """Returns those of the checksums that are of rows which are there."""
        with self.reading() as store:
            return store.holding(self.collection, checksums)

    def checksums(self, keys: Sequence[str]) -> dict[str, str]:
        """Returns key -> checksum of the newest row, of those keys that have one, all as of one moment."""
        with self.reading() as store:
            return {key: version.checksum for key, version in store.answering(self.collection, keys).items()}

    def put(self, key: str, row: Tensor, train_rows: int, provenance: Provenance) -> None:
        """Commits [width] as a key's newest row."""
        with AdapterStore(self.folder) as store:
            store.add(self.collection, [key], row[None], [train_rows], provenance=provenance)

    def drop(self, key: str) -> None:
        """Deletes every version of a key's row, and their bytes."""
        with AdapterStore(self.folder) as store:
            store.delete(key, self.collection)
            store.gc()
