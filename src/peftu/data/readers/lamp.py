"""Outputs of the LaMP benchmark: {"task": "LaMP_1", "golds": [{"id": "110", "output": "[1]"}]}."""

from typing import Any

import polars as pl

from peftu.data.readers.file import File
from peftu.data.readers.judgements import as_cell
from peftu.data.readers.source import RowProblem, RowsError, Source

GOLDS, ITEM, USER, OUTPUT = "golds", "id", "user", "output"


class Lamp:
    """Reads a row an output; predictions and truth are laid out alike, and each question is of a user of its own."""

    name = "lamp"
    title = "outputs of LaMP"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it is one object with a task and its outputs."""
        document = file.document if file.shape == "object" else None
        if not isinstance(document, dict) or not isinstance(document.get("task"), str):
            return False
        golds = document.get(GOLDS)
        return isinstance(golds, list) and any(isinstance(gold, dict) and {ITEM, OUTPUT} <= set(gold) for gold in golds)

    def open(self, file: File) -> Source:
        """Returns its rows.

        Raises:
            RowsError: one has no id, or is no object.
        """
        golds: list[Any] = file.document[GOLDS]
        problems: list[RowProblem] = [
            (row, "is no object with a plain id and output — write it like the others")
            for row, gold in enumerate(golds, 1)
            if not isinstance(gold, dict) or any(isinstance(gold.get(name, {}), list | dict) for name in (ITEM, OUTPUT))
        ]
        if problems:
            raise RowsError(file.path, problems)
        cells = {name: [as_cell(gold[name]) for gold in golds] for name in (ITEM, OUTPUT)}
        frame = pl.DataFrame(cells, schema_overrides=dict.fromkeys(cells, pl.String))
        frame = frame.with_columns(pl.col(ITEM).alias(USER))
        notes = ["each question of LaMP is of a user of its own"]
        return Source.of_frame(
            file.path, self.title, frame, roles={"user": USER, "item": ITEM, "output": OUTPUT}, notes=notes
        )


READER = Lamp()
