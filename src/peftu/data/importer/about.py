"""What is known of users (age, country …) goes into the rows' meta, of which reports make groups."""

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from peftu.data.labelling import as_text
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.importer.rows import Rows

PUBLISHED = "split"  # a field of meta that is no trait of a user


def with_about(meta: pl.Series, raw: pl.DataFrame, rows: "Rows", users: pl.Series) -> pl.Series:
    """Returns meta with the values of the columns about users; texts that are numbers throughout become numbers.

    A user with several values of a column is told: reports make no groups of it.

    Args:
        meta: [rows] a JSON object, or null.
        raw: the rows of the file.
        rows: takes the remarks.
        users: [rows] the users.

    Raises:
        PeftuError: a column holds lists or objects, or is called like the published part.
    """
    columns = rows.roles.about
    if not columns:
        return meta
    if PUBLISHED in columns:
        raise PeftuError(f"--about: '{PUBLISHED}' is the name of the published part — rename the column")
    cells = {column: _cells(raw, column) for column in columns}
    for column, values in cells.items():
        pairs = pl.DataFrame({"user": users, "value": values}).drop_nulls().unique()
        several = int((pairs.group_by("user").len()["len"] > 1).sum())
        if several:
            rows.notes.append(f"'{column}' differs within {several:,} users: reports make no groups of it")
    keyed = pl.DataFrame(
        [meta.alias("meta"), *(values.alias(str(place)) for place, values in enumerate(cells.values()))]
    )
    distinct = keyed.unique(maintain_order=True)
    written = [_written(before, dict(zip(columns, values, strict=True))) for before, *values in distinct.iter_rows()]
    both = distinct.with_columns(pl.Series("written", written, pl.String))
    return keyed.join(both, on=keyed.columns, how="left", nulls_equal=True, maintain_order="left")["written"]


def _written(before: str | None, about: dict[str, Any]) -> str | None:
    known = {column: value for column, value in about.items() if value is not None}
    return json.dumps({**json.loads(before or "{}"), **known}) if before or known else None


def _cells(raw: pl.DataFrame, column: str) -> pl.Series:
    if raw[column].dtype.is_numeric() or raw[column].dtype == pl.Boolean:
        return raw[column].fill_nan(None) if raw[column].dtype.is_float() else raw[column]
    text = as_text(raw[column], column).str.strip_chars().replace("", None)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() > text.null_count() or not numbers.is_finite().all():
        return text
    whole = (numbers.drop_nulls() % 1 == 0).all()
    return numbers.cast(pl.Int64, strict=False) if whole else numbers
