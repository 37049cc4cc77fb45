"""Reading anybody's table: format and delimiter are found; wrong rows are told by number, ten at once.

Rows count from 1; in a delimited file row 1 is the first below the header, and blank lines are no rows.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from peftu.data.importer_encoding import decoded, encoding_of
from peftu.data.reading import LONGEST_CELL
from peftu.errors import PeftuError

SHOWN = 10
SAMPLE = 1 << 18  # characters looked at for delimiter and header
BLOCK = 1 << 24  # bytes read at once; the longest row
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
PACKED = {b"PK\x03\x04": "an Excel or zip file", b"\x1f\x8b": "a gzip file", b"\x28\xb5\x2f\xfd": "a zstd file"}
RowProblem = tuple[int, str]  # row, what is wrong and how to mend it


class RowsError(PeftuError):
    """Raised for wrong rows: one line with the first of them; ``shown`` holds the first ten."""

    def __init__(self, path: Path, problems: Sequence[RowProblem], total: int | None = None) -> None:
        problems = sorted(problems)
        total = len({row for row, _ in problems}) if total is None else total
        self.shown = [f"row {row}: {text}" for row, text in problems[:SHOWN]]
        more = "" if total < 2 else f"; {total - 1:,} more row{'s are' if total > 2 else ' is'} wrong"
        super().__init__(f"{path}: {self.shown[0]}{more}")


@dataclass(frozen=True)
class Source:
    """A file and how it is read.

    Attributes:
        path: the file.
        format: 'delimited', 'jsonl', 'json' or 'parquet'.
        columns: names of its columns, in order.
        encoding: of its text; None for Parquet.
        delimiter: what stands between cells; None where nothing does.
        head: the first rows below the header of a delimited file.
    """

    path: Path
    format: str
    columns: tuple[str, ...]
    encoding: str | None = None
    delimiter: str | None = None
    head: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def described(self) -> str:
        """Returns the format in words."""
        parts = [f"text, {DELIMITERS[self.delimiter]} between cells" if self.delimiter else self.format.upper()]
        return ", ".join(parts + ([self.encoding.removesuffix("-sig")] if self.encoding else []))


def look(path: Path) -> Source:
    """Returns what a file is, after reading its beginning (and, for its encoding, all bytes once).

    Raises:
        PeftuError: there is no such file, it is empty, or it is no table.
    """
    try:
        with path.open("rb") as stream:
            begin = stream.read(4096)
    except OSError:
        raise PeftuError(f"{path}: cannot be read — check the path and the file's rights") from None
    for magic, what in PACKED.items():
        if begin.startswith(magic):
            raise PeftuError(f"{path}: is {what} — save or unpack it as CSV, TSV, JSONL or Parquet")
    if begin.startswith(b"PAR1"):
        return Source(path, "parquet", tuple(_schema(path)))
    encoding = encoding_of(path)
    with path.open(encoding=encoding, newline="") as text:
        sample = text.read(SAMPLE)
    if not sample.strip():
        raise PeftuError(f"{path}: holds no rows — check that it is the right file")
    if sample.lstrip()[0] in "{[" and path.suffix.lower() not in (".csv", ".tsv"):
        form = "jsonl" if sample.lstrip()[0] == "{" else "json"
        return Source(path, form, tuple(_json(Source(path, form, (), encoding)).columns), encoding)
    delimiter, (header, *head) = _delimiter(path, sample, whole=len(sample) < SAMPLE)
    return Source(path, "delimited", header, encoding, delimiter, tuple(head))


def read(source: Source, columns: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Returns these columns of a file, all rows in file order, and remarks on how it was read.

    Cells of a delimited file are strings as they stand; other formats keep their types.

    Raises:
        PeftuError: the file is damaged, rows have too few or too many cells, or there are no rows.
    """
    notes: list[str] = []
    if source.format == "delimited":
        frame, notes = _delimited(source, columns)
    elif source.format == "parquet":
        frame = _parquet(source.path, columns)
    else:
        frame = _json(source).select(columns)
    if frame.is_empty():
        raise PeftuError(f"{source.path}: holds no rows — check that it is the right file")
    return frame, notes


def _delimiter(path: Path, sample: str, whole: bool) -> tuple[str, list[tuple[str, ...]]]:
    """Returns the delimiter under which most rows of a sample have as many cells as the header, and those rows."""
    csv.field_size_limit(LONGEST_CELL)
    best: tuple[float, int] = (0.0, 1)
    found: tuple[str, list[tuple[str, ...]]] | None = None
    for delimiter in DELIMITERS:
        rows = [tuple(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        rows = rows if whole or len(rows) < 3 else rows[:-1]  # the sample may end within a row
        width = len(rows[0])
        score = sum(len(row) == width for row in rows) / len(rows), width
        if width > 1 and (score[0] > 0.5 or path.suffix == ".tsv") and score > best:
            best, found = score, (delimiter, rows[: 1 + SHOWN])
    if found is None:
        listed = ", ".join(DELIMITERS.values())
        raise PeftuError(f"{path}: no delimiter found (tried {listed}) — save it as CSV, TSV, JSONL or Parquet")
    return found


def _delimited(source: Source, columns: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    frame, problems, total = _parsed(source, columns, quote='"')
    if not problems:
        return frame, []
    plain, others, _ = _parsed(source, columns, quote=False)
    if not others:
        return plain, ["quotes stand for themselves here: read as holding cells together, they made rows uneven"]
    raise RowsError(source.path, problems, total)


def _parsed(source: Source, columns: Sequence[str], quote: str | bool) -> tuple[pl.DataFrame, list[RowProblem], int]:
    """Returns the columns, the first rows with a wrong number of cells, and how many there are."""
    problems: list[RowProblem] = []
    total = 0

    def uneven(row: Any) -> str:
        nonlocal total
        total += 1
        if len(problems) < SHOWN:
            cells = f"{row.actual_columns} cell{'s' * (row.actual_columns != 1)} under {row.expected_columns} columns"
            problems.append(
                (row.number - 1, f"{cells} — quote a cell that holds the delimiter, or add what is missing")
            )
        return "skip"

    try:
        table = pc.read_csv(
            source.path,
            pc.ReadOptions(
                use_threads=False, block_size=BLOCK, encoding=(source.encoding or "utf8").replace("utf-8-sig", "utf8")
            ),
            pc.ParseOptions(
                delimiter=source.delimiter, quote_char=quote, newlines_in_values=bool(quote), invalid_row_handler=uneven
            ),
            pc.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string())),
        )
    except pa.ArrowInvalid:
        mend = "check that every quote is closed and no row is longer than 16 MB"
        raise PeftuError(f"{source.path}: cannot be read as delimited text — {mend}") from None
    frame = pl.DataFrame(pl.from_arrow(table))
    if quote and frame.height and not problems:
        last = frame.row(-1)
        if any("\n" in cell for cell in last if cell) and _quotes(source) % 2:
            problems, total = [(frame.height, "a quote is never closed — close it, or double it inside a cell")], 1
    return frame, problems, total


def _quotes(source: Source) -> int:
    with source.path.open(encoding=source.encoding, newline="") as text:
        return sum(block.count('"') for block in iter(lambda: text.read(BLOCK), ""))


def _schema(path: Path) -> dict[str, pl.DataType]:
    try:
        return dict(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError):
        raise PeftuError(f"{path}: is truncated or no Parquet file — get it again") from None


def _parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError):
        raise PeftuError(f"{path}: is truncated or no Parquet file — get it again") from None


def _json(source: Source) -> pl.DataFrame:
    text = decoded(source.path, source.encoding)
    reading = pl.read_ndjson if source.format == "jsonl" else pl.read_json
    try:
        return reading(text, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return _loose_json(source, text)


def _loose_json(source: Source, text: io.BytesIO) -> pl.DataFrame:
    """Returns JSON rows whose values differ in type from row to row, each value as text.

    Raises:
        PeftuError: rows that are no JSON objects, or a file that is no JSON.
    """
    problems: list[RowProblem] = []
    rows: list[Any] = []
    if source.format == "json":
        try:
            rows = json.load(text)
        except ValueError as error:
            raise PeftuError(f"{source.path}: is not valid JSON ({error}) — mend the file") from None
    else:
        for number, line in enumerate(filter(bytes.strip, text), 1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                rows.append({})
                problems.append((number, "is not valid JSON — write one object a line"))
    rows_wrong = [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]
    problems += [(number, "is no JSON object — write one object a row") for number in rows_wrong]
    if problems:
        raise RowsError(source.path, problems)
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    return pl.DataFrame(plain, infer_schema_length=None, strict=False)


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
