"""Whatever stands in the cells, comes out: any text, delimiter, encoding and format."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.data.importer.importing import import_file
from peftu.data.importer.labels import read_labels
from peftu.data.importer.roles import find_roles
from peftu.data.importer.rows import to_rows
from peftu.data.load import load_task
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError
from peftu.data.readers.times import read_times
from peftu.errors import PeftuError

CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n"'), min_size=1, max_size=12
).filter(str.strip)
KEYS = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=5)
PACKINGS = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
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
    if rows.problems:
        raise RowsError(path, rows.problems)
    return rows.frame.select("user_id", "text", pl.col("target").list.first()).rows()


def came_back(content: bytes, name: str) -> list[tuple[str, ...]] | None:
    """The rows that a file is read as, or None where it is refused in one line."""
    try:
        return imported(content, name)
    except PeftuError as error:
        message = str(error)
    assert "\n" not in message
    return None


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]
OLDER = ["cp1252", "cp1251", "cp1250", "cp1253", "koi8_r", "gb18030", "big5", "cp932", "mac_roman", "cp850"]
QUOTING = [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONE]


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    quoting, doubled = draw(st.sampled_from(QUOTING)), draw(st.booleans())
    return {
        "delimiter": draw(st.sampled_from(",;\t|^~")),
        "quoting": quoting,
        "doublequote": doubled,
        "escapechar": None if doubled and quoting != csv.QUOTE_NONE else "\\",
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
    }


@settings(max_examples=80, deadline=None)
@given(tables(), dialects(), st.sampled_from(ENCODINGS + OLDER), st.sampled_from(["", "gz", "bz2", "xz"]))
def test_delimited_text_comes_back_or_is_refused(
    table: list[dict[str, str]], dialect: dict[str, Any], encoding: str, packing: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["user", "text", "label"], **dialect)
    writer.writeheader()
    writer.writerows(table)
    content = text.getvalue().encode(encoding, "replace")
    doubled = dialect["escapechar"] and any("\\" in row["text"] for row in table)
    if content.decode(encoding) != text.getvalue() or doubled:
        return  # not to be written so; or a doubled backslash, which nothing in a file tells from two
    usual = dialect["quoting"] == csv.QUOTE_ALL and dialect["doublequote"] and encoding in ENCODINGS
    back = came_back(PACKINGS[packing](content), "t.csv")
    assert back == [tuple(row.values()) for row in table] or (back is None and not usual)


@few
@given(tables(), st.sampled_from(["lines", "array", "data", "columns", "pandas", "split", "parquet", "arrow", "xlsx"]))
def test_tables_of_other_layouts_come_back(table: list[dict[str, str]], layout: str) -> None:
    frame = pl.DataFrame(table)
    content = io.BytesIO()
    if layout in ("parquet", "arrow", "xlsx"):
        {"parquet": frame.write_parquet, "arrow": frame.write_ipc, "xlsx": frame.write_excel}[layout](content)
    columns = {name: [row[name] for row in table] for name in table[0]}
    text = {
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in table),
        "array": json.dumps(table),
        "data": json.dumps({"version": 1, "data": table}, indent=1),
        "columns": json.dumps(columns),
        "pandas": json.dumps({name: dict(enumerate(cells)) for name, cells in columns.items()}),
        "split": json.dumps({"columns": list(columns), "index": [], "data": [list(row.values()) for row in table]}),
    }
    assert came_back(content.getvalue() or text[layout].encode(), "t") == [tuple(row.values()) for row in table]


def damaged(content: bytes, random: Random) -> bytes:
    """Bytes with one to three places lost, doubled, swapped or written over."""
    data = bytearray(content)
    for _ in range(random.randint(1, 3)):
        place, size = random.randrange(len(data)), random.randint(1, 6)
        match random.randrange(4):
            case 0:
                del data[place : place + size]
            case 1:
                data[place:place] = data[place : place + size]
            case 2:
                data[place:place] = random.choice([b'"', b",", b"\n", b"\r\n", b'""', b'","', b"\xff", b"\xe9", b"\\"])
            case _:
                data[place : place + size] = data[place : place + size][::-1]
    return bytes(data)


def plain_readings(content: bytes, lines: bool) -> list[list[tuple[str, ...]]]:
    """What Python's own readers make of a file, under either meaning of quotes."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("cp1252")  # one stray byte in a file of ASCII
    tables = []
    if lines:
        with contextlib.suppress(ValueError, AttributeError):
            tables.append([json.loads(line) for line in text.split("\n") if line.strip()])
    for more in ({}, {"quoting": csv.QUOTE_NONE}, {"escapechar": "\\"}):
        with contextlib.suppress(csv.Error):
            header, *rows = filter(any, csv.reader(io.StringIO(text, newline=""), **more))  # type: ignore[arg-type]
            for names in (header, ("user", "text", "label")):  # a letter of a name may be damaged
                tables.append([dict(zip(names, row, strict=False)) for row in rows])
    read = []
    for table in tables:
        rows = [tuple(str(row.get(name) or "") for name in ("user", "text", "label")) for row in table]
        stripped = [(user.strip(), text, label.strip()) for user, text, label in rows if any((user, text, label))]
        read.append(list(dict.fromkeys(stripped)))
    return read


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_read_as_it_stands_or_refused(number: int) -> None:
    random = Random(number)  # noqa: S311
    texts = ['so "it" goes', "a, b", "two\nlines", "plain", "Zo\u00eb", "it's", "[x]", "1,5"]
    accepted = 0
    for _ in range(number):
        table = [
            {"user": f"u{random.randrange(3)}", "text": f"{random.choice(texts)} {row}", "label": random.choice("xyz")}
            for row in range(random.randint(3, 8))
        ]
        text = io.StringIO(newline="")
        lines = random.random() < 0.3
        if lines:
            text.write("\n".join(map(json.dumps, table)))
        else:
            writer = csv.DictWriter(text, ["user", "text", "label"], quoting=random.choice(QUOTING[:2]))
            writer.writeheader()
            writer.writerows(table)
        content = damaged(text.getvalue().encode(), random)
        back = came_back(content, "t.jsonl" if lines else "t.csv")
        if back is not None:
            accepted += 1
            assert back in plain_readings(content, lines), content
    assert accepted > number / 20


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


@settings(max_examples=120, deadline=None)
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
