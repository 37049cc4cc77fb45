"""What a table's labels are: one of several, numbers in order, several at once, or free text."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from peftu.answers import Kind, answers_of
from peftu.data.labelling import MOST_STEPS, as_number, as_text, canonical, in_order, read_cells, short, variant_notes
from peftu.data.readers.source import RowProblem, control_rows
from peftu.errors import PeftuError
from peftu.outside import is_plain
from peftu.registry import did_you_mean

MOST_LABELS = 100  # more are told; names of classes are seldom more
RARE_ROWS = 1000  # in a table of more rows a label that stands once is remarked on
MARKS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
NONE = "none"
LIMIT = "pass --kind text if they are free text, --kind single if they are classes, or another --label"


@dataclass
class Labels:
    """Targets of a table's rows.

    Attributes:
        kind: of the task.
        labels: the label set, in order; empty for kind 'text'.
        target: [rows] list of labels; anything where the row has a problem.
        notes: what was inferred and should be known.
        problems: wrong rows.
        missing: rows without a label.
    """

    kind: Kind
    labels: tuple[str, ...]
    target: pl.Series
    notes: list[str] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)


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
        parsed.notes += variant_notes(parsed.labels)
    return parsed


def _read_labels(frame: pl.DataFrame, columns: Sequence[str], kind: str | None, labels: Sequence[str]) -> Labels:
    if kind == "text":
        if len(columns) > 1:
            raise PeftuError(f"--label: {len(columns)} columns cannot be one free text — pass one column")
        text = as_text(frame[columns[0]], columns[0]).str.strip_chars()
        return Labels("text", (), _lists(text), missing=_rows(text.is_null() | (text == "")))
    if len(columns) > 1:
        lists, notes, problems = _marked(frame, columns)
        several, known = kind not in ("single", "ordinal"), tuple(columns)
    else:
        cells = read_cells(frame[columns[0]], several=True if kind == "multi" else None, known=labels)
        lists, notes, problems = cells.labels, cells.notes, cells.problems
        sizes = lists.list.len()
        several = kind == "multi" or (kind is None and cells.listed and bool((sizes.drop_nulls() != 1).any()))
        if kind is None and cells.listed and not several:
            notes.append(f"every list in column '{columns[0]}' holds one label; pass --kind multi if several may stand")
        known = ()
    names = labels or known
    parsed = _several(lists, names, bool(labels)) if several else _one(lists, columns[0], kind, labels, known)
    wrong = {row for row, _ in problems}
    parsed.notes, parsed.problems = notes + parsed.notes, problems + parsed.problems
    parsed.missing = [row for row in parsed.missing if row not in wrong]
    return parsed


def empty_rows(text: pl.Series) -> list[int]:
    """Returns the rows, from 1, without text."""
    return _rows(text.is_null() | (text.str.strip_chars() == ""))


def _one(
    lists: pl.Series, column: str, kind: str | None, label_set: Sequence[str], names: Sequence[str] = ()
) -> Labels:
    """Returns one label a row: numbers with more than two values are in order, unless another kind is asked for.

    Args:
        lists: [rows] what each cell holds.
        column: for messages.
        kind: 'single', 'ordinal', or None.
        label_set: in order; empty: those that occur.
        names: of columns that mark labels, where labels come from such.
    """
    problems = [(row, "has several labels — keep one, or pass --kind multi") for row in _rows(lists.list.len() > 1)]
    text = lists.list.first()
    counts = text.drop_nulls().value_counts(sort=True)
    values = counts[text.name].to_list()
    numbers = bool(values) and all(as_number(value) for value in values)
    labels = tuple(label_set) or tuple(names) or in_order(values)
    notes: list[str] = []
    most = None if kind else len(text) // 2  # of classes: whoever names the kind knows that they are many
    if kind is None and numbers and len(labels) > 2:
        kind = "ordinal"
        notes.append(
            f"labels are numbers ({labels[0]} to {labels[-1]}), so taken as ordered; pass --kind single if they only "
            "name classes"
        )
    elif kind == "ordinal" and not numbers and not label_set:
        raise PeftuError(f"--kind ordinal: labels are {_listed(labels)} — pass --labels with them in order")
    kind = kind or "single"
    _check_number(labels, len(text), column, MOST_STEPS if kind == "ordinal" else most)
    if kind == "single" and len(labels) > MOST_LABELS:
        notes.append(f"{len(labels):,} labels in {len(text):,} rows are many: a base scores each — are they classes?")
    if label_set:
        problems += _unknown(text, labels)
    elif len(text) > RARE_ROWS:
        once = counts.filter(pl.col("count") == 1)[text.name].to_list()
        notes += [f"label '{short(value)}' stands in one row only: a typing error?" for value in once[:3]]
    assert kind in ("single", "ordinal")  # noqa: S101  (the others have readers of their own)
    missing = _rows(text.is_null())
    return Labels("ordinal" if kind == "ordinal" else "single", labels, _lists(text), notes, problems, missing)


def _marked(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.Series, list[str], list[RowProblem]]:
    """Returns the names of the columns that a row marks."""
    problems: list[RowProblem] = []
    marked = []
    for column in columns:
        text = as_text(frame[column], column).str.strip_chars().str.to_lowercase()
        spelled = {value: canonical(value) for value in text.drop_nulls().unique()}
        text = text.replace_strict(spelled, return_dtype=pl.String) if spelled else text
        mark = text.replace({"": "0"}).fill_null("0").replace_strict(MARKS, default=None, return_dtype=pl.Boolean)
        problems += [
            (row, f"column '{column}' holds neither 0 nor 1 — several label columns mark with them")
            for row in _rows(mark.is_null())
        ]
        marked.append(mark.fill_null(value=False).rename(column))
    marks = pl.DataFrame(marked)
    names = [pl.when(pl.col(column)).then(pl.lit(column)) for column in columns]
    return marks.select(pl.concat_list(names).list.drop_nulls().alias("label")).to_series(), [], problems


def _several(lists: pl.Series, label_set: Sequence[str], given: bool) -> Labels:
    """Returns lists of labels, each label once; a row without any gets a label for that.

    Args:
        lists: [rows] what each cell holds.
        label_set: in order; empty: those that occur.
        given: whether the label set was asked for, so that no label is added to it.
    """
    without = lists.is_null() | (lists.list.len() == 0)
    values = in_order(lists.explode(empty_as_null=True, keep_nulls=True).drop_nulls().unique().to_list())
    labels = tuple(label_set) or values
    _check_number(labels or (NONE,), len(lists), lists.name, None)
    notes, problems = [], []
    if without.any():
        if given and NONE not in labels:
            mend = f"name one, or add '{NONE}' to --labels"
            problems += [(row, f"no label is given — {mend}") for row in _rows(without)]
        elif NONE in labels and not given and label_set:
            problems += [(row, f"no label is marked, not even '{NONE}' — mark one") for row in _rows(without)]
        labels = labels if NONE in labels else (*labels, NONE)
        lists = pl.select(pl.when(without).then(pl.lit([NONE])).otherwise(lists)).to_series()
        notes.append(f"{without.sum():,} rows have no label: they get the label '{NONE}'")
    for value in (value for value in values if value not in labels):
        rows = _rows(lists.list.contains(value).fill_null(value=False))
        problems += [(row, f"label '{short(value)}' is not in --labels{did_you_mean(value, labels)}") for row in rows]
    return Labels("multi", labels, lists.list.unique(maintain_order=True), notes, problems)


def _unknown(text: pl.Series, labels: Sequence[str]) -> list[RowProblem]:
    known = text.is_in(list(labels)).fill_null(value=True)
    rows = (~known).arg_true()
    hints = {value: did_you_mean(value, labels) for value in text.gather(rows).unique()}
    return [(row + 1, f"label '{short(text[row])}' is not in --labels{hints[text[row]]}") for row in rows]


def _check_number(labels: Sequence[str], rows: int, column: str, most: int | None) -> None:
    """Refuses one label, and more labels than a kind may have."""
    if not labels:
        return  # every row is wrong, and said to be
    if len(set(labels)) < 2:
        raise PeftuError(f"column '{column}': every row has the label '{short(labels[0])}' — a task needs two labels")
    if most is not None and len(labels) > max(most, MOST_LABELS):
        raise PeftuError(f"column '{column}': {len(labels):,} different labels in {rows:,} rows — {LIMIT}")


def _lists(text: pl.Series) -> pl.Series:
    return pl.select(pl.concat_list(text)).to_series()


def _rows(mask: pl.Series) -> list[int]:
    return (mask.fill_null(value=False).arg_true() + 1).to_list()


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(short, labels[:5])) + (", …" if len(labels) > 5 else "")
