"""docs/results.md is what its script makes of the committed tables, and these are what runs and their scores say."""

import copy
import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from peftu.errors import PeftuError
from peftu.executors.schedule import OutOfTimeError

ROOT = Path(__file__).parents[2]
MAJORITIES = ["global-majority", "user-majority"]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "benchmarks" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


SCRIPT = _script()


def _close(value: Any, other: Any) -> bool:
    """Returns whether two JSON values are equal, numbers to a millionth."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_close(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_close, value, other))
    return bool(value == pytest.approx(other, rel=1e-6, abs=1e-9) if isinstance(other, float) else value == other)


def test_the_page_is_what_the_script_makes_of_its_tables() -> None:
    assert SCRIPT.page() == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", SCRIPT.TASKS)
def test_results_and_gains_of_a_table_are_those_of_its_users_scores(task: str) -> None:
    table = SCRIPT.read(task)
    again = json.loads(json.dumps(SCRIPT.judged(copy.deepcopy(table))))
    assert _close(again, table)
    next(iter(again["methods"].values()))["result"]["mean"] += 0.001
    assert not _close(again, table)


def test_a_table_holds_no_users_keys_but_scores_in_one_order() -> None:
    for task in SCRIPT.TASKS:
        cells = [cell for line in SCRIPT.read(task)["methods"].values() for cell in line["cells"].values()]
        assert {tuple(cell["users"])[:3] for cell in cells} == {("n_test", "n_scored", "accuracy")}
        assert {len(column) for cell in cells for column in cell["users"].values()} == {20}


def test_missing_is_what_was_not_run_at_a_seed_or_had_other_settings(tmp_path: Path) -> None:
    table = SCRIPT.read("tweeteval")
    table["methods"] = {name: table["methods"][name] for name in ("lora", "p-tuning", "hypernet")}
    table["methods"]["lora"]["settings"] = {"lr": 1.0}
    del table["methods"]["p-tuning"]["cells"]["1"]
    SCRIPT.write(table, tmp_path)
    lacking = SCRIPT.missing(SCRIPT.read("tweeteval", tmp_path))
    assert "lora" in lacking[0, 1, 2]
    assert "p-tuning" in next(names for seeds, names in lacking.items() if 1 in seeds and 0 not in seeds)
    assert not any("hypernet" in names for names in lacking.values())
    assert SCRIPT.missing(SCRIPT.read("tweeteval", tmp_path / "empty")) == {(0, 1, 2): SCRIPT.METHODS}


def test_filling_runs_what_lacks_and_goes_on_from_cells(
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = shared_data("tweeteval").parent
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutOfTimeError):
        SCRIPT.fill("tweeteval", MAJORITIES, raw, time.monotonic(), tmp_path / "none")
    end = time.monotonic() + 3600
    SCRIPT.fill("tweeteval", MAJORITIES, raw, end, tmp_path / "first")
    assert "cells were there already" not in capsys.readouterr().err
    first, committed = SCRIPT.read("tweeteval", tmp_path / "first"), SCRIPT.read("tweeteval")
    assert first["splits"] == committed["splits"]
    for name in MAJORITIES:
        ours, theirs = first["methods"][name], committed["methods"][name]
        assert [cell["users"] for cell in ours["cells"].values()] == [
            cell["users"] for cell in theirs["cells"].values()
        ]
        assert ours["result"]["ci"] == pytest.approx(theirs["result"]["ci"])
    shutil.rmtree(tmp_path / "runs")
    SCRIPT.fill("tweeteval", MAJORITIES, raw, end, tmp_path / "second")
    assert "6 of 6 cells were there already" in capsys.readouterr().err
    second = SCRIPT.read("tweeteval", tmp_path / "second")
    assert second["gains"] == first["gains"]
    other = {**first, "splits": {"0": "sha256:other"}, "methods": {}}
    SCRIPT.write(other, tmp_path / "other")
    with pytest.raises(PeftuError, match="seed 0: is split otherwise"):
        SCRIPT.fill("tweeteval", MAJORITIES, raw, end, tmp_path / "other")
