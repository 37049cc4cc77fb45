"""Module rows that stay in memory between requests, known by what they are and never by whose they are.

A row's identity is a digest of its numbers, its base and its prompt. Whose newest row has which identity is read from
the store for each batch, so that a module which was replaced or deleted, by whatever process, is not read again.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from peftu.errors import PeftuError
from peftu.fitted.rows import MemoryRows, StoredRows
from peftu.store import AdapterStore, Collection

DOMAIN = "peftu-module-1"  # what the digest is of; another kind of thing with the same bytes has another
ASKED = 1000  # checksums that the store is asked for at once
MOST_KNOWN = 200_000  # keys whose newest row is known without asking the store
Tell = Callable[[str, int], None]  # of 'hit', 'load' or 'eviction', and how many


def batched(names: Iterable[str], most: int) -> Iterable[list[str]]:
    """Yields the names, so many at a time."""
    rest = iter(names)
    while part := list(islice(rest, most)):
        yield part


def identity(collection: Collection, row_checksum: str) -> str:
    """Returns 'sha256:…' of a module: its numbers, the base it is read on, and prompt, region and method."""
    parts = (DOMAIN, collection.fingerprint, collection.recipe, row_checksum)
    return "sha256:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Residents:
    """Rows by identity, of all methods; the least recently asked go first.

    Args:
        most_bytes: of all rows together.
        tell: hears of hits, loads and evictions.
    """

    def __init__(self, most_bytes: int, tell: Tell = lambda *_: None) -> None:
        self._most, self._tell, self._bytes = most_bytes, tell, 0
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._kept: dict[str, tuple[StoredRows, str]] = {}  # where each is kept, and its checksum
        self._lock = threading.Lock()
        self._stores: dict[Path, AdapterStore] = {}

    def store(self, folder: Path) -> AdapterStore:
        """Returns the store of a folder, which stays open to be read."""
        with self._lock:
            if folder not in self._stores:
                self._stores[folder] = AdapterStore(folder)
            return self._stores[folder]

    def close(self) -> None:
        """Lets go of the stores."""
        with self._lock:
            while self._stores:
                self._stores.popitem()[1].close()

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, names: Sequence[str], rows: Tensor) -> list[int]:
        """Copies rows by name into [names, width], and returns the places of those that are not here."""
        absent = []
        with self._lock:
            for place, name in enumerate(names):
                if name in self._rows:
                    rows[place] = self._rows[name]
                    self._rows.move_to_end(name)
                else:
                    absent.append(place)
        self._tell("hit", len(names) - len(absent))
        return absent

    def put(self, name: str, row: Tensor, mark: str, rows: StoredRows) -> None:
        """Takes [width] a row; what no longer fits goes. A batch reads copies, so any may go at any time.

        Args:
            name: its identity.
            row: its numbers, which are nobody else's to change.
            mark: its checksum.
            rows: where it is kept.
        """
        evicted = 0
        with self._lock:
            if name not in self._rows and row.nbytes <= self._most:
                self._rows[name], self._kept[name] = row, (rows, mark)
                self._bytes += row.nbytes
            while self._bytes > self._most:
                evicted += self._pop(next(iter(self._rows)))
        self._tell("load", 1)
        self._tell("eviction", evicted)

    def sweep(self) -> None:
        """Drops the rows that are deleted where they are kept, by whatever process, and wipes their memory."""
        with self._lock:
            kept = dict(self._kept)
        marks: dict[StoredRows, dict[str, str]] = {}
        for name, (rows, mark) in kept.items():
            marks.setdefault(rows, {})[mark] = name
        gone = []
        for rows, named in marks.items():
            for part in batched(named, ASKED):
                gone += [named[mark] for mark in set(part) - rows.holding(part)]
        with self._lock:
            evicted = sum(self._pop(name, wipe=True) for name in gone if name in self._rows)
        self._tell("eviction", evicted)

    def _pop(self, name: str, wipe: bool = False) -> int:
        row = self._rows.pop(name)
        del self._kept[name]
        self._bytes -= row.nbytes
        if wipe:
            row.zero_()  # memory that is freed keeps its numbers
        return 1


class ResidentRows(StoredRows):
    """Rows of a store's collection, of which those in use are in memory; the store stays open to be read.

    Args:
        stored: where they are kept.
        residents: those in memory.
    """

    def __init__(self, stored: StoredRows, residents: Residents) -> None:
        super().__init__(stored.folder, stored.collection)
        self.residents = residents
        self._revision: tuple[object, ...] = ()
        self._marks: dict[str, str | None] = {}  # key -> checksum of the newest row, as of that revision

    @contextmanager
    def reading(self) -> Iterator[AdapterStore]:
        """Yields the store, to be read."""
        yield self.residents.store(self.folder)

    def at_once(self, keys: Sequence[str]) -> tuple[MemoryRows, dict[str, str]]:
        """Returns the newest rows of those keys that have one, all as of one moment, and their identities."""
        while True:
            self.look()
            marks = self._known(keys)
            names = {key: identity(self.collection, mark) for key, mark in marks.items()}
            order = list(names)
            rows = torch.empty(len(order), self.collection.width)
            absent = self.residents.fill(list(names.values()), rows)
            if not absent or self._load([order[place] for place in absent], absent, marks, names, rows):
                return MemoryRows(order, rows, [0] * len(order)), names

    def look(self) -> bool:
        """Returns whether the store is as it was when this was last asked; if not, what was known of it is let go."""
        before, self._revision = self._revision, self.residents.store(self.folder).revision
        if same := before == self._revision:
            return same
        self._marks.clear()
        return same

    def _known(self, keys: Sequence[str]) -> dict[str, str]:
        """Returns key -> checksum of the newest row, of those keys that have one."""
        if new := [key for key in keys if key not in self._marks]:
            if len(self._marks) > MOST_KNOWN:
                self._marks.clear()
                new = list(keys)
            self._marks |= dict.fromkeys(new) | self.checksums(new)
        return {key: mark for key in keys if (mark := self._marks[key]) is not None}

    def _load(
        self, keys: Sequence[str], places: Sequence[int], marks: dict[str, str], names: dict[str, str], rows: Tensor
    ) -> bool:
        """Puts the rows of these keys in their places; returns whether they are still those of these names."""
        try:
            loaded = self.get(keys)
        except PeftuError:
            if self.look():
                raise
            return False
        if not self.look():
            return False
        for key, place, row in zip(keys, places, loaded, strict=True):
            rows[place] = row
            self.residents.put(names[key], row.clone(), marks[key], self)
        return True
