"""Reading delimited text: the delimiter is found, uneven rows are told by number."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from peftu.data.importer.source import DELIMITERS, SHOWN, RowProblem, RowsError, Source
from peftu.data.reading import LONGEST_CELL
from peftu.errors import PeftuError

BLOCK = 1 << 24  # bytes read at once; the longest row


def find_delimiter(path: Path, sample: str, whole: bool) -> tuple[str, list[tuple[str, ...]]]:
    """Returns the delimiter under which most rows of a sample have as many cells as the header, and those rows."""
    csv.field_size_limit(LONGEST_CELL)
    best: tuple[float, int] = (0.0, 1)
    chosen: tuple[str, list[tuple[str, ...]]] | None = None
    for delimiter in DELIMITERS:
        rows = [tuple(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        rows = rows if whole or len(rows) < 3 else rows[:-1]  # the sample may end within a row
        width = len(rows[0])
        score = sum(len(row) == width for row in rows) / len(rows), width
        if width > 1 and score > best:
            best, chosen = score, (delimiter, rows[: 1 + SHOWN])
    if chosen is None:
        listed = ", ".join(DELIMITERS.values())
        raise PeftuError(f"{path}: no delimiter found (tried {listed}) — save it as CSV, TSV, JSONL or Parquet")
    return chosen


def read_delimited(source: Source, columns: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Returns the columns' cells as they stand, and remarks.

    Raises:
        PeftuError: rows have too few or too many cells, or a quote is not closed.
    """
    frame, problems, total = _parsed(source, columns, quote='"')
    if not problems:
        return frame, _inner_lines(source, frame.height)
    plain, others, _ = _parsed(source, columns, quote=False)
    if not others and not _quoting(plain):
        return plain, ["quotes stand for themselves here: read as holding cells together, they made rows uneven"]
    raise RowsError(source.path, problems, total)


def _quoting(plain: pl.DataFrame) -> bool:
    """Returns whether most cells that begin with a quote end with one too: then quotes are meant to hold cells."""
    begin, end = (
        sum(int(which.sum()) for which in plain.select(pl.all().str.contains(pattern)).iter_columns())
        for pattern in ('^"', '^".*"$')
    )
    return end > begin - end


def _parsed(source: Source, columns: Sequence[str], quote: str | bool) -> tuple[pl.DataFrame, list[RowProblem], int]:
    """Returns the columns, the first rows with a wrong number of cells, and how many there are."""
    problems: list[RowProblem] = []
    total = 0

    def uneven(row: Any) -> str:
        nonlocal total
        total += 1
        if len(problems) < SHOWN:
            cells = f"{row.actual_columns} cell{'s' * (row.actual_columns != 1)} under {row.expected_columns} columns"
            mend = "quote a cell that holds the delimiter, or add what is missing"
            if "\n" in row.text:
                mend = "close the quote that opens in it and goes on over several lines"
            problems.append((row.number - 1, f"{cells} — {mend}"))
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
    return pl.DataFrame(pl.from_arrow(table)), problems, total


def _inner_lines(source: Source, rows: int) -> list[str]:
    """Returns a remark on line breaks inside cells: a quote that is closed too late would hold whole rows.

    Raises:
        PeftuError: the last quote is never closed.
    """
    lines = quotes = last = 0
    with source.path.open(encoding=source.encoding, newline="") as text:
        for line in text:
            if line.strip():
                lines += 1
                if '"' in line:
                    quotes += line.count('"')
                    last = lines
    inner = lines - 1 - rows
    if inner > 0 and quotes % 2:
        problem = f"a quote in line {last:,} (blank lines not counted) is never closed — close it, or double it"
        raise RowsError(source.path, [(rows, problem)])
    return [f"{inner:,} line breaks stand inside quoted cells"] if inner > 0 else []
