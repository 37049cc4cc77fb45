"""The command line from end to end, on made-up users and tiny bases in local folders."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from peftu.cli import main
from peftu.data.synthetic import SyntheticTask, synthetic_card, synthetic_rows
from peftu.data.task import tasks
from peftu.execute import cells
from peftu.metrics import user_scores
from peftu.results import RunRecord, load_run
from peftu.testing import tiny_model

torch.set_num_threads(1)

SRC = Path(__file__).parents[2] / "src"
TASK, MANY, FREE = "synthetic-single", "synthetic-multi", "synthetic-text"


class SyntheticMulti:
    card = synthetic_card("multi")

    def rows(self, raw: Path) -> Iterator[Any]:
        yield from synthetic_rows(4, 20, "multi")


class SyntheticText:
    card = synthetic_card("text")

    def rows(self, raw: Path) -> Iterator[Any]:
        yield from synthetic_rows(4, 20, "text")


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str
    json: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        with contextlib.suppress(ValueError):
            self.json = json.loads(self.out)


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with tiny bases and the made-up tasks' raw file; its own cache; the tasks registered."""
    home = tmp_path_factory.mktemp("place")
    for family in ("llama", "bert"):
        model, tokenizer = tiny_model(family)
        model.save_pretrained(home / family)
        tokenizer.save_pretrained(home / family)
    (home / "raw").mkdir()
    (home / "raw" / "none.txt").write_text("nothing is read\n")
    level = logging.getLogger("transformers").level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_loaded", {})
        for name, task in ((TASK, SyntheticTask), (MANY, SyntheticMulti), (FREE, SyntheticText)):
            tasks.add(name, task)
        patch.setenv("PEFTU_CACHE", str(home / "cache"))
        patch.setenv("COLUMNS", "80")
        patch.chdir(home)
        yield home
    logging.getLogger("transformers").setLevel(level)


def peftu(*arguments: object) -> Said:
    """Returns what the command line answers, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["peftu", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return Said(int(end.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def compared(place: Path) -> Said:
    """A finished comparison of five methods over two seeds, in the folder 'run'."""
    methods = "user-majority,mixed-head@./bert,zero-shot,global[rank=1],lora[rank=2,targets=q+v]"
    said = peftu(
        *("compare", TASK, "--methods", methods, "--base", "./llama", "--raw", "raw", "--out", "run"),
        *("--seeds", 2, "--epochs", 2, "--region", "depth=1,span=answer", "--json"),
    )
    assert said.code == 0, said.err
    return said


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
    lora = found["methods"][-1]
    assert lora["parameters_per_user"] == 2 * (32 + 32) + 2 * (32 + 16)
    assert [method["parameters_per_user"] for method in found["methods"][2:4]] == [0, 0]


def test_the_folder_holds_what_the_record_says(compared: Said, place: Path) -> None:
    assert {path.name for path in (place / "run").iterdir()} == {
        *("run.json", "predictions.parquet", "user_scores.parquet", "train_log.jsonl", "report.html", "modules")
    }
    run = load_run(place / "run")
    assert run.record.cli_json(Path("run")) == compared.json
    assert run.record.spec_passed["methods"].endswith("lora[rank=2,targets=q+v]")
    assert run.record.spec["split"]["min_items"] == 10
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
        if path.suffix in (".json", ".jsonl", ".html", ".safetensors"):
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


def test_a_finished_run_is_replaced_as_a_whole(place: Path) -> None:
    for method in ("lora[rank=1]", "user-majority"):
        flags = ("--base", "./llama", "--raw", "raw", "--out", "twice", "--users", 2, "--epochs", 1)
        assert peftu("run", TASK, "--method", method, *flags).code == 0
    assert not (place / "twice" / "modules").exists()
    assert [m.method for m in load_run(place / "twice").record.methods] == ["user-majority"]


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
    assert [first["label"]] == line["predicted"]
    assert list(first["probabilities"].values()) == pytest.approx(np.exp(line["scores"]).tolist(), abs=1e-4)
    assert sum(second["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    plain = peftu(*asked, "--text", text)
    assert first["label"] in plain.out
    assert "lora[rank=2,targets=q+v]@./llama, seed 1" in plain.out
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
    predicted = load_run(place / "multi").predictions()["predicted"]
    assert predicted.list.len().min() >= 1
    answer = peftu("predict", "multi", "--user", "user-0", "--text", "Note", "--json").json["answers"][0]
    assert all(0 <= chance <= 1 for chance in answer["probabilities"].values())


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_never_read_as_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("run", TASK, "--method", "lora[rank=1]", "--base", "./llama", "--raw", "raw", "--epochs", 1, "--seeds", 2)
    assert peftu(*flags, "--out", "stopped").code == 0
    calls, plain = [], cells.train

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "train", interrupted)
        said = peftu(*flags, "--out", "stopped", "--json")
    assert said.code == 130
    assert said.out == ""
    assert "interrupted" in said.err
    assert "Traceback" not in said.err
    assert not (place / "stopped" / "run.json").exists()  # not even the one of the run before
    for command in (("report", "stopped", "-o", "r.html"), ("predict", "stopped", "--user", "user-0", "--text", "x")):
        refused(peftu(*command), "did not finish")
    assert not (place / "r.html").exists()
    assert peftu(*flags, "--out", "stopped").code == 0
    assert load_run(place / "stopped")


def test_a_bug_keeps_its_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cells, "train", broken)
    flags = ("--base", "./llama", "--raw", "raw", "--out", "bug")
    with pytest.raises(RuntimeError, match="a bug"):
        peftu("run", TASK, "--method", "lora[rank=1]", *flags)
    assert not (place / "bug" / "run.json").exists()


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(said: Said, complaint: str) -> None:
    """Checks for exit code 2 and one clear line."""
    assert said.code == 2, said.err
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    assert complaint in lines[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "synthetic-singel", "--method", "lora"), "did you mean 'synthetic-single'"),
        (("run", FREE, "--method", "lora"), "run and compare take tasks with labels"),
        (("run", TASK, "--method", "lorra"), "unknown method 'lorra' — did you mean 'lora'"),
        (("run", TASK, "--method", "lora[rnak=4]"), "unknown setting 'rnak' — did you mean 'rank'"),
        (("run", TASK, "--method", "lora[rank=0]"), "rank"),
        (("run", TASK, "--method", "lora[rank=4"), "not of the form"),
        (("run", TASK, "--method", "lora,lora"), "method"),
        (("compare", TASK, "--methods", "lora,user-majority,lora"), "'lora' stands twice"),
        (("run", TASK, "--method", "user-majority@./llama"), "takes no base"),
        (("run", TASK, "--method", "lora", "--base", "./nowhere"), "no such folder"),
        (("run", TASK, "--method", "lora", "--base", "raw"), "no config.json"),
        (("run", TASK, "--method", "lora", "--region", "depth=4"), "depth 4 is more than the base's 3 layers"),
        (("run", TASK, "--method", "lora", "--region", "dept=4"), "did you mean 'depth'"),
        (("run", TASK, "--method", "lora", "--region", "span=ansewr"), "did you mean 'answer'"),
        (("run", TASK, "--method", "lora@./bert", "--region", "span=answer"), "an encoder has no answer span"),
        (("run", TASK, "--method", "lora[targets=gate,head=false]@./bert"), "no target lies in the region"),
        (("run", TASK, "--method", "lora", "--regime", "within-usr"), "did you mean 'within-user'"),
        (("run", TASK, "--method", "lora", "--option", "user=2"), "did you mean 'users'"),
        (("run", TASK, "--method", "lora", "--option", "users"), "--option"),
        (("run", TASK, "--method", "lora", "-s", "train.bacth=2"), "did you mean 'batch'"),
        (("run", TASK, "--method", "lora", "-s", "task.name=2"), "task"),
        (("run", TASK, "--method", "lora", "-s", "max_tokens=3"), "max_tokens"),
        (("run", TASK, "--method", "lora", "--min-items", 500), "no user has 500 items"),
        (("run", TASK, "--method", "lora", "--lr", "-1"), "lr"),
        (("run", TASK, "--method", "lora", "--lr", "fast"), "--lr"),
        (("run", TASK, "--method", "lora", "--users", 0), "--users"),
        (("run", TASK, "--method", "lora", "--warm-start", "globall"), "did you mean 'global'"),
        (("run", TASK, "--method", "lora", "--shrink", 1), "add warm_start=global"),
        (("run", TASK, "--method", "lora", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("run", TASK, "--method", "lora", "--colour"), "No such option"),
        (("run", TASK), "--method"),
        (("rnu", TASK), "No such command 'rnu'"),
        (("run", TASK, "--method", "user-majority", "--raw", "llama"), "none.txt is not in llama"),
        (("run", TASK, "--method", "user-majority", "--raw", "nowhere"), "nowhere is not a folder"),
        (("run", TASK, "--method", "user-majority", "--out", "raw"), "holds 'none.txt', which no run made"),
        (("run", TASK, "--method", "user-majority", "--out", "raw/none.txt"), "is a file"),
        (("data", "stats", "synthetic-singel"), "did you mean 'synthetic-single'"),
        (("data", "stats", TASK, "--raw", "llama"), "none.txt is not in llama"),
        (("data", "audit", TASK, "--regime", "unsen-text"), "did you mean 'unseen-text'"),
        (("tasks", "synthetic-singel"), "did you mean"),
        (("methods", "lorra"), "did you mean 'lora'"),
        (("bases", "smollm2"), "unknown base 'smollm2'"),
        (("report", "nowhere"), "nowhere"),
        (("report", "raw"), "run.json"),
        (("predict", "nowhere", "--user", "user-1", "--text", "x"), "nowhere"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_bad_input_is_one_line(place: Path, arguments: tuple[object, ...], complaint: str) -> None:
    if arguments[0] in ("run", "compare"):
        given = {"--base": "./llama", "--raw": "raw", "--out": "bad"}
        arguments = (*arguments, *(p for flag, v in given.items() if flag not in arguments for p in (flag, v)))
    elif arguments[:2] == ("data", "audit"):
        arguments = (*arguments, "--raw", "raw")
    refused(peftu(*arguments), complaint)
    assert not (place / "bad").exists()
    assert (place / "raw" / "none.txt").exists()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (("--user", "user-99", "--seed", 0), "the asked user has no module"),
        (("--user", "user-1", "--seed", 7), "no modules for seed 7 — there are 0, 1"),
        (("--user", "user-1", "--method", "lora"), "no modules of 'lora'"),
        (("--user", "user-1", "--method", "zero-shot"), "no modules of 'zero-shot'"),
        (("--user", ""), "the asked user has no module"),
    ],
)
def test_nobody_is_answered_by_the_base_in_silence(compared: Said, asked: tuple[str, ...], complaint: str) -> None:
    said = peftu("predict", "run", "--text", "x", *asked)
    refused(said, complaint)
    assert "user-99" not in said.err


def test_a_run_without_modules_cannot_answer(place: Path) -> None:
    assert peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "bare").code == 0
    refused(peftu("predict", "bare", "--user", "user-1", "--text", "x"), "no module store here")


def test_a_changed_run_or_base_is_refused(compared: Said, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    asked = ("--user", "user-1", "--text", "x", "--seed", 0)
    shutil.copytree(place / "run", place / "changed")
    (shard, *_) = sorted((place / "changed" / "modules" / "shards").iterdir())
    for shard in (place / "changed" / "modules" / "shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    last = sorted(f"user-{number}" for number in range(6))[-1]
    refused(peftu("predict", "changed", "--user", last, "--text", "x"), "does not match its checksum")
    table = place / "changed" / "predictions.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    refused(peftu("report", "changed", "-o", "x.html"), "differs from the sha256")
    refused(peftu("predict", "changed", *asked), "differs from the sha256")

    (place / "llama").rename(place / "llama-as-it-was")
    try:
        refused(peftu("predict", "run", *asked), "no such folder")
        model, tokenizer = tiny_model("llama", seed=9)
        model.save_pretrained(place / "llama")
        tokenizer.save_pretrained(place / "llama")
        refused(peftu("predict", "run", *asked), "base ./llama has changed since training")
    finally:
        shutil.rmtree(place / "llama", ignore_errors=True)
        (place / "llama-as-it-was").rename(place / "llama")


def test_somebody_s_folder_of_modules_is_not_emptied(place: Path) -> None:
    """A folder that merely has a name of ours in it is not a run."""
    (place / "project" / "modules").mkdir(parents=True)
    (place / "project" / "modules" / "precious.py").write_text("x = 1\n")
    said = peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "project")
    refused(said, "which no run made")
    assert (place / "project" / "modules" / "precious.py").exists()


def test_left_overs_of_a_killed_write_do_not_block_a_run(place: Path) -> None:
    (place / "killed").mkdir()
    (place / "killed" / ".run.json.123.tmp").write_text("{")
    said = peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "killed")
    assert said.code == 0, said.err
    assert not (place / "killed" / ".run.json.123.tmp").exists()


# --- processes of their own ------------------------------------------------------------------------------------------


def python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:peftu", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
    )


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


def test_a_process_of_its_own_prints_json_and_nothing_else(place: Path) -> None:
    code = (
        "from peftu.data.synthetic import SyntheticTask\n"
        "from peftu.data.task import tasks\n"
        f"tasks.add({TASK!r}, SyntheticTask)\n"
        "from peftu.cli import main\n"
        "main()\n"
    )
    flags = ("--method", "lora[rank=1]", "--base", "./llama", "--raw", "raw", "--out", "own", "--epochs", "1", "--json")
    done = python(code, "run", TASK, *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["methods"][0]["method"] == "lora[rank=1]"
    assert "Made-up tastes: 6 users" in done.stderr
    assert "Warning" not in done.stderr
    assert RunRecord.read(place / "own").cli_json(Path("own")) == json.loads(done.stdout)
