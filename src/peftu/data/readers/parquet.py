"""Parquet files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from peftu.data.readers.source import Rows, Source
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.file import File

DAMAGED = "is truncated or no Parquet file — get it again"


class Parquet:
    """Reads the columns asked for."""

    name = "parquet"
    title = "Parquet"
    plain = True

    def claims(self, file: "File") -> bool:
        """Returns whether it begins as Parquet files do."""
        return file.begin.startswith(b"PAR1")

    def open(self, file: "File") -> Source:
        """Returns its rows; values keep their types."""
        try:
            with file.data.open("rb") as stream:  # a path would be taken for a pattern
                columns = tuple(pl.read_parquet_schema(stream))
        except (pl.exceptions.PolarsError, OSError):
            raise PeftuError(f"{file.path}: {DAMAGED}") from None

        def load(names: Sequence[str]) -> Rows:
            try:
                return pl.read_parquet(file.data, columns=list(names), glob=False), []
            except (pl.exceptions.PolarsError, OSError):
                raise PeftuError(f"{file.path}: {DAMAGED}") from None

        return Source(file.path, "PARQUET", columns, load, named=True)


READER = Parquet()
