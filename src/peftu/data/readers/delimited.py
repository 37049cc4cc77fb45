"""Delimited text: the delimiter is found, what quotes mean is settled on evidence, uneven rows are told by number."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from peftu.data.readers.source import SHOWN, RowProblem, Rows, RowsError, Source
from peftu.data.reading import LONGEST_CELL
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.file import File

Quotes = Literal["hold", "escaped", "stand"]  # hold cells, doubled within; hold cells, escaped within; are characters
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", "^": "caret", "~": "tilde"}
BLOCK = 1 << 24  # bytes
CHUNK = 50_000  # rows that are held as Python lists
STYLES: dict[Quotes, dict[str, Any]] = {
    "hold": {"quotechar": '"', "strict": True},
    "escaped": {"quotechar": '"', "escapechar": "\\", "doublequote": True, "strict": True},
    "stand": {"quoting": csv.QUOTE_NONE},
}
NEVER = "never closed — close it, or double it"
NOT_AT_END = "a quote closes before its cell ends — double the quotes within cells"
WORDS = {
    "hold": "quotes hold cells together",
    "escaped": "quotes hold cells together and \\ escapes them",
    "stand": "quotes are characters",
}


@dataclass(frozen=True)
class Dialect:
    """How delimited text is divided.

    Attributes:
        delimiter: what stands between cells.
        rows: the header and the first rows below it.
    """

    delimiter: str
    rows: list[tuple[str, ...]]


@dataclass
class Parsed:
    """Delimited text under one meaning of its quotes.

    Attributes:
        quotes: that meaning.
        frame: the columns asked for.
        rows: how many rows there are.
        lines: line breaks that stand within cells.
        problems: the first rows with too many cells, or with a quote that does not end its cell.
        wrong: how many such rows there are.
        short: rows whose last cells are missing; the first of them in ``short_rows``.
        empty: rows without any cell filled.
        opened: cells that begin with a quote where quotes are characters.
        closed: those of them that end with one, too.
    """

    quotes: Quotes
    frame: pl.DataFrame
    rows: int = 0
    lines: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    wrong: int = 0
    short: int = 0
    short_rows: list[RowProblem] = field(default_factory=list)
    empty: int = 0
    opened: int = 0
    closed: int = 0

    @property
    def is_credible(self) -> bool:
        """Returns whether all rows fit, and quotes that would be characters do not mostly stand around cells."""
        return not self.wrong and (self.closed == 0 or self.closed <= self.opened / 2)


def find_dialect(path: Path, sample: str, whole: bool) -> Dialect:
    """Returns the delimiter under which most rows of a sample have as many cells as the header, and those rows."""
    csv.field_size_limit(LONGEST_CELL)
    best: tuple[float, int] = (0.0, 1)
    chosen: Dialect | None = None
    for delimiter in DELIMITERS:
        rows = [tuple(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        rows = rows if whole or len(rows) < 3 else rows[:-1]  # the sample may end within a row
        if not rows:
            continue
        width = len(rows[0])
        score = sum(len(row) == width for row in rows) / len(rows), width
        if width > 1 and score > best:
            best, chosen = score, Dialect(delimiter, rows[: 1 + SHOWN])
    if chosen is None:
        listed = ", ".join(DELIMITERS.values())
        raise PeftuError(f"{path}: no delimiter found (tried {listed}) — save it as CSV, TSV, JSONL or Parquet")
    return chosen


class Delimited:
    """Reads text with a character between cells and column names in its first row."""

    name = "delimited"
    title = "delimited text"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it is text, and no JSON."""
        return file.shape == "delimited"

    def open(self, file: "File") -> Source:
        """Returns its rows; cells are strings as they stand, empty ones are null."""
        header, *head = file.dialect.rows
        read_as = f"text, {DELIMITERS[file.dialect.delimiter]} between cells, {file.encoding.removesuffix('-sig')}"
        return Source(file.path, read_as, header, lambda columns: read_delimited(file, columns), head=tuple(head))


READER = Delimited()


def read_delimited(file: "File", columns: Sequence[str]) -> Rows:
    """Returns the columns' cells as they stand, and remarks.

    Raises:
        PeftuError: rows have too many cells, a quote is not closed, or quotes can be read in two ways.
    """
    frame = _without_quotes(file, columns)
    return _settled(file, columns) if frame is None else (frame, [])


def _settled(file: "File", columns: Sequence[str]) -> Rows:
    """Returns the one reading under which all rows fit."""
    readings = [_parsed(file, columns, "hold")]
    if readings[0].wrong or readings[0].lines:
        readings.append(_parsed(file, columns, "stand"))
    if readings[0].wrong or _has_escapes(file):
        readings.append(_parsed(file, columns, "escaped"))
    whole = [parsed for parsed in readings if parsed.is_credible]
    if not whole:
        uneven = [parsed for parsed in readings if parsed.problems]
        if not uneven:
            raise PeftuError(f"{file.path}: the quotes of its first line do not close — mend the names of the columns")
        worst = min(uneven, key=lambda parsed: parsed.wrong)
        raise RowsError(file.path, worst.problems + worst.short_rows, worst.wrong + worst.short)
    even = [parsed for parsed in whole if not parsed.short] or whole
    parsed = even[0]
    other = next((other for other in even[1:] if not other.frame.equals(parsed.frame)), None)
    if other is not None:
        ways = " or ".join(f"{way.rows:,} rows where {WORDS[way.quotes]}" for way in (parsed, other))
        raise PeftuError(
            f"{file.path}: its quotes can be read in two ways: {ways} — save it as JSONL, or in one of them"
        )
    notes = []
    if parsed.quotes != "hold":
        notes.append(f"{WORDS[parsed.quotes]} here: read otherwise, they made rows uneven")
    if parsed.lines:
        notes.append(f"{parsed.lines:,} line breaks stand inside quoted cells")
    if parsed.short:
        notes.append(f"{parsed.short:,} rows are short: their last cells are taken as empty")
    if parsed.empty:
        notes.append(f"{parsed.empty:,} rows without any cell filled are left out")
    return parsed.frame, notes


def _without_quotes(file: "File", columns: Sequence[str]) -> pl.DataFrame | None:
    """Returns the columns of a file without any quote whose rows all fit, five times as fast; None of any other."""
    if file.encoding not in ("utf-8", "utf-8-sig") or _has_quotes(file.data):
        return None
    uneven: list[int] = []

    def keep_uneven(row: Any) -> str:
        uneven.append(row.number)
        return "skip"

    try:
        table = pc.read_csv(
            file.data,
            pc.ReadOptions(use_threads=False, block_size=BLOCK),
            pc.ParseOptions(delimiter=file.dialect.delimiter, quote_char=False, invalid_row_handler=keep_uneven),
            pc.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string())),
        )
    except (pa.ArrowException, KeyError):
        return None
    frame = pl.DataFrame(pl.from_arrow(table))
    empty = frame.select(pl.all_horizontal(pl.all() == "")).to_series()
    return None if uneven or empty.any() else frame


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as stream:
        return any(b'"' in block for block in iter(lambda: stream.read(BLOCK), b""))


def _has_escapes(file: "File") -> bool:
    with file.data.open(encoding=file.encoding, newline="") as text:
        return any('\\"' in line for line in text)


def _parsed(file: "File", columns: Sequence[str], quotes: Quotes) -> Parsed:
    csv.field_size_limit(LONGEST_CELL)
    with file.data.open(encoding=file.encoding, newline="") as text:
        try:
            return _parse(text, file, columns, quotes)
        except UnicodeError:
            raise PeftuError(f"{file.path}: is not {file.encoding} — pass another --encoding") from None


def _parse(text: Any, file: "File", columns: Sequence[str], quotes: Quotes) -> Parsed:
    reader = csv.reader(text, delimiter=file.dialect.delimiter, **STYLES[quotes])
    parsed = Parsed(quotes, pl.DataFrame())
    header = _header(reader)
    if not set(columns) <= set(header):  # its names are quoted
        parsed.wrong = 1
        return parsed
    places, width = [header.index(column) for column in columns], len(header)
    chunks: list[pl.DataFrame] = []
    rows: list[list[str]] = []
    for row, problem in _rows(reader, parsed):
        if problem is None and len(row) != width:
            problem = _fit(row, width, parsed)
        if problem is not None:
            parsed.wrong += 1
            _keep(parsed.problems, parsed.rows, problem)
            continue
        rows.append(row)
        if len(rows) == CHUNK:
            chunks.append(_chunk(columns, places, rows, parsed))
            rows = []
    parsed.frame = pl.concat([*chunks, _chunk(columns, places, rows, parsed)])
    return parsed


def _header(reader: Any) -> list[str]:
    try:
        return next(filter(None, reader), [])
    except csv.Error:
        return []


def _rows(reader: Any, parsed: Parsed) -> Iterator[tuple[list[str], str | None]]:
    """Yields the cells of each row with any, and what is wrong with its quotes; counts rows and lines within cells."""
    start = lines = reader.line_num
    yielded = 0
    while True:
        try:
            for row in reader:
                lines = reader.line_num
                yielded += 1
                if row and (row[0] or any(row)):
                    parsed.rows += 1
                    yield row, None
                elif len(row) > 1:
                    parsed.empty += 1
            break
        except csv.Error as error:
            yielded += 1
            parsed.rows += 1
            closed = "unexpected end" not in str(error)
            yield [], NOT_AT_END if closed else f"a quote that opens in line {lines + 1:,} is {NEVER}"
            lines = reader.line_num
    parsed.lines = reader.line_num - start - yielded


def _fit(row: list[str], width: int, parsed: Parsed) -> str | None:
    """Fills a short row, takes empty cells off a long one; returns what is wrong where there is more in them."""
    while len(row) > width and not row[-1]:
        row.pop()
    counted = f"{len(row)} cell{'s' * (len(row) != 1)} under {width} columns"
    if len(row) < width:
        parsed.short += 1
        _keep(parsed.short_rows, parsed.rows, f"{counted} — add what is missing")
        row += [""] * (width - len(row))
    if len(row) > width:
        return f"{counted} — quote a cell that holds the delimiter"
    return None


def _keep(problems: list[RowProblem], row: int, problem: str) -> None:
    if len(problems) < SHOWN:
        problems.append((row, problem))


def _chunk(columns: Sequence[str], places: Sequence[int], rows: list[list[str]], parsed: Parsed) -> pl.DataFrame:
    if parsed.quotes == "stand":
        begun = [cell for row in rows for cell in row if cell.startswith('"')]
        parsed.opened += len(begun)
        parsed.closed += sum(len(cell) > 1 and cell.endswith('"') for cell in begun)
    cells = list(zip(*rows, strict=True)) or [()] * (max(places) + 1)
    return pl.DataFrame([pl.Series(name, cells[place], pl.String) for name, place in zip(columns, places, strict=True)])
