"""Probabilities in columns, one for each label."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from peftu.data.readers.column_groups import ColumnGroups
from peftu.data.readers.file import File
from peftu.data.readers.source import RowsError, Source

if TYPE_CHECKING:
    from peftu.data.readers.source import Rows

OUTPUT, PROBABILITIES = "output", "probabilities"


class Probabilities(ColumnGroups):
    """Reads a table with the probabilities of a row put together."""

    name = "probabilities"
    title = "a column of probabilities for each label"
    plain = False
    prefixes = ("proba_", "prob_")

    def claims(self, file: File) -> bool:
        """Returns whether it has several such columns."""
        return bool(self.columns(file)) and not file.keys() & {PROBABILITIES}

    def open(self, file: File) -> Source:
        """Returns its rows; the output is the likeliest label where no column holds one.

        Raises:
            RowsError: a probability is no number.
        """
        source = self.table(file)
        labels = {name: column for name, column in self.columns(file).items() if column in source.columns}
        rest = tuple(name for name in source.columns if name not in labels.values())

        def load(wanted: Sequence[str]) -> "Rows":
            frame, notes = source.read([*(name for name in rest if name in wanted), *labels.values()])
            numbers = [_numbers(source, frame[column]) for column in labels.values()]
            rows = list(zip(*numbers, strict=True))
            objects = [json.dumps(dict(zip(labels, row, strict=True))) if None not in row else None for row in rows]
            likeliest = [_likeliest(list(labels), row) for row in rows]
            made = [pl.Series(PROBABILITIES, objects, pl.String), pl.Series(OUTPUT, likeliest, pl.String)]
            return frame.with_columns(each for each in made if each.name not in rest).select(wanted), notes

        roles = {**source.roles, "probabilities": PROBABILITIES}
        columns = (*rest, PROBABILITIES)
        if not {"output", "prediction", "predicted", "predictions"} & set(rest):
            columns, roles = (*columns, OUTPUT), {**roles, "output": OUTPUT}
        read_as = f"{source.read_as}, {self.title}"
        return Source(source.path, read_as, columns, load, roles, notes=source.notes, places=source.places)


READER = Probabilities()


def _numbers(source: Source, cells: pl.Series) -> list[float | None]:
    text = cells.cast(pl.String, strict=False).str.strip_chars().replace("", None)
    numbers = text.cast(pl.Float64, strict=False)
    wrong = (numbers.is_null() & text.is_not_null()).arg_true()
    if len(wrong):
        problems = [(int(row) + 1, f"column '{cells.name}' holds no number — write a probability") for row in wrong]
        raise RowsError(source.path, problems, places=source.places)
    return numbers.to_list()


def _likeliest(labels: Sequence[str], row: Sequence[float | None]) -> str | None:
    numbers = [number for number in row if number is not None]
    return labels[row.index(max(numbers))] if numbers else None
