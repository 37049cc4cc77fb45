"""What a table's labels are: one of several, numbers in order, several at once, or free text."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from peftu.answers import Kind, answers_of
from peftu.data.readers.source import RowProblem, control_rows
from peftu.errors import PeftuError
from peftu.outside import is_plain, parse_json
from peftu.registry import did_you_mean

MOST_LABELS = 100
RARE_ROWS = 1000  # in a table of more rows a label that stands once is remarked on
MARKS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
NONE = "none"
NUMBER = r"[+-]?\d+(?:\.\d+)?"
WHOLE = r"[+-]?\d+(?:\.0+)?"


@dataclass
class Labels:
    """Targets of a table's rows.

    Attributes:
        kind: of the task.
        labels: the label set, in order; empty for kind 'text'.
        target: [rows] list of labels; anything where the row has a problem.
        notes: what was inferred and should be known.
        problems: wrong rows.
    """

    kind: Kind
    labels: tuple[str, ...]
    target: pl.Series
    notes: list[str] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


def read_labels(
    frame: pl.DataFrame, columns: Sequence[str], kind: str | None = None, labels: Sequence[str] = ()
) -> Labels:
    """Returns what the label columns of a frame say.

    Args:
        frame: the rows, in file order.
        columns: one column of labels, or several that mark with 1 and 0 who is given the column's name.
        kind: what it must be; None: inferred.
        labels: the label set, in order; empty: those that occur.

    Raises:
        PeftuError: the columns cannot hold labels of that kind, or there are too few or too many labels.
    """
    parsed = _read_labels(frame, columns, kind, labels)
    if answers_of(parsed.kind).labelled:
        if not all(map(is_plain, (*labels, *(columns if len(columns) > 1 else ())))):
            raise PeftuError("--labels: a label holds a control character — take it out")
        parsed.problems += control_rows(parsed.target.list.join("|"), "label")
    return parsed


def _read_labels(frame: pl.DataFrame, columns: Sequence[str], kind: str | None, labels: Sequence[str]) -> Labels:
    if len(columns) > 1:
        if kind not in (None, "multi"):
            raise PeftuError(f"--label: {len(columns)} columns are kind 'multi', not '{kind}' — pass one column")
        return _marks(frame, columns)
    column = columns[0]
    if isinstance(frame.schema[column], pl.List | pl.Array):
        if kind not in (None, "multi"):
            raise PeftuError(f"--kind {kind}: column '{column}' holds lists — lists are kind 'multi'")
        return _several(frame[column].cast(pl.List(pl.String)), column, labels)
    text = as_text(frame[column], column).str.strip_chars()
    if kind == "text":
        return Labels("text", (), pl.select(pl.concat_list(text)).to_series(), problems=empty_rows(text))
    all_listed = bool((text.str.starts_with("[") & text.str.ends_with("]")).all())
    if kind == "multi" or (kind is None and all_listed and any(map(_parsed_list, text.drop_nulls().unique()))):
        lists, notes, problems = _parted(text, column, all_listed)
        parsed = _several(lists, column, labels)
        parsed.notes, parsed.problems = notes + parsed.notes, problems + parsed.problems
        return parsed
    return _one(text, column, kind, labels)


def as_text(series: pl.Series, column: str) -> pl.Series:
    """Returns a column as text; whole numbers without a point.

    Raises:
        PeftuError: the column holds anything but text, numbers and truth values.
    """
    dtype = series.dtype
    if dtype == pl.String:
        return series
    if dtype.is_float():
        series = series.fill_nan(None)
        whole = series.drop_nulls()
        series = series.cast(pl.Int64) if ((whole % 1) == 0).all() else series
    elif not (dtype.is_integer() or dtype in (pl.Boolean, pl.Categorical, pl.Enum, pl.Null)):
        raise PeftuError(f"column '{column}' holds {dtype} — write text or numbers")
    return series.cast(pl.String)


def empty_rows(text: pl.Series, what: str = "label") -> list[RowProblem]:
    """Returns a problem for each row without text."""
    rows = (text.is_null() | (text == "")).arg_true() + 1
    return [(row, f"{what} is empty — fill it in or leave the row out") for row in rows]


def _one(text: pl.Series, column: str, kind: str | None, label_set: Sequence[str]) -> Labels:
    """Returns one label a row: numbers with more than two values are in order, unless another kind is asked for."""
    problems, notes = empty_rows(text), []
    text = text.replace("", None)
    counts = text.drop_nulls().value_counts(sort=True)
    values = counts[text.name].to_list()
    numbers = all(re.fullmatch(NUMBER, value) for value in values)
    if not label_set and numbers and kind != "single":
        plain = {value: _number(value) for value in values}
        text, values = text.replace_strict(plain, return_dtype=pl.String), sorted(set(plain.values()), key=float)
    labels = tuple(label_set) or tuple(values if numbers and kind != "single" else sorted(values))
    _check_number(labels, len(text), column)
    if kind is None:
        kind = "ordinal" if numbers and len(labels) > 2 else "single"
        if kind == "ordinal":
            span = f"{labels[0]} to {labels[-1]}"
            notes.append(
                f"labels are numbers ({span}), so taken as ordered; pass --kind single if they only name classes"
            )
    elif kind == "ordinal" and not numbers and not label_set:
        raise PeftuError(f"--kind ordinal: labels are {_listed(labels)} — pass --labels with them in order")
    if label_set:
        problems += _unknown(text, labels)
    elif len(text) > RARE_ROWS:
        once = counts.filter(pl.col("count") == 1)[text.name].to_list()
        notes += [f"label '{_short(value)}' stands in one row only: a typing error?" for value in once[:3]]
    assert kind in ("single", "ordinal")  # noqa: S101  (the others have readers of their own)
    return Labels("ordinal" if kind == "ordinal" else "single", labels, _lists(text), notes, problems)


def _marks(frame: pl.DataFrame, columns: Sequence[str]) -> Labels:
    """Returns the names of the columns that a row marks."""
    problems: list[RowProblem] = []
    marked = []
    for column in columns:
        text = as_text(frame[column], column).str.strip_chars().str.to_lowercase()
        mark = text.replace({"": "0"}).fill_null("0").replace_strict(MARKS, default=None, return_dtype=pl.Boolean)
        wrong = mark.is_null().arg_true() + 1
        problems += [
            (row, f"column '{column}' holds neither 0 nor 1 — several label columns mark with them") for row in wrong
        ]
        marked.append(mark.fill_null(value=False).rename(column))
    marks = pl.DataFrame(marked)
    names = [pl.when(pl.col(column)).then(pl.lit(column)) for column in columns]
    target = marks.select(pl.concat_list(names).list.drop_nulls().alias("target")).to_series()
    without = target.list.len() == 0
    labels, notes = tuple(columns), []
    if without.any() and not problems:
        if NONE in columns:
            rows = without.arg_true() + 1
            problems += [(row, f"no label is marked, not even '{NONE}' — mark one") for row in rows]
        labels = (*labels, NONE)
        target = pl.select(pl.when(without).then(pl.lit([NONE])).otherwise(target)).to_series()
        notes.append(f"{without.sum():,} rows mark no label: they get the label '{NONE}'")
    return Labels("multi", labels, target, notes, problems)


def _parted(text: pl.Series, column: str, all_listed: bool) -> tuple[pl.Series, list[str], list[RowProblem]]:
    """Returns cells with several labels as lists: written as lists, or with a separator between labels."""
    distinct = text.drop_nulls().unique().to_list()
    if all_listed:
        lists = {value: _parsed_list(value) for value in distinct}
        notes = [f"column '{column}' holds lists, so several labels a row"]
    else:
        separator = next((mark for mark in ("|", ";", ",") if any(mark in value for value in distinct)), "|")
        lists = {value: [part.strip() for part in value.split(separator) if part.strip()] for value in distinct}
        notes = [f"'{separator}' stands between the labels of column '{column}'"]
    places = {value: number for number, value in enumerate(lists)}
    table = pl.Series([parts or [] for parts in lists.values()], dtype=pl.List(pl.String))
    cell_lists = (
        table.gather(text.replace_strict(places, return_dtype=pl.UInt32))
        if len(table)
        else text.cast(pl.List(pl.String))
    )
    wrong = [value for value, parts in lists.items() if parts is None]
    rows = text.is_in(wrong).fill_null(value=False).arg_true() + 1
    return cell_lists, notes, [(row, 'label is no list of texts — write it as ["a", "b"]') for row in rows]


def _parsed_list(text: str) -> list[str] | None:
    for parse in (parse_json, ast.literal_eval):
        try:
            value: Any = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(label, str | int) for label in value):
            return [str(label).strip() for label in value]
    return None


def _several(lists: pl.Series, column: str, label_set: Sequence[str]) -> Labels:
    """Returns lists of labels, each label once."""
    without = lists.is_null() | (lists.list.len() == 0)
    values = sorted(lists.explode().drop_nulls().unique())
    labels = tuple(label_set) or tuple(values)
    _check_number(labels or (NONE,), len(lists), column)
    notes, problems = [], []
    if without.any():
        if label_set and NONE not in label_set:
            rows = without.arg_true() + 1
            problems += [(row, f"no label is given — name one, or add '{NONE}' to --labels") for row in rows]
        labels = labels if NONE in labels else (*labels, NONE)
        lists = pl.select(pl.when(without).then(pl.lit([NONE])).otherwise(lists)).to_series()
        notes.append(f"{without.sum():,} rows have no label: they get the label '{NONE}'")
    unknown = [value for value in values if value not in labels]
    for value in unknown:
        rows = lists.list.contains(value).fill_null(value=False).arg_true() + 1
        problems += [(row, f"label '{_short(value)}' is not in --labels{did_you_mean(value, labels)}") for row in rows]
    return Labels("multi", labels, lists.list.unique(maintain_order=True), notes, problems)


def _unknown(text: pl.Series, labels: Sequence[str]) -> list[RowProblem]:
    known = text.is_in(list(labels)).fill_null(value=True)
    rows = (~known).arg_true()
    hints = {value: did_you_mean(value, labels) for value in text.gather(rows).unique()}
    return [(row + 1, f"label '{_short(text[row])}' is not in --labels{hints[text[row]]}") for row in rows]


def _check_number(labels: Sequence[str], rows: int, column: str) -> None:
    if not labels:
        return  # every row is wrong, and said to be
    if len(set(labels)) < 2:
        raise PeftuError(f"column '{column}': every row has the label '{_short(labels[0])}' — a task needs two labels")
    if len(labels) > MOST_LABELS:
        mend = "pass --kind text if they are free text, or another --label"
        raise PeftuError(f"column '{column}': {len(labels):,} different labels in {rows:,} rows — {mend}")


def _lists(text: pl.Series) -> pl.Series:
    return pl.select(pl.concat_list(text)).to_series()


def _number(value: str) -> str:
    """Returns a number's one spelling: '3' for '3.0' and '+3'."""
    number = float(value)
    return str(int(number)) if re.fullmatch(WHOLE, value) else str(number)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(_short, labels[:5])) + (", …" if len(labels) > 5 else "")
