"""Tables that are reshaped on the way in become what the long table of the same judgements becomes."""

import csv
import json
import re
import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from boards import board
from typer.testing import CliRunner

from peftu.cli.app import app
from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.importer.reshape import Join, Reshaping, reshape
from peftu.data.load import load_task
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError
from peftu.errors import PeftuError
from peftu.judge.groups import by_people, user_fields

REAL = Path("../shared/data")
USERS, ITEMS = ("ann", "bob", "cid"), ("i1", "i2", "i3")
TEXTS = {item: f"text of {item}" for item in ITEMS}
GIVEN = {("ann", "i1"): "good", ("ann", "i2"): "bad", ("bob", "i1"): "bad", ("cid", "i3"): "good", ("bob", "i3"): "bad"}
Cells = Sequence[Sequence[str]]


def write(folder: Path, name: str, rows: Cells) -> Path:
    with (folder / name).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / name


def texts(folder: Path, rows: Cells | None = None) -> Path:
    return write(folder, "texts.csv", [["item", "text"], *(rows or list(TEXTS.items()))])


def imported(*arguments: str) -> dict[str, str]:
    """Returns what the command line says after it made a task called 'mine'."""
    result = CliRunner().invoke(app, ["data", "import", *arguments, "--name", "mine", "--replace", "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def rows() -> dict[tuple[str, str], str]:
    frame = load_task("mine").frame
    assert dict(frame.select("item_id", "text").iter_rows()) == {key: TEXTS[key] for key in frame["item_id"]}
    return {(user, item): target[0] for user, item, target in frame.select("user_id", "item_id", "target").iter_rows()}


def test_a_column_for_each_user(tmp_path: Path) -> None:
    wide = [[item, TEXTS[item], *(GIVEN.get((user, item), "") for user in USERS)] for item in ITEMS]
    path = write(tmp_path, "wide.csv", [["item", "text", *(f"label {user}" for user in USERS)], *wide])
    found = imported(str(path), "--wide-users", "label *")
    assert rows() == {(f"label {user}", item): label for (user, item), label in GIVEN.items()}
    assert "cells without a judgement: 4 left out" in found["notes"]
    assert load_task("mine").notes == {"cells without a judgement": 4}


def test_a_column_for_each_item(tmp_path: Path) -> None:
    wide = [[user, *(GIVEN.get((user, item), "") for item in ITEMS)] for user in USERS]
    path = write(tmp_path, "wide.csv", [["user", *ITEMS], *wide])
    imported(str(path), "--wide-items", "i*", "--texts", str(texts(tmp_path)))
    assert rows() == GIVEN
    renamed = write(tmp_path, "other.csv", [["no", "wording"], *TEXTS.items()])
    imported(str(path), "--wide-items", "i*", "--texts", str(renamed), "--item", "no", "--text", "wording")
    assert rows() == GIVEN


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pl.DataFrame({"user": ["a", "b"], "i1": [1, None], "i2": [2, 3]}).write_parquet(path)
    imported(str(path), "--wide-items", "i*", "--texts", str(texts(tmp_path)))
    assert rows() == {("a", "i1"): "1", ("a", "i2"): "2", ("b", "i2"): "3"}


def test_lists_in_wide_columns(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pl.DataFrame({"item": ["i1"], "text": ["a"], "secret": [["x"]]}).write_parquet(path)
    with pytest.raises(PeftuError, match=r"wide\.parquet: a column of labels holds lists or objects — write text"):
        import_file(path, ImportOptions(reshaping=Reshaping(wide_users="s*")))


def test_questions_of_a_survey(tmp_path: Path) -> None:
    keys = [json.dumps({"ImportId": name}) for name in ("user", *ITEMS)]
    wide = [[user, *(GIVEN.get((user, item), "") for item in ITEMS)] for user in USERS]
    path = write(tmp_path, "survey.csv", [["ResponseId", *ITEMS], ["Response ID", *TEXTS.values()], keys, *wide])
    imported(str(path), "--wide-items", "i?")
    assert rows() == GIVEN


def test_two_tables(tmp_path: Path) -> None:
    long = [[user, item, label] for (user, item), label in GIVEN.items()]
    path = write(tmp_path, "long.csv", [["user", "no", "label"], *long])
    people = write(tmp_path, "people.csv", [["who", "age"], ["ann", "31"], ["bob", "47"], ["eve", "20"]])
    joins = ("--join", str(texts(tmp_path)), "--on", "no=item", "--join", str(people), "--on", "user=who")
    found = imported(str(path), *joins, "--item", "no", "--about", "age")
    assert rows() == GIVEN
    assert f"1 rows have a 'user' that {people} lacks: what it adds is empty there" in found["notes"]
    assert f"1 rows of {people} go with no row here" in found["notes"]
    table = load_task("mine")
    assert user_fields(table.frame.select("user_id", "meta")) == {"age": {"ann": "31", "bob": "47"}}
    assert set(table.sources) == {"long.csv", "texts.csv", "people.csv"}


def test_keys_that_are_missing_or_doubled(tmp_path: Path) -> None:
    long = [[user, item, label] for (user, item), label in GIVEN.items()]
    path = write(tmp_path, "long.csv", [["user", "item", "label"], *long])
    few = texts(tmp_path, [("i1", "one"), ("i2", "two")])
    with pytest.raises(RowsError, match=r"long.csv: row 4: text is empty.*1 more row is wrong"):
        import_file(path, ImportOptions(reshaping=Reshaping(joins=(Join(few, "item"),))))
    twice = texts(tmp_path, [*TEXTS.items(), ("i1", "other")])
    with pytest.raises(PeftuError, match=r"texts.csv: row 1 and row 4 have the same 'item' — keep one row for each"):
        import_file(path, ImportOptions(reshaping=Reshaping(joins=(Join(twice, "item"),))))
    again = texts(tmp_path, [*TEXTS.items(), ("i1", TEXTS["i1"])])  # the same once more
    import_file(path, ImportOptions(name="mine", reshaping=Reshaping(joins=(Join(again, "item"),))))
    assert rows() == GIVEN


@pytest.mark.parametrize("form", ["json", "python", "jsonl", "objects"])
def test_lists_side_by_side(tmp_path: Path, form: str) -> None:
    by_item = {item: {user: label for (user, key), label in GIVEN.items() if key == item} for item in ITEMS}
    columns = "user,label"
    if form in ("jsonl", "objects"):
        path, lines = tmp_path / "lists.jsonl", []
        for item, given in by_item.items():
            pairs = [{"user": user, "label": label} for user, label in given.items()]
            lists = {"given": pairs} if form == "objects" else {"user": [*given], "label": [*given.values()]}
            lines.append(json.dumps({"item": item, "text": TEXTS[item], **lists}))
        path.write_text("\n".join(lines))
        columns = "given" if form == "objects" else columns
    else:
        cell = json.dumps if form == "json" else repr
        lists = [[item, TEXTS[item], cell([*given]), cell([*given.values()])] for item, given in by_item.items()]
        path = write(tmp_path, "lists.csv", [["item", "text", "user", "label"], *lists, ["i4", "nobody's", "[]", ""]])
    imported(str(path), "--explode", columns, *(["--format", "json"] if form == "objects" else []))
    assert rows() == GIVEN
    assert load_task("mine").notes == ({"rows whose lists are empty": 1} if path.suffix == ".csv" else {})


def test_uneven_lists(tmp_path: Path) -> None:
    header = ["item", "text", "user", "label"]
    lists = [["i1", "a", '["u1", "u2"]', '["x"]'], ["i2", "b", "u1", '["x"]'], ["i3", "c", '["u1"]', '["x"]']]
    lists.append(["i4", "d", "{[1]: 2}", '["x"]'])  # what Python's own reader ends with a TypeError at
    path = write(tmp_path, "lists.csv", [header, *lists])
    how = Reshaping(explode=("user", "label"))
    with pytest.raises(RowsError) as told:
        import_file(path, ImportOptions(reshaping=how))
    assert told.value.shown == [
        "row 1: its lists hold 2 and 1 elements — give each as many",
        """row 2: column 'user' holds no list — write it as ["a", "b"]""",
        """row 4: column 'user' holds no list — write it as ["a", "b"]""",
    ]


def test_places(tmp_path: Path) -> None:
    wide = [["i1", "a", "x", ""], ["i2", "b", "", "y"]]
    path = write(tmp_path, "wide.csv", [["item", "text", "label_1", "label_2"], *wide])
    with opened(path) as source:
        long = reshape(source, Reshaping(wide_users="label_*"), {})
        assert list(long.places or ()) == ["row 1, labelled column 1", "row 2, labelled column 2"]
    lists = [["i1", "a", "['u1','u2']", "['x','']"], ["i2", "b", "['u1']", "['y']"]]
    path = write(tmp_path, "lists.csv", [["item", "text", "user", "label"], *lists])
    with pytest.raises(RowsError, match="row 1, element 2: label is empty"):
        import_file(path, ImportOptions(reshaping=Reshaping(explode=("user", "label"))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wide-users", "x*"], "--wide-users: no column is called like 'x*' — put it in quotes"),
        (["--wide-users", "l*", "--wide-items", "l*"], "a column cannot be both"),
        (["--wide-items", "l*"], "the items' texts are not in this file — pass --texts FILE"),
        (["--texts", "t.csv"], "--texts: is for --wide-items"),
        (["--join", "t.csv"], "1 tables and 0 columns — pass --on COLUMN for each"),
        (["--join", "t.csv", "--on", "text"], "t.csv: cannot be read"),
        (["--explode", "labels"], "--explode: has no column 'labels' — did you mean 'label'?"),
        (["--about", "age"], "--about: has no column 'age'"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = write(tmp_path, "long.csv", [["user", "text", "label"], ["secret", "a", "x"], ["secret2", "b", "y"]])
    result = CliRunner().invoke(app, ["data", "import", str(path), *arguments])
    assert isinstance(result.exception, PeftuError)
    assert message in str(result.exception)
    assert "secret" not in f"{result.exception}{result.output}"


def test_groups_of_own_tables(tmp_path: Path) -> None:
    people = {"ann": ("31", "NL", "x"), "bob": ("47.5", "", "x")}
    long = [[user, text, "ab"[n % 2], *people[user][:2], str(n)] for user in people for n, text in enumerate("pqr")]
    path = write(tmp_path, "long.csv", [["user", "text", "label", "age", "country", "mood"], *long])
    found = imported(str(path), "--about", "age", "--about", "country", "--about", "mood")
    assert "'mood' differs within 2 users: reports make no groups of it" in found["notes"]
    frame = load_task("mine").frame
    assert [json.loads(meta) for meta in frame["meta"]][:1] == [{"age": 31.0, "country": "NL", "mood": 0}]
    assert user_fields(frame.select("user_id", "meta")) == {
        "age": {"ann": "31.0", "bob": "47.5"},
        "country": {"ann": "NL"},
    }


def test_reports_make_groups_of_what_is_known(tmp_path: Path) -> None:
    ages = {f"u{user:05d}": "young" if user < 6 else "old" for user in range(12)}
    long = [[user, text, label, age] for user, age in ages.items() for text, label in (("one", "a"), ("two", "b"))]
    path = write(tmp_path, "long.csv", [["user", "text", "label", "age"], *long])
    imported(str(path), "--about", "age")
    meta = load_task("mine").frame.select("user_id", "meta")
    scored = board(np.random.default_rng(0).random((12, 2)))
    methods = {"m0": "user-majority", "m1": "lora"}
    scored = replace(scored, scores=scored.scores.with_columns(pl.col("method").replace(methods)))
    assert {(group.by, group.value, group.users) for group in by_people(scored, meta)} == {
        ("age", "old", 6),
        ("age", "young", 6),
    }


def test_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in that section of docs/data.md runs as it stands there."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    section = page.split("## Wide tables, lists, several tables")[1].split("\n## ")[0]
    texts(tmp_path)
    by_item = [[item, TEXTS[item], *(GIVEN.get((user, item), "") for user in USERS)] for item in ITEMS]
    by_user = [[user, *(GIVEN.get((user, item), "") for item in ITEMS)] for user in USERS]
    lists = [[item, TEXTS[item], str([user for user, one in GIVEN if one == item])] for item in ITEMS]
    lists = [[*row, str([label for (_, one), label in GIVEN.items() if one == row[0]])] for row in lists]
    write(tmp_path, "wide.csv", [["item", "text", *(f"label_{user}" for user in USERS)], *by_item])
    write(tmp_path, "votes.csv", [["user", *ITEMS], *by_user])
    write(tmp_path, "lists.csv", [["item", "text", "user", "label"], *lists])
    write(tmp_path, "long.csv", [["user", "item", "label"], *([*pair, label] for pair, label in GIVEN.items())])
    write(tmp_path, "people.csv", [["user", "age"], *([user, str(30 + n)] for n, user in enumerate(USERS))])
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"`peftu data import ([^`]+)`", section)
    assert len(commands) == 4
    for command in commands:
        imported(*shlex.split(command))
        assert {(user.removeprefix("label_"), item): label for (user, item), label in rows().items()} == GIVEN


def real(*parts: str) -> Path:
    path = REAL.joinpath(*parts)
    if not path.exists():
        pytest.skip("the real files are not here")
    return path


def judgements(frame: pl.DataFrame, user: pl.Expr | None = None, label: pl.Expr | None = None) -> pl.DataFrame:
    user = pl.col("user_id") if user is None else user
    label = pl.col("target").list.first() if label is None else label
    return frame.select(user.alias("user"), "item_id", "text", label.alias("label")).sort("user", "item_id")


def test_tweeteval() -> None:
    imported(str(real("tweeteval", "annotations_g3.csv")), "--wide-users", "label_*")
    ours = judgements(load_task("mine").frame, pl.col("user_id").str.replace("label_", "g3-"))
    assert ours.equals(judgements(load_task("tweeteval", real("tweeteval")).frame))


def test_polis() -> None:
    folder = real("polis", "scoop-hivemind.biodiversity")
    imported(
        *(str(folder / "participants-votes.csv"), "--wide-items", "[0-9]*", "--texts", str(folder / "comments.csv")),
        *("--item", "comment-id", "--text", "comment-body"),
    )
    words = {"1": "agree", "-1": "disagree", "0": "pass"}
    ours = judgements(load_task("mine").frame, label=pl.col("target").list.first().replace(words))
    assert ours.equals(judgements(load_task("polis", folder, {"moderated": "keep"}).frame))


def test_studemo() -> None:
    folder = real("studemo")
    joined = ("--join", str(folder / "text_data.csv"), "--on", "text_id")
    imported(str(folder / "annotation_data.csv"), *joined, "--label", "joy")
    ours = judgements(load_task("mine").frame, label=pl.col("target").list.first().cast(pl.Int64) >= 1)
    theirs = load_task("studemo", folder).frame
    assert ours.equals(judgements(theirs, label=pl.col("target").list.contains("joy")))


def test_subjectivediscourse(tmp_path: Path) -> None:
    folder = real("subjectivediscourse")
    with tarfile.open(folder / "gold_full_data.tar.gz") as packed:
        packed.extract("with_features_annotated_questions_responses_gold.tsv", tmp_path, filter="data")
    lists = ("--explode", "gold_workers,gold_coarse_labels", "--user", "gold_workers", "--label", "gold_coarse_labels")
    columns = ("--item", "qa_index", "--text", "r_text", "--context", "q_text")
    imported(str(next(tmp_path.glob("*.tsv"))), *lists, *columns)
    ours = judgements(load_task("mine").frame).with_columns(pl.col("text").str.strip_chars())
    theirs = judgements(load_task("subjectivediscourse-response", folder).frame)
    assert ours.drop("text").equals(theirs.drop("text"))
    ends = pl.DataFrame([theirs["text"].alias("whole"), ours["text"]])  # the loader puts the speaker before it
    assert ends.select(pl.col("whole").str.ends_with(pl.col("text")).all()).item()
