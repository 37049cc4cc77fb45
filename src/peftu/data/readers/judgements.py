"""Rows of a tool's export, gathered one judgement at a time."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.readers.source import RowsError, Source
from peftu.errors import PeftuError


class Judgements:
    """Judgements read so far, what was left out, and what could not be read.

    Args:
        path: the file; for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._rows: list[Mapping[str, Any]] = []
        self._places: list[str] = []
        self._problems: list[tuple[str, str]] = []

    def add(self, place: str, row: Mapping[str, Any]) -> None:
        """Keeps a row: column -> text, number, truth value or None, or a list of them."""
        self._places.append(place)
        self._rows.append(row)

    def wrong(self, place: str, problem: str) -> None:
        """Keeps what is wrong in a place, with the mend; neither may hold a user's key."""
        self._problems.append((place, problem))

    def source(
        self,
        read_as: str,
        *,
        roles: Mapping[str, str],
        questions: Sequence[str] | None = None,
        several: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Source:
        """Returns the rows; a column whose lists never hold more than one text becomes a column of texts.

        Args:
            read_as: the layout in words.
            roles: role -> column.
            questions: the columns that could be the label; the one of them is; None: the layout does not say.
            several: the columns of which the layout says that several labels may be given.
            notes: what should be known.

        Raises:
            RowsError: something was wrong.
            PeftuError: there is no row, or no answer to a question.
        """
        if self._problems:
            problems = [(row, problem) for row, (_, problem) in enumerate(self._problems, 1)]
            raise RowsError(self.path, problems, places=[place for place, _ in self._problems])
        columns = dict.fromkeys(column for row in self._rows for column in row)
        question_columns = [question for question in questions or () if question in columns]
        if not self._rows or not (question_columns or questions is None):
            counts = "; ".join(f"{what}: {number:,}" for what, number in self.left_out.items())
            raise PeftuError(f"{self.path}: holds no judgement{counts and f' ({counts})'} — check that it is whole")
        frame = pl.DataFrame(
            [_column(name, [row.get(name) for row in self._rows], several=name in several) for name in columns]
        )
        label = {"label": question_columns[0]} if len(question_columns) == 1 else {}
        return Source.of_frame(
            self.path,
            read_as,
            frame,
            roles={role: column for role, column in (dict(roles) | label).items() if column in columns},
            questions=question_columns if len(question_columns) > 1 else (),
            notes=notes,
            left_out=self.left_out,
            places=self._places,
        )


def is_answer(value: Any) -> bool:
    """Returns whether a JSON value is one label, none, or a list of labels."""
    values = value if isinstance(value, list) else [value]
    return all(each is None or isinstance(each, str | int | float) for each in values)


def as_cell(value: Any) -> str | None:
    """Returns a JSON value as text: a number without a needless point, an object as JSON; None for null and NaN."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return json.dumps(value, ensure_ascii=False)


def as_key(value: Any) -> str | None:
    """Returns a user's or a text's key as text; None for what is neither text nor number."""
    return as_cell(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _column(name: str, values: Sequence[Any], *, several: bool) -> pl.Series:
    if several or any(isinstance(value, list) and len(value) > 1 for value in values):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        cells = [None if each is None else [cell for cell in map(as_cell, each) if cell] for each in lists]
        return pl.Series(name, cells, pl.List(pl.String))
    first = [next(iter(value), None) if isinstance(value, list) else value for value in values]
    return pl.Series(name, [as_cell(value) for value in first], pl.String)
