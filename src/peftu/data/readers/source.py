"""A file as rows with named columns, and the error that tells its wrong rows.

Rows count from 1; in a delimited file row 1 is the first below the header, and blank lines are no rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from peftu.data.task import TaskCard
from peftu.data.texts import with_controls
from peftu.errors import PeftuError

SHOWN = 10
RowProblem = tuple[int, str]  # row, what is wrong and how to mend it
Rows = tuple[pl.DataFrame, list[str]]  # the columns asked for, all rows in file order; remarks on how they were read


def one_line(text: str) -> str:
    """Returns the text without line breaks, which names and labels from a file may hold."""
    return " ".join(text.splitlines())


def place_of(places: Sequence[str] | None, row: int) -> str:
    """Returns where a row, counted from 0, stands; without ``places`` rows count from 1."""
    return f"row {row + 1}" if places is None else places[row]


def control_rows(names: pl.Series, what: str) -> list[RowProblem]:
    """Returns a problem for each row whose name holds a control character."""
    return [(row + 1, f"{what} holds a control character — take it out") for row in with_controls(names)]


class RowsError(PeftuError):
    """Raised for wrong rows: one line with the first of them; ``shown`` holds the first ten.

    Args:
        path: the file.
        problems: the rows that are wrong, or the first of them.
        total: how many rows are wrong; None: those of ``problems``.
        places: row -> where it stands, for layouts that have no rows of their own.
    """

    def __init__(
        self,
        path: Path,
        problems: Sequence[RowProblem],
        total: int | None = None,
        places: Sequence[str] | None = None,
    ) -> None:
        problems = sorted(problems)
        total = len({row for row, _ in problems}) if total is None else total
        where = [place_of(places, row - 1) for row, _ in problems[:SHOWN]]
        self.shown = [one_line(f"{place}: {text}") for place, (_, text) in zip(where, problems, strict=False)]
        more = "" if total < 2 else f"; {total - 1:,} more row{'s are' if total > 2 else ' is'} wrong"
        super().__init__(f"{path}: {self.shown[0]}{more}")


@dataclass(frozen=True)
class Source:
    """Rows with named columns, before anybody says what a column means.

    Attributes:
        path: the file, as it was given; for messages.
        read_as: the layout in words.
        columns: names of its columns, in order.
        load: reads columns.
        roles: role -> column, where the layout says so: 'user', 'text', 'label', 'item', 'context', 'time', 'target',
            'output', 'method', 'seed', 'part', 'probabilities'.
        questions: the columns of which each could be the label, where the layout has several.
        titles: column -> what was asked in it, where the layout says so.
        kind: of the labels, where the layout says so.
        head: the first rows below the header of a delimited file.
        notes: what was inferred and should be known.
        left_out: what became no row, and how many of it.
        places: where each row stands ('task 3, annotation 1'); None: rows count.
        card: of the task that the rows were exported from.
        named: whether columns are sure to have names, so that these can be shown.
    """

    path: Path
    read_as: str
    columns: tuple[str, ...]
    load: Callable[[Sequence[str]], Rows] = field(repr=False)
    roles: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    head: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    places: Sequence[str] | None = field(default=None, repr=False)
    card: TaskCard | None = None
    named: bool = False

    def place(self, row: int) -> str:
        """Returns where a row, counted from 0, stands."""
        return place_of(self.places, row)

    def read(self, columns: Sequence[str]) -> Rows:
        """Returns these columns, all rows in file order, and remarks on how they were read.

        Cells of a delimited file are strings as they stand; other formats keep their types.

        Raises:
            PeftuError: the file is damaged, rows have too few or too many cells, or there are no rows.
        """
        frame, notes = self.load(columns)
        if frame.is_empty():
            raise PeftuError(f"{self.path}: holds no rows — check that it is the right file")
        return frame, notes

    @classmethod
    def of_frame(
        cls,
        path: Path,
        read_as: str,
        frame: pl.DataFrame,
        *,
        roles: Mapping[str, str] | None = None,
        questions: Sequence[str] = (),
        titles: Mapping[str, str] | None = None,
        kind: str | None = None,
        notes: Sequence[str] = (),
        left_out: Mapping[str, int] | None = None,
        places: Sequence[str] | None = None,
        card: TaskCard | None = None,
        named: bool = False,
    ) -> "Source":
        """Returns the source of rows that are in memory; see the attributes."""
        return cls(
            path,
            read_as,
            tuple(frame.columns),
            lambda columns: (frame.select(columns), []),
            roles or {},
            tuple(questions),
            titles or {},
            kind,
            notes=tuple(notes),
            left_out={what: number for what, number in (left_out or {}).items() if number},
            places=places,
            card=card,
            named=named,
        )
