"""A file's columns as the columns of a user table, with everything that is wrong and everything that was inferred."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from peftu.data.importer.about import with_about
from peftu.data.importer.labels import Labels, as_text, empty_rows, read_labels
from peftu.data.importer.roles import Roles
from peftu.data.importer.times import read_times
from peftu.data.problem import PARTS
from peftu.data.readers.source import RowProblem, control_rows
from peftu.data.stratify import hashed
from peftu.data.table import SCHEMA
from peftu.data.texts import is_object

PART_NAMES = {part: part for part in PARTS} | {"dev": "val", "valid": "val", "validation": "val", "eval": "val"}
REPEATS = "rows that repeat an earlier one"


@dataclass
class Rows:
    """Rows of a user table in the making.

    Attributes:
        frame: the columns of SCHEMA; only good for a table when there are no problems.
        labels: what the label columns are.
        roles: which column was taken for what, in the end.
        notes: what was inferred and should be known.
        problems: wrong rows.
        left_out: what became no row, and how many of it.
    """

    frame: pl.DataFrame
    labels: Labels
    roles: Roles
    notes: list[str] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def to_rows(raw: pl.DataFrame, roles: Roles, kind: str | None = None, label_set: Sequence[str] = ()) -> Rows:
    """Returns the rows of a file under these roles.

    Columns that were found by name, not asked for, are left alone where they do not hold what their name says.

    Raises:
        PeftuError: a column cannot hold what it must.
    """
    labels = read_labels(raw, roles.labels, kind, label_set)
    rows = Rows(raw, labels, roles, list(labels.notes), list(labels.problems))
    columns = {"user_id": _text(raw, roles, "user").str.strip_chars(), "text": _text(raw, roles, "text")}
    for name, what in (("user_id", "user"), ("text", "text")):
        rows.problems += empty_rows(columns[name].str.strip_chars(), what)
    rows.problems += control_rows(columns["user_id"], "user")
    context = _text(raw, roles, "context") if "context" in roles.column else _nothing(raw)
    columns["context"] = pl.select(pl.when(context.str.strip_chars() != "").then(context)).to_series()
    columns["time"] = _times(raw, rows)
    columns["meta"] = with_about(_meta(raw, rows), raw, rows, columns["user_id"])
    columns["target"] = labels.target
    columns["item_id"] = _items(raw, rows, columns["text"], columns["context"])
    rows.frame = pl.DataFrame([columns[name].cast(dtype).rename(name) for name, dtype in SCHEMA.items()])
    _settle_repeats(rows)
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


def _times(raw: pl.DataFrame, rows: Rows) -> pl.Series:
    if "time" in rows.roles.column:
        times, notes, problems = read_times(raw[rows.roles.column["time"]])
        if not problems or "time" in rows.roles.given:
            rows.notes += notes
            rows.problems += problems
            return times
        _drop(rows, "time", f"{len(problems):,} cells cannot be read as a time")
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
        parts = _text(raw, roles, "split").str.strip_chars().str.to_lowercase()
        parts = parts.replace_strict(PART_NAMES, default=None, return_dtype=pl.String)
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
        problems = empty_rows(items, "item") + control_rows(items, "item")
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


def _settle_repeats(rows: Rows) -> None:
    """Leaves out rows that repeat an earlier one; another answer of the same user on the same item is a problem."""
    empty = {row for row, _ in rows.problems}
    frame = rows.frame.with_row_index("row", 1)
    answers = frame.select("row", "user_id", "item_id", pl.col("target").list.sort().list.join("\x1f"))
    pair = ["user_id", "item_id"]
    first = answers.unique([*pair, "target"], keep="first", maintain_order=True)
    again = first.filter(pl.struct(pair).is_duplicated()).with_columns(pl.col("row").min().over(pair).alias("earlier"))
    mend = "keep one" if "item" in rows.roles.column else "keep one, or pass --item COLUMN to tell the texts apart"
    for row, earlier in again.filter(pl.col("row") != pl.col("earlier")).select("row", "earlier").iter_rows():
        if row not in empty and earlier not in empty:
            rows.problems.append((row, f"is by the user and on the text of row {earlier}, with another label — {mend}"))
    if first.height < frame.height and not rows.problems:
        rows.left_out[REPEATS] = frame.height - first.height
        rows.frame = rows.frame.select(pl.all().gather(first["row"].sort() - 1))
