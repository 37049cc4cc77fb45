"""Parquet files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from peftu.data.readers.source import Source
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
        if not file.header:
            raise PeftuError(f"{file.path}: {DAMAGED}")
        return Source(file.path, "PARQUET", file.header, lambda columns: (read_parquet(file, columns), []), named=True)


READER = Parquet()


def read_parquet(file: "File", columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Returns the columns, or all, as pyarrow reads them: polars panics on some damaged files.

    Raises:
        PeftuError: it is damaged.
    """
    try:
        table = pq.ParquetFile(file.data).read(None if columns is None else list(columns))
        return pl.DataFrame(pl.from_arrow(table)).select(columns or pl.all())
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError):
        raise PeftuError(f"{file.path}: {DAMAGED}") from None
