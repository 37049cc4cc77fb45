"""Predictions in columns: one for each system, or one for each label with its probability."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from peftu.data.readers.file import File
from peftu.data.readers.source import RowsError, Source
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.source import Rows

TARGETS = ("target", "gold", "gold_label", "reference", "true_label")
METHOD, OUTPUT, PROBABILITIES = "method", "output", "probabilities"
FEWEST = 2  # columns that make it this layout


class _Columns:
    """A table in which columns that begin alike belong together."""

    prefixes: ClassVar[tuple[str, ...]]

    def columns(self, file: File) -> dict[str, str]:
        """Returns what stands after the beginning -> its column."""
        for prefix in self.prefixes:
            found = {name.removeprefix(prefix): name for name in sorted(file.keys()) if name.startswith(prefix)}
            if len(found) >= FEWEST and "" not in found:
                return found
        return {}

    def table(self, file: File) -> Source:
        """Returns the table as it stands.

        Raises:
            PeftuError: a column stands twice.
        """
        from peftu.data.readers.reader import readers

        plain = [reader for name in readers.names() if (reader := readers.get(name)).plain and reader.claims(file)]
        source = plain[0].open(file)
        doubled = next((name for name in source.columns if source.columns.count(name) > 1), None)
        if doubled is not None:
            raise PeftuError(f"{file.path}: two columns are called '{doubled}' — rename one")
        return source


class Systems(_Columns):
    """Reads a row for each system and row of the table."""

    name = "systems"
    title = "a column of predictions for each system"
    plain = False
    prefixes = ("pred_", "prediction_", "predicted_", "output_")

    def claims(self, file: File) -> bool:
        """Returns whether it has several such columns beside a target."""
        return bool(self.columns(file)) and not file.keys().isdisjoint(TARGETS)

    def open(self, file: File) -> Source:
        """Returns its rows; an empty prediction stays a row."""
        source = self.table(file)
        systems = {name: column for name, column in self.columns(file).items() if column in source.columns}
        frame, notes = source.read(source.columns)
        rest = [name for name in source.columns if name not in systems.values()]
        taken = {METHOD, OUTPUT} & set(rest)
        if taken:
            raise PeftuError(f"{file.path}: has columns of systems and one called '{min(taken)}' — rename it")
        long = frame.with_row_index("row of the table").unpivot(
            list(systems.values()), index=["row of the table", *rest], variable_name=METHOD, value_name=OUTPUT
        )
        names = {column: name for name, column in systems.items()}
        long = long.with_columns(pl.col(METHOD).replace_strict(names, return_dtype=pl.String))
        places = [
            f"row {row + 1}, {method}" if source.places is None else f"{source.places[row]}, {method}"
            for row, method in long.select("row of the table", METHOD).iter_rows()
        ]
        roles = {"method": METHOD, "output": OUTPUT, "target": next(name for name in TARGETS if name in rest)}
        read_as = f"{source.read_as}, {self.title}"
        long = long.drop("row of the table")
        return Source.of_frame(file.path, read_as, long, roles=roles, notes=notes, places=places)


class Probabilities(_Columns):
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


SYSTEMS, PROBA = Systems(), Probabilities()


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
