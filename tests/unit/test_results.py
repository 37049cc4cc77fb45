"""The run record: its numbers, its JSON, its folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import polars as pl
import pytest

import peftu
from peftu.environment import _git_revision, current_environment, memory_bytes
from peftu.errors import PeftuError
from peftu.files import write_atomic
from peftu.judge.judgement import judgement_schema
from peftu.methods.method import MethodCard
from peftu.report.example import CARD, example_run
from peftu.results import (
    MethodCost,
    RunRecord,
    finish_folder,
    load_run,
    record_schema,
    start_folder,
    summarise,
)
from peftu.stats import paired_gains, user_matrix
from peftu.system import System

SCHEMA = Path(peftu.__file__).parent / "schemas" / "run-record-v1.json"
GOLDEN = Path(__file__).parents[1] / "golden" / "run-record-v1.json"
RECORD, SCORES = example_run(12, seeds=2)


def without(name: str) -> pl.DataFrame:
    return SCORES.filter(pl.col("method") != name)


def test_results_are_those_of_stats() -> None:
    results = {result.method: result for result in summarise(SCORES, CARD)}
    assert list(results) == SCORES["method"].unique(maintain_order=True).to_list()
    gains = paired_gains(user_matrix(SCORES, "accuracy"), System("user-majority", None))
    for result, gain in zip(results.values(), gains, strict=True):
        assert (result.helped, result.unchanged, result.hurt) == (gain.helped, gain.unchanged, gain.hurt)
        estimate = gain.estimate
        assert result.gain["user-majority"].model_dump() == {
            "mean": estimate.mean, "ci": (estimate.low, estimate.high),
        }  # fmt: skip
        assert set(result.gain) == {"user-majority", "global", "mixed-head"}
        assert result.mean == pytest.approx(sum(result.seeds) / 2)
        assert (result.users, result.scored, result.unscored) == (12, 480, 0)
    assert results["user-majority"].gain["user-majority"].ci == (0, 0)


def test_gains_are_left_out_without_a_reference() -> None:
    result = summarise(without("user-majority"), CARD)[-1]
    assert set(result.gain) == {"global", "mixed-head"}
    assert (result.helped, result.unchanged, result.hurt) == (None, None, None)


def test_a_method_is_compared_with_the_shared_model_on_its_own_base() -> None:
    twin = SCORES.filter(pl.col("method") == "global").with_columns(base=pl.lit("smollm2"), accuracy=pl.lit(0.0))
    results = {result.label: result for result in summarise(pl.concat([SCORES, twin]), CARD)}
    assert results["ia3@smollm2"].gain["global"].mean == pytest.approx(results["ia3@smollm2"].mean)
    assert results["mixed-head@minilm"].gain["global"].mean < 0.5
    assert "global" not in results["user-majority"].gain


def test_unscored_rows_and_costs_are_told() -> None:
    scores = SCORES.with_columns(n_scored=pl.when(pl.col("method") == "ia3").then(18).otherwise("n_scored"))
    cost = MethodCost(parameters_per_user=5, seconds_per_user=0.5, notes={"alpha": 1})
    tags = MethodCard(
        name="ia3", summary="s", scope="user", trained=True, uses_others_labels=False, needs_base="yes", source="s"
    )
    result = summarise(scores, CARD, {System("ia3", "smollm2"): cost}, {"ia3": tags})[-1]
    assert (result.method, result.scored, result.unscored) == ("ia3", 432, 48)
    assert (result.parameters_per_user, result.users_per_hour, result.notes) == (5, 7200, {"alpha": 1})
    assert (result.scope, result.trained, result.uses_others_labels) == ("user", True, False)


def test_a_user_never_scored_leaves_the_mean_but_not_the_count() -> None:
    gone = SCORES.with_columns(accuracy=pl.when(pl.col("user_id") == "key-0").then(None).otherwise("accuracy"))
    assert [result.users for result in summarise(gone, CARD)] == [11] * 6


def test_command_line_json_has_the_documented_shape(tmp_path: Path) -> None:
    shape = json.loads(json.dumps(RECORD.cli_json(tmp_path)))
    assert list(shape) == ["task", "regime", "split", "users", "metric", "run", "report", "methods"]
    assert (shape["run"], shape["report"]) == (str(tmp_path), str(tmp_path / "report.html"))
    assert list(shape["methods"][0])[:15] == [
        "method", "base", "mean", "ci", "seeds", "gain", "helped", "unchanged", "hurt", "parameters_per_user",
        "bytes_per_user", "seconds_per_user", "users_per_hour", "peak_rss_bytes", "macro_f1",
    ]  # fmt: skip
    assert all(set(method["gain"]["user-majority"]) == {"mean", "ci"} for method in shape["methods"])
    assert RECORD.cli_json()["run"] == RECORD.run
    assert RECORD.cli_json()["report"] is None


def test_split_hash_stands_for_all_seeds() -> None:
    one = RECORD.model_copy(
        update={"hashes": RECORD.hashes.model_copy(update={"splits": {"0": "sha256:a", "1": "sha256:a"}})}
    )
    assert one.split == "sha256:a"
    assert RECORD.split.startswith("sha256:")
    assert RECORD.split not in RECORD.hashes.splits.values()


def test_schema_file_is_that_of_the_model() -> None:
    assert json.loads(SCHEMA.read_text()) == record_schema(), "a changed v1 must only add optional fields"
    jsonschema.validate(json.loads(RECORD.to_json()), json.loads(SCHEMA.read_text()))


def test_record_of_the_first_release_loads_for_ever() -> None:
    record = RunRecord.read(GOLDEN)
    assert (record.run, record.status, record.users) == ("3f2d9c41a7b0", "complete", 12)
    best = max(record.methods, key=lambda method: method.mean or 0)
    assert (best.label, best.mean) == ("mixed-head@minilm", 0.6875)
    assert best.gain["user-majority"].ci == (0.0104166667, 0.1395833333)
    jsonschema.validate(json.loads(GOLDEN.read_text()), json.loads(SCHEMA.read_text()))


def test_record_survives_a_round_trip(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path)
    assert RunRecord.read(path) == RunRecord.read(tmp_path) == RECORD


def test_keys_of_a_later_version_are_skipped(tmp_path: Path) -> None:
    raw = json.loads(RECORD.to_json()) | {"new": 1}
    raw["methods"][0]["new"] = raw["environment"]["new"] = 2
    (tmp_path / "run.json").write_text(json.dumps(raw))
    assert RunRecord.read(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECORD.to_json()[:500], "not a whole JSON file"),
        ("[1]", "no run record of peftu"),
        ('{"task": "tweeteval"}', "schema_version is missing"),
        ('{"schema_version": 2}', "newer than this peftu"),
        ('{"schema_version": 1}', "run: Field required"),
    ],
)
def test_files_that_are_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(PeftuError, match=message):
        RunRecord.read(tmp_path)


def test_an_unfinished_folder_is_never_read(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    folder = start_folder(tmp_path)
    with pytest.raises(PeftuError, match="did not finish"):
        load_run(folder)


def finished(folder: Path) -> Path:
    SCORES.write_parquet(start_folder(folder) / "user_scores.parquet")
    (folder / "train_log.jsonl").write_text("{}\n")
    (folder / "report.html").write_text("drawn again at any time")
    (folder / "store").mkdir()
    finish_folder(folder, RECORD)
    return folder


def test_a_finished_folder_is_checked(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "report.html").write_text("drawn again")
    run = load_run(folder / "run.json")
    assert [file.name for file in run.record.files] == ["train_log.jsonl", "user_scores.parquet"]
    assert run.user_scores().equals(SCORES)


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "train_log.jsonl").write_text("other\n")
    with pytest.raises(PeftuError, match=r"train_log\.jsonl: differs"):
        load_run(folder)
    (folder / "train_log.jsonl").unlink()
    with pytest.raises(PeftuError, match=r"train_log\.jsonl: listed in run\.json but missing"):
        load_run(folder)


def test_a_record_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    raw = json.loads(RECORD.to_json())
    raw["files"] = [{"name": "../secret", "bytes": 1, "sha256": "0"}]
    (tmp_path / "run.json").write_text(json.dumps(raw))
    with pytest.raises(PeftuError, match=r"files\.0\.name"):
        load_run(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomic(tmp_path / "run.json", "old")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_memory_is_what_a_container_leaves(tmp_path: Path) -> None:
    limits = tmp_path / "memory.max"
    whole = memory_bytes(limits)
    for said, expected in (("4096\n", 4096), ("max\n", whole)):
        limits.write_text(said)
        assert memory_bytes(limits) == expected


def test_environment_tells_versions_and_borrows_no_revision(tmp_path: Path) -> None:
    environment = current_environment()
    assert environment.packages["polars"] == pl.__version__
    assert environment.cores >= 1
    assert environment.cpu
    assert _git_revision(tmp_path) is None


def test_judging_imports_no_model_library() -> None:
    code = (
        "import sys, peftu.results, peftu.report.terminal\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'scipy', 'altair') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_schema_file_of_the_judgement_is_that_of_the_model() -> None:
    schema = json.loads((SCHEMA.parent / "judgement-v1.json").read_text())
    assert schema == judgement_schema(), "a changed v1 must only add optional fields"
