"""A data frame in memory becomes a task, by the rules that files become one."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from peftu.data.imported import check_name
from peftu.data.importer.importing import ImportOptions, check_kind, table_of
from peftu.data.importer.policy import Conflicts, Missing, Policy
from peftu.data.importer.roles import Roles, find_roles
from peftu.data.readers.source import Source, one_line
from peftu.data.table import UserTable
from peftu.errors import PeftuError

OPTION = re.compile(
    r"--(user|text|label|labels|item|context|time|kind|words|name|conflicts|missing)\b"
    r"(?: (COLUMN|single|ordinal|multi|text|drop)\b)?"
)


def from_frame(
    frame: Any,
    *,
    user: str,
    text: str,
    label: str | Sequence[str],
    context: str | None = None,
    item: str | None = None,
    time: str | None = None,
    kind: str | None = None,
    labels: Sequence[Any] | None = None,
    words: Sequence[str] | None = None,
    instruction: str | None = None,
    name: str = "frame",
    conflicts: Conflicts = "error",
    missing: Missing = "error",
) -> UserTable:
    """Returns a task made of a pandas or polars frame: one row a judgement; other columns are not read.

    Nothing is kept on disk. ``UserTable.notes`` counts what was left out.

    Args:
        frame: pandas or polars.
        user: column of who judged.
        text: column of what was judged.
        label: column of what was said; several mark one label each with 1 and 0.
        context: column of what the text answers.
        item: column of the text's key; None: made from text and context.
        time: column of when it was said.
        kind: 'single', 'ordinal', 'multi' or 'text' (free text); None: by the labels.
        labels: every label, in order; None: those that occur.
        words: what a model says for each label, in order; None: the labels.
        instruction: the question put before the text; None: made from the labels.
        name: of the task, in records and default folders: small letters, digits and '-'.
        conflicts: of a user's answers on one text that differ: 'error', 'first', 'last', 'majority' or 'drop'.
        missing: of rows without a user, text or label: 'error' or 'drop'.

    Raises:
        PeftuError: a column is missing or of another type, or rows are wrong, counted from 1: the first is named.
    """
    try:
        return _from_frame(
            frame,
            {"user": user, "text": text, "context": context, "item": item, "time": time},
            ImportOptions(
                name=check_name(name),
                labels=_texts("label", (label,) if isinstance(label, str) else label),
                kind=check_kind(kind),
                label_set=_texts("labels", labels),
                words=_texts("words", words),
                instruction=instruction,
                policy=Policy(conflicts, missing),
            ),
        )
    except PeftuError as error:  # written for the command line, whose options are arguments here
        raise PeftuError(OPTION.sub(_argument, one_line(str(error)))) from None


def _from_frame(given: Any, columns: dict[str, str | None], options: ImportOptions) -> UserTable:
    where = Path(str(options.name))
    names = column_names(given, "from_frame")
    source = Source(where, "a frame", names, lambda columns: (as_polars(given, columns, where), []), named=True)
    roles = find_roles(source, columns, options.labels)
    roles = Roles(
        {role: column for role, column in roles.column.items() if role in roles.given}, roles.labels, roles.taken
    )
    frame, _ = source.read(roles.columns)
    table = table_of(frame, roles, options, source).table
    card = {"title": table.card.name, "description": f"A data frame; '{', '.join(roles.labels)}' is what a user says."}
    return replace(table, card=table.card.model_copy(update=card))


def _texts(name: str, given: Sequence[Any] | None) -> tuple[str, ...]:
    if isinstance(given, str):
        raise PeftuError(f"{name}: is one text — pass a list")
    return tuple(map(str, given or ()))


def _is_pandas(frame: Any) -> bool:
    return any(
        cls.__module__.partition(".")[0] == "pandas" and cls.__name__ == "DataFrame" for cls in type(frame).__mro__
    )


def column_names(frame: Any, where: str) -> tuple[str, ...]:
    """Returns the columns of a pandas or polars frame that have text for a name.

    Raises:
        PeftuError: it is no such frame.
    """
    if not isinstance(frame, pl.DataFrame) and not _is_pandas(frame):
        raise PeftuError(f"{where}: got {type(frame).__name__} — pass a pandas or polars DataFrame")
    return tuple(column for column in frame.columns if isinstance(column, str))


def as_polars(frame: Any, columns: Sequence[str], where: Path) -> pl.DataFrame:
    """Returns these columns as polars has them; NaN of pandas is a missing value.

    Raises:
        PeftuError: a column of pandas holds values of several types.
    """
    if isinstance(frame, pl.DataFrame):
        return frame.select(columns)
    read = []
    for column in columns:
        try:
            read.append(pl.from_pandas(frame[column].rename(column)))
        except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError):
            raise PeftuError(
                f"{where}: column '{column}' holds values of several types — write text or numbers only"
            ) from None
    return pl.DataFrame(read)


def _argument(option: re.Match[str]) -> str:
    name, value = option.groups()
    return f"{name}={value!r}" if value else str(name)
