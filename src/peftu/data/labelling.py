"""One rule for what a label is, wherever it stands: in a table that is imported, or in a file that is scored.

A label is a text without blanks around it. Numbers are labels by their value, exactly, however long: ``1``, ``1.0`` and
``+1`` are one; ``1,5`` is a number where a column holds nothing else. The words in `MISSING` stand for no label at all.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.readers.source import RowProblem
from peftu.errors import PeftuError
from peftu.outside import parse_json, parse_literal, plain_file

MISSING = frozenset(
    ["", "nan", "NaN", "NAN", "-nan", "#N/A", "#N/A N/A", "#NA", "<NA>", "None", "null", "NULL", "Null", "NaT"]
)
PERHAPS_MISSING = ("NA", "N/A", "n/a", "na")  # a class in some tables: kept, and told
SEPARATORS = ("|", ";", ",")
NUMBER = re.compile(r"([+-]?)0*(\d+)(?:\.(\d*?)0*)?", re.ASCII)
COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
EXACT = 2**53  # the last whole number up to which a float tells all apart
KEYS = ("choices", "choice", "labels", "label", "rating", "value")  # under which tools write labels in an object
NO_LABEL = "label holds what is no label — write one label, or a list of labels"
SHOWN = 40
SPAN = re.compile(r"(-?\d+)\.\.(-?\d+)", re.ASCII)
MOST_STEPS = 1001  # of a scale of numbers
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


@dataclass
class Cells:
    """The labels of a column's cells.

    Attributes:
        labels: [rows] list of texts, without blanks around; null where the cell is empty or stands for nothing.
        listed: whether cells are written as lists, whose length may differ.
        notes: what was inferred and should be known.
        problems: cells that hold no labels.
    """

    labels: pl.Series
    listed: bool
    notes: list[str] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


def as_number(text: str) -> str | None:
    """Returns a number's one spelling, '3' for '3.0' and '+3'; None for what is no number."""
    parts = NUMBER.fullmatch(text)
    if parts is None:
        return None
    sign, whole, rest = parts.groups()
    spelled = f"{whole}.{rest}" if rest else whole
    return spelled if sign != "-" or spelled.strip("0.") == "" else f"-{spelled}"


def canonical(text: str) -> str:
    """Returns the one spelling of a label."""
    plain = text.strip()
    return as_number(plain) or plain


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels sorted, by value where all are numbers."""
    labels = list(labels)
    return tuple(sorted(labels, key=Decimal) if all(map(as_number, labels)) else sorted(labels))


def as_text(series: pl.Series, column: str) -> pl.Series:
    """Returns a column as text; whole numbers without a point.

    Raises:
        PeftuError: the column holds anything but text, numbers and truth values, or numbers that are no longer exact.
    """
    dtype = series.dtype
    if dtype == pl.String:
        return series
    if dtype.is_float():
        series = series.fill_nan(None)
        whole = series.drop_nulls()
        if (whole.abs() >= EXACT).any():
            raise PeftuError(f"column '{column}' holds numbers beyond 2^53 as floats, not exactly — write them as text")
        series = series.cast(pl.Int64) if ((whole % 1) == 0).all() else series
    elif not (dtype.is_integer() or dtype in (pl.Boolean, pl.Categorical, pl.Enum, pl.Null) or dtype.is_decimal()):
        what = "lists or objects" if dtype.is_nested() else str(dtype)
        raise PeftuError(f"column '{column}' holds {what} — write text or numbers")
    return series.cast(pl.String)


def read_cells(series: pl.Series, *, several: bool | None, known: Collection[str] = ()) -> Cells:
    """Returns the labels of each cell of a column.

    Args:
        series: text, numbers, lists, or objects as tools write them (``{"choices": ["a", "b"]}``).
        several: whether a cell of plain text holds several labels with `SEPARATORS` between; None: only where cells
            are written as lists.
        known: labels that are none of `MISSING` though written so, and are not divided.

    Raises:
        PeftuError: numbers that can be read in two ways.
    """
    nested = series.dtype.is_nested()
    if nested:
        texts = pl.Series(
            series.name, [None if value is None else _written(value) for value in series.to_list()], pl.String
        )
    else:
        texts = as_text(series, series.name)
    texts = texts.str.strip_chars()
    distinct = texts.drop_nulls().unique().to_list()
    parsed = {text: _parsed(text, known) for text in distinct}
    structured = [text for text, value in parsed.items() if value is not _PLAIN and text not in MISSING]
    plain = [text for text, value in parsed.items() if value is _PLAIN]
    notes: list[str] = []
    labels: dict[str, list[str] | None] = {text: _labels_of(parsed[text]) for text in structured}
    wrong = {text for text in structured if labels[text] is None}
    if several and plain:
        labels |= _divided(plain, known, notes, series.name)
    else:
        labels |= _single(plain, known, notes, series.name, several)
    missing = {text for text in distinct if text in MISSING and text not in known}
    labels |= dict.fromkeys(missing)
    if several:
        labels[""] = []
    marks = [text for text in plain if text in PERHAPS_MISSING and text not in known]
    if marks:
        notes.append(f"'{marks[0]}' in column '{series.name}' is taken as a label — leave the cell empty if it is none")
    lists = _gathered(texts, {text: _canonical_all(cell, known) for text, cell in labels.items()})
    rows = (texts.is_in(list(wrong)).fill_null(value=False).arg_true() + 1).to_list() if wrong else []
    listed = bool(structured) or isinstance(series.dtype, pl.List | pl.Array)
    return Cells(lists, listed, notes, [(row, NO_LABEL) for row in rows])


class _Plain:
    """What is no list and no object: the text itself."""


_PLAIN = _Plain()


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _parsed(text: str, known: Collection[str]) -> Any:
    """Returns what a cell that looks like a list or an object holds, as JSON or as Python writes it."""
    if text[:1] not in ("[", "{", "(") or text in known:
        return _PLAIN
    try:
        value = parse_literal(text)
    except ValueError:
        return _PLAIN
    return list(value) if isinstance(value, tuple | set) else value


def _labels_of(value: Any) -> list[str] | None:
    """Returns the labels that a parsed cell holds; None where it holds something else."""
    if isinstance(value, bool):
        return [str(value).lower()]
    if value is None:
        return []
    if isinstance(value, str | int | float):
        text = str(value).strip()
        if text[:1] in ("[", "{") and isinstance(_parsed(text, ()), list | dict):
            return None  # polars writes what stands beside texts as text
        return [] if text in MISSING else [text]
    if isinstance(value, dict):
        key = next((key for key in KEYS if key in value), None)
        return None if key is None else _labels_of(value[key])
    if not isinstance(value, list) or any(isinstance(each, list) for each in value):
        return None
    if value and all(isinstance(each, dict) and isinstance(each.get("score"), int | float) for each in value):
        value = [max(value, key=lambda each: each["score"])]  # what a classifier thinks of every label
    inner = [_labels_of(each) for each in value]
    if any(labels is None for labels in inner):
        return None
    return [label for labels in inner for label in labels or []]


def _divided(
    texts: Sequence[str], known: Collection[str], notes: list[str], column: str
) -> dict[str, list[str] | None]:
    """Returns the labels of cells with a separator between labels: one for the column, but for what is left by it."""
    separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts if text not in known)), None)
    if separator is None:
        return {text: [text] for text in texts}
    notes.append(f"'{separator}' stands between the labels of column '{column}'")
    cells = {text: [text] if text in known else _parts(text, separator) for text in texts}
    whole = {part for parts in cells.values() for part in parts if not set(SEPARATORS) & set(part)} | set(known)
    for text, parts in cells.items():  # another separator stands between labels that are known from other cells
        for mark in SEPARATORS:
            divided = [_parts(part, mark) if _all_in(part, mark, whole) else [part] for part in parts]
            parts = [part for inner in divided for part in inner]
        cells[text] = parts
    return dict(cells)


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _all_in(text: str, separator: str, whole: Collection[str]) -> bool:
    return text not in whole and separator in text and all(part in whole for part in _parts(text, separator))


def _single(
    texts: Sequence[str], known: Collection[str], notes: list[str], column: str, several: bool | None
) -> dict[str, list[str] | None]:
    labels = [text for text in texts if text not in MISSING or text in known]
    commas = [text for text in labels if "," in text]
    if commas and several is None and not known and all(map(COMMA_NUMBER.fullmatch, labels)):
        if all(map(THOUSANDS.fullmatch, commas)):
            raise PeftuError(f"column '{column}': '{commas[0]}' can be read in two ways — write numbers with a point")
        notes.append(f"commas in column '{column}' are taken as decimal marks")
        return {text: [text.replace(",", ".")] for text in texts}
    return {text: [text] for text in texts}


def _canonical_all(labels: list[str] | None, known: Collection[str]) -> list[str] | None:
    if labels is None:
        return None
    spelled = {canonical(label): label for label in known}
    plain = [label if label in known else canonical(label) for label in labels]
    return list(dict.fromkeys(spelled.get(label, label) for label in plain))


def _gathered(texts: pl.Series, labels: dict[str, list[str] | None]) -> pl.Series:
    """Returns each text's labels."""
    places = {text: number for number, text in enumerate(labels)}
    table = pl.Series([*labels.values(), None], dtype=pl.List(pl.String))
    numbers = texts.replace_strict(places, default=len(places), return_dtype=pl.UInt32).fill_null(len(places))
    return table.gather(numbers).alias(texts.name)


def variant_notes(labels: Iterable[str]) -> list[str]:
    """Returns remarks on labels that look alike and count apart: by case, Unicode form, blanks or invisible signs."""
    key = {label: _look(label) for label in labels}
    notes = []
    for _, group in groupby(sorted(key, key=lambda label: (key[label], label)), key.__getitem__):
        alike = list(group)
        if len(alike) > 1:
            listed = " and ".join(f"'{short(label)}'" for label in alike[:3])
            notes.append(f"labels {listed} look alike and count apart — write one way in the file to join them")
    return notes


def _look(label: str) -> str:
    plain = unicodedata.normalize("NFKC", label.translate(INVISIBLE))
    return " ".join(plain.casefold().split())


def short(text: str) -> str:
    """Returns a label for a message."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def label_set(listed: str | None, file: Path | None) -> tuple[str, ...]:
    """Returns the labels given on the command line, in order.

    Args:
        listed: with commas between, or a span of whole numbers, as '0..100'.
        file: a JSON list, for labels that hold commas.

    Raises:
        PeftuError: both are given, or the file is no such list.
    """
    if file is None:
        span = SPAN.fullmatch((listed or "").strip())
        if span and abs(int(span[2]) - int(span[1])) < MOST_STEPS:
            first, last = int(span[1]), int(span[2])
            return tuple(map(str, range(first, last + 1) if first <= last else range(first, last - 1, -1)))
        return tuple(part.strip() for part in (listed or "").split(",") if part.strip())
    if listed is not None:
        raise PeftuError("--labels-file: --labels is given, too — pass one of them")
    try:
        labels = parse_json(plain_file(file).read_bytes())
    except OSError as error:
        raise PeftuError(f"{file}: cannot be read ({error.strerror}) — check the path") from None
    except ValueError as error:
        raise PeftuError(f"{file}: is not valid JSON ({error}) — write a list of labels") from None
    if not (isinstance(labels, list) and all(isinstance(label, str | int | float) for label in labels)):
        raise PeftuError(f'{file}: is no list of labels — write it as ["a, b", "c"]')
    return tuple(str(label).strip() for label in labels)
