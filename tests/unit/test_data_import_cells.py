"""What cells hold, in the ways that tables write it: numbers, lists, objects, nothing, times; and what policies do."""

import gzip
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.importer.policy import Policy
from peftu.data.load import load_task
from peftu.data.readers.file import Reading
from peftu.errors import PeftuError

HEAD = "user,text,label\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "cache"))


def imported(tmp_path: Path, content: str | bytes, name: str = "mine.csv", **options: Any) -> dict[str, Any]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return import_file(path, ImportOptions(name="mine", replacing=True, **options))


def refusal(tmp_path: Path, content: str | bytes, name: str = "mine.csv", **options: Any) -> str:
    with pytest.raises(PeftuError) as caught:
        imported(tmp_path, content, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def targets() -> list[list[str]]:
    frame = load_task("mine").frame.sort("text", "item_id")
    return frame["target"].to_list()


def column(*cells: str) -> str:
    """A table of one user, whose texts are in the order of the cells."""
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    return HEAD + "".join(f"u,t{number:02},{cell}\n" for number, cell in enumerate(quoted))


@pytest.mark.parametrize(
    ("cells", "options", "kind", "labels", "first"),
    [
        (("1", "1.0", "+2", "3"), {}, "ordinal", ["1", "2", "3"], ["1"]),
        (("1", "1.0", "good"), {}, "single", ["1", "good"], ["1"]),
        (("9007199254740992", "9007199254740993", "9007199254740994"), {}, "ordinal", None, ["9007199254740992"]),
        (("4,5", "10,0", "9,5"), {}, "ordinal", ["4.5", "9.5", "10"], ["4.5"]),
        (("1.0", "3.0"), {"label_set": ("1", "2", "3", "4", "5")}, "ordinal", ["1", "2", "3", "4", "5"], ["1"]),
        (tuple(map(str, range(101))), {}, "ordinal", [str(step) for step in range(101)], ["0"]),
        (("['a', 'b']", '["a","b"]', "[]"), {}, "multi", ["a", "b", "none"], ["a", "b"]),
        (('{"choices":["joy","fear"]}', '{"choices":["joy"]}'), {}, "multi", ["fear", "joy"], ["fear", "joy"]),
        (("['a']", '["b"]'), {}, "single", ["a", "b"], ["a"]),
        (("['1']", '["2"]', "[5]"), {}, "ordinal", ["1", "2", "5"], ["1"]),
        (("a,b", "['a', 'b']", "b | a", "c"), {"kind": "multi"}, "multi", ["a", "b", "c"], ["a", "b"]),
        (("a, then b", "c"), {"label_set": ("a, then b", "c")}, "single", ["a, then b", "c"], ["a, then b"]),
        (("a, then b|c", "c"), {"kind": "multi", "label_set": ("a, then b", "c")}, "multi", None, ["a, then b", "c"]),
        (("None", "some"), {"label_set": ("None", "some")}, "single", ["None", "some"], ["None"]),
        ((" yes ", "no\u00a0"), {}, "single", ["no", "yes"], ["yes"]),
        (('[{"label":"pos","score":0.9},{"label":"neg","score":0.1}]', "neg"), {}, "single", ["neg", "pos"], ["pos"]),
    ],
)
def test_labels_are_what_cells_say(
    tmp_path: Path,
    cells: tuple[str, ...],
    options: Mapping[str, Any],
    kind: str,
    labels: list[str] | None,
    first: list[str],
) -> None:
    result = imported(tmp_path, column(*cells), **options)
    assert result["kind"] == kind
    assert labels is None or result["labels"] == labels
    assert targets()[0] == first
    assert result["annotations"] == len(cells)


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (("1", "nan", "2", "3"), {}, "row 2: label is empty"),
        (("x", "#N/A", "y", "None"), {}, "row 2: label is empty — .*--missing drop; 1 more row is wrong"),
        (("1,000", "2,000", "7"), {}, "'1,000' can be read in two ways|'2,000' can be read"),
        (('[[0,1,"ORG"]]', "x", "y"), {}, "row 1: label holds what is no label"),
        (('{"a": 1}', "x", "y"), {}, "row 1: label holds what is no label"),
        (("['a', 'b']", "c"), {"kind": "single"}, "row 1: has several labels — keep one, or pass --kind multi"),
        (tuple(f"x{number}" for number in range(101)), {}, "101 different labels in 101 rows — pass --kind text"),
    ],
)
def test_cells_that_hold_no_label_are_told(
    tmp_path: Path, cells: tuple[str, ...], options: Mapping[str, Any], message: str
) -> None:
    import re

    assert re.search(message, refusal(tmp_path, column(*cells), **options))


def test_json_values_are_no_traceback(tmp_path: Path) -> None:
    rows = [{"user": "u", "text": f"t{n}", "label": label} for n, label in enumerate([[[0, 1, "ORG"]], ["x"], ["y"]])]
    assert "row 1: label holds" in refusal(tmp_path, "\n".join(map(json.dumps, rows)), "mine.jsonl")
    frame = pl.DataFrame({"user": ["u", "u"], "text": ["a", "b"], "label": [2.0**60, 2.0**60 + 512]})
    frame.write_parquet(tmp_path / "mine.parquet")
    with pytest.raises(PeftuError, match=r"numbers beyond 2\^53 as floats"):
        import_file(tmp_path / "mine.parquet")


def test_what_looks_alike_is_told(tmp_path: Path) -> None:
    notes = imported(tmp_path, column("Yes", "yes", "ol\u00e9", "ole\u0301", "no", "n\u200bo"))["notes"]
    assert [note for note in notes if "'Yes' and 'yes' look alike and count apart" in note]
    assert sum("look alike" in note for note in notes) == 3
    assert any("'N/A'" in note for note in imported(tmp_path, column("N/A", "x"))["notes"])
    many = imported(tmp_path, column(*(f"x{number % 150}" for number in range(600))))
    assert any("150 labels in 600 rows are many" in note for note in many["notes"])


def test_one_hot_columns_of_one_label_each(tmp_path: Path) -> None:
    table = "user,text,a,b\nu,s,1,0\nu,t,0.0,1.0\n"
    assert imported(tmp_path, table, labels=("a", "b"), kind="single")["kind"] == "single"
    assert targets() == [["a"], ["b"]]
    assert imported(tmp_path, table, labels=("a,b",))["kind"] == "multi"
    wrong = refusal(tmp_path, table + "u,v,1,1\n", labels=("a", "b"), kind="single")
    assert "row 3: has several labels" in wrong


CONFLICTS = (
    "user,text,label,time\nu,t,a,2021-01-03\nu,t,b,2021-01-02\nu,t,b,2021-01-01\nu,s,a,2021-01-01\nv,t,a,2021-01-01\n"
)


@pytest.mark.parametrize(
    ("conflicts", "kept", "dropped"), [("first", "b", 1), ("last", "a", 2), ("majority", "b", 1), ("drop", None, 3)]
)
def test_conflicts_are_settled_as_asked_and_counted(
    tmp_path: Path, conflicts: Any, kept: str | None, dropped: int
) -> None:
    assert "row 2: is by the user and on the text of row 1" in refusal(tmp_path, CONFLICTS)
    result = imported(tmp_path, CONFLICTS, policy=Policy(conflicts=conflicts))
    table = load_task("mine")
    pair = table.frame.filter((pl.col("user_id") == "u") & (pl.col("text") == "t"))["target"].to_list()
    assert pair == ([] if kept is None else [[kept]])
    left_out = sum(table.notes.values())
    assert left_out + table.frame.height == 5
    assert any(f"--conflicts {conflicts}): {dropped}" in note for note in result["notes"])
    assert f"--conflicts {conflicts}" in table.card.description


def test_a_tie_has_no_majority(tmp_path: Path) -> None:
    imported(tmp_path, HEAD + "u,t,a\nu,t,b\nu,s,a\nu,r,b\n", policy=Policy(conflicts="majority"))
    assert sorted(load_task("mine").frame["text"]) == ["r", "s"]


def test_rows_that_lack_something_are_left_out_where_asked(tmp_path: Path) -> None:
    table = HEAD + "u,t,a\nu,s,\n,r,b\nu,,b\nu,q,nan\nu,p,b\n"
    assert "row 2: label is empty" in refusal(tmp_path, table)
    result = imported(tmp_path, table, policy=Policy(missing="drop"))
    assert (result["annotations"], result["labels"]) == (2, ["a", "b"])
    kinds = {what: f"rows without a {what} (--missing drop)" for what in ("user", "text", "label")}
    assert load_task("mine").notes == {kinds["user"]: 1, kinds["text"]: 1, kinds["label"]: 2}


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        ("status = Approved", ["a", "c"]),
        ("status != Approved", ["b"]),
        ("stars = 4", ["b", "c"]),
        ("stars > 3 AND status = 'Approved'", ["c"]),
        ("stars < 10", ["a", "b", "c"]),
    ],
)
def test_only_some_rows_are_read(tmp_path: Path, where: str, texts: list[str]) -> None:
    table = "user,text,label,status,stars\nu,a,x,Approved,1\nu,b,y,Rejected,4.0\nu,c,y,Approved,4\n"
    options: dict[str, Any] = {"where": where, "labels": ("label",), "label_set": ("x", "y")}
    imported(tmp_path, table, **options)
    table_kept = load_task("mine")
    assert sorted(table_kept.frame["text"]) == texts
    assert table_kept.notes == {"rows that --where leaves out": 3 - len(texts)}
    if "c" in texts:
        assert "row 3: label 'z'" in refusal(tmp_path, table.replace("c,y", "c,z"), **options)
    assert "--where: has no column" in refusal(tmp_path, table, where="colour = 'x'")
    assert "--where: no row is so" in refusal(tmp_path, table, where="status = Nobody")
    assert "--where: is no condition" in refusal(tmp_path, table, where="((")


def test_two_columns_that_could_be_one_role_are_named(tmp_path: Path) -> None:
    gold = "user,text,label,annotation\nu,a,x,y\nu,b,y,y\nv,a,x,x\n"
    assert "columns 'label' and 'annotation' could both be the label and differ — pass --label" in refusal(
        tmp_path, gold
    )
    assert imported(tmp_path, gold, labels=("annotation",))["annotations"] == 3
    authors = "author,coder,text,label\np,u,a,x\nq,u,b,y\n"
    assert "could both be the user" in refusal(tmp_path, authors)
    same = "user,user_name,text,label\n1,ann,a,x\n2,bob,b,y\n1,ann,c,y\n"
    assert any("'user_name' says the same" in note for note in imported(tmp_path, same)["notes"])


@pytest.mark.parametrize(
    ("cells", "options", "times"),
    [
        (("3.2", "1.1", "9.9"), {}, None),
        (("17/05/2024 09:30", "01/06/2024 10:00"), {}, [1715938200.0, 1717236000.0]),
        (("5/17/2024 9:30", "6/1/2024 10:00"), {}, [1715938200.0, 1717236000.0]),
        (("05/06/2024", "01/06/2024"), {}, None),
        (("05/06/2024", "01/06/2024"), {"time_format": "%d/%m/%Y"}, [1717545600.0, 1717200000.0]),
        (("Mon Jul 12 10:00:00 PDT 2021", ""), {}, [1626109200.0, None]),
        (("2024/05/17 9:30:00 AM GMT+1", "2024/05/17 9:30:00 PM GMT-5"), {}, [1715934600.0, 1715999400.0]),
        (("17.05.2024 09:30", "17.05.2024 09:31"), {}, [1715938200.0, 1715938260.0]),
        (("1715938200000", "1715938260000"), {}, [1715938200.0, 1715938260.0]),
    ],
)
def test_times_are_dates_or_none(
    tmp_path: Path, cells: tuple[str, ...], options: Mapping[str, Any], times: list[float | None] | None
) -> None:
    table = "user,text,label,time\n" + "".join(
        f"u,t{number},{'xy'[number % 2]},{cell}\n" for number, cell in enumerate(cells)
    )
    imported(tmp_path, table, **options)
    read = load_task("mine").frame.sort("text")["time"].to_list()
    assert read == (times or [None] * len(cells))


def test_a_key_tells_texts_apart_that_are_alike(tmp_path: Path) -> None:
    table = "user,text,label,asin\nu,great,5,p1\nu,great,1,p2\nv,poor,1,p1x\n"
    assert imported(tmp_path, table, columns={"item": "asin"})["texts"] == 3


def test_packed_and_pretty_files(tmp_path: Path) -> None:
    rows = [{"user": "u", "text": f"t{n}", "label": label} for n, label in enumerate("abab")]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    assert imported(tmp_path, packed, "mine.jsonl.gz")["annotations"] == 4
    for layout in (
        {"data": rows},
        {key: {str(n): row[key] for n, row in enumerate(rows)} for key in rows[0]},
        {key: [row[key] for row in rows] for key in rows[0]},
        {f"item{n}": row for n, row in enumerate(rows)},
        {"columns": list(rows[0]), "index": [0, 1, 2, 3], "data": [list(row.values()) for row in rows]},
    ):
        for indent in (None, 2):
            assert imported(tmp_path, json.dumps(layout, indent=indent), "mine.json")["annotations"] == 4


def test_users_keys_stand_in_no_message(tmp_path: Path) -> None:
    by_user = json.dumps({"ann@x.org": {"text one": "a"}, "bob@x.org": {"text two": "b"}})
    for content, name in ((by_user, "mine.json"), ("ann@x.org,one,a\nbob@x.org,two,b\n", "mine.csv")):
        for options in ({}, {"columns": {"user": "who"}}, {"where": "who = 'x'"}):
            message = refusal(tmp_path, content, name, **options)
            assert "@" not in message
            assert "text one" not in message


def test_a_line_of_unicode_is_no_line_of_json(tmp_path: Path) -> None:
    rows = [{"user": "u", "text": f"a\u2028b{n}", "label": label} for n, label in enumerate("ab")]
    imported(tmp_path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "mine.jsonl")
    assert sorted(load_task("mine").frame["text"]) == ["a\u2028b0", "a\u2028b1"]


def test_rows_that_are_short_or_empty(tmp_path: Path) -> None:
    short = '"user","text","label"\n"u1","a b","x"\n"u2","c d","y"\n"u3","cut short"\n'
    assert "row 3: label is empty" in refusal(tmp_path, short)
    result = imported(tmp_path, "user;text;label;note\nu;a;x;1\n;;;\nu;b;y\n;;;\n")
    assert result["annotations"] == 2
    assert any("2 rows without any cell filled" in note for note in result["notes"])
    assert any("1 rows are short" in note for note in result["notes"])
    quotes = 'user\ttext\tlabel\nu1\t"so it goes\tpos\nu1\tplain one\tneg\nu2\tthe end"\tneg\nu2\tplain two\tpos\n'
    assert "can be read in two ways: 2 rows where quotes hold" in refusal(tmp_path, quotes, "mine.tsv")
    escaped = 'user,text,label\nu,"he said \\"so\\", and left",x\nu,b,y\n'
    imported(tmp_path, escaped)
    assert 'he said "so", and left' in load_task("mine").frame["text"].to_list()


def test_an_encoding_is_taken_as_asked(tmp_path: Path) -> None:
    table = HEAD + "u,привет,да\nu,пока,нет\n"
    imported(tmp_path, table.encode("cp1251"), reading=Reading(encoding="cp1251"))
    assert sorted(load_task("mine").card.labels) == ["да", "нет"]
    assert "is not ascii" in refusal(tmp_path, table.encode("cp1251"), reading=Reading(encoding="ascii"))
    assert "--encoding: Python knows no" in refusal(tmp_path, table, reading=Reading(encoding="klingon"))


def _import_again(path: Path, times: int) -> list[str]:
    errors = []
    for _ in range(times):
        try:
            import_file(path, ImportOptions(name="mine", replacing=True))
            load_task("mine")
        except PeftuError as error:
            errors.append(str(error))
    return errors


def test_who_imports_one_name_at_once_waits_for_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in "ab"]
    for path in paths:
        path.write_text(column("x", "y", path.stem))
    with ThreadPoolExecutor(2) as pool:  # each opens the lock for itself, as processes do
        assert [error for errors in pool.map(_import_again, paths, [6, 6]) for error in errors] == []
