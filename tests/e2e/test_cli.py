"""The command line from end to end, on made-up users and tiny bases in local folders."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from terminal import MANY, TASK, Said, peftu, python

from peftu.data.synthetic import SyntheticTask, synthetic_rows
from peftu.judge import read_judgement
from peftu.metrics import user_scores
from peftu.results import load_run

torch.set_num_threads(1)


# --- what a person asks first ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name", "fields"),
    [
        ("tasks", TASK, {"name", "title", "labels"}),
        ("methods", "lora", {"name", "summary", "scope"}),
        ("bases", "all-minilm-l6-v2", {"name", "family", "licence", "cached"}),
    ],
)
def test_lists_are_objects_with_a_name(command: str, name: str, fields: set[str]) -> None:
    listed = peftu(command, "--json")
    assert (listed.code, listed.err) == (0, "")
    assert isinstance(listed.json, list)
    assert all(fields <= set(entry) for entry in listed.json)
    assert name in [entry["name"] for entry in listed.json]
    one = peftu(command, name, "--json")
    assert one.json["name"] == name
    for said in (peftu(command), peftu(command, name)):
        assert (said.code, said.err) == (0, "")
        assert name in said.out.replace("\n", "")


def test_model_types_say_what_they_can() -> None:
    rows = {row["type"]: row for row in peftu("bases", "--types", "--json").json}
    assert rows["llama"]["spans"] == ["all", "answer", "last"]
    assert rows["t5"]["kind"] == "encoder_decoder"
    assert not rows["bert"]["prompts"]
    assert set(rows["llama"]) == {"type", "kind", "spans", "default_region", "prompts", "quantize"}
    shown = peftu("bases", "--types")
    assert (shown.code, shown.err) == (0, "")
    assert all(name in shown.out for name in rows)


@pytest.mark.parametrize("asked", ["global+lora", "lora+guard", "lora[rank=2]@base"])
def test_a_method_is_shown_however_it_is_asked_for(asked: str) -> None:
    assert peftu("methods", asked, "--json").json == peftu("methods", "lora", "--json").json


def test_doctor_and_version() -> None:
    said = peftu("doctor", "--json")
    assert said.code == 0
    assert {"python", "cores", "memory_bytes", "cache", "torch", "bases", "problems"} <= set(said.json)
    assert peftu("doctor").code == peftu("--version").code == peftu("--help").code == 0
    assert peftu("--version").out == "peftu 0.1.0\n"
    assert "compare" in peftu().out


def test_data_commands_tell_the_documented_facts(place: Path) -> None:
    said = peftu("data", "stats", TASK, "--raw", "raw", "--json")
    assert said.code == 0
    assert said.json.items() >= {"users": 6, "texts": 30, "annotations": 180}.items()
    assert said.json["examples_per_user"] == 30
    assert said.json["users_per_text"] == 6
    assert -1 <= said.json["alpha"] <= 1
    fewer = peftu("data", "stats", TASK, "--raw", "raw", "--option", "users=2", "--json")
    assert fewer.json["users"] == 2
    assert peftu("data", "audit", TASK, "--raw", "raw", "--json").json["split"].startswith("sha256:")
    assert peftu("data", "build", TASK, "--raw", "raw", "--out", "t.parquet", "--json").json["table"] == "t.parquet"
    assert peftu("data", "stats", TASK, "--raw", "raw").code == 0


# --- run and compare -------------------------------------------------------------------------------------------------


def test_the_json_has_the_documented_shape(compared: Said) -> None:
    found = compared.json
    assert list(found) == ["task", "regime", "split", "users", "metric", "run", "report", "methods"]
    assert (found["task"], found["regime"], found["users"], found["metric"]) == (TASK, "within-user", 6, "accuracy")
    assert found["split"].startswith("sha256:")
    assert (found["run"], found["report"]) == ("run", "run/report.html")
    names = ["user-majority", "mixed-head", "zero-shot", "global[rank=1]", "lora[rank=2,targets=q+v]"]
    assert [method["method"] for method in found["methods"]] == names
    assert [method["base"] for method in found["methods"]] == [None, "./bert", "./llama", "./llama", "./llama"]
    for method in found["methods"]:
        low, high = method["ci"]
        assert 0 <= low <= method["mean"] <= high <= 1
        assert len(method["seeds"]) == 2
        assert method["mean"] == pytest.approx(sum(method["seeds"]) / 2)
        for reference, gain in method["gain"].items():
            assert reference in ("user-majority", "global", "mixed-head")
            assert gain["ci"][0] <= gain["mean"] <= gain["ci"][1]
        assert method["gain"]["user-majority"]["mean"] == pytest.approx(method["mean"] - found["methods"][0]["mean"])
        assert method["helped"] + method["unchanged"] + method["hurt"] == 6
        assert method["bytes_per_user"] == 4 * method["parameters_per_user"] or method["method"] == "mixed-head"
        assert method["seconds_per_user"] > 0
        assert method["users_per_hour"] == pytest.approx(3600 / method["seconds_per_user"])
        assert method["peak_rss_bytes"] > 1e6
        assert method["unscored"] == 0
        assert method["ms_per_answer"] > 0
    lora = found["methods"][-1]
    assert lora["parameters_per_user"] == 2 * (32 + 32) + 2 * (32 + 16)
    assert [method["parameters_per_user"] for method in found["methods"][2:4]] == [0, 0]


def test_a_guarded_method_brings_what_it_needs(place: Path) -> None:
    said = peftu(
        *("compare", TASK, "--methods", "lora+guard[rank=1]", "--base", "./llama", "--raw", "raw", "--epochs", 1),
        *("--region", "depth=1,span=answer", "--out", "guarded", "--json"),
    )
    assert said.code == 0, said.err
    names = ["global-majority", "user-majority", "lora[rank=1]", "lora+guard[rank=1]"]
    assert [method["method"] for method in said.json["methods"]] == names
    notes = said.json["methods"][-1]["notes"]
    assert (notes["fallback"], notes["users"]) == ("user-majority", 6)
    assert said.json["methods"][-1]["uses_others_labels"] is True
    found = read_judgement(place / "guarded")
    assert found is not None
    assert [guard.kept for guard in found.guards] == [notes["kept"]]


def test_the_folder_holds_what_the_record_says(compared: Said, place: Path) -> None:
    assert {path.name for path in (place / "run").iterdir()} == {
        *("run.json", "predictions.parquet", "user_scores.parquet", "train_log.jsonl", "report.html", "modules"),
        *("judgement.json", "fitted"),
    }
    run = load_run(place / "run")
    assert run.record.cli_json(Path("run")) == compared.json
    assert run.record.spec_passed["methods"].endswith("lora[rank=2,targets=q+v]")
    assert run.record.spec["split"]["min_items"] == 10
    assert run.record.statistics["disagreement"]["users"] == run.record.statistics["users"] == 6
    predictions = run.predictions()
    cell = predictions.filter((pl.col("method") == "zero-shot") & (pl.col("seed") == 0))
    assert cell.height == len(run.record.methods and cell.unique(["user_id", "item_id"]))
    again = user_scores(predictions, SyntheticTask.card)
    key = ["method", "base", "seed", "user_id"]
    joined = run.user_scores().sort(key).select(*key, "accuracy")
    assert joined.equals(again.sort(key).select(*key, "accuracy"))
    chances = np.exp(np.array(cell["scores"].to_list()))
    assert np.allclose(chances.sum(1), 1, atol=1e-5)
    log = [json.loads(line) for line in (place / "run" / "train_log.jsonl").read_text().splitlines()]
    assert len(log) == 2 * (6 + 1)
    assert {line["user"] for line in log if line["method"].startswith("lora")} == set(range(1, 7))


def test_no_user_key_outside_tables_and_index(compared: Said, place: Path) -> None:
    for path in (place / "run").rglob("*"):
        assert "user-3" not in path.name
        if path.suffix in (".json", ".jsonl", ".html", ".safetensors") and path.name != "fitted.json":  # an index
            assert b"user-3" not in path.read_bytes(), path
    assert "user-3" not in compared.out + compared.err


def test_a_run_repeats_itself(compared: Said, place: Path) -> None:
    """Alone, in a folder of its own, and through a config file: the same scores, to rounding."""
    (place / "run.yaml").write_text("base: ./llama\nseeds: [0, 1]\ntrain: {epochs: 2}\nregion: {depth: 1}\n")
    said = peftu(
        *("run", TASK, "--method", "lora[rank=2,targets=q+v]", "--config", "run.yaml", "--raw", "raw"),
        *("-s", "region.span=answer", "--out", "again", "--json"),
    )
    assert said.code == 0, said.err
    assert said.json["split"] == compared.json["split"]
    assert said.json["methods"][0]["mean"] == compared.json["methods"][-1]["mean"]
    both = [load_run(place / name).predictions() for name in ("run", "again")]
    first, second = (np.array(p.filter(pl.col("method").str.starts_with("lora"))["scores"].to_list()) for p in both)
    assert np.allclose(first, second, atol=1e-5)


def test_people_get_a_leaderboard_and_the_report_s_path(place: Path) -> None:
    said = peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", f"{'long-' * 20}name", "--users", 3)
    assert said.code == 0
    assert "user-majority" in said.out
    assert f"report: {'long-' * 20}name/report.html" in said.out
    assert "3 users" in said.out
    assert "left out: 3 users" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("regime", "more"), [("unseen-text", ()), ("unseen-user", ("-s", "split.k=5")), ("temporal", ())]
)
def test_other_regimes_and_encoders(place: Path, regime: str, more: tuple[str, ...]) -> None:
    methods = "user-majority,lora[rank=1,warm_start=global]"
    said = peftu(
        *("compare", TASK, "--methods", methods, "--base", "./bert", "--raw", "raw", "--out", regime, "--json"),
        *("--regime", regime, "--epochs", 1, *more),
    )
    assert said.code == 0, said.err
    assert said.json["regime"] == regime
    assert said.json["methods"][1]["uses_others_labels"] is True


# --- predict and report ----------------------------------------------------------------------------------------------


def test_predict_answers_as_the_run_did(compared: Said, place: Path) -> None:
    run = load_run(place / "run")
    lines = run.predictions().filter(pl.col("method").str.starts_with("lora") & (pl.col("seed") == 1))
    line = lines.filter(pl.col("user_id") == "user-4").row(0, named=True)
    number = int(line["item_id"].removeprefix("note-"))
    text = next(row.text for row in synthetic_rows() if row.item_id == f"note-{number}")
    asked = ("predict", "run", "--user", "user-4", "--method", "lora[rank=2,targets=q+v]", "--seed", 1)
    said = peftu(*asked, "--text", text, "--text", "Something else", "--json")
    assert said.code == 0, said.err
    assert said.json["method"] == "lora[rank=2,targets=q+v]@./llama"
    assert (said.json["seed"], said.json["shared_module"]) == (1, False)
    first, second = said.json["answers"]
    assert (first["text"], second["text"]) == (text, "Something else")
    assert first["labels"] == line["predicted"]
    assert list(first["probabilities"].values()) == pytest.approx(np.exp(line["scores"]).tolist(), abs=1e-4)
    assert sum(second["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    plain = peftu(*asked, "--text", text)
    assert first["labels"][0] in plain.out
    assert "lora[rank=2,targets=q+v]@./llama, seed 1" in plain.out
    long = (*asked, "--context", "y" * 400, "--text", "No.", "--text", "x" * 400)
    said = peftu(*long, "--json")
    (note,) = said.json["notes"]
    assert "2 lose part of their context, not of the text that is judged; 1 lose the end of the text" in note
    assert note in said.err
    assert first["text"] not in said.err
    shared = peftu("predict", "run", "--user", "whoever", "--method", "global[rank=1]", "--text", "x", "--json")
    assert shared.json["shared_module"] is True


def test_an_empty_text_gets_an_answer(compared: Said) -> None:
    said = peftu("predict", "run", "--user", "user-1", "--text", "", "--text", "a", "--text", "", "--json")
    assert said.code == 0, said.err
    assert said.json["answers"][0]["probabilities"] == pytest.approx(said.json["answers"][2]["probabilities"])


def test_report_draws_again_over_several_runs(compared: Said, place: Path) -> None:
    assert peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "other").code == 0
    said = peftu("report", "run", "other", "-o", "both.html", "--json")
    assert (said.code, said.json) == (0, {"report": "both.html"})
    page = (place / "both.html").read_text()
    assert "lora[rank=2,targets=q+v]" in page
    assert "http-equiv" not in page or 'src="http' not in page


def test_several_labels_run_through(place: Path) -> None:
    said = peftu(
        *("compare", MANY, "--methods", "user-majority,lora[rank=1]", "--base", "./llama", "--raw", "raw"),
        *("--out", "multi", "--epochs", 1, "--json"),
    )
    assert said.code == 0, said.err
    lines = load_run(place / "multi").predictions()
    assert lines["predicted"].list.len().min() >= 1
    texts = {row.item_id: row.text for row in synthetic_rows()}
    own = lines.filter(pl.col("method").str.starts_with("lora") & (pl.col("user_id") == "user-0")).to_dicts()
    asked = [part for line in own for part in ("--text", texts[line["item_id"]])]
    answers = peftu("predict", "multi", "--user", "user-0", *asked, "--json").json["answers"]
    for answer, line in zip(answers, own, strict=True):
        assert answer["labels"] == line["predicted"]
        assert list(answer["probabilities"].values()) == pytest.approx(np.exp(line["scores"]).tolist(), abs=1e-4)
    assert max(len(answer["labels"]) for answer in answers) > 1
    assert ", ".join(answers[0]["labels"]) in peftu("predict", "multi", "--user", "user-0", *asked).out


# --- processes of their own ------------------------------------------------------------------------------------------


def test_judging_and_listing_need_no_torch() -> None:
    rooms = ("peftu", "peftu.metrics", "peftu.results", "peftu.stats", "peftu.data.task", "peftu.cli")
    done = python(
        f"import sys, {', '.join(rooms)}\n"
        "from peftu.data.commands import describe_tasks\n"
        "from peftu.methods.describe import describe_methods\n"
        "from peftu.base.cards import bases\n"
        "describe_methods(), [bases.get(n) for n in bases.names()]\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    assert done.returncode == 0, done.stderr
    done = python("import sys, peftu; sys.exit(len([m for m in sys.modules if m in ('polars', 'pydantic', 'scipy')]))")
    assert done.returncode == 0


# --- judging ---------------------------------------------------------------------------------------------------------


def test_a_scored_file_joins_the_board_of_a_run(compared: Said, place: Path) -> None:
    """The test rows of a run, answered by another system, stand beside the run's own methods."""
    own = load_run(place / "run").predictions().filter(pl.col("method") == "user-majority", pl.col("part") == "test")
    one = [pl.col(name).list.first().alias(new) for name, new in (("target", "target"), ("predicted", "output"))]
    own.rename({"user_id": "user", "item_id": "item"}).select("user", "item", "seed", *one).write_parquet(
        "mine.parquet"
    )
    labels = ",".join(load_run(place / "run").record.task.labels)
    said = peftu("score", "mine.parquet", "--labels", labels, "--out", "mine", "--json")
    assert said.code == 0, said.err
    assert (place / "mine" / "report.html").is_file()
    merged = peftu("leaderboard", "run", "mine", "--out", "board", "--json")
    assert merged.code == 0, merged.err
    names = [method["method"] for method in merged.json["methods"]]
    assert names == [*(method["method"] for method in compared.json["methods"]), "mine"]
    assert merged.json["methods"][:-1] == compared.json["methods"]
    assert merged.json["methods"][-1]["mean"] == compared.json["methods"][0]["mean"]
    assert read_judgement(place / "board").ceilings == read_judgement(place / "run").ceilings
    assert "user-3" not in merged.out + said.out


def test_boards_of_other_splits_are_refused(compared: Said, place: Path) -> None:
    said = peftu(*("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "fifth", "-s", "seeds=[5]"))
    assert said.code == 0, said.err
    said = peftu("leaderboard", "run", "fifth", "--out", "never")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "no seed in common" in said.err


def test_a_user_is_told_what_differs_about_them(place: Path) -> None:
    said = peftu("about", TASK, "--user", "user-3", "--raw", "raw")
    assert said.code == 0, said.err
    assert "You say what most others say of" in said.out
    assert "user-3" not in said.out
    nobody = peftu("about", TASK, "--user", "nobody", "--raw", "raw")
    assert (nobody.code, nobody.err.count("\n")) == (2, 1)
