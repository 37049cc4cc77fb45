"""Shards: immutable safetensors files, each with the module rows of many users as one matrix."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import held, sync_folder, unheld
from peftu.outside import parse_json
from peftu.store import homes, int8
from peftu.store.homes import GoneError, Source, is_url
from peftu.store.int8 import Floats
from peftu.store.seal import KEY_FILE, OVERHEAD, Seal

__all__ = ["FOLDER", "GoneError", "Shards", "checksum"]

FOLDER = "shards"
HERE, INT8 = "here", "int8"  # settings of where shards lie, and in which numbers
NUMBER = 4  # bytes of one
SHARD_BYTES = 32 << 20  # of a shard at most, so that a user's deletion rewrites no more than this
MOST_SHARDS = 256  # that one write makes, each held open: a larger write has larger shards
READ_BYTES = 1 << 20  # that are fetched in one piece
HEAD = 512  # bytes by which a header is read; of a longer one the rest, too
LONGEST_HEADER = 1 << 16
MOST_HEADERS = 4096  # that are remembered: shards never change

Cell = bytes | memoryview


class Form(NamedTuple):
    """How a row lies in a shard: as so many elements of a type of safetensors."""

    dtype: str
    columns: int

    @property
    def size(self) -> int:
        """Returns the bytes of a row, its cell."""
        return self.columns * (NUMBER if self.dtype == "F32" else 1)


class Header(NamedTuple):
    """What a shard is: rows of a form, from a byte on."""

    form: Form
    rows: int
    start: int


class Shards:
    """The shards of a store.

    Args:
        folder: of the shards, or of those that are on their way elsewhere.
        known: whether the index has modules in a shard.
        setting: returns what the store is set to, by name: ``numbers`` and ``shards``.
        sealed: whether rows are encrypted; without ``seal`` they can be moved and deleted, and no more.
        seal: opens and closes them.
    """

    def __init__(
        self,
        folder: Path,
        known: Callable[[str], bool],
        setting: Callable[[str], str | None],
        sealed: bool,
        seal: Seal | None,
    ) -> None:
        self.folder, self.known, self._setting = folder, known, setting
        self._sealed, self._seal = sealed, seal
        self._headers: dict[str, Header] = {}

    def form(self, width: int) -> Form:
        """Returns how rows of so many numbers are written now."""
        more = OVERHEAD if self._sealed else 0
        if self._setting("numbers") == INT8:
            return Form("U8", int8.packed_size(width) + more)
        return Form("U8", NUMBER * width + more) if self._sealed else Form("F32", width)

    @property
    def _homes(self) -> list[str]:
        """Returns where shards have been written, the present place last: `HERE`, or URLs."""
        return (self._setting("shards") or HERE).splitlines()

    def changed(self, packed: bool, home: str | None) -> dict[str, str]:
        """Returns the settings of a store whose rows are to be in int8, or elsewhere; see `AdapterStore.pack`.

        Raises:
            PeftuError: it cannot be written there, or the key is missing.
        """
        changed: dict[str, str] = {}
        if packed:
            if self._sealed:
                self._opener()
            changed["numbers"] = INT8
        url = None if home is None else home.rstrip("/")
        if url not in (None, self._homes[-1], self._homes[-1].rpartition("/")[0]):
            if url != HERE:
                url = homes.new_under(url)
            changed["shards"] = "\n".join([*self._homes, url])
        return changed

    def left(self) -> dict[str, str]:
        """Returns the settings of a store whose shards have all left their earlier places: those may go for good."""
        return {"shards": self._homes[-1]}

    def where(self, name: str) -> str:
        """Returns the path or URL of a shard."""
        return homes.place(self.folder, name)

    def as_kept(self, rows: Tensor, form: Form) -> tuple[Tensor, Iterator[Cell]]:
        """Returns [rows, width] the numbers that are kept of float32 ones, and yields them as they are written."""
        packed = form.columns == int8.packed_size(rows.shape[1]) + (OVERHEAD if self._sealed else 0)
        kept = int8.rounded(rows) if packed else rows
        contents: Iterator[Cell] = (int8.pack(row.numpy()) if packed else stored(row) for row in kept)
        return kept, map(self._opener().close, contents) if self._sealed else contents

    def _opener(self) -> Seal:
        if self._seal is None:
            raise PeftuError(f"{self.folder}: modules are encrypted — name their key file in {KEY_FILE}")
        return self._seal

    @contextmanager
    def written(self, count: int, form: Form, cells: Iterable[Cell]) -> Iterator[list[tuple[str, int]]]:
        """Yields the places of cells in new shards, on disk or elsewhere; the block commits them, or they go again.

        They are written here and not by a library, which has a file of its own beside each: that could not be held,
        and would outlive a killed process.
        """
        most = max(SHARD_BYTES // (form.size or 1), -(-count // MOST_SHARDS), 1)
        home = self._homes[-1]
        names: list[str] = []
        places: list[tuple[str, int]] = []
        rest = iter(cells)
        try:
            with writing_to(self.folder), ExitStack() as stack:
                for first in range(0, count, most):
                    name = f"{uuid.uuid4().hex}.safetensors"
                    names.append(f"{home}/{name}" if is_url(home) else name)
                    rows = min(most, count - first)
                    file = stack.enter_context(held(self.folder / name))
                    file.write(_header(rows, form, self._sealed))
                    file.writelines(islice(rest, rows))
                    file.flush()
                    os.fsync(file.fileno())
                    if is_url(home):
                        homes.put(self.folder / name, names[-1])
                        file.truncate(0)  # the empty file is held on: it says that somebody lives who writes the object
                    places += [(names[-1], row) for row in range(rows)]
                sync_folder(self.folder)
                yield places
        finally:
            for name in names:
                self.discard(name)

    def discard(self, name: str) -> None:
        """Removes the file of a shard that the index does not know: a Ctrl-C may come right after the commit."""
        known = self.known(name)
        if is_url(name) and not known:
            homes.remove(name)
        if is_url(name) or not known:
            (self.folder / Path(name).name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what killed processes left: shards that the index does not know and nobody holds."""
        names = [path.name for path in self.folder.iterdir()]
        names += [name for home in self._homes if is_url(home) for name in homes.objects(home)]
        for name in names:
            if not self.known(name):
                path = self.folder / Path(name).name
                with unheld(path) as free:
                    if free or (is_url(name) and not path.exists()):
                        self.discard(name)

    def fill(self, matrix: "Matrix", first: int, targets: Sequence[Floats]) -> None:
        """Fills [width] arrays with the numbers of neighbouring rows of an open shard, from ``first`` on.

        Raises:
            PeftuError: there is no key.
            ValueError: there is no such row, or none that the key opens.
        """
        opener = self._opener() if self._sealed else None
        matrix.ahead(first, first + len(targets))
        for row, target in enumerate(targets, first):
            if opener is None and matrix.form.dtype == "F32":
                matrix.read(row, target.data.cast("B"))
                continue
            cell: Cell = matrix.cell(row)
            _decode(opener.open(bytes(cell)) if opener else cell, target)

    def read(self, name: str, rows: Sequence[int]) -> Iterator[Cell]:
        """Yields the cells of these rows of a shard, which are in order; no key is needed for it.

        The bytes are good until the next row is asked for.

        Raises:
            PeftuError: the shard is not whole, or has no such row.
        """
        with self.opened(name) as matrix:
            for first, last in stretches(rows, matrix.form.size):
                matrix.ahead(first, last)
                yield from map(matrix.cell, range(first, last))

    def settled(self, name: str, form: Form, width: int) -> bool:
        """Returns whether a shard of a form is in the place and form that the store is set to."""
        home = name.rpartition("/")[0] if is_url(name) else HERE
        return home == self._homes[-1] and form == self.form(width)

    def form_of(self, name: str) -> Form:
        """Returns how the rows of a shard lie in it."""
        with self.opened(name) as matrix:
            return matrix.form

    @contextmanager
    def opened(self, name: str) -> Iterator["Matrix"]:
        """Yields the rows of a shard, not yet read.

        Raises:
            GoneError: there is no such shard.
            PeftuError: it is not whole, or the block finds that.
        """
        with homes.opened(self.folder, name) as source:
            header = self._headers.get(name) or _read_header(source, self._sealed)
            if len(self._headers) >= MOST_HEADERS:
                self._headers.clear()
            self._headers[name] = header
            yield Matrix(source, header)


class Matrix:
    """The cells of an open shard: a safetensors file with one matrix and nothing else.

    It is read and not mapped: a module that is not in memory comes in one piece and not page by page, and a large
    shard takes no memory.

    Args:
        source: its bytes.
        header: what they are.
    """

    def __init__(self, source: Source, header: Header) -> None:
        self._source = source
        self.form, self._count, self._start = header
        self._cell = bytearray()

    def ahead(self, first: int, last: int) -> None:
        """Has rows from ``first`` on, up to ``last``, fetched in one piece: they are going to be read."""
        self._source.ahead(self._start + self.form.size * first, self._start + self.form.size * last)

    def read(self, row: int, into: memoryview) -> None:
        """Fills bytes with a row's cell.

        Raises:
            ValueError: there is no such row, or none of so many bytes.
        """
        if row >= self._count:
            raise ValueError(f"it has no row {row}, only {self._count}")
        if len(into) != self.form.size:
            raise ValueError(f"its rows have {self.form.size} bytes, not {len(into)}")
        _read(self._source, self._start + self.form.size * row, into)

    def cell(self, row: int) -> memoryview:
        """Returns a row's cell; good until the next one is asked for."""
        self._cell = self._cell or bytearray(self.form.size)
        self.read(row, memoryview(self._cell))
        return memoryview(self._cell)


def _read(source: Source, start: int, into: memoryview) -> None:
    while into and (read := source.readinto(start, into)):
        start, into = start + read, into[read:]
    if into:
        raise ValueError("it is cut off")


def _read_header(source: Source, sealed: bool) -> Header:
    """Returns what a shard is.

    Raises:
        ValueError: it is no such file, or not whole.
    """
    size = source.size
    head = bytearray(min(HEAD, size))
    source.ahead(0, len(head))
    _read(source, 0, memoryview(head))
    length = int.from_bytes(head[:8], "little")
    if not 0 < length <= min(size - 8, LONGEST_HEADER):
        raise ValueError("its header is cut off")
    if len(head) < 8 + length:
        rest = bytearray(8 + length - len(head))
        source.ahead(len(head), 8 + length)
        _read(source, len(head), memoryview(rest))
        head += rest
    about = parse_json(bytes(head[8 : 8 + length]))
    matrix = about.get("rows") if isinstance(about, dict) else None
    matrix = matrix if isinstance(matrix, dict) else {}
    shape = matrix.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its header has no rows")
    form = Form("U8" if sealed or matrix.get("dtype") == "U8" else "F32", shape[1])
    if matrix != _matrix(shape[0], form) or size != 8 + length + shape[0] * form.size:
        raise ValueError("its header does not fit its length")
    return Header(form, shape[0], 8 + length)


def _matrix(rows: int, form: Form) -> dict[str, object]:
    """Returns how a header describes rows."""
    return {"dtype": form.dtype, "shape": [rows, form.columns], "data_offsets": [0, rows * form.size]}


def _header(rows: int, form: Form, sealed: bool) -> bytes:
    kind = "sealed-rows" if sealed else "rows" if form.dtype == "F32" else "int8-rows"
    header = json.dumps({"__metadata__": {"format": f"peftu-{kind}-1"}, "rows": _matrix(rows, form)}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _decode(content: Cell, into: Floats) -> None:
    """Fills [width] numbers with a row's content, which says by its length how they were written.

    Raises:
        ValueError: it is not of so many numbers.
    """
    if len(content) == into.nbytes:
        into[:] = np.frombuffer(content, dtype=np.float32)
    elif len(content) == int8.packed_size(len(into)):
        int8.unpack(content, into)
    else:
        raise ValueError(f"its rows are not of {len(into)} numbers")


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
