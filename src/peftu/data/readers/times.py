"""Times in the spellings that tables have, as seconds since 1970 UTC."""

import re
from collections.abc import Sequence

import polars as pl

from peftu.data.readers.source import RowProblem
from peftu.errors import PeftuError

AS_MTURK = "%a %b %d %H:%M:%S %z %Y"  # Twitter wrote so, too
# Text after 'T' for the blank between day and clock and '+00:00' for 'Z'; times without a zone are UTC.
FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
    "%Y/%m/%dT%H:%M:%S",
    "%Y/%m/%dT%I:%M:%S %p",
    "%Y/%m/%dT%I:%M:%S %p %:z",
    "%Y/%m/%d",
    AS_MTURK,
    "%a, %d %b %Y %H:%M:%S %z",
)
# A day and a month that may be either, as spreadsheets and forms write them; the clock after it.
CLOCKS = ("", "T%H:%M", "T%H:%M:%S", "T%I:%M %p", "T%I:%M:%S %p")
DOTTED = "%d.%m.%Y"
DAY_FIRST, MONTH_FIRST = "%d/%m/%Y", "%m/%d/%Y"
EITHER = re.compile(r"^(\d{1,2})/(\d{1,2})/\d{4}")
# Hours from UTC of the zones that MTurk and others write by name.
ZONES = {"UTC": 0, "GMT": 0, "PST": -8, "PDT": -7, "MST": -7, "MDT": -6, "CST": -6, "CDT": -5, "EST": -5, "EDT": -4}
# Numbers beyond these are finer than seconds; seconds reach 1e11 in the year 5138.
UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
EARLIEST, LATEST = 31_536_000.0, 4_102_444_800.0  # 1971 and 2100: years in which people label texts


def read_times(series: pl.Series, form: str | None = None) -> tuple[pl.Series, list[str], list[RowProblem]]:
    """Returns seconds since 1970 (null for an empty cell), remarks, and the rows whose time cannot be read.

    Args:
        series: dates, numbers or text.
        form: how text is written, as ``strptime`` has it; None: found.

    Raises:
        PeftuError: no text can be written so.
    """
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return series.cast(pl.Datetime("us")).dt.epoch("us") / 1e6, [], []
    if series.dtype.is_nested():
        rows = series.is_not_null().arg_true() + 1
        return (
            series.is_null().cast(pl.Float64),
            [],
            [(row, "time is no text or number — mend it") for row in rows],
        )
    if series.dtype.is_numeric():
        return _scaled(series.cast(pl.Float64))
    text = series.cast(pl.String).str.strip_chars().replace("", None)
    if form is not None:
        read = written_as(text, [form])
        return read, [], _unread(read, text, f"write it as {form}")
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == text.null_count():
        return _scaled(numbers)
    plain = spelled_out(text)
    forms, notes = [*FORMATS, *(DOTTED + clock for clock in CLOCKS)], []
    sides = plain.str.extract_groups(EITHER.pattern).struct.unnest().cast(pl.Int64, strict=False)
    if sides.height and sides.columns and sides.to_series(0).count():
        first, second = (sides.to_series(side).max() for side in (0, 1))
        if first > 12 or second > 12:  # type: ignore[operator]
            days_first = first > 12  # type: ignore[operator]
            forms += [(DAY_FIRST if days_first else MONTH_FIRST) + clock for clock in CLOCKS]
            notes.append(f"times are taken as {'day/month' if days_first else 'month/day'}/year")
        else:
            mend = f"pass --time-format '{DAY_FIRST}' or '{MONTH_FIRST}', and what follows"
            rows = (sides.to_series(0).is_not_null()).arg_true() + 1
            return (
                text.cast(pl.Float64, strict=False),
                [],
                [(row, f"time may be day/month or month/day — {mend}") for row in rows],
            )
    read = written_as(plain, forms)
    return read, notes, _unread(read, text, "write seconds since 1970 or 2024-05-17T09:30:00Z, or pass --time-format")


def written_as(text: pl.Series, forms: Sequence[str]) -> pl.Series:
    """Returns seconds since 1970 of times that are written in one of these forms; null for others.

    Raises:
        PeftuError: no time is written so.
    """
    read = pl.Series(text.name, [None], pl.Float64).new_from_index(0, len(text))
    for form in forms:
        if read.null_count() == text.null_count():
            break
        read = read.fill_null(_parsed(text, form))
    return read


def spelled_out(text: pl.Series) -> pl.Series:
    """Returns times with 'T' before the clock and zones as offsets, as `FORMATS` has them."""
    plain = text.str.replace(r"^(\d{4}[-/]\d\d?[-/]\d\d?|\d{1,2}[/.]\d{1,2}[/.]\d{4}),? +", "${1}T")
    plain = plain.str.replace(r"(?i)(:\d\d(?:\.\d+)?) ?(?:Z|UTC)$", "${1}+00:00")
    for name, hours in ZONES.items():  # Mon Jul 12 10:00:00 PDT 2021
        plain = plain.str.replace(rf"(:\d\d) {name} (\d{{4}})$", f"${{1}} {hours:+03d}00 ${{2}}")
    plain = plain.str.replace(r" GMT([+-])(\d)$", " ${1}0${2}:00")  # Google Forms: 2024/05/17 9:30:00 AM GMT+1
    return plain.str.replace(r" GMT([+-]\d\d)$", " ${1}:00")


def _parsed(text: pl.Series, form: str) -> pl.Series:
    zone = "UTC" if "z" in form else None
    try:
        if any(mark in form for mark in ("%H", "%I", "%s", "%T", "%c", "%R")):
            times = text.str.to_datetime(form, time_unit="us", strict=False, time_zone=zone)
        else:
            times = text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    except pl.exceptions.PolarsError:
        raise PeftuError(f"--time-format: no time is written as '{form}' — write it as '{DAY_FIRST} %H:%M'") from None
    return times.dt.epoch("us") / 1e6


def _unread(read: pl.Series, text: pl.Series, mend: str) -> list[RowProblem]:
    wrong = (read.is_null() & text.is_not_null()).arg_true() + 1
    return [(row, f"time cannot be read — {mend}") for row in wrong]


def _scaled(numbers: pl.Series) -> tuple[pl.Series, list[str], list[RowProblem]]:
    middle = numbers.abs().median()
    for least, factor, unit in UNITS:
        if isinstance(middle, float) and middle >= least:
            return numbers / factor, [f"times are taken as {unit} since 1970"], []
    return numbers, [], []


def implausible(times: pl.Series) -> list[RowProblem]:
    """Returns the rows whose time lies in a year in which nobody labelled texts: it is a number of another kind."""
    odd = (times < EARLIEST) | (times > LATEST)
    rows = odd.fill_null(value=False).arg_true() + 1
    return [(row, "it is no date from 1971 to 2100") for row in rows]
