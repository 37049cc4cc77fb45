"""A file that is imported, and the error that tells its wrong rows.

Rows count from 1; in a delimited file row 1 is the first below the header, and blank lines are no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from peftu.data.texts import with_controls
from peftu.errors import PeftuError

SHOWN = 10
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
RowProblem = tuple[int, str]  # row, what is wrong and how to mend it


def one_line(text: str) -> str:
    """Returns the text without line breaks, which names and labels from a file may hold."""
    return " ".join(text.splitlines())


def control_rows(names: pl.Series, what: str) -> list[RowProblem]:
    """Returns a problem for each row whose name holds a control character."""
    return [(row + 1, f"{what} holds a control character — take it out") for row in with_controls(names)]


class RowsError(PeftuError):
    """Raised for wrong rows: one line with the first of them; ``shown`` holds the first ten."""

    def __init__(self, path: Path, problems: Sequence[RowProblem], total: int | None = None) -> None:
        problems = sorted(problems)
        total = len({row for row, _ in problems}) if total is None else total
        self.shown = [one_line(f"row {row}: {text}") for row, text in problems[:SHOWN]]
        more = "" if total < 2 else f"; {total - 1:,} more row{'s are' if total > 2 else ' is'} wrong"
        super().__init__(f"{path}: {self.shown[0]}{more}")


@dataclass(frozen=True)
class Source:
    """A file and how it is read.

    Attributes:
        path: the file.
        format: 'delimited', 'jsonl', 'json' or 'parquet'.
        columns: names of its columns, in order.
        encoding: of its text; None for Parquet.
        delimiter: what stands between cells; None where nothing does.
        head: the first rows below the header of a delimited file.
    """

    path: Path
    format: str
    columns: tuple[str, ...]
    encoding: str | None = None
    delimiter: str | None = None
    head: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def described(self) -> str:
        """Returns the format in words."""
        parts = [f"text, {DELIMITERS[self.delimiter]} between cells" if self.delimiter else self.format.upper()]
        return ", ".join(parts + ([self.encoding.removesuffix("-sig")] if self.encoding else []))
