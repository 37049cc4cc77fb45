"""``peftu predict``, ``enrol`` and ``forget``: whatever a run fitted, for one user, a file or everybody."""

import csv
import io
import json
import re
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from terminal import MANY, TASK, peftu, refused

from peftu.base import cache
from peftu.data.problem import Text

torch.set_num_threads(1)

STARTED = "lora[rank=1,warm_start=global]"
METHODS = [
    *("user-majority", "mixed-head", "few-shot[k=2]", "retrieval[k=2]", "hypernet[rank=1,hidden=4]"),
    STARTED.replace("lora", "lora+guard"),
]
TEXTS = ("a note of blue", "another, on trains", "a note of blue; and more")


@pytest.fixture(scope="module")
def fitted(place: Path) -> Path:
    """A finished run of methods of every kind."""
    said = peftu(
        *(
            "compare",
            TASK,
            "--methods",
            ",".join(["global-majority", *METHODS]),
            "--base",
            "./llama",
            "--raw",
            "raw",
            "--epochs",
            1,
        ),
        *("--region", "depth=1,span=answer", "--out", "people", "--json"),
    )
    assert said.code == 0, said.err
    return place / "people"


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(fitted, tmp_path / "run"))


def told(*arguments: object) -> Any:
    said = peftu(*arguments, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def table(*arguments: object) -> list[dict[str, str]]:
    said = peftu(*arguments)
    assert said.code == 0, said.err
    return list(csv.DictReader(io.StringIO(said.out)))


def written(path: Path, header: str, rows: Iterable[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([tuple(header.split(",")), *rows])
    return path


def holding(run: Path, key: str) -> list[str]:
    """Returns the files of what was fitted that hold a key."""
    files = [path for part in ("fitted", "modules") for path in (run / part).rglob("*") if path.is_file()]
    assert len(files) > 1
    return [path.name for path in files if key.encode() in path.read_bytes()]


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_file_and_all_users_are_answered_as_each_user_is(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("peftu.execute.answer.PAIRS", 4)  # several chunks, one header
    users = [f"user-{number}" for number in range(6)]
    file = written(tmp_path / "pairs.csv", "text,user", [(text, user) for text in TEXTS for user in users])
    from_file = table("predict", fitted, "--file", file, "--method", method)
    assert [(row["text"], row["user"]) for row in from_file] == [(text, user) for text in TEXTS for user in users]
    asked = [word for text in TEXTS for word in ("--text", text)]
    everybody = table("predict", fitted, "--all-users", *asked, "--method", method)
    pairs = {(row["user"], row["text"]): row for row in everybody}
    assert len(pairs) == len(everybody) == len(from_file)
    for row in from_file:  # batches of other sizes differ in the last digits
        same = pairs[row["user"], row["text"]]
        assert (row["label"], float(row["p_likes"])) == (same["label"], pytest.approx(float(same["p_likes"]), abs=1e-5))
    for user in ("user-0", "user-5"):
        answers = told("predict", fitted, "--user", user, *asked, "--method", method)["answers"]
        rows = [row for row in from_file if row["user"] == user]
        assert [row["label"] for row in rows] == [answer["labels"][0] for answer in answers]
        for row, answer in zip(rows, answers, strict=True):
            chances = {label: float(row[f"p_{label}"]) for label in answer["probabilities"]}
            assert chances == pytest.approx(answer["probabilities"], abs=1e-5)


def test_several_labels_and_contexts_stand_in_the_table(place: Path, tmp_path: Path) -> None:
    made = ("compare", MANY, "--methods", "user-majority,mixed-head@./bert", "--raw", "raw", "--out", tmp_path / "many")
    assert peftu(*made).code == 0
    file = written(tmp_path / "pairs.csv", "user,text,context", [("user-0", "x", ""), ("user-1", "y", "asked")])
    rows = table("predict", tmp_path / "many", "--file", file, "--method", "user-majority")
    assert [row["context"] for row in rows] == ["", "asked"]
    assert list(rows[0])[:4] == ["user", "text", "context", "labels"]
    answer = told("predict", tmp_path / "many", "--user", "user-1", "--text", "y", "--method", "user-majority")
    assert rows[1]["labels"].split(";") == answer["answers"][0]["labels"]

    labels = list(answer["answers"][0]["probabilities"])[:2]
    more = written(tmp_path / "more.csv", "user,text,label", [("new", f"text {n}", ";".join(labels)) for n in range(5)])
    assert told("enrol", tmp_path / "many", "--file", more, "--method", "user-majority")["users"] == 1
    (row,) = table("predict", tmp_path / "many", "--all-users", "--text", "z", "--method", "user-majority")[:1]
    assert row["user"] == "new"
    assert set(labels) <= set(row["labels"].split(";"))
    assert float(row[f"p_{labels[1]}"]) > 0.7


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--user", "user-1"), "--text: is missing"),
        (("--text", "x"), "--user: is missing"),
        (("--text", "x", "--user", "user-1", "--all-users"), "--all-users: is everybody — leave --user out"),
        (("--file", "f.csv", "--user", "user-1"), "leave --user out"),
        (("--file", "f.csv", "--text", "x"), "leave --text out"),
        (("--file", "f.csv", "--all-users"), "leave --all-users out"),
        (("--file", "f.csv", "--json"), "are CSV — leave --json out"),
        (("--file", "missing.csv"), "missing.csv: no such file — pass a CSV file with columns user, text"),
        (("--text", "x", "--all-users", "--method", "global-majority"), "answers everybody alike"),
        (("--text", "x", "--user", "user-1", "--method", "ia3"), "the run has no modules of 'ia3' — known: few-shot"),
        (("--text", "x", "--user", "user-1", "--method", "mixed-haed"), "did you mean 'mixed-head@./llama'"),
        (("--text", "x", "--user", "user-1", "--seed", 7), "no modules for seed 7 — there are 0"),
    ],
)
def test_who_answers_what_is_said_in_one_way(fitted: Path, arguments: tuple[str, ...], complaint: str) -> None:
    method = () if "--method" in arguments else ("--method", "user-majority")
    refused(peftu("predict", fitted, *arguments, *method), complaint)


@pytest.mark.parametrize(
    ("header", "last", "complaint"),
    [
        ("user,words", ("user-1", "x"), "has no column 'text'"),
        ("who,text", ("user-1", "x"), "has no column 'user'"),
        ("user,text", ("", "x"), "row 6: 'user' is empty"),
        ("user,text", ("user-1", ""), "row 6: 'text' is empty"),
        ("user,text", ("secret-key", "x"), "row 6: user-majority does not know this user"),
        ("user,text", ("user-1", "x", "y"), "3 cells under 2 columns"),
    ],
)
def test_a_bad_row_is_found_before_anything_is_printed(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, last: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.setattr("peftu.execute.answer.PAIRS", 2)
    file = written(tmp_path / "pairs.csv", header, [*[("user-1", "x")] * 5, last])
    said = peftu("predict", fitted, "--file", file, "--method", "user-majority")
    refused(said, complaint)
    assert "secret-key" not in said.err
    written(file, "user,text", [])
    refused(peftu("predict", fitted, "--file", file, "--method", "user-majority"), "has no rows")


# --- enrol and forget ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_newcomers_are_answered_and_nobody_else_changes(run: Path, tmp_path: Path, method: str) -> None:
    ask = ("predict", run, "--method", method, "--text", "a note of blue")
    before = told(*ask, "--user", "user-2")
    refused(peftu(*ask, "--user", "new-1"), "the asked user has no module")
    rows = [(f"new-{user}", f"text {number}", "likes") for number in range(12) for user in (1, 2)]
    said = told("enrol", run, "--file", written(tmp_path / "more.csv", "user,text,label", rows), "--method", method)
    assert (said["users"], said["texts"]) == (2, 24)
    assert told(*ask, "--user", "user-2") == before
    assert told(*ask, "--user", "new-1")["answers"]
    if method == "user-majority":
        assert told(*ask, "--user", "new-1")["answers"][0]["labels"] == ["likes"]
    assert "2 users enrolled" in peftu("enrol", run, "--file", tmp_path / "more.csv", "--method", method).out


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("new", "x", "like"), "row 3: unknown label 'like'"),
        (("new", "x", "likes;dislikes"), "row 3: unknown label 'likes;dislikes'"),
        (("new", "x", ""), "row 3: 'label' is empty"),
        (("", "x", "likes"), "row 3: 'user' is empty"),
        (("a\x1bb", "x", "likes"), "row 3: 'user' holds a control character"),
    ],
)
def test_a_bad_row_enrols_nobody(run: Path, tmp_path: Path, row: tuple[str, ...], complaint: str) -> None:
    file = written(
        tmp_path / "more.csv", "user,text,label", [("newcomer", "a", "likes"), ("newcomer", "b", "dislikes"), row]
    )
    refused(peftu("enrol", run, "--file", file, "--method", "user-majority"), complaint)
    assert holding(run, "newcomer") == []
    written(file, "user,text", [("a", "b")])
    refused(peftu("enrol", run, "--file", file, "--method", "user-majority"), "has no column 'label'")
    written(file, "user,words,label", [("a", "b", "likes")])
    refused(peftu("enrol", run, "--file", file, "--method", "user-majority"), "has no column 'text'")
    written(file, "user,text,label", [])
    refused(peftu("enrol", run, "--file", file, "--method", "user-majority"), "has no rows")
    written(file, "user,text,label", [("a", "b", "likes")])
    refused(peftu("enrol", run, "--file", file, "--method", "global-majority"), "answers everybody alike")
    refused(peftu("enrol", run, "--file", file, "--method", "ia3"), "the run has no modules of 'ia3'")


def test_while_another_process_writes_the_store_is_read_and_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer is refused in one line, and taken in when the other is done; answers do not wait."""
    monkeypatch.setattr("peftu.store.index.PATIENCE", 0)
    ask = ("predict", run, "--text", "x", "--method", STARTED, "--user")
    before = told(*ask, "user-2")
    file = written(tmp_path / "more.csv", "user,text,label", [("newcomer", "a", "likes")])
    with closing(sqlite3.connect(run / "modules" / "index.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for change in (("enrol", run, "--file", file, "--method", STARTED), ("forget", run, "--user", "user-1")):
            refused(peftu(*change), "— wait for the other process")
        assert told(*ask, "user-2") == before
        other.execute("COMMIT")
    assert holding(run, "newcomer") == []
    assert told("enrol", run, "--file", file, "--method", STARTED)["users"] == 1
    assert told(*ask, "newcomer")["answers"]
    assert told(*ask, "user-2") == before


def test_what_a_newer_peftu_kept_is_refused(run: Path) -> None:
    (kept,) = (
        path for path in (run / "fitted").glob("*/fitted.json") if '"label": "user-majority"' in path.read_text()
    )
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"format": 99}))
    ask = ("predict", run, "--user", "user-1", "--text", "x", "--method", "user-majority")
    refused(peftu(*ask), "format 99 is newer than this peftu's 1 — upgrade peftu")


def test_who_is_forgotten_is_in_no_file_of_what_was_fitted(run: Path, place: Path) -> None:
    asked = ("predict", run, "--text", "x")
    before = {method: told(*asked, "--user", "user-2", "--method", method) for method in METHODS}
    assert {"fitted.json", "index.sqlite"} == set(holding(run, "user-1"))
    (place / "llama").rename(place / "llama-elsewhere")  # nobody needs a base to be forgotten
    try:
        said = told("forget", run, "--user", "user-1")
    finally:
        (place / "llama-elsewhere").rename(place / "llama")
    assert said["modules"] == 2
    assert said["methods"] >= len(METHODS) + 1  # the guarded method, too
    assert holding(run, "user-1") == []
    for method in METHODS:
        assert told(*asked, "--user", "user-2", "--method", method) == before[method]
        refused(peftu(*asked, "--user", "user-1", "--method", method), "the asked user has no module here")
    for command in (("forget",), ("store", "rm")):
        refused(peftu(*command, run, "--user", "user-1"), "nothing was deleted")
        refused(peftu(*command, run, "--user", ""), "--user: is empty")


def test_no_cell_holds_who_is_forgotten(run: Path, place: Path, tmp_path: Path) -> None:
    """Not those of the run, not what a process that died left, not one that cannot tell whose rows it was made with."""
    cells = Path(shutil.copytree(place / "cache" / "cells", tmp_path / "kept cells"))
    filled = {path.name for path in cells.iterdir() if (path / "cell.json").is_file()}
    damaged, *_ = (cells / name for name in sorted(filled))
    (damaged / "users.parquet").write_bytes(b"no table")
    (cells / ".parts" / "left").mkdir()
    (cells / ".parts" / "left" / "log").write_text("user-1")
    stranger = cells / ("0" * 32)
    stranger.mkdir()
    pl.DataFrame({"user_id": ["user-11", "user"]}).write_parquet(stranger / "users.parquet")
    assert len(filled) > len(METHODS)
    assert set(keys_in(cells)) == {"user-1", *(f"user-{place}" for place in (0, 2, 3, 4, 5)), "user-11", "user"}
    said = told("forget", run, "--user", "user-1", "--cells", cells)
    assert said["cells"] == len(filled)  # all of them: every cell is of all users
    assert {path.name for path in cells.iterdir()} == {".parts", stranger.name}
    assert set(keys_in(cells)) == {"user-11", "user"}
    assert [path for path in cells.rglob("*") if path.is_file() and b"user-1\n" in path.read_bytes() + b"\n"] == []
    refused(peftu("forget", run, "--user", "user-1", "--cells", cells), "nothing was deleted")


def test_a_receipt_names_what_remains(run: Path, tmp_path: Path) -> None:
    task = json.loads((run / "run.json").read_text())["task"]["name"]
    table = tmp_path / "cache" / "imported" / task / "table-0.parquet"  # where this test's cache is
    table.parent.mkdir(parents=True)
    users = ["user-1"] * 30 + ["user-2"]
    texts = [f"text {place % 30}" for place in range(31)]  # the first is user-2's, too
    frame = {"user_id": users, "text": texts, "context": [None] * 31, "target": [["likes"]] * 31}
    pl.DataFrame(frame, schema_overrides={"context": pl.String}).write_parquet(table)
    regions = tmp_path / "cache" / "regions"
    regions.mkdir()
    for name, read in (("kept", "text 0"), ("of both", "text 7"), ("of nobody", None)):
        marks = {} if read is None else {"items": torch.tensor([cache._mark(Text("x")), cache._mark(Text(read))])}
        save_file(marks, regions / f"{name}.safetensors")
    rows = sum(
        int((pl.read_parquet(run / f"{name}.parquet")["user_id"] == "user-1").sum())
        for name in ("predictions", "user_scores")
    )
    said = peftu("forget", run, "--user", "user-1", "--cells", tmp_path / "none", "--json")
    done = json.loads(said.out)
    assert (done["rows"], done["regions"]) == (rows, 2)
    assert [path.stem for path in regions.iterdir()] == ["kept"]
    counts = {Path(one["file"]).name: one["count"] for one in done["remains"] if one["count"] is not None}
    assert counts == {"table-0.parquet": 30}
    shared = {one["what"].split(" was fitted")[0] for one in done["remains"] if one["count"] is None}
    assert {label.partition("@")[0].partition("[")[0] for label in shared} >= {
        "global-majority",
        "mixed-head",
        "hypernet",
    }
    assert "user-1" not in said.err + said.out
    assert not [path for path in run.rglob("*") if path.is_file() and b"user-1" in path.read_bytes()]


def test_what_a_killed_run_left_is_forgotten(run: Path, tmp_path: Path) -> None:
    """A folder without a record, and one that had yet to be put in its place."""
    (run / "run.json").unlink()
    killed = run.with_name(f".{run.name}.{'0' * 32}.part")
    shutil.copytree(run / "modules", killed / "modules")
    options = ("--user", "user-1", "--cells", tmp_path / "none")
    done = told("forget", run, *options)
    assert (done["modules"], done["left_behind"]) == (2, 1)
    assert holding(run, "user-1") == []
    assert not killed.exists()
    run.rename(killed)
    said = peftu("forget", killed, "--user", "user-2", "--cells", tmp_path / "none")
    assert said.code == 0
    assert "methods and seeds, 2 modules\n" in said.out
    assert told("forget", run, *options)["left_behind"] == 1
    assert not list(run.parent.glob("*run*"))
    refused(peftu("forget", run, *options), "no readable run record")


def test_files_with_keys_are_their_owner_s_alone(fitted: Path, place: Path) -> None:
    def modes(folder: Path) -> set[int]:
        return {path.stat().st_mode & 0o077 for path in folder.rglob("*.parquet")}

    assert fitted.stat().st_mode & 0o077 == 0
    assert modes(fitted) == modes(place / "cache") == {0}
    cells = [path.parent for path in (place / "cache" / "cells").glob("*/cell.json")]
    assert {path.stat().st_mode & 0o077 for path in cells} == {0}


def keys_in(cells: Path) -> list[str]:
    """Returns every user's key in a table or in what was fitted, below a folder of cells."""
    keys = []
    for path in cells.rglob("*.parquet"):
        with suppress(pl.exceptions.PolarsError):
            keys += pl.read_parquet(path, glob=False)["user_id"].to_list()
    for path in [*cells.rglob("*.json"), *cells.rglob("*.sqlite"), *(cells / ".parts").rglob("*")]:
        if path.is_file():
            keys += re.findall(r"\buser-\d+\b", path.read_bytes().decode(errors="replace"))
    return keys


def test_what_a_stopped_deletion_left_is_deleted(run: Path) -> None:
    """The module is gone, and the guard still names the user."""
    guard = next(path for path in (run / "fitted").glob("*/fitted.json") if '"guarded"' in path.read_text())
    about = json.loads(guard.read_text())
    guard.write_text(json.dumps(about | {"state": {"kept": [*about["state"]["kept"], "left-over"]}}))
    done = told("forget", run, "--user", "left-over")
    gone = {"modules": 0, "examples": 0, "cells": 0, "rows": 0, "regions": 0, "left_behind": 0}
    assert done == {"methods": 1, **gone, "remains": []}
    assert holding(run, "left-over") == []


def test_a_run_of_an_earlier_release_forgets_too(run: Path) -> None:
    shutil.rmtree(run / "fitted")
    done = told("forget", run, "--user", "user-1")
    assert {name: done[name] for name in ("methods", "modules", "cells")} == {"methods": 2, "modules": 2, "cells": 0}
    asked = ("predict", run, "--method", STARTED, "--text", "x")
    refused(peftu(*asked, "--user", "user-1"), "has no module")
    assert told(*asked, "--user", "user-2")["answers"]


def test_a_run_of_an_earlier_release_lacks_what_newcomers_start_from(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "fitted")
    file = written(tmp_path / "more.csv", "user,text,label", [("newcomer", "a", "likes")])
    said = peftu("enrol", run, "--file", file, "--method", STARTED)
    refused(said, "starts from everyone's module, which was not kept")
    assert holding(run, "newcomer") == []
