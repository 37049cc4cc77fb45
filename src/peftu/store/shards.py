"""Shards: immutable safetensors files, each with the module rows of many users as one matrix."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import held, owner_only, sync_folder, unheld

FOLDER = "shards"
NUMBER = 4  # bytes of one
SHARD_BYTES = 32 << 20  # of a shard at most, so that a user's deletion rewrites no more than this
MOST_SHARDS = 256  # that one write makes, each held open: a larger write has larger shards
READ_BYTES = 8 << 20  # that are mapped and in memory at once while many rows are looked at


class GoneError(PeftuError):
    """A shard is not where the index said it is."""


class Shards:
    """The shards of a store.

    Args:
        folder: of the shards.
        known: whether the index has modules in a shard.
    """

    def __init__(self, folder: Path, known: Callable[[str], bool]) -> None:
        self.folder, self._known = folder, known

    def prepare(self) -> None:
        """Makes the folder, the owner's alone."""
        with writing_to(self.folder):
            owner_only(self.folder)

    @contextmanager
    def written(self, shape: Sequence[int], rows: Iterable[Tensor]) -> Iterator[list[tuple[str, int]]]:
        """Yields the places of [rows, width] numbers in new shards, on disk; the block commits them, or they go again.

        They are written here and not by the library, which has a file of its own beside each: that could not be held,
        and would outlive a killed process.
        """
        count, width = shape
        most = max(SHARD_BYTES // (NUMBER * width or 1), -(-count // MOST_SHARDS), 1)
        names: list[str] = []
        places: list[tuple[str, int]] = []
        rest = iter(rows)
        try:
            with writing_to(self.folder), ExitStack() as stack:
                for first in range(0, count, most):
                    names.append(f"{uuid.uuid4().hex}.safetensors")
                    size = min(most, count - first)
                    file = stack.enter_context(held(self.folder / names[-1]))
                    file.write(_header(size, width))
                    for row in islice(rest, size):
                        file.write(stored(row))
                    file.flush()
                    os.fsync(file.fileno())
                    places += [(names[-1], row) for row in range(size)]
                sync_folder(self.folder)
                yield places
        finally:
            for name in names:
                self.discard(name)

    def discard(self, name: str) -> None:
        """Removes the file of a shard that the index does not know: a Ctrl-C may come right after the commit."""
        if not self._known(name):
            (self.folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what killed processes left: shards that the index does not know and nobody holds."""
        for path in self.folder.iterdir():
            if not self._known(path.name):
                with unheld(path) as free:
                    if free:
                        self.discard(path.name)

    def rows(self, name: str, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yields each of these rows of a shard, which are in order, with its [width] numbers; others are not read.

        A shard is mapped anew every few megabytes, so that a large one is never in memory whole.

        Raises:
            PeftuError: it is not whole, or has no such row.
        """
        parts = list(_stretches(rows))
        while parts:
            with self.opened(name) as matrix:
                count, width = matrix.get_shape()
                if rows[-1] >= count:
                    raise PeftuError(f"{self.folder / name}: has no row {rows[-1]}, only {count} — restore or retrain")
                room = max(READ_BYTES // (NUMBER * width or 1), 1)
                while parts and room > 0:
                    first, last = parts.pop(0)
                    if last - first > room:
                        parts.insert(0, (first + room, last))
                        last = first + room
                    room -= last - first
                    yield from enumerate(matrix[first:last], first)

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Yields the rows of a shard, not yet read: a slice of it reads that slice."""
        path = self.folder / name
        try:
            with safe_open(path, framework="pt") as file:
                yield file.get_slice("rows")
        except FileNotFoundError:
            raise GoneError(f"{path}: is missing — restore it or train again") from None
        except (SafetensorError, OSError, KeyError) as error:
            raise PeftuError(f"{path}: not a whole shard ({error}) — restore it or train again") from None


def _header(rows: int, width: int) -> bytes:
    matrix = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, NUMBER * rows * width]}
    header = json.dumps({"__metadata__": {"format": "peftu-rows-1"}, "rows": matrix}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields the first row and the one after the last of each stretch of neighbours, of rows in order."""
    for _, stretch in groupby(enumerate(rows), key=lambda row: row[1] - row[0]):
        neighbours = [row for _, row in stretch]
        yield neighbours[0], neighbours[-1] + 1


def finite(rows: Tensor) -> Tensor:
    """Returns [rows] whether all numbers of a row are finite as they are stored; row by row, for it takes memory."""
    return torch.tensor([bool(row.detach().float().isfinite().all()) for row in rows], dtype=torch.bool)


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(stored(row)).hexdigest()


def stored(row: Tensor) -> memoryview:
    """Returns the bytes of [width] numbers as they are stored."""
    return row.detach().cpu().contiguous().float().numpy().data
