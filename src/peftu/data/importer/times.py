"""Times in the spellings that tables have, as seconds since 1970 UTC."""

import polars as pl

from peftu.data.readers.source import RowProblem

# Text after 'T' for the blank between day and clock and '+00:00' for 'Z'; times without a zone are UTC.
FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)
# Numbers beyond these are finer than seconds; seconds reach 1e11 in the year 5138.
UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
MEND = "write seconds since 1970 or 2024-05-17T09:30:00Z"


def read_times(series: pl.Series) -> tuple[pl.Series, list[str], list[RowProblem]]:
    """Returns seconds since 1970 (null for an empty cell), remarks, and the rows whose time cannot be read."""
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return series.cast(pl.Datetime("us")).dt.epoch("us") / 1e6, [], []
    if series.dtype.is_nested():
        rows = series.is_not_null().arg_true() + 1
        return series.is_null().cast(pl.Float64), [], [(row, f"time cannot be read — {MEND}") for row in rows]
    if series.dtype.is_numeric():
        return *_scaled(series.cast(pl.Float64)), []
    text = series.cast(pl.String).str.strip_chars().replace("", None)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == text.null_count():
        return *_scaled(numbers), []
    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(
        r"(?i)(:\d\d(?:\.\d+)?) ?(?:Z|UTC)$", "${1}+00:00"
    )
    read = pl.Series("time", [None], pl.Float64).new_from_index(0, len(text))
    for form in FORMATS:
        if read.null_count() == text.null_count():
            break
        times = plain.str.to_datetime(form, time_unit="us", strict=False, time_zone="UTC" if "z" in form else None)
        read = read.zip_with(read.is_not_null(), times.dt.epoch("us") / 1e6)
    wrong = (read.is_null() & text.is_not_null()).arg_true() + 1
    return read, [], [(row, f"time cannot be read — {MEND}") for row in wrong]


def _scaled(numbers: pl.Series) -> tuple[pl.Series, list[str]]:
    middle = numbers.abs().median()
    for least, factor, unit in UNITS:
        if isinstance(middle, float) and middle >= least:
            return numbers / factor, [f"times are taken as {unit} since 1970"]
    return numbers, []
