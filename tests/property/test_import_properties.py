"""Whatever stands in the cells, comes out: any text, delimiter, encoding and format."""

import csv
import io
import json
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.data.importer.importing import import_file
from peftu.data.importer.labels import read_labels
from peftu.data.importer.roles import find_roles
from peftu.data.importer.rows import to_rows
from peftu.data.importer.times import read_times
from peftu.data.load import load_task
from peftu.data.readers.encoding import encoding_of
from peftu.data.readers.reader import opened
from peftu.errors import PeftuError

CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n"'), min_size=1, max_size=12
).filter(str.strip)
KEYS = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=5)
few = settings(max_examples=40, deadline=None)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows of several users on texts of their own, with two labels at least."""
    texts = draw(st.lists(CELLS, min_size=2, max_size=8, unique=True))
    labels = ["x", "y", *draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=len(texts), max_size=len(texts)))]
    return [{"user": draw(KEYS), "text": text, "label": label} for text, label in zip(texts, labels, strict=False)]


def imported(content: bytes, name: str) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with opened(path) as source:
            roles = find_roles(source, {})
            frame, _ = source.read(roles.columns)
    rows = to_rows(frame, roles)
    assert rows.problems == []
    return rows.frame.select("user_id", "text", pl.col("target").list.first()).rows()


@few
@given(tables(), st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
def test_delimited(table: list[dict[str, str]], delimiter: str, encoding: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["user", "text", "label"], delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)
    assert imported(text.getvalue().encode(encoding), "t.csv") == [tuple(row.values()) for row in table]


@few
@given(tables(), st.booleans())
def test_json(table: list[dict[str, str]], lines: bool) -> None:
    text = "\n".join(map(json.dumps, table)) if lines else json.dumps(table)
    assert imported(text.encode(), "t.json") == [tuple(row.values()) for row in table]


@few
@given(st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), min_size=1))
def test_one_byte_a_character(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(text.encode("cp1252"))
        found = encoding_of(path)
        assert path.read_text(encoding=found) == text or found == "utf-8"  # by chance it may be UTF-8 too


@few
@given(st.lists(st.floats(-1e10, 1e10), min_size=1), st.sampled_from([1, 1_000]))
def test_times_as_numbers(times: list[float], factor: int) -> None:
    series = pl.Series([time * factor for time in times])
    read, _, problems = read_times(series.cast(pl.String))
    assert problems == []
    scale = 1e3 if series.abs().median() >= 1e11 else 1  # type: ignore[operator]
    assert read.to_list() == pytest.approx([time * factor / scale for time in times])


@few
@given(st.lists(st.datetimes(), min_size=1), st.sampled_from(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"]))
def test_times_as_dates(times: list[object], form: str) -> None:
    frame = pl.DataFrame({"time": times}, {"time": pl.Datetime("us")})
    whole = frame["time"].dt.truncate("1d" if form == "%Y-%m-%d" else "1s")
    texts = [time.strftime(form) if time.year >= 1000 else None for time in whole]
    read, _, problems = read_times(pl.Series(texts, dtype=pl.String))
    assert problems == []
    expected = [None if text is None else us / 1e6 for text, us in zip(texts, whole.dt.epoch("us"), strict=True)]
    assert read.to_list() == expected


@few
@given(st.lists(st.integers(-20, 20), min_size=2).filter(lambda numbers: len(set(numbers)) > 1), st.booleans())
def test_numbers_keep_their_order(numbers: list[int], points: bool) -> None:
    cells = [f"{number}.0" if points else str(number) for number in numbers]
    found = read_labels(pl.DataFrame({"label": cells}), ["label"])
    assert found.labels == tuple(map(str, sorted(set(numbers))))
    assert found.target.list.first().to_list() == list(map(str, numbers))
    assert found.kind == ("ordinal" if len(set(numbers)) > 2 else "single")


PIECES = st.sampled_from(
    ['"', ",", "\n", "\r", "\t", "a", "1", "0", "-3.5", "[", "]", "{", "}", ":", "é", " ", "nan", ";", "'"]
)
HEADERS = st.sampled_from(["user,text,label\n", "user\ttext\tlabel\ttime\n", "", "id,user,text,context,label,split\n"])


@settings(max_examples=300, deadline=None)
@given(
    HEADERS, st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=20), st.sampled_from(["csv", "jsonl", "x"])
)
def test_garbage_is_read_or_refused_in_one_line(header: str, body: str, suffix: str) -> None:
    check_garbage((header + body).encode("utf-8", "surrogatepass"), suffix)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60), st.sampled_from([b"", b"user,text,label\n", b"\xff\xfe", b"PAR1", b'{"user": 1}\n', b"[{"])
)
def test_any_bytes_are_read_or_refused_in_one_line(body: bytes, header: bytes) -> None:
    check_garbage(header + body, "csv")
    check_garbage(header + body, "json")


def check_garbage(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTU_CACHE", f"{folder}/cache")
        path = Path(folder) / f"t.{suffix}"
        path.write_bytes(content)
        told, found = "", {"annotations": 0}
        try:
            found = import_file(path)
        except PeftuError as error:
            told = str(error)
        assert bool(told) == (found["annotations"] == 0)
        assert "\n" not in told
        assert bool(told) == (not list(Path(folder).rglob("table-*")))
        assert told or load_task("t").frame.height == found["annotations"]
