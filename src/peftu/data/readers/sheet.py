"""Spreadsheets: .xlsx, .xlsb, .ods and old .xls."""

import functools
import logging
import re
import zipfile
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

import polars as pl

from peftu.data.archives import BAD, UNREADABLE, check_growth
from peftu.data.readers.file import OLD_SHEET, ZIP, is_sheet
from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peftu.data.readers.file import File
    from peftu.data.readers.source import Rows

DAMAGED = "is damaged or protected by a password — save it anew"
MEND = "delete the cells far off, or save the table as CSV"
MOST_ROWS, MOST_CELLS = 1 << 20, 1 << 25
CELL = re.compile(rb'<c\b[^>]*?\br="([A-Z]{1,3})(\d{1,7})"')
ODS_CELL = re.compile(rb"<table:table-cell\b[^>]*>")
ROWS_REPEATED = re.compile(rb'number-rows-repeated="(\d{1,9})"')
COLUMNS_REPEATED = re.compile(rb'number-columns-repeated="(\d{1,9})"')


class Sheet:
    """Reads one sheet with column names in its first row that is not empty; empty rows and columns are left out."""

    name = "sheet"
    title = "a spreadsheet"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it is one of the formats, by what stands in it."""
        return file.begin.startswith(OLD_SHEET) or (file.begin.startswith(ZIP) and is_sheet(file.data))

    def open(self, file: "File") -> Source:
        """Returns its rows; numbers, dates and truth values keep their types, a mixed column is text."""
        import fastexcel

        logging.getLogger("fastexcel").setLevel(logging.ERROR)  # says of each empty column that it is empty
        if file.begin.startswith(ZIP):
            check_growth(file.data, file.path)
            _check_extent(file)
        try:
            book = fastexcel.read_excel(file.data.read_bytes())
            name, header = _chosen(file, book)
            batch, errors = book.load_sheet(name, schema_sample_rows=None).to_arrow_with_errors()
        except (fastexcel.FastExcelError, OSError):
            raise PeftuError(f"{file.path}: {DAMAGED}") from None
        return _source(file, name, header, pl.DataFrame(batch), len(errors.errors) if errors else 0)


READER = Sheet()


def _check_extent(file: "File") -> None:
    """Refuses sheets whose outermost cells span more than can be held: the library holds all cells between them.

    Raises:
        PeftuError: one does, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(file.data) as zipped:
            for name in zipped.namelist():
                if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                    cells = CELL.findall(zipped.read(name))
                    rows, columns = max((int(row) for _, row in cells), default=0), max(map(_number, cells), default=0)
                elif name == "content.xml":
                    content = zipped.read(name)
                    expat.ParserCreate().Parse(content, True)  # the library never ends on what breaks off
                    rows = max((int(times) for times in ROWS_REPEATED.findall(content)), default=1)
                    valued = [tag for tag in ODS_CELL.findall(content) if b"value-type" in tag]
                    columns = max((int(times) for tag in valued for times in COLUMNS_REPEATED.findall(tag)), default=1)
                else:
                    continue
                if rows > MOST_ROWS or rows * columns > MOST_CELLS:
                    raise PeftuError(f"{file.path}: a sheet spans {rows:,} rows and {columns:,} columns — {MEND}")
    except (*BAD, *UNREADABLE, expat.ExpatError):
        raise PeftuError(f"{file.path}: {DAMAGED}") from None


def _number(cell: tuple[bytes, bytes]) -> int:
    """Returns the number of a column: 27 for AA."""
    return functools.reduce(lambda number, letter: 26 * number + letter - 64, cell[0], 0)


Header = tuple[int, list[str]]  # the place of the first row that is not empty, and its cells


def _chosen(file: "File", book: Any) -> tuple[str, Header]:
    """Returns the one sheet that is asked for or has rows, hidden ones if no other has, and its header."""
    wanted = file.reading.sheet
    if wanted is not None and wanted not in book.sheet_names:
        raise PeftuError(f"{file.path}: --sheet: has no sheet '{wanted}'{did_you_mean(wanted, book.sheet_names)}")
    filled: dict[bool, list[tuple[str, Header]]] = {True: [], False: []}
    for name in [wanted] if wanted is not None else book.sheet_names:
        sheet = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string")
        cells = sheet.to_polars() if sheet.height else pl.DataFrame()
        filled_cells = pl.all().str.strip_chars().replace("", None).is_not_null()
        rows = cells.select(pl.any_horizontal(filled_cells).arg_true()).to_series() if cells.width else []
        if len(rows) > 1:
            header = int(rows[0]), [cell or "" for cell in cells.row(int(rows[0]))]
            filled[sheet.visible == "visible"].append((name, header))
    sheets = filled[True] or filled[False]
    if not sheets:
        raise PeftuError(f"{file.path}: holds no rows — check that it is the right file and sheet")
    if len(sheets) > 1:
        listed = ", ".join(name for name, _ in sheets)
        raise PeftuError(f"{file.path}: {len(sheets)} sheets have rows ({listed}) — pass --sheet NAME")
    return sheets[0]


def _source(file: "File", sheet: str, header: Header, frame: pl.DataFrame, errors: int) -> Source:
    """Returns the rows below the header; the frame names columns otherwise, errors counts the cells that hold one."""
    top, names = header
    kept = [place for place, column in enumerate(frame) if names[place] or column.null_count() < len(column)]
    columns = tuple(names[place] or f"column {place + 1}" for place in kept)
    trimmed = frame.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
    rows = trimmed.select(pl.any_horizontal(pl.all().is_not_null()).arg_true()).to_series()
    notes = []
    if len(rows) < len(frame):
        notes.append(f"{len(frame) - len(rows):,} rows without any cell filled are left out")
    if errors:
        notes.append(f"{errors:,} cells hold the error of a formula (such as #N/A): they are taken as empty")

    def load(wanted: "Sequence[str]") -> "Rows":
        series = [frame.to_series(kept[columns.index(column)]).gather(rows).rename(column) for column in wanted]
        return pl.DataFrame(series), notes

    places = [f"row {top + 2 + row}" for row in rows]
    return Source(file.path, f"spreadsheet, sheet '{sheet}'", columns, load, places=places)
