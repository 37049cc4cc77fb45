"""Submissions to the LeWiDi shared tasks: a line an item, its key and a list of numbers, without column names."""

import re
from itertools import islice

import polars as pl

from peftu.data.readers.file import FIRST, File
from peftu.data.readers.source import RowProblem, RowsError, Source
from peftu.outside import parse_json

LINE = re.compile(r"[^\t]+\t\s*\[[-+.,\deE\s]*\]\s*")
ITEM, SOFT, OUTPUT, ANNOTATOR = "id", "probabilities", "output", "annotator number"


class Lewidi:
    """Reads probabilities of labels where numbers have points, else a row an annotator of the item, in their order."""

    name = "lewidi"
    title = "a submission to LeWiDi"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether its first lines are a key and a list of numbers each."""
        if file.shape != "delimited":
            return False
        lines = list(islice(filter(str.strip, file.sample.splitlines()[:-1] or [file.sample]), FIRST))
        return all(map(LINE.fullmatch, lines))

    def open(self, file: File) -> Source:
        """Returns its rows.

        Raises:
            RowsError: a line holds something else.
        """
        lines = [line for line in file.text.decode().split("\n") if line.strip()]
        parted = [line.partition("\t") if LINE.fullmatch(line) else ("", "", "") for line in lines]
        values = [_numbers(cell) for _, _, cell in parted]
        problems: list[RowProblem] = [
            (row, "is no key, tab and list of numbers — write it like the others")
            for row, numbers in enumerate(values, 1)
            if numbers is None
        ]
        if problems:
            raise RowsError(file.path, problems)
        lists = pl.Series(SOFT, values, pl.List(pl.Float64))
        frame = pl.DataFrame({ITEM: [key.strip() for key, _, _ in parted]})
        if any("." in cell for _, _, cell in parted):
            roles = {"item": ITEM, "probabilities": SOFT}
            return Source.of_frame(file.path, f"{self.title}, soft labels", frame.with_columns(lists), roles=roles)
        numbers = frame.with_columns(lists.cast(pl.List(pl.Int64)).alias(OUTPUT), lists.list.len().alias("size"))
        numbers = numbers.with_row_index("line", 1).filter(pl.col("size") > 0)
        long = numbers.with_columns(pl.int_ranges(1, pl.col("size") + 1).alias(ANNOTATOR)).explode(OUTPUT, ANNOTATOR)
        places = [f"row {line}, number {place}" for line, place in long.select("line", ANNOTATOR).iter_rows()]
        return Source.of_frame(
            file.path,
            f"{self.title}, labels in the order of each item's annotators",
            long.select(ITEM, pl.col(ANNOTATOR, OUTPUT).cast(pl.String)),
            roles={"item": ITEM, "output": OUTPUT, "place": ANNOTATOR},
            left_out={"items without a number": len(frame) - len(numbers)},
            places=places,
        )


READER = Lewidi()


def _numbers(cell: str) -> list[float] | None:
    try:
        value = parse_json(cell)
        return [float(number) for number in value]
    except (ValueError, TypeError, OverflowError):
        return None
