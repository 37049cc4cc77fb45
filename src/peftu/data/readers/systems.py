"""Predictions of several systems, a column for each."""

import polars as pl

from peftu.data.readers.column_groups import ColumnGroups
from peftu.data.readers.file import File
from peftu.data.readers.source import Source
from peftu.errors import PeftuError

TARGETS = ("target", "gold", "gold_label", "reference", "true_label")
METHOD, OUTPUT = "method", "output"


class Systems(ColumnGroups):
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


READER = Systems()
