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
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import held, sync_folder, unheld
from peftu.outside import parse_json
from peftu.store.seal import KEY_FILE, OVERHEAD, Seal

FOLDER = "shards"
NUMBER = 4  # bytes of one
SHARD_BYTES = 32 << 20  # of a shard at most, so that a user's deletion rewrites no more than this
MOST_SHARDS = 256  # that one write makes, each held open: a larger write has larger shards
READ_BYTES = 1 << 20  # that are in memory at once while many rows are looked at: few enough to stay near the processor
LONGEST_HEADER = 1 << 16


Cell = bytes | memoryview
Bytes = npt.NDArray[np.uint8]


class GoneError(PeftuError):
    """A shard is not where the index said it is."""


class Shards:
    """The shards of a store.

    Args:
        folder: of the shards.
        known: whether the index has modules in a shard.
        sealed: whether rows are encrypted; without ``seal`` they can be moved and deleted, and no more.
        seal: opens and closes them.
    """

    def __init__(self, folder: Path, known: Callable[[str], bool], sealed: bool, seal: Seal | None) -> None:
        self.folder, self._known = folder, known
        self._sealed, self._seal = sealed, seal

    def cell_size(self, width: int) -> int:
        """Returns the bytes that a row of so many numbers takes in a shard: its cell."""
        return NUMBER * width + (OVERHEAD if self._sealed else 0)

    def cells(self, rows: Iterable[Tensor]) -> Iterator[Cell]:
        """Yields rows as they are written."""
        return (self._opener().close(stored(row)) for row in rows) if self._sealed else map(stored, rows)

    def _opener(self) -> Seal:
        if self._seal is None:
            raise PeftuError(f"{self.folder}: modules are encrypted — name their key file in {KEY_FILE}")
        return self._seal

    @contextmanager
    def written(self, count: int, width: int, cells: Iterable[Cell]) -> Iterator[list[tuple[str, int]]]:
        """Yields the places of cells in new shards, on disk; the block commits them, or they go again.

        They are written here and not by a library, which has a file of its own beside each: that could not be held,
        and would outlive a killed process.
        """
        size = self.cell_size(width)
        most = max(SHARD_BYTES // (size or 1), -(-count // MOST_SHARDS), 1)
        names: list[str] = []
        places: list[tuple[str, int]] = []
        rest = iter(cells)
        try:
            with writing_to(self.folder), ExitStack() as stack:
                for first in range(0, count, most):
                    names.append(f"{uuid.uuid4().hex}.safetensors")
                    rows = min(most, count - first)
                    file = stack.enter_context(held(self.folder / names[-1]))
                    file.write(_header(rows, width, size, self._sealed))
                    file.writelines(islice(rest, rows))
                    file.flush()
                    os.fsync(file.fileno())
                    places += [(names[-1], row) for row in range(rows)]
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
            PeftuError: the shard is not whole, has no such row, or cannot be opened with the key there is.
        """
        opener = self._opener() if self._sealed else None
        for row, cell in self.read(name, rows):
            try:
                content = cell if opener is None else bytearray(opener.open(cell.tobytes()))
            except ValueError as error:
                raise PeftuError(f"{self.folder / name}: row {row}: {error} — restore or retrain") from None
            yield row, torch.from_numpy(np.frombuffer(content, dtype=np.float32))

    def read(self, name: str, rows: Sequence[int]) -> Iterator[tuple[int, Bytes]]:
        """Yields each of these rows of a shard, which are in order, with its cell; no key is needed for it.

        The bytes are good until the next row is asked for.

        Raises:
            PeftuError: the shard is not whole, or has no such row.
        """
        if not rows:
            return
        with self.opened(name) as matrix:
            if rows[-1] >= matrix.count:
                only = f"has no row {rows[-1]}, only {matrix.count}"
                raise PeftuError(f"{self.folder / name}: {only} — restore or retrain")
            step = max(READ_BYTES // (matrix.size or 1), 1)
            for first, last in _stretches(rows):
                for start in range(first, last, step):
                    yield from enumerate(matrix[start : min(start + step, last)], start)

    @contextmanager
    def opened(self, name: str) -> Iterator["Matrix"]:
        """Yields the rows of a shard, not yet read: a slice of it reads that slice."""
        path = self.folder / name
        try:
            with path.open("rb", buffering=0) as file:
                yield Matrix(file, self._sealed)
        except FileNotFoundError:
            raise GoneError(f"{path}: is missing — restore it or train again") from None
        except (OSError, ValueError) as error:
            raise PeftuError(f"{path}: not a whole shard ({error}) — restore it or train again") from None


class Matrix:
    """The cells of an open shard: a safetensors file with one matrix and nothing else.

    It is read and not mapped: a module that is not in memory comes in one piece and not page by page, and a large
    shard takes no memory.

    Args:
        file: open to be read.
        sealed: whether its cells are to be encrypted.

    Raises:
        ValueError: it is not such a file, or not whole.
    """

    def __init__(self, file: FileIO, sealed: bool) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError("its header is cut off")
        about = parse_json(file.read(length))
        matrix = about.get("rows") if isinstance(about, dict) else None
        shape = matrix.get("shape") if isinstance(matrix, dict) else None
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("its header has no rows")
        self.count, width = shape
        self.size = width if sealed else NUMBER * width
        self._start = 8 + length
        if matrix != _matrix(self.count, width, self.size, sealed) or size != self._start + self.count * self.size:
            raise ValueError("its header does not fit its length")
        self._cells = np.empty((0, self.size), dtype=np.uint8)

    def __getitem__(self, part: slice) -> Bytes:
        """Returns [rows, bytes] the cells from ``part.start`` on, up to ``part.stop``; good until the next ones."""
        count = part.stop - part.start
        if count > len(self._cells):
            self._cells = np.empty((count, self.size), dtype=np.uint8)
        self._file.seek(self._start + self.size * part.start)
        into = memoryview(self._cells.data).cast("B")[: self.size * count]
        while into and (read := self._file.readinto(into)):
            into = into[read:]
        if into:
            raise ValueError("it is cut off")
        return self._cells[:count]


def _matrix(rows: int, width: int, size: int, sealed: bool) -> dict[str, object]:
    """Returns how a header describes rows of so many numbers, or of so many bytes where they are sealed."""
    dtype = "U8" if sealed else "F32"
    return {"dtype": dtype, "shape": [rows, width], "data_offsets": [0, rows * size]}


def _header(rows: int, width: int, size: int, sealed: bool) -> bytes:
    matrix = _matrix(rows, size if sealed else width, size, sealed)
    form = "peftu-sealed-rows-1" if sealed else "peftu-rows-1"
    header = json.dumps({"__metadata__": {"format": form}, "rows": matrix}).encode()
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
    return row.detach().cpu().contiguous().float().numpy().data.cast("B")
