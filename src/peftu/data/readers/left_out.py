"""Rows of a delimited export that a tool marks as not to be used."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Kept:
    """Rows that are left.

    Attributes:
        frame: the rows.
        counts: what was left out, and how many rows; a row counts for the first reason.
        places: where each row stands in the file.
    """

    frame: pl.DataFrame
    counts: dict[str, int]
    places: list[str]


def without(frame: pl.DataFrame, reasons: Mapping[str, pl.Expr], top: int = 0) -> Kept:
    """Returns the rows of a frame that no reason speaks against.

    Args:
        frame: all rows below the header, in file order.
        reasons: what such rows are -> whether a row is one; null is no.
        top: rows above the first one that are rows of the header.
    """
    place = pl.int_range(1, pl.len() + 1).alias("place")
    why = pl.coalesce(*(pl.when(wrong).then(pl.lit(what)) for what, wrong in reasons.items())).alias("why")
    marked = frame.select(place + top, why)
    keep = marked["why"].is_null()
    counts = dict(marked["why"].drop_nulls().value_counts().iter_rows())
    kept = [f"row {row}" for row in marked["place"].filter(keep)]
    return Kept(frame.filter(keep), {what: counts[what] for what in reasons if what in counts}, kept)


def says(column: str, *values: str) -> pl.Expr:
    """Returns whether a cell is one of these values, in any case."""
    return pl.col(column).str.strip_chars().str.to_lowercase().is_in(values)
