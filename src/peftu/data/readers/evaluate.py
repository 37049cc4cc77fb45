"""Predictions beside references as Hugging Face's ``evaluate`` takes them: a list of each in one JSON object."""

from typing import Any

import polars as pl

from peftu.data.readers.file import File
from peftu.data.readers.judgements import as_cell, is_answer
from peftu.data.readers.source import RowProblem, RowsError, Source
from peftu.errors import PeftuError

OUTPUTS, TARGETS, ROW = "predictions", "references", "row"


class Evaluate:
    """Reads a row a prediction; lists as long stand beside it, other fields are left alone."""

    name = "evaluate"
    title = "predictions and references"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it is one object with both lists."""
        document = file.document if file.shape == "object" else None
        return isinstance(document, dict) and all(isinstance(document.get(name), list) for name in (OUTPUTS, TARGETS))

    def open(self, file: File) -> Source:
        """Returns its rows; a row is its own item where no other list says so.

        Raises:
            PeftuError: the lists are not equally long, or hold objects.
        """
        document: dict[str, Any] = file.document
        size, targets = len(document[OUTPUTS]), len(document[TARGETS])
        if targets != size:
            raise PeftuError(f"{file.path}: {size:,} {OUTPUTS} for {targets:,} {TARGETS} — write one for each")
        lists = {name: value for name, value in document.items() if isinstance(value, list) and len(value) == size}
        lists[TARGETS] = [_only(value) for value in lists[TARGETS]]
        problems: list[RowProblem] = [
            (row, f"'{name}' holds an object — write one value")
            for name, values in lists.items()
            for row, value in enumerate(values, 1)
            if not is_answer(value)
        ]
        if problems:
            raise RowsError(file.path, problems)
        frame = pl.DataFrame([_column(name, values) for name, values in lists.items()])
        roles = {"output": OUTPUTS, "target": TARGETS}
        if {ROW, "item", "item_id", "id"}.isdisjoint(lists):
            frame = frame.with_columns(pl.Series(ROW, range(1, size + 1)).cast(pl.String))
            roles["item"] = ROW
        others = len(document) - len(lists)
        notes = [f"{others:,} fields that hold no list of {size:,} values are not read"] if others else []
        return Source.of_frame(file.path, self.title, frame, roles=roles, notes=notes)


READER = Evaluate()


def _only(value: Any) -> Any:
    """Returns the only reference of a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _column(name: str, values: list[Any]) -> pl.Series:
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        cells = [None if each is None else list(map(as_cell, each)) for each in lists]
        return pl.Series(name, cells, pl.List(pl.String))
    return pl.Series(name, list(map(as_cell, values)), pl.String)
