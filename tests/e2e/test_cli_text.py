"""Tasks whose answers are free text, from the command line."""

import json
from pathlib import Path

import polars as pl
import pytest
from terminal import FREE, Said, peftu, refused

PLACE = ("--base", "./llama", "--raw", "raw")
QUICK = ("--epochs", 2, "--region", "depth=2,span=answer")


@pytest.fixture(scope="module")
def written(place: Path) -> Said:
    """A finished comparison by the default methods, with answers written, in the folder 'free'."""
    said = peftu(
        *("compare", FREE, *PLACE, *QUICK, "--out", "free", "--json"),
        *("-s", "max_answer_tokens=12", "-s", "generate=true", "--regime", "temporal"),
    )
    assert said.code == 0, said.err
    return said


def test_methods_are_judged_by_perplexity(written: Said, place: Path) -> None:
    found = written.json
    assert (found["task"], found["metric"], found["users"]) == (FREE, "perplexity", 4)
    assert [method["method"] for method in found["methods"]] == ["zero-shot", "global", "lora[warm_start=global]"]
    for method in found["methods"]:
        assert 1 <= method["ci"][0] <= method["mean"] <= method["ci"][1]
        assert set(method["gain"]) == {"zero-shot", "global"}
        assert method["helped"] is None
        assert method["macro_f1"] == {"mean": None, "ci": None}
        assert (method["scored"], method["unscored"]) == (8, 0)
    own, shared = found["methods"][2], found["methods"][1]
    assert own["gain"]["global"]["mean"] == pytest.approx(shared["mean"] - own["mean"])  # lower is better
    record = json.loads((place / "free" / "run.json").read_text())
    assert record["warnings"] == ["answers cut to 12 tokens of ./llama: 62 of 62"]
    assert (place / "free" / "report.html").exists()


def test_predictions_hold_the_user_s_answer_and_the_written_one(written: Said, place: Path) -> None:
    rows = pl.read_parquet(place / "free" / "predictions.parquet")
    assert set(rows["target"].list.len()) == {1}
    assert rows["target"].list.first().str.starts_with("I give it").all()
    assert set(rows["scores"].list.len()) == {2}
    assert set(rows["scores"].list.get(1)) == {12.0}
    tested = rows.filter(pl.col("part") == "test")
    assert tested["predicted"].list.first().is_not_null().all()
    assert rows.filter(pl.col("part") == "val")["predicted"].is_null().all()
    scores = pl.read_parquet(place / "free" / "user_scores.parquet")
    total = tested.group_by("method", "user_id").agg(
        perplexity=(-pl.col("scores").list.get(0).sum() / pl.col("scores").list.get(1).sum()).exp()
    )
    both = scores.join(total, on=["method", "user_id"])
    assert both.height == scores.height == 12
    assert both["perplexity"].to_list() == pytest.approx(both["perplexity_right"].to_list(), rel=1e-5)
    assert scores["rouge_1"].is_not_null().all()


def test_predict_writes_with_the_user_s_module(written: Said, place: Path) -> None:
    rows = pl.read_parquet(place / "free" / "predictions.parquet")
    row = rows.filter(pl.col("predicted").is_not_null(), method="lora[warm_start=global]").row(0, named=True)
    number = int(row["item_id"].removeprefix("note-"))
    from peftu.data.synthetic import synthetic_rows

    text = next(r.text for r in synthetic_rows(4, 20, "text") if r.item_id == f"note-{number}")
    ask = ("predict", "free", "--user", row["user_id"], "--text", text)
    said = peftu(*ask, "--json")
    assert said.code == 0, said.err
    assert said.json["answers"] == [{"text": text, "answer": row["predicted"][0]}]
    drawn = [peftu(*ask, "--temperature", heat, "--json").json["answers"][0]["answer"] for heat in (1, 1, 0.9)]
    assert drawn[0] == drawn[1]
    assert {drawn[0], drawn[2]} != {row["predicted"][0]}
    assert text in peftu(*ask).out.replace("\n", "")


def test_what_a_row_of_a_file_draws_goes_by_its_place_in_the_file(
    written: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("user,text\n" + "user-1,the same note\n" * 5)
    ask = ("predict", "free", "--file", file, "--temperature", 1)
    whole = peftu(*ask)
    assert len(set(whole.out.splitlines()[1:])) > 3
    monkeypatch.setattr("peftu.execute.answer.PAIRS", 2)
    assert peftu(*ask).out == whole.out


def test_prompting_reads_free_answers(place: Path) -> None:
    said = peftu("run", FREE, "--method", "few-shot[k=1]", *PLACE, "--out", "shown", "--json", "-s", "max_tokens=32")
    assert said.code == 0, said.err
    assert said.json["methods"][0]["scored"] == 8


def test_what_has_no_labels_is_said(place: Path) -> None:
    refused(peftu("compare", FREE, "--methods", "zero-shot,mixed-head", *PLACE), "method mixed-head: needs labels")


def test_the_yardstick_is_one_model_for_all(written: Said, place: Path) -> None:
    from peftu.judge import read_judgement
    from peftu.judge.findings import Findings
    from peftu.report.terminal import leaderboard
    from peftu.report.verdict import verdict
    from peftu.results import RunRecord

    record, judgement = RunRecord.read(place / "free"), read_judgement(place / "free")
    assert judgement is not None
    findings = Findings(record.methods, judgement.gains, record.task.kind)
    assert "the shared model" in leaderboard(record, findings).plain.split("─")[0]
    assert verdict(record, findings).headline == "Too few users"  # four
    alone = Findings(record.methods, (), record.task.kind)
    assert "(global) was not run" in verdict(record, alone).text
    many = tuple(gain.model_copy(update={"users": 40}) for gain in judgement.gains)
    answer = verdict(record, Findings(record.methods, many, record.task.kind))
    assert "user-majority" not in answer.text
    assert "one shared model (global" in answer.text
