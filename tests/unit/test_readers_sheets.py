"""Spreadsheets: what stands in their cells comes in with its type, and what does not is told."""

import datetime
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from peftu.data.importer.importing import import_file
from peftu.data.load import load_task
from peftu.data.readers.file import Reading
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError
from peftu.errors import PeftuError

HEADER = ["rater", "text", "rating", "timestamp", "sure"]
DAY = datetime.datetime(2024, 5, 17, 9, 30)
ROWS: list[list[Any]] = [["ann", "one", 1, DAY, True], ["bob", "two", 2.5, DAY, False], [7, "three", 4, DAY, True]]


def write_xlsx(path: Path, sheets: dict[str, dict[int, list[Any]]], hidden: str = "") -> Path:
    """Writes sheets of row number -> cells, counted from 1 as a spreadsheet shows them."""
    with xlsxwriter.Workbook(path, {"default_date_format": "yyyy-mm-dd hh:mm"}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            if name == hidden:
                sheet.hide()
            for number, cells in rows.items():
                for column, cell in enumerate(cells):
                    if isinstance(cell, str) and cell.startswith("#"):
                        sheet.write_formula(number - 1, column, "=NA()", value=cell)
                    else:
                        sheet.write(number - 1, column, cell)
    return path


def write_ods(path: Path, rows: list[list[Any]]) -> Path:
    kinds = {str: "string", bool: "boolean", int: "float", float: "float", datetime.datetime: "date"}

    def cell(value: Any) -> str:
        kind = kinds[type(value)]
        if kind == "string":
            return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>'
        written = value.isoformat() if kind == "date" else str(value).lower()
        name = "value" if kind == "float" else f"{kind}-value"
        return f'<table:table-cell office:value-type="{kind}" office:{name}="{written}"><text:p/></table:table-cell>'

    lines = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
    home = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = " ".join(f'xmlns:{name}="{home}:{name}:1.0"' for name in ("office", "table", "text"))
    content = f"<office:document-content {spaces}><office:body><office:spreadsheet>"
    content += f'<table:table table:name="Sheet1">{lines}</table:table>'
    content += "</office:spreadsheet></office:body></office:document-content>"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        zipped.writestr("META-INF/manifest.xml", "<manifest/>")
        zipped.writestr("content.xml", '<?xml version="1.0" encoding="UTF-8"?>' + content)
    return path


def frame_of(path: Path, **reading: str) -> pl.DataFrame:
    with opened(path, Reading(**reading)) as source:
        return source.read(source.columns)[0]


def numbered(rows: list[list[Any]], start: int = 1) -> dict[int, list[Any]]:
    return dict(enumerate(rows, start))


@pytest.mark.parametrize("name", ["mine.xlsx", "mine.ods"])
def test_values_keep_their_types(tmp_path: Path, name: str) -> None:
    if name.endswith("ods"):
        path = write_ods(tmp_path / name, [HEADER, *ROWS])
    else:
        path = write_xlsx(tmp_path / name, {"Sheet1": numbered([HEADER, *ROWS])})
    frame = frame_of(path)
    assert frame.columns == HEADER
    assert frame["rater"].to_list() == ["ann", "bob", "7"]  # of two types, so text
    assert frame["rating"].to_list() == [1, 2.5, 4]
    assert frame["timestamp"].to_list() == [DAY] * 3
    assert frame["sure"].to_list() == [True, False, True]
    found = import_file(path)
    assert (found["kind"], found["labels"], found["read_as"]) == (
        "ordinal",
        ["1", "2.5", "4"],
        "spreadsheet, sheet 'Sheet1'",
    )
    rows = load_task("mine").frame.select("user_id", "text", "time").rows()
    moment = DAY.replace(tzinfo=datetime.UTC).timestamp()
    assert rows == [("7", "three", moment), ("ann", "one", moment), ("bob", "two", moment)]


def test_gaps_errors_and_places(tmp_path: Path) -> None:
    rows = {3: ["", "user", "text", "label"], 5: ["", "u1", "a", "x"], 8: ["", "u2", "b", "#N/A"], 9: ["", "  "]}
    rows[10] = ["", "u3", "b", "y"]
    path = write_xlsx(tmp_path / "mine.xlsx", {"Sheet1": rows})
    with opened(path) as source:
        assert source.columns == ("user", "text", "label")
        frame, notes = source.read(source.columns)
        assert list(source.places or ()) == ["row 5", "row 8", "row 10"]
    assert frame.rows() == [("u1", "a", "x"), ("u2", "b", None), ("u3", "b", "y")]
    assert notes == [
        "4 rows without any cell filled are left out",
        "1 cells hold the error of a formula (such as #N/A): they are taken as empty",
    ]
    with pytest.raises(RowsError, match=r"mine\.xlsx: row 8: label is empty"):
        import_file(path)


def test_sheets(tmp_path: Path) -> None:
    table = numbered([["user", "text", "label"], ["u1", "a", "x"], ["u2", "a", "y"]])
    path = write_xlsx(tmp_path / "mine.xlsx", {"Notes": {1: ["made by hand"]}, "Data": table, "Old": table}, "Old")
    assert import_file(path)["read_as"] == "spreadsheet, sheet 'Data'"
    path = write_xlsx(tmp_path / "two.xlsx", {"First": table, "Second": table})
    with pytest.raises(PeftuError, match=r"2 sheets have rows \(First, Second\) — pass --sheet NAME"):
        import_file(path)
    assert frame_of(path, sheet="Second").height == 2
    with pytest.raises(PeftuError, match="has no sheet 'Sec' — did you mean 'Second'"):
        frame_of(path, sheet="Sec")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = numbered([["user", "text", "label", "label"], ["u1", "a", "x", "y"], ["u2", "a", "y", "y"]])
    path = write_xlsx(tmp_path / "mine.xlsx", {"Data": table})
    with pytest.raises(PeftuError, match="two columns are called 'label'"):
        import_file(path)


@pytest.mark.parametrize("content", [b"\xd0\xcf\x11\xe0" + b"x" * 600, None])
def test_damaged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.xlsx"
    if content is None:
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("xl/workbook.xml", "<no")
    else:
        path.write_bytes(content)
    with pytest.raises(PeftuError, match="is damaged or protected by a password — save it anew"):
        import_file(path)


def test_a_sheet_that_grows_too_large(tmp_path: Path) -> None:
    path = tmp_path / "mine.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("xl/workbook.xml", "<no")
        zipped.writestr("xl/sheet1.xml", " " * (1 << 27))
    with pytest.raises(PeftuError, match="grows beyond"):
        import_file(path)


def test_a_sheet_with_a_cell_far_off(tmp_path: Path) -> None:
    table: dict[int, list[Any]] = numbered([["user", "text", "label"], ["u1", "a", "x"], ["u2", "a", "y"]])
    path = write_xlsx(tmp_path / "mine.xlsx", {"One": table | {1_000_000: [""] * 500 + ["far"]}})
    with pytest.raises(PeftuError, match="a sheet spans 1,000,000 rows and 501 columns — delete the cells far off"):
        import_file(path)
    path = write_ods(tmp_path / "mine.ods", [["user", "text", "label"], ["u1", "a", "x"]])
    with zipfile.ZipFile(path) as zipped:
        content = zipped.read("content.xml").decode()
    many = content.replace("<table:table-row>", '<table:table-row table:number-rows-repeated="99999">')
    many = many.replace("<table:table-cell", '<table:table-cell table:number-columns-repeated="9999"')
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("content.xml", many)
    with pytest.raises(PeftuError, match="a sheet spans 99,999 rows and 9,999 columns"):
        import_file(path)


def test_a_sheet_that_breaks_off(tmp_path: Path) -> None:
    path = write_ods(tmp_path / "mine.ods", [["user", "text", "label"], ["u1", "a", "x"]])
    with zipfile.ZipFile(path) as zipped:
        content = zipped.read("content.xml").decode()
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("content.xml", content.replace("</table:table>", ""))
    with pytest.raises(PeftuError, match="is damaged or protected by a password — save it anew"):
        import_file(path)


def test_no_rows(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "mine.xlsx", {"One": {1: ["user", "text", "label"]}, "Two": {}})
    with pytest.raises(PeftuError, match="holds no rows"):
        import_file(path)
