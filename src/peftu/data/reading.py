"""Reading publishers' files: every oddity becomes one line that names the file and the line."""

import ast
import contextlib
import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, AnyStr, Literal

import polars as pl

from peftu.data.archives import BLOCK, Member, opened
from peftu.data.task import LeftOut, Row
from peftu.errors import PeftuError
from peftu.outside import parse_json, plain_file

LONGEST_CELL = 1 << 24
AGAIN = "judgements that a user gave once more, unchanged"
ANEW = {
    "first": "judgements of an item that the user had judged otherwise before (the first is kept)",
    "last": "judgements that the same user replaced by a later one (the last is kept)",
}
CUT = "the file is cut short or was edited; get it again"


def once(rows: Iterable[Row | LeftOut], keep: Literal["first", "last"] = "first") -> Iterator[Row | LeftOut]:
    """Yields one row for each user and item, and what is left out for it."""
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        if isinstance(row, LeftOut):
            yield row
            continue
        key = row.user_id, row.item_id
        before = kept.get(key)
        if before is not None:
            yield LeftOut(AGAIN if before.target == row.target else ANEW[keep])
        if before is None or keep == "last":
            kept[key] = row
    yield from kept.values()


def meta(**known: Any) -> str | None:
    """Returns a row's ``meta``: these values as JSON, without those that are missing (None, NaN, '')."""
    there = {name: value for name, value in known.items() if value not in (None, "") and value == value}
    return json.dumps(there, allow_nan=False) if there else None


def read_csv(path: Path, columns: tuple[str, ...] = (), delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yields each row of a delimited UTF-8 file as column -> cell.

    Args:
        path: the file.
        columns: columns that must be there; others may be.
        delimiter: what stands between cells.

    Raises:
        PeftuError: the file is missing, not UTF-8, has no such column, or a row of another length.
    """
    with _opened(path) as stream:
        yield from _cells(stream, str(path), columns, delimiter)


def read_csv_in_tar(path: Path, member: str, columns: tuple[str, ...], delimiter: str) -> Iterator[dict[str, str]]:
    """Yields each row of a delimited UTF-8 file inside a compressed tar archive; nothing is unpacked to disk.

    Raises:
        PeftuError: as ``read_csv``, there is no such plain file in the archive, or it is unsafe to unpack.
    """
    with _opened(path), opened(Member(path, member)) as stream:
        yield from _cells(io.BufferedReader(stream, BLOCK), f"{path}: {member}", columns, delimiter)


def read_json(path: Path) -> Any:
    """Returns what a UTF-8 JSON file holds.

    Raises:
        PeftuError: the file is missing or no JSON.
    """
    with _opened(path) as stream:
        return _json(stream.read(), str(path))


def read_json_lines(path: Path) -> Iterator[Any]:
    """Yields what each line of a gzipped file holds as JSON.

    Raises:
        PeftuError: the file is missing, cut short or unsafe to unpack, or a line is no JSON.
    """
    with _opened(path), opened(Member(path)) as stream:
        for number, line in enumerate(_bounded(io.BufferedReader(stream, BLOCK), str(path)), 1):
            yield _json(line, f"{path}: line {number}")


def read_parquet(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yields these columns of each row of a Parquet file.

    Raises:
        PeftuError: the file is missing, cut short, or has no such column.
    """
    with _opened(path) as stream:
        try:
            yield from pl.read_parquet(stream, columns=list(columns)).select(columns).iter_rows()
        except pl.exceptions.ColumnNotFoundError as error:
            raise PeftuError(f"{path}: {str(error).splitlines()[0]} — needed: {', '.join(columns)}") from None
        except pl.exceptions.PolarsError:
            raise PeftuError(f"{path}: is truncated or no Parquet file — get it again") from None


def read_xml_rows(path: Path, tag: str = "row") -> Iterator[dict[str, str]]:
    """Yields the attributes of each element of that name, one at a time: a file of any size fits in memory.

    Raises:
        PeftuError: the file is missing or no well-formed XML.
    """
    with _opened(path) as stream:
        try:
            # Expat refuses entities that grow without end; no document outside the file is read.
            events = ET.iterparse(stream, ("start", "end"))  # noqa: S314
            _, root = next(events)
            for event, element in events:
                if event == "end" and element.tag == tag:
                    yield dict(element.attrib)
                    root.clear()
        except ET.ParseError as error:
            raise PeftuError(f"{path}: line {error.position[0]}: is no well-formed XML — {CUT}") from None


def literal(cell: str, where: str) -> Any:
    """Returns the value of a cell that holds a Python literal, such as a list of strings.

    Raises:
        PeftuError: it holds none; ``where`` says which cell it is.
    """
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise PeftuError(f"{where}: holds no Python literal — {CUT}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        stream = plain_file(path).open("rb")
    except FileNotFoundError:
        raise PeftuError(f"{path}: no such file — check the --raw folder") from None
    with stream:
        yield stream


def _json(content: bytes, where: str) -> Any:
    try:
        return parse_json(content, halves=True)  # the table names the row that keeps one
    except UnicodeDecodeError as error:
        raise PeftuError(f"{where}: byte {error.start} is not UTF-8 — save the file as UTF-8") from None
    except ValueError as error:
        raise PeftuError(f"{where}: is no JSON ({error}) — {CUT}") from None


def _bounded(lines: IO[AnyStr], where: str) -> Iterator[AnyStr]:
    """Yields the lines; a file that is one endless line is not held in memory."""
    number = 0
    while line := lines.readline(LONGEST_CELL):
        number += 1
        if len(line) == LONGEST_CELL:
            raise PeftuError(f"{where}: line {number}: is longer than {LONGEST_CELL:,} characters — check the file")
        yield line


def _cells(stream: IO[bytes], where: str, columns: tuple[str, ...], delimiter: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(LONGEST_CELL)
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(_bounded(lines, where), delimiter=delimiter, strict=True)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise PeftuError(f"{where}: has no column '{missing[0]}' — columns: {', '.join(header) or 'none'}")
            for cells in reader:
                if len(cells) != len(header):
                    raise PeftuError(
                        f"{where}: line {reader.line_num}: {len(cells)} cells under {len(header)} columns — {CUT}"
                    )
                yield dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise PeftuError(f"{where}: byte {error.start} is not UTF-8 — save the file as UTF-8") from None
    except csv.Error as error:
        raise PeftuError(f"{where}: line {reader.line_num}: {error} — {CUT}") from None
