"""User tables: what is refused, in which words, and what the hash and the file promise."""

import hashlib
import json
import math
import struct
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from peftu.data.synthetic import synthetic_card, synthetic_rows, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row
from peftu.errors import PeftuError

UNICODE = Row("ü", "项", "naïve — 😝", ("likes",), "contexte", 1.5, '{"a": 1}')
GOLDEN = {
    "single": "be6793127ece5e29",
    "multi": "2da2db0b1fcdbd06",
    "ordinal": "3a6d1a68f2829517",
    "text": "06bd2934f6046261",
}
GOOD = Row("u1", "i1", "a text", ("likes",))


def refused(rows: list[Row], kind: str = "single") -> str:
    with pytest.raises(PeftuError) as caught:
        UserTable.build(synthetic_card(kind), rows)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"synthetic-{kind}: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("u2", "i2", "b", ("like",)), "row 2: label 'like' is not in the label set — did you mean 'likes'?"),
        (Row("u2", "i2", "b", ("?",)), "row 2: label '?' is not in the label set — known: dislikes, likes"),
        (Row("u2", "i2", " \t", ("likes",)), "row 2: text is empty — fill it in or leave the row out"),
        (Row("", "i2", "b", ("likes",)), "row 2: user_id is empty — fill it in or leave the row out"),
        (Row("u2", "", "b", ("likes",)), "row 2: item_id is empty — fill it in or leave the row out"),
        (Row("u2", "i2", "b", ()), "row 2: target has no or several labels — kind 'single' takes exactly one"),
        (Row("u2", "i2", "b", ("likes", "dislikes")), "row 2: target has no or several labels"),
        (Row("u2", "i2", "b", ("likes",), time=float("nan")), "row 2: time is no number"),
        (GOOD, "row 2: repeats row 1 — keep one"),
        (GOOD._replace(target=("dislikes",)), "row 2: is by the user and on the item of row 1, with another answer"),
        (Row("u2", "i1", "b", ("likes",)), "row 2: has the item key of row 1 but another text"),
        (Row("u2", "i2", 7, ("likes",)), "row 2: text cannot be stored as String"),
        (Row("u2", "i2", "b", "likes"), "row 2: target cannot be stored as List(String)"),
        (Row("u2", "i2", "b", (7,)), "row 2: target cannot be stored as List(String)"),
        (Row("u2", "i2", "b", ("\ud800",)), "row 2: target holds half a character (a lone surrogate)"),
        (Row("u2", "i2", "\ud800", ("likes",)), "row 2: text holds half a character (a lone surrogate)"),
        (Row("u\x00", "i2", "b", ("likes",)), "row 2: user_id holds a control character — take it out"),
        (Row("u2", "i\n2", "b", ("likes",)), "row 2: item_id holds a control character — take it out"),
        (Row("u2", "i2", "b", ("likes\x9b",)), "row 2: a label holds a control character — take it out"),
        (Row("u2", "i2", "b", ("likes",), time="noon"), "row 2: time cannot be stored as Float64"),
    ],
)
def test_a_wrong_row_is_named_by_its_number(row: Row, message: str) -> None:
    assert refused([GOOD, row]).startswith(message)


def test_other_wrong_rows_are_counted_and_listed() -> None:
    bad = [Row("u1", f"i{number}", "b", ("x" * 99,)) for number in range(2, 9)]
    message = refused([GOOD, *bad])
    assert message.startswith(f"row 2: label '{'x' * 40}…'")
    assert message.endswith("; 6 more rows are wrong (3, 4, 5, 6, 7, …)")
    assert refused([GOOD, *bad[:2]]).endswith("; 1 more row is wrong (3)")


def test_no_user_key_stands_in_a_message() -> None:
    secret = Row("somebody@example.org", "i1", "a text", ("likes",))
    for second in (secret, secret._replace(target=("dislikes",)), secret._replace(text="other")):
        assert "somebody" not in refused([secret, second])


def test_no_rows_at_all() -> None:
    assert refused([]) == "the raw files hold no row — check that they are the right ones"


def test_several_labels_are_a_set_in_label_order() -> None:
    rows = [Row("u1", "i1", "a", ("upset", "calm")), Row("u1", "i2", "b", ("sad",))]
    table = UserTable.build(synthetic_card("multi"), rows)
    assert table.frame["target"].to_list() == [["calm", "upset"], ["sad"]]
    swapped = UserTable.build(synthetic_card("multi"), [rows[0]._replace(target=("calm", "upset")), rows[1]])
    assert swapped.hash == table.hash
    assert refused([Row("u1", "i1", "a", ("sad", "sad"))], "multi").startswith("row 1: a label stands twice")
    assert refused([Row("u1", "i1", "a", ())], "multi").startswith("row 1: target has no or several labels")


def test_free_text_targets_are_taken_but_not_empty_ones() -> None:
    assert UserTable.build(synthetic_card("text"), synthetic_rows(2, 5, "text")).frame.height == 10
    assert refused([Row("u1", "i1", "a", (" ",))], "text").startswith("row 1: target is empty")


def test_the_hash_is_golden() -> None:
    """Must never change: runs name their data by it. A change of format needs a new FORMAT."""
    assert {kind: synthetic_table(3, 12, kind).hash[7:23] for kind in ("single", "multi", "ordinal", "text")} == GOLDEN
    assert UserTable.build(synthetic_card(), [UNICODE, GOOD]).hash[7:23] == "a5159f0fa88fbf58"


def plain_hash(table: UserTable) -> str:
    """The documented bytes, cell by cell, with nothing but the standard library."""
    digest = hashlib.sha256(f"peftu-table-1\n{table.frame.height}\n".encode())
    for name in table.frame.columns:
        digest.update(f"{name}\n".encode())
        cells = table.frame[name].to_list()
        if name == "time":
            digest.update(b"".join(struct.pack("<d", math.nan if cell is None else cell) for cell in cells))
            continue
        if name == "target":
            digest.update(b"".join(struct.pack("<q", len(cell)) for cell in cells))
            cells = [label for cell in cells for label in cell]
        raw = [None if cell is None else cell.encode() for cell in cells]
        digest.update(b"".join(struct.pack("<q", -1 if cell is None else len(cell)) for cell in raw))
        digest.update(b"".join(cell or b"" for cell in raw))
    return f"sha256:{digest.hexdigest()}"


def test_the_hash_is_of_the_documented_bytes() -> None:
    for kind in ("single", "multi", "text"):
        table = synthetic_table(4, 9, kind, share=0.7)
        assert plain_hash(table) == table.hash
    table = UserTable.build(synthetic_card(), [UNICODE, GOOD])
    assert plain_hash(table) == table.hash


@pytest.mark.parametrize(
    "change", [{"text": "b text"}, {"context": ""}, {"time": 0.0}, {"meta": "{}"}, {"user_id": "u2"}]
)
def test_every_column_is_in_the_hash(change: dict[str, object]) -> None:
    build = lambda row: UserTable.build(synthetic_card(), [row]).hash  # noqa: E731
    assert build(GOOD) != build(GOOD._replace(**change))


def test_values_cannot_slide_between_cells() -> None:
    one = UserTable.build(synthetic_card(), [Row("ab", "c", "t", ("likes",))])
    other = UserTable.build(synthetic_card(), [Row("a", "bc", "t", ("likes",))])
    assert one.hash != other.hash


def test_write_and_read_again(tmp_path: Path) -> None:
    table = synthetic_table(kind="multi")
    table = UserTable(table.card, table.frame, table.hash, {"group": "g1"}, {"a.csv": "0" * 64})
    again = UserTable.read(table.write(tmp_path / "deep" / "t.parquet"))
    assert again.frame.equals(table.frame)
    assert (again.hash, again.card, again.options, again.sources) == (
        table.hash,
        table.card,
        table.options,
        table.sources,
    )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["t.parquet"]


def test_the_file_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = list(synthetic_rows())
    one = UserTable.build(synthetic_card(), rows).write(tmp_path / "one.parquet").read_bytes()
    rows.reverse()
    assert UserTable.build(synthetic_card(), rows).write(tmp_path / "two.parquet").read_bytes() == one


def test_a_broken_table_file_is_one_clear_line(tmp_path: Path) -> None:
    path = synthetic_table().write(tmp_path / "t.parquet")
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"PAR1 nonsense"):
        path.write_bytes(bad)
        with pytest.raises(PeftuError, match=r"t\.parquet: is truncated or no Parquet file — delete it"):
            UserTable.read(path)
    with pytest.raises(PeftuError, match=r"gone\.parquet: no such file"):
        UserTable.read(tmp_path / "gone.parquet")


def test_altered_rows_are_found(tmp_path: Path) -> None:
    path = synthetic_table().write(tmp_path / "t.parquet")
    stored = pq.read_table(path)
    frame = pl.DataFrame(pl.from_arrow(stored))
    flipped = frame.with_columns(pl.lit(["likes"]).alias("target")).to_arrow().cast(stored.schema)
    pq.write_table(flipped.replace_schema_metadata(stored.schema.metadata), path)
    with pytest.raises(PeftuError, match="its rows are not those that its hash names"):
        UserTable.read(path)
    pq.write_table(stored.drop_columns(["meta"]).replace_schema_metadata(stored.schema.metadata), path)
    with pytest.raises(PeftuError, match="its rows are not those"):
        UserTable.read(path)
    frame.write_parquet(path)
    with pytest.raises(PeftuError, match="no user table"):
        UserTable.read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synthetic_table().write(tmp_path / "t.parquet")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(PeftuError, match="no space left on disk — free some"):
        synthetic_table(seed=1).write(path)
    assert path.read_bytes() == before
    assert [path.name for path in (tmp_path).iterdir()] == ["t.parquet"]


def test_the_card_travels_with_the_table(tmp_path: Path) -> None:
    path = synthetic_table().write(tmp_path / "t.parquet")
    assert json.loads(pq.read_schema(path).metadata[b"peftu-card"])["licence"] == "Apache-2.0"
