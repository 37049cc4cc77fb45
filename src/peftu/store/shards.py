"""Shards: immutable safetensors files, each with the module rows of many users as one matrix."""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import held, owner_only, sync_folder, unheld
from peftu.outside import parse_json

FOLDER = "shards"
NUMBER = 4  # bytes of one
SHARD_BYTES = 32 << 20  # of a shard at most, so that a user's deletion rewrites no more than this
MOST_SHARDS = 256  # that one write makes, each held open: a larger write has larger shards
READ_BYTES = 1 << 20  # that are in memory at once while many rows are looked at: few enough to stay near the processor
LONGEST_HEADER = 1 << 16


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

        The numbers are good until the next row is asked for.

        Raises:
            PeftuError: it is not whole, or has no such row.
        """
        if not rows:
            return
        with self.opened(name) as matrix:
            if rows[-1] >= matrix.count:
                only = f"has no row {rows[-1]}, only {matrix.count}"
                raise PeftuError(f"{self.folder / name}: {only} — restore or retrain")
            step = max(READ_BYTES // (NUMBER * matrix.width or 1), 1)
            for first, last in _stretches(rows):
                for start in range(first, last, step):
                    yield from enumerate(matrix[start : min(start + step, last)], start)

    @contextmanager
    def opened(self, name: str) -> Iterator["Matrix"]:
        """Yields the rows of a shard, not yet read: a slice of it reads that slice."""
        path = self.folder / name
        try:
            with path.open("rb", buffering=0) as file:
                yield Matrix(file)
        except FileNotFoundError:
            raise GoneError(f"{path}: is missing — restore it or train again") from None
        except (OSError, ValueError) as error:
            raise PeftuError(f"{path}: not a whole shard ({error}) — restore it or train again") from None


class Matrix:
    """The rows of an open shard: a safetensors file with one matrix and nothing else.

    It is read and not mapped: a module that is not in memory comes in one piece and not page by page, and a large
    shard takes no memory.

    Args:
        file: open to be read.

    Raises:
        ValueError: it is not such a file, or not whole.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._rows = np.empty((0, 0), dtype=np.float32)
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError("its header is cut off")
        about = parse_json(file.read(length))
        matrix = about.get("rows") if isinstance(about, dict) else None
        shape = matrix.get("shape") if isinstance(matrix, dict) else None
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("its header has no rows")
        self._start, (self.count, self.width) = 8 + length, shape
        numbers = NUMBER * self.count * self.width
        if matrix != {"dtype": "F32", "shape": shape, "data_offsets": [0, numbers]} or size != self._start + numbers:
            raise ValueError("its header does not fit its length")

    def __getitem__(self, part: slice) -> Tensor:
        """Returns [rows, width] the rows from ``part.start`` on, up to ``part.stop``; good until the next ones."""
        count = part.stop - part.start
        if count > len(self._rows):
            self._rows = np.empty((count, self.width), dtype=np.float32)
        self._file.seek(self._start + NUMBER * self.width * part.start)
        into = memoryview(self._rows.data).cast("B")[: NUMBER * self.width * count]
        while into and (read := self._file.readinto(into)):
            into = into[read:]
        if into:
            raise ValueError("it is cut off")
        return torch.from_numpy(self._rows[:count])


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
    return torch.tensor([finite_row(row.detach().float()) for row in rows], dtype=torch.bool)


def finite_row(row: Tensor) -> bool:
    """Returns whether all numbers of one float32 row are finite; the sum, which is quick, may be too large for one."""
    return math.isfinite(float(row.sum())) or bool(row.isfinite().all())


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(stored(row)).hexdigest()


def stored(row: Tensor) -> memoryview:
    """Returns the bytes of [width] numbers as they are stored."""
    return row.detach().cpu().contiguous().float().numpy().data
