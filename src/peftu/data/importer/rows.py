"""A file's columns as the columns of a user table, with everything that is wrong and everything that was inferred."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from peftu.data.importer.about import with_about
from peftu.data.importer.labels import Labels, empty_rows, read_labels
from peftu.data.importer.policy import EMPTY, Policy, settle
from peftu.data.importer.roles import Roles
from peftu.data.labelling import as_text
from peftu.data.problem import part_named
from peftu.data.readers.columns import check_rivals
from peftu.data.readers.source import RowProblem, control_rows
from peftu.data.readers.times import implausible, read_times
from peftu.data.stratify import hashed
from peftu.data.table import SCHEMA
from peftu.data.texts import is_object


@dataclass
class Rows:
    """Rows of a user table in the making.

    Attributes:
        frame: the columns of SCHEMA; only good for a table when there are no problems.
        labels: what the label columns are.
        roles: which column was taken for what, in the end.
        notes: what was inferred and should be known.
        problems: wrong rows.
        missing: what is empty -> the rows where it is.
        left_out: what became no row, and how many of it.
    """

    frame: pl.DataFrame
    labels: Labels
    roles: Roles
    notes: list[str] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    missing: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def to_rows(
    raw: pl.DataFrame,
    roles: Roles,
    kind: str | None = None,
    label_set: Sequence[str] = (),
    policy: Policy | None = None,
    time_format: str | None = None,
) -> Rows:
    """Returns the rows of a file under these roles.

    Columns that were found by name, not asked for, are left alone where they do not hold what their name says.

    Args:
        raw: the rows as they stand.
        roles: which column is what.
        kind: of the labels; None: inferred.
        label_set: in order; empty: those that occur.
        policy: what becomes of rows without a user, text or label, and of answers that conflict.
        time_format: of the time column, as ``strptime`` has it; None: found.

    Raises:
        PeftuError: a column cannot hold what it must, or two columns that differ could be one role.
    """
    policy = policy or Policy()
    notes = check_rivals(raw, {**roles.column, "label": roles.labels[0]}, roles.rivals)
    labels = read_labels(raw, roles.labels, kind, label_set)
    rows = Rows(raw, labels, roles, notes + labels.notes, list(labels.problems))
    columns = {"user_id": _text(raw, roles, "user").str.strip_chars(), "text": _text(raw, roles, "text")}
    empty = {"user": empty_rows(columns["user_id"]), "text": empty_rows(columns["text"]), "label": labels.missing}
    rows.missing = {what: numbers for what, numbers in empty.items() if numbers}
    if policy.missing == "error":
        rows.problems += [(row, EMPTY.format(what)) for what, numbers in rows.missing.items() for row in numbers]
    rows.problems += control_rows(columns["user_id"], "user")
    context = _text(raw, roles, "context") if "context" in roles.column else _nothing(raw)
    columns["context"] = pl.select(pl.when(context.str.strip_chars() != "").then(context)).to_series()
    columns["time"] = _times(raw, rows, time_format)
    columns["meta"] = with_about(_meta(raw, rows), raw, rows, columns["user_id"])
    columns["target"] = labels.target
    columns["item_id"] = _items(raw, rows, columns["text"], columns["context"])
    rows.frame = pl.DataFrame([columns[name].cast(dtype).rename(name) for name, dtype in SCHEMA.items()])
    settle(rows, policy)
    return rows


def _text(raw: pl.DataFrame, roles: Roles, role: str) -> pl.Series:
    column = roles.column[role]
    return as_text(raw[column], column)


def _nothing(raw: pl.DataFrame) -> pl.Series:
    return pl.Series([None], dtype=pl.String).new_from_index(0, raw.height)


def _drop(rows: Rows, role: str, why: str) -> None:
    """Leaves a column alone that was found by its name."""
    rows.notes.append(f"column '{rows.roles.column[role]}' is not used as {role}: {why}")
    rows.roles = rows.roles.without(role)


def _times(raw: pl.DataFrame, rows: Rows, time_format: str | None) -> pl.Series:
    if "time" in rows.roles.column:
        times, notes, problems = read_times(raw[rows.roles.column["time"]], time_format)
        given = "time" in rows.roles.given
        problems = problems or ([] if given else implausible(times))
        if given or not problems:
            rows.notes += notes
            rows.problems += problems
            return times
        _drop(rows, "time", f"{problems[0][1].split(' — ')[0]} in {len(problems):,} cells")
    return _nothing(raw)


def _meta(raw: pl.DataFrame, rows: Rows) -> pl.Series:
    """Returns the publisher's part, or a column of JSON objects that an export of peftu has."""
    roles = rows.roles
    if "meta" in roles.column:
        meta = raw[roles.column["meta"]]
        if meta.dtype == pl.String and all(map(is_object, meta.replace("", None).drop_nulls().unique())):
            rows.roles = roles.without("split")
            return meta.replace("", None)
        _drop(rows, "meta", "not every cell is a JSON object")
        roles = rows.roles
    if "split" in roles.column:
        texts = _text(raw, roles, "split")
        parts = texts.replace_strict(
            {text: part_named(text) for text in texts.drop_nulls().unique()}, default=None, return_dtype=pl.String
        )
        if not parts.null_count():
            rows.notes.append(f"column '{roles.column['split']}' is kept as a published split (--regime published)")
            return '{"split": "' + parts + '"}'
        _drop(rows, "split", "not every cell is train, validation or test")
    return _nothing(raw)


def _items(raw: pl.DataFrame, rows: Rows, text: pl.Series, context: pl.Series) -> pl.Series:
    """Returns the item keys; without a column for them, a hash of text and context."""
    pairs = pl.DataFrame({"text": text, "context": context})
    if "item" in rows.roles.column:
        items = _text(raw, rows.roles, "item").str.strip_chars()
        given = "item" in rows.roles.given
        problems = [(row, EMPTY.format("item")) for row in empty_rows(items)] + control_rows(items, "item")
        several = 0
        if not given and not problems:
            distinct, keys = pairs.n_unique(), items.n_unique()
            several = pairs.with_columns(items.alias("item")).n_unique() - keys
            if keys == len(items) > distinct:
                _drop(rows, "item", "it numbers the rows, and texts stand in several")
                return _hashed_items(pairs)
        if given or not (problems or several):
            rows.problems += problems
            if given:
                rows.problems += _two_texts(items, pairs)
            return items
        why = "it is empty in places, or holds control characters" if problems else "one key has several texts"
        _drop(rows, "item", why)
    return _hashed_items(pairs)


def _hashed_items(pairs: pl.DataFrame) -> pl.Series:
    distinct = pairs.unique(maintain_order=True)
    keys = [f"t-{hashed(text, context or ''):016x}" for text, context in distinct.iter_rows()]
    keyed = distinct.with_columns(pl.Series("item_id", keys, pl.String))
    joined = pairs.join(keyed, on=["text", "context"], how="left", nulls_equal=True, maintain_order="left")
    return joined["item_id"]


def _two_texts(items: pl.Series, pairs: pl.DataFrame) -> list[RowProblem]:
    """Returns the rows whose item has another text in an earlier row."""
    frame = pairs.with_columns(items.alias("item")).with_row_index("row", 1)
    first = frame.unique("item", keep="first")
    other = frame.join(first, on="item", how="left", suffix="_first").filter(
        ~pl.col("text").eq_missing(pl.col("text_first")) | ~pl.col("context").eq_missing(pl.col("context_first"))
    )
    mend = "give each text an item key of its own"
    conflicts = other.filter(pl.col("item") != "").select("row", "row_first").iter_rows()
    return [(row, f"has the item key of row {earlier} but another text — {mend}") for row, earlier in conflicts]
