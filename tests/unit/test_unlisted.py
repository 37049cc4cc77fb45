"""Who is forgotten is in no file of a finished run; everybody else, and what is of all, stays to the digit."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from peftu.execute.people import forgotten
from peftu.execute.unlisted import unlisted
from peftu.judge import JUDGEMENT, read_judgement
from peftu.report.sections.answer import answer
from peftu.report.view import RunView
from peftu.results import PREDICTIONS, USER_SCORES, RunRecord, finish_folder, load_run

FOLDERS = Path(__file__).resolve().parents[1] / "golden" / "folders"
USER = "user-1"


@pytest.fixture(params=["labels", "several", "text"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that an earlier peftu wrote."""
    return Path(shutil.copytree(FOLDERS / request.param, tmp_path / "run"))


def tables(run: Path) -> list[pl.DataFrame]:
    loaded = load_run(run)
    return [loaded.predictions(), loaded.user_scores()]


def named(run: Path, keys: list[str], lines: list[dict[str, Any]]) -> list[tuple[str | None, dict[str, Any]]]:
    """Returns lines with the key of each user instead of the number."""
    return [(line["user"] and keys[line["user"] - 1], {**line, "user": None}) for line in lines]


def log(run: Path) -> list[tuple[str | None, dict[str, Any]]]:
    keys = sorted(set(tables(run)[1]["user_id"]))
    return named(run, keys, [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()])


def shift_for_each(run: Path) -> None:
    """Says something of each user in a run's judgement."""
    loaded = load_run(run)
    judged = json.loads((run / JUDGEMENT).read_text())
    users = len(set(loaded.user_scores()["user_id"]))
    judged["shifts"] = [
        {"user": n, "label": "x", "own": 0, "others": 1, "rows": n, "p": 0, "words": f"User {n} says 'x' {n}."}
        for n in range(1, users + 1)
    ]
    (run / JUDGEMENT).write_text(json.dumps(judged))
    finish_folder(run, loaded.record)


def test_of_a_forgotten_user_no_file_has_a_byte(run: Path, tmp_path: Path) -> None:
    before, told = tables(run), log(run)
    assert any(USER in table["user_id"] for table in before)
    shift_for_each(run)
    record = load_run(run).record
    (run / "report.html").write_text("<!doctype html>")
    done = forgotten(run, USER, tmp_path / "none")
    assert done["rows"] == sum(int((table["user_id"] == USER).sum()) for table in before)
    for kept, table in zip(tables(run), before, strict=True):
        assert kept.equals(table.filter(pl.col("user_id") != USER))
    assert log(run) == [line for line in told if line[0] != USER]
    shifts = json.loads((run / JUDGEMENT).read_text())["shifts"]
    keys = sorted(set(before[1]["user_id"]))
    rest = [key for key in keys if key != USER]
    assert [rest[shift["user"] - 1] for shift in shifts] == [keys[shift["rows"] - 1] for shift in shifts] == rest
    assert all(shift["words"] == f"User {shift['user']} says 'x' {shift['rows']}." for shift in shifts)
    assert not (run / "report.html").exists()
    for path in run.rglob("*"):
        assert not path.is_file() or USER.encode() not in path.read_bytes(), path.name
    renewed = load_run(run).record
    assert renewed.deleted_users == 1
    view = RunView(renewed, load_run(run).user_scores(), read_judgement(run))
    assert answer(view).notes[-1].startswith("1 user was deleted later: ")
    same = {"files": (), "deleted_users": 0}
    assert renewed.model_copy(update=same) == record.model_copy(update=same)
    assert {one["count"] for one in done["remains"]} <= {None}  # what all users share
    assert forgotten(run, "user-2", tmp_path / "none")["rows"]
    assert load_run(run).record.deleted_users == 2


@pytest.mark.parametrize("call", range(1, 7))
def test_who_is_killed_at_it_leaves_one_whole_run(run: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    before, calls = tables(run), 0
    replace: Callable[..., Path] = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", dying)
        unlisted(run, USER)
    now = tables(run)  # which checks every file
    assert len({USER in table["user_id"] for table in now}) == 1
    if USER in now[0]["user_id"]:
        assert all(table.equals(old) for table, old in zip(now, before, strict=True))
        assert unlisted(run, USER).rows
    assert unlisted(run, USER).rows == 0
    assert RunRecord.read(run).deleted_users == 1
    assert not list(run.glob(".*"))
    for name in (PREDICTIONS, USER_SCORES):
        assert (run / name).stat().st_mode & 0o077 == 0


def test_a_log_whose_numbers_are_not_known_stays_and_is_named(tmp_path: Path) -> None:
    """A user of the split was trained on and never judged: whose number is whose cannot be told."""
    run = Path(shutil.copytree(FOLDERS / "labels", tmp_path / "run"))
    record = load_run(run).record
    with (run / "train_log.jsonl").open("a") as stream:
        stream.write(json.dumps({"seed": 0, "user": 99}) + "\n")
    finish_folder(run, record)
    text = (run / "train_log.jsonl").read_text()
    done = forgotten(run, USER, tmp_path / "none")
    assert (run / "train_log.jsonl").read_text() == text
    assert [one["what"] for one in done["remains"] if one["file"].endswith("train_log.jsonl")] == [
        "lines of training, numbered, not named"
    ]
