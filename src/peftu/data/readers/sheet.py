"""Spreadsheets: .xlsx, .xlsb, .ods and old .xls."""

import logging
from typing import TYPE_CHECKING, Any

import polars as pl

from peftu.data.archives import check_growth
from peftu.data.readers.file import OLD_SHEET, ZIP, is_sheet
from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peftu.data.readers.file import File
    from peftu.data.readers.source import Rows


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
        try:
            book = fastexcel.read_excel(file.data.read_bytes())
            name, header = _chosen(file, book)
            batch, errors = book.load_sheet(name, schema_sample_rows=None).to_arrow_with_errors()
        except (fastexcel.FastExcelError, OSError):
            raise PeftuError(f"{file.path}: is damaged or protected by a password — save it anew") from None
        return _source(file, name, header, pl.DataFrame(batch), len(errors.errors) if errors else 0)


READER = Sheet()


Header = tuple[int, list[str]]  # the place of the first row that is not empty, and its cells


def _chosen(file: "File", book: Any) -> tuple[str, Header]:
    """Returns the one sheet that is asked for or has rows, hidden ones if no other has, and its header."""
    asked = file.reading.sheet
    if asked is not None and asked not in book.sheet_names:
        raise PeftuError(f"{file.path}: --sheet: has no sheet '{asked}'{did_you_mean(asked, book.sheet_names)}")
    filled: dict[bool, list[tuple[str, Header]]] = {True: [], False: []}
    for name in [asked] if asked is not None else book.sheet_names:
        sheet = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string")
        cells = sheet.to_polars() if sheet.height else pl.DataFrame()
        rows = [number for number, row in enumerate(cells.iter_rows()) if any(cell and cell.strip() for cell in row)]
        if len(rows) > 1:
            header = rows[0], [cell or "" for cell in cells.row(rows[0])]
            filled[sheet.visible == "visible"].append((name, header))
    found = filled[True] or filled[False]
    if not found:
        raise PeftuError(f"{file.path}: holds no rows — check that it is the right file and sheet")
    if len(found) > 1:
        listed = ", ".join(name for name, _ in found)
        raise PeftuError(f"{file.path}: {len(found)} sheets have rows ({listed}) — pass --sheet NAME")
    return found[0]


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
