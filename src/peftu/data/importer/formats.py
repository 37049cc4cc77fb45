"""Reading anybody's table: its format is found, and what is wrong with it is told."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.importer.delimited import find_delimiter, read_delimited
from peftu.data.importer.encoding import decoded, encoding_of
from peftu.data.importer.source import RowProblem, RowsError, Source
from peftu.errors import PeftuError
from peftu.outside import HALF, has_half_escapes, is_whole, parse_json, plain_file

SAMPLE = 1 << 18  # characters looked at for delimiter and header
PACKED = {b"PK\x03\x04": "an Excel or zip file", b"\x1f\x8b": "a gzip file", b"\x28\xb5\x2f\xfd": "a zstd file"}


def look(path: Path) -> Source:
    """Returns what a file is, after reading its beginning (and, for its encoding, all bytes once).

    Raises:
        PeftuError: there is no such file, it is empty, or it is no table.
    """
    try:
        with plain_file(path).open("rb") as stream:
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
    delimiter, (header, *head) = find_delimiter(path, sample, whole=len(sample) < SAMPLE)
    return Source(path, "delimited", header, encoding, delimiter, tuple(head))


def read(source: Source, columns: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Returns these columns of a file, all rows in file order, and remarks on how it was read.

    Cells of a delimited file are strings as they stand; other formats keep their types.

    Raises:
        PeftuError: the file is damaged, rows have too few or too many cells, or there are no rows.
    """
    notes: list[str] = []
    if source.format == "delimited":
        frame, notes = read_delimited(source, columns)
    elif source.format == "parquet":
        frame = _parquet(source.path, columns)
    else:
        frame = _json(source).select(columns)
    if frame.is_empty():
        raise PeftuError(f"{source.path}: holds no rows — check that it is the right file")
    return frame, notes


def _schema(path: Path) -> dict[str, pl.DataType]:
    try:
        with path.open("rb") as stream:  # a path would be taken for a pattern
            return dict(pl.read_parquet_schema(stream))
    except (pl.exceptions.PolarsError, OSError):
        raise PeftuError(f"{path}: is truncated or no Parquet file — get it again") from None


def _parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=list(columns), glob=False)
    except (pl.exceptions.PolarsError, OSError):
        raise PeftuError(f"{path}: is truncated or no Parquet file — get it again") from None


def _json(source: Source) -> pl.DataFrame:
    text = decoded(source.path, source.encoding)
    reading = pl.read_ndjson if source.format == "jsonl" else pl.read_json
    if has_half_escapes(text.getvalue()):  # polars would read every such character as the same
        return _loose_json(source, text)
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
            rows = parse_json(text.getvalue(), halves=True)
        except ValueError as error:
            raise PeftuError(f"{source.path}: is not valid JSON ({error}) — mend the file") from None
        rows = rows if isinstance(rows, list) else [rows]
    else:
        for number, line in enumerate(filter(bytes.strip, text), 1):
            try:
                rows.append(parse_json(line, halves=True))
            except json.JSONDecodeError:
                rows.append({})
                problems.append((number, "is not valid JSON — write one object a line"))
            except ValueError as error:
                rows.append({})
                problems.append((number, f"{error} — write plain values"))
    rows_wrong = [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]
    problems += [(number, "is no JSON object — write one object a row") for number in rows_wrong]
    if has_half_escapes(text.getvalue()):
        problems += [(number, f"{HALF} — write whole ones") for number, row in enumerate(rows, 1) if not is_whole(row)]
    if problems:
        raise RowsError(source.path, problems)
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    return pl.DataFrame(plain, infer_schema_length=None, strict=False)


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
