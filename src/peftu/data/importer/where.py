"""Which rows of a file are read: 'column = value', or an SQL expression over its columns."""

import re
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from peftu.data.labelling import as_text, canonical
from peftu.data.readers.columns import NAMES, has_names
from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

PLAIN = re.compile(r"\s*(.+?)\s*(!=|==|=)\s*(.*?)\s*", re.DOTALL)
LEFT_OUT = "rows that --where leaves out"


class Condition(NamedTuple):
    """What rows must fulfil; ``by_value``: columns of numbers written as text are compared as numbers."""

    expression: pl.Expr
    columns: tuple[str, ...]
    by_value: bool = False


def condition(where: str, source: Source) -> Condition:
    """Returns what rows must fulfil.

    Args:
        where: 'column = value' or 'column != value', compared as labels are; anything else is an SQL expression, in
            which texts stand in single quotes.
        source: whose columns it may name.

    Raises:
        PeftuError: it is no condition, or names a column that is not there.
    """
    plain = PLAIN.fullmatch(where)
    if plain is not None and plain[1] in source.columns:
        column, sign, value = plain.groups()
        name = column

        def text(series: pl.Series) -> pl.Series:
            return as_text(series, name).map_elements(canonical, pl.String)

        equal = (pl.col(column).map_batches(text, pl.String) == canonical(value.strip("'\""))).fill_null(value=False)
        return Condition(~equal if sign == "!=" else equal, (column,))
    try:
        expression = pl.sql_expr(where)
        names = expression.meta.root_names()
    except pl.exceptions.PolarsError:
        raise PeftuError("--where: is no condition — write 'column = value', or SQL as \"stars > 2\"") from None
    for name in names:
        if name not in source.columns:
            known = source.columns if has_names(source, NAMES) else ()
            raise PeftuError(f"--where: has no column '{name}'{did_you_mean(name, known)}")
    return Condition(expression, tuple(names), by_value=True)


def _numbers(column: pl.Series) -> pl.Series:
    """Returns a column of numbers written as text as numbers, so that they are compared by value."""
    if column.dtype != pl.String:
        return column
    text = column.str.strip_chars().replace("", None)
    numbers = text.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == text.null_count() else column


def chosen(frame: pl.DataFrame, source: Source, where: Condition) -> tuple[pl.DataFrame, Source]:
    """Returns the rows that fulfil a condition, and the source with their places and how many were left out.

    Raises:
        PeftuError: the condition cannot be asked of these columns, or no row fulfils it.
    """
    try:
        compared = frame.with_columns(map(_numbers, frame[list(where.columns)])) if where.by_value else frame
        keep = compared.select(where.expression.alias("keep"))["keep"]
    except pl.exceptions.PolarsError as error:
        raise PeftuError(f"--where: cannot be asked of these columns ({str(error).splitlines()[0]})") from None
    if keep.dtype != pl.Boolean or len(keep) != frame.height:
        raise PeftuError("--where: is true or false of no row — compare a column with a value")
    rows = keep.fill_null(value=False).arg_true()
    if not len(rows):
        raise PeftuError(f"{source.path}: --where: no row is so — check the value")
    places = [source.place(row) for row in rows.to_list()]
    left_out = {**source.left_out, LEFT_OUT: frame.height - len(rows)}
    return frame[rows.to_list()], replace(source, places=places, left_out=left_out)
