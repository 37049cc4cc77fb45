"""Answers from a base that has moved, that stands elsewhere, or that this machine would read in another number type."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from terminal import TASK, peftu, refused

from peftu.base.model import load_base
from peftu.config import HardwareSpec

BASE = "./some@where/llama"
LABEL = f"lora[rank=1]@{BASE}"
ASK = ("--user", "user-1", "--text", "x", "--text", "longer text")


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A run trained in bfloat16, on a base in a folder whose path has an '@'."""
    shutil.copytree(place / "llama", place / BASE)
    said = peftu(
        *("run", TASK, "--method", LABEL, "--raw", "raw", "--out", "native", "--epochs", 1),
        *("--region", "depth=1,span=all", "--device", "cpu", "--dtype", "bfloat16", "--json"),
    )
    assert said.code == 0, said.err
    return place / "native"


@pytest.fixture(autouse=True)
def elsewhere(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder, on a machine that computes in float32."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def answers(run: Path, *options: object) -> Any:
    said = peftu("predict", run, *ASK, *options, "--json")
    assert said.code == 0, said.err
    assert said.json["method"] == LABEL
    return said.json["answers"]


def edited(
    run: Path, copy: Path, dtype: str | None = None, base: str | None = None, fingerprint: str | None = None
) -> Path:
    """Returns a copy of an earlier release's run whose modules are said to be of another base, or number type."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "fitted")
    with closing(sqlite3.connect(copy / "modules" / "index.sqlite")) as index, index:
        index.execute(
            "UPDATE collections SET base = coalesce(?, base), fingerprint = coalesce(?, fingerprint)",
            (base, fingerprint),
        )
        ((recipe,),) = index.execute("SELECT recipe FROM collections")
        made = {**json.loads(recipe), "dtype": dtype}
        made = {key: value for key, value in made.items() if value is not None}
        index.execute("UPDATE collections SET recipe = ?", (json.dumps(made, sort_keys=True, separators=(",", ":")),))
    return copy


def test_a_run_answers_from_any_folder_in_the_number_type_it_was_trained_in(trained: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert record["dtypes"] == {BASE: "bfloat16"}
    assert record["hashes"]["bases"][BASE].startswith("v2:sha256:")
    assert str(trained.parent) not in (trained / "run.json").read_text()  # where people keep things is theirs
    found = answers(trained, "--method", "lora[rank=1]")
    assert record["devices"] == ["cpu"]
    assert answers(edited(trained, tmp_path / "other", dtype="float32")) != found
    listed = peftu("store", "ls", trained, "--json")
    assert [one["base"] for one in listed.json] == [BASE]


def test_a_base_that_has_moved_is_pointed_to(trained: Path, tmp_path: Path) -> None:
    found, old = answers(trained), trained.parent / BASE
    new, out = tmp_path / "moved", tmp_path / "out"
    shutil.move(old, new)
    try:
        for command in (("predict", trained, *ASK), ("store", "export", trained, "--user", "user-1", "-o", out)):
            refused(peftu(*command), "say with --base where it is now")
        assert answers(trained, "--base", new) == found
        said = peftu("store", "export", trained, "--user", "user-1", "-o", out, "--base", new, "--json")
        assert said.code == 0, said.err
        about = json.loads((out / "peftu.json").read_text())
        assert (about["base"], about["dtype"]) == (BASE, "bfloat16")
        said = peftu("store", "import", trained, out, "--user", "user-1", "--base", new, "--json")
        assert said.code == 0, said.err
        refused(
            peftu("predict", trained, *ASK, "--base", trained.parent / "bert"), f"/bert: is not the base {old} that"
        )
    finally:
        shutil.move(new, old)


def test_a_base_that_has_changed_is_refused(trained: Path, tmp_path: Path) -> None:
    changed = edited(trained, tmp_path / "changed", dtype="bfloat16", fingerprint="v2:sha256:0")
    refused(peftu("predict", changed, *ASK), "has changed since training")
    odd = edited(trained, tmp_path / "odd", dtype="__doc__")
    refused(peftu("predict", odd, *ASK), "was trained in '__doc__', which peftu does not read")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modules_of_earlier_releases_answer(trained: Path, tmp_path: Path, dtype: Any) -> None:
    """They name no number type, and their base's fingerprint is of the number type too."""
    base = str(trained.parent / BASE)
    former = load_base(base, HardwareSpec(device="cpu", dtype=dtype)).former_fingerprint
    same = edited(trained, tmp_path / "same", dtype=dtype)
    assert answers(edited(trained, tmp_path / "old", base=base, fingerprint=former)) == answers(same)
    other = edited(trained, tmp_path / "other", fingerprint="sha256:0")
    refused(peftu("predict", other, *ASK), "has changed since training")


def test_a_module_trained_in_bfloat16_answers_in_float32_and_says_how_far_off(trained: Path) -> None:
    said = peftu("predict", trained, *ASK, "--dtype", "float32", "--json")
    assert said.code == 0, said.err
    (note,) = said.json["notes"]
    start, apart = f"{LABEL}: fitted on cpu in bfloat16, opened on cpu in float32: scores differ by ", 0.1
    assert note.startswith(start)
    assert 0 < float(note.removeprefix(start).split()[0]) < apart
    for ours, then in zip(said.json["answers"], answers(trained), strict=True):
        for label, chance in ours["probabilities"].items():
            assert abs(chance - then["probabilities"][label]) < apart
