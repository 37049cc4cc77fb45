"""JSON in its plain layouts: an object a line, an array of objects, columns of values, objects by key."""

import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from peftu.data.readers.source import RowProblem, RowsError, Source
from peftu.errors import PeftuError
from peftu.outside import DEEPEST, HALF, has_half_escapes, is_whole, parse_json

if TYPE_CHECKING:
    from peftu.data.readers.file import File

NO_OBJECT = "is no JSON object — write one object a row"
_OTHERS = bytes(code for code in range(256) if code not in b"[]{}")
KEY = "key"  # the column of what objects are kept by


class Json:
    """Reads rows written as JSON objects."""

    name = "json"
    title = "JSON"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it is JSON text."""
        return file.shape in ("lines", "array", "object")

    def open(self, file: "File") -> Source:
        """Returns its rows; values keep their types where all rows agree on them."""
        words = f"{'JSONL' if file.shape == 'lines' else 'JSON'}, {file.encoding.removesuffix('-sig')}"
        if file.shape == "object":
            rows, note = _rows_of_object(file)
            return Source.of_frame(file.path, words, _frame(file, rows), notes=[note] if note else [])
        read = pl.read_ndjson if file.shape == "lines" else pl.read_json
        return Source.of_frame(file.path, words, _table(file, read))


READER = Json()


def records_of(file: "File") -> list[dict[str, Any]]:
    """Returns the JSON objects of lines or of an array, or the one that the file is.

    Raises:
        RowsError: some are no objects, or hold half a character.
    """
    rows = _lines(file) if file.shape == "lines" else file.document
    return _checked(file, rows if isinstance(rows, list) else [rows])


class _Damaged(str):
    """What is wrong with a line, in the place of its object."""

    __slots__ = ()


def _table(file: "File", read: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    # polars would read every half of a character as the same, and spends gigabytes on what is nested deeply.
    if not has_half_escapes(file.text) and _depth(file.text) <= DEEPEST:
        try:
            return read(io.BytesIO(file.text), infer_schema_length=None)
        except pl.exceptions.PolarsError:
            pass
    return _frame(file, file.document if file.shape == "array" else _lines(file))


def _depth(text: bytes) -> int:
    """Returns how deeply JSON is nested, at most: brackets in texts count, too."""
    brackets = np.frombuffer(text.translate(None, _OTHERS), np.uint8)
    return int(np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1).cumsum().max(initial=0))


def _rows_of_object(file: "File") -> tuple[list[Any], str]:
    """Returns the rows that one JSON object holds, and a remark on how they stand in it.

    Raises:
        PeftuError: it is of no layout that is known; keys are not shown, for they may be users.
    """
    document = file.document
    values = list(document.values()) if isinstance(document, dict) else []
    lists = [value for value in values if isinstance(value, list)]
    records = [rows for rows in lists if rows and all(isinstance(row, dict) for row in rows)]
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):  # orient="split"
        return [dict(zip(document["columns"], row, strict=False)) for row in document["data"]], ""
    if len(records) == 1:
        return records[0], ""
    if len(lists) == len(values) > 1 and len(set(map(len, lists))) == 1:  # a list a column
        return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)], ""
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        indices = [list(value) for value in values]
        if all(index == indices[0] for index in indices) and all(name.isdecimal() for name in indices[0]):
            columns = [value.values() for value in values]  # pandas writes a column as an object by row
            return [dict(zip(document, row, strict=True)) for row in zip(*columns, strict=True)], ""
        if set.intersection(*map(set, indices)):
            rows = [{KEY: key} | value for key, value in document.items()]
            return rows, f"objects by key: the key is column '{KEY}'"
    raise PeftuError(f"{file.path}: is one JSON object, and of no layout that is known — write one object a row")


def _lines(file: "File") -> list[Any]:
    rows: list[Any] = []
    for line in filter(bytes.strip, io.BytesIO(file.text)):
        try:
            rows.append(parse_json(line, halves=True))
        except json.JSONDecodeError:
            rows.append(_Damaged("is not valid JSON — write one object a line"))
        except ValueError as error:
            rows.append(_Damaged(f"{error} — write plain values"))
    return rows


def _frame(file: "File", rows: list[Any]) -> pl.DataFrame:
    """Returns rows whose values differ in type from row to row, each such value as text."""
    rows = _checked(file, rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in columns])


def _checked(file: "File", rows: list[Any]) -> list[dict[str, Any]]:
    problems: list[RowProblem] = []
    halves = has_half_escapes(file.text)
    for row, value in enumerate(rows, 1):
        if not isinstance(value, dict):
            problems.append((row, value if isinstance(value, _Damaged) else NO_OBJECT))
        elif halves and not is_whole(value):
            problems.append((row, f"{HALF} — write whole ones"))
    if problems:
        raise RowsError(file.path, problems)
    return rows


def _series(name: str, values: list[Any]) -> pl.Series:
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(name, [_plain(value) for value in values], pl.String)


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
