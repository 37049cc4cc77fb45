"""Bugs and bad input: one clear line, exit code 2, and nothing half-written that is read as whole."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from terminal import FREE, TASK, Said, peftu, refused

from peftu.fitted import training
from peftu.testing import tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cells(place: Path) -> Path:
    """Of this place's own base, which a test takes away."""
    return place / "cells"


def test_a_bug_keeps_its_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(training, "train", broken)
    flags = ("--base", "./llama", "--raw", "raw", "--out", "bug")
    with pytest.raises(RuntimeError, match="a bug"):
        peftu("run", TASK, "--method", "lora[rank=1]", *flags)
    assert not (place / "bug" / "run.json").exists()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "synthetic-singel", "--method", "lora"), "did you mean 'synthetic-single'"),
        (("run", FREE, "--method", "lora+guard"), "method lora+guard: keeps modules by the rows they get right"),
        (("compare", FREE, "--methods", "global,lora+guard"), "method lora+guard: keeps modules by the rows they"),
        (("run", FREE, "--method", "user-majority"), "needs labels, and task synthetic-text has free text — use"),
        (("run", FREE, "--method", "lora@./bert"), "an encoder writes no text"),
        (("run", TASK, "--method", "user-majority", "-s", "metric.single=mae"), "metric: mae is not a number a user"),
        (("run", TASK, "--method", "user-majority", "-s", "metric.single=error_rate"), "error_rate is not a number a"),
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
        (("run", TASK, "--method", "lora", "--lr", "nan"), "lr"),
        (("run", TASK, "--method", "lora", "-s", "train.clip=NaN"), "clip"),
        (("run", TASK, "--method", "lora", "-s", "train.epochs=99999999999999999999"), "epochs"),
        (("run", TASK, "--method", "lora", "-s", "train.batch=10000000000000"), "batch"),
        (("run", TASK, "--method", "mixed-head[text=inf]@./bert"), "text: is inf — write a finite number"),
        (("run", TASK, "--method", "lora", "--users", 0), "--users"),
        (("run", TASK, "--method", "lora", "--seeds", 0), "--seeds"),
        (("run", TASK, "--method", "lora", "--epochs", -1), "--epochs"),
        (("run", TASK, "--method", "lora", "--min-items", 0), "min_items"),
        (("run", TASK, "--method", "lora", "--max-items", 0), "max_items"),
        (("run", TASK, "--method", ""), "--method: is empty"),
        (("compare", TASK, "--methods", ""), "--methods: is empty — give it a value, or leave it out"),
        (("compare", TASK, "--methods", ","), "names no method"),
        (("tune", TASK, "--methods", "lora,lora"), "'lora' stands twice"),
        (("tune", TASK, "--methods", "lora", "--trials", 0), "--trials"),
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
        (("bases", "smollm2", "--types"), "do not go together"),
        (("report", "nowhere"), "nowhere"),
        (("report", "raw"), "run.json"),
        (("predict", "nowhere", "--user", "user-1", "--text", "x"), "nowhere"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_bad_input_is_one_line(place: Path, arguments: tuple[object, ...], complaint: str) -> None:
    if arguments[0] in ("run", "compare", "tune"):
        given = {"--base": "./llama", "--raw": "raw", "--out": "bad.json" if arguments[0] == "tune" else "bad"}
        arguments = (*arguments, *(p for flag, v in given.items() if flag not in arguments for p in (flag, v)))
    elif arguments[:2] == ("data", "audit"):
        arguments = (*arguments, "--raw", "raw")
    refused(peftu(*arguments), complaint)
    assert not [*place.glob("bad*"), *place.glob("runs")]
    assert (place / "raw" / "none.txt").exists()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (("--user", "user-99", "--seed", 0), "the asked user has no module"),
        (("--user", "user-1", "--seed", 7), "no modules for seed 7 — there are 0, 1"),
        (("--user", "user-1", "--method", "ia3"), "no modules of 'ia3'"),
        (("--user", "user-99", "--method", "user-majority"), "the asked user has no module"),
        (("--user", ""), "the asked user has no module"),
    ],
)
def test_nobody_is_answered_by_the_base_in_silence(compared: Said, asked: tuple[str, ...], complaint: str) -> None:
    said = peftu("predict", "run", "--text", "x", *asked)
    refused(said, complaint)
    assert "user-99" not in said.err


def test_a_run_without_modules_answers_with_what_it_fitted(place: Path) -> None:
    assert peftu("run", TASK, "--method", "user-majority", "--raw", "raw", "--out", "bare").code == 0
    said = peftu("predict", "bare", "--user", "user-1", "--text", "x", "--json")
    assert (said.code, said.json["method"], said.json["shared_module"]) == (0, "user-majority", False)
    refused(peftu("predict", "bare", "--user", "user-99", "--text", "x"), "the asked user has no module")
    refused(peftu("store", "ls", "bare"), "no module store here")


def test_a_changed_run_or_base_is_refused(compared: Said, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        refused(peftu("predict", "run", *asked), "where no folder is — say with --base where it is now")
        model, tokenizer = tiny_model("llama", seed=9)
        model.save_pretrained(place / "llama")
        tokenizer.save_pretrained(place / "llama")
        refused(peftu("predict", "run", *asked), "llama has changed since training")
    finally:
        shutil.rmtree(place / "llama", ignore_errors=True)
        (place / "llama-as-it-was").rename(place / "llama")
