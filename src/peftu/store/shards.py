"""Shards: immutable safetensors files, each with the module rows of many users as one matrix."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from itertools import islice
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
READ_BYTES = 1 << 20  # that are fetched in one piece
HEAD = 512  # bytes by which a header is read; of a longer one the rest, too
LONGEST_HEADER = 1 << 16


Cell = bytes | memoryview
Floats = npt.NDArray[np.float32]


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

    def fill(self, matrix: "Matrix", first: int, targets: Sequence[Floats]) -> None:
        """Fills [width] arrays with the numbers of neighbouring rows of an open shard, from ``first`` on.

        Raises:
            PeftuError: there is no key.
            ValueError: there is no such row, or none that the key opens.
        """
        opener = self._opener() if self._sealed else None
        matrix.ahead(first, first + len(targets))
        for row, target in enumerate(targets, first):
            if opener is None:
                matrix.read(row, target.data.cast("B"))
            else:
                target[:] = np.frombuffer(opener.open(bytes(matrix.cell(row))), dtype=np.float32)

    def read(self, name: str, rows: Sequence[int]) -> Iterator[Cell]:
        """Yields the cells of these rows of a shard, which are in order; no key is needed for it.

        The bytes are good until the next row is asked for.

        Raises:
            PeftuError: the shard is not whole, or has no such row.
        """
        with self.opened(name) as matrix:
            for first, last in stretches(rows, matrix.size):
                matrix.ahead(first, last)
                yield from map(matrix.cell, range(first, last))

    @contextmanager
    def opened(self, name: str) -> Iterator["Matrix"]:
        """Yields the rows of a shard, not yet read.

        Raises:
            GoneError: there is no such shard.
            PeftuError: it is not whole, or the block finds that.
        """
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
        head = file.read(HEAD)
        length = int.from_bytes(head[:8], "little")
        size = os.fstat(file.fileno()).st_size
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError("its header is cut off")
        if len(head) < 8 + length:
            head += file.read(8 + length - len(head))
        about = parse_json(head[8 : 8 + length])
        matrix = about.get("rows") if isinstance(about, dict) else None
        shape = matrix.get("shape") if isinstance(matrix, dict) else None
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("its header has no rows")
        self.count, width = shape
        self.size = width if sealed else NUMBER * width
        self._start = 8 + length
        if matrix != _matrix(self.count, width, self.size, sealed) or size != self._start + self.count * self.size:
            raise ValueError("its header does not fit its length")
        self._cell = bytearray(0)

    def ahead(self, first: int, last: int) -> None:
        """Has rows from ``first`` on, up to ``last``, fetched in one piece: they are going to be read."""
        if hasattr(os, "posix_fadvise"):
            start, length = self._start + self.size * first, self.size * (last - first)
            os.posix_fadvise(self._file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def read(self, row: int, into: memoryview) -> None:
        """Fills bytes with a row's cell.

        Raises:
            ValueError: there is no such row, or none of so many bytes.
        """
        if row >= self.count:
            raise ValueError(f"it has no row {row}, only {self.count}")
        if len(into) != self.size:
            raise ValueError(f"its rows have {self.size} bytes, not {len(into)}")
        self._file.seek(self._start + self.size * row)
        while into and (read := self._file.readinto(into)):
            into = into[read:]
        if into:
            raise ValueError("it is cut off")

    def cell(self, row: int) -> memoryview:
        """Returns a row's cell; good until the next one is asked for."""
        self._cell = self._cell or bytearray(self.size)
        self.read(row, memoryview(self._cell))
        return memoryview(self._cell)


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


def stretches(rows: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """Yields the first row and the one after the last of each stretch of neighbours, of rows in order.

    None is of more than `READ_BYTES`, of rows of this size.
    """
    most = max(READ_BYTES // max(size, 1), 1)
    first = last = 0
    for row in rows:
        if row != last or row - first == most:
            if first < last:
                yield first, last
            first = row
        last = row + 1
    if first < last:
        yield first, last


def finite(rows: Tensor) -> Tensor:
    """Returns [rows] whether all numbers of a row are finite as they are stored; row by row, for it takes memory."""
    return torch.tensor([bool(row.detach().float().isfinite().all()) for row in rows], dtype=torch.bool)


def checksum(row: Tensor) -> str:
    """Returns the sha256 of one module's numbers."""
    return hashlib.sha256(stored(row)).hexdigest()


def stored(row: Tensor) -> memoryview:
    """Returns the bytes of [width] numbers as they are stored."""
    return row.detach().cpu().contiguous().float().numpy().data.cast("B")
