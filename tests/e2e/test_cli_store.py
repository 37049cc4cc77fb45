"""``peftu store`` on a finished run: what it lists, checks, gives to peft, takes back and deletes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from terminal import TASK, Said, peftu, refused

from peftu.data.load import load_task
from peftu.data.problem import Text
from peftu.results import load_run
from peftu.run import Run
from peftu.store import AdapterStore

METHOD = "lora[rank=2,targets=q+v]@./llama"


@pytest.fixture
def run(compared: Said, place: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to do with as a test likes."""
    return Path(shutil.copytree(place / "run", tmp_path / "run"))


def told(*arguments: object) -> Any:
    said = peftu(*arguments, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_lists_and_checks(run: Path) -> None:
    found = {(one["method"], one["seed"]): one for one in told("store", "ls", run)}
    assert set(found) == {(method, seed) for method in ("global[rank=1]@./llama", METHOD) for seed in (0, 1)}
    own = found[METHOD, 0]
    assert own["modules"] == 6
    assert own["bytes"] == 4 * own["parameters"] * 6
    assert told("store", "verify", run) == {"whole": 14}


def test_a_module_goes_to_peft_s_folder_and_to_another_user(run: Path, tmp_path: Path) -> None:
    def chances(user: str) -> list[Any]:
        answers = told("predict", run, "--user", user, "--text", "x", "--text", "longer text", "--method", METHOD)
        return [answer["probabilities"] for answer in answers["answers"]]

    out = tmp_path / "folder"
    assert told("store", "export", run, "--user", "user-1", "-o", out, "--method", METHOD)["loads"] == ["peft"]
    assert "user-1" not in "".join(path.read_text(errors="ignore") for path in out.iterdir())
    assert chances("user-1") != chances("user-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftu.execute.exchange.loaders", lambda *_: (["peft", "vLLM"], ["what to know about it"]))
        said = peftu("store", "export", run, "--user", "user-1", "-o", tmp_path / "told", "--method", METHOD)
    assert said.out.replace("\n", " ").endswith(f"{METHOD}, loaded by peft, vLLM what to know about it ")
    told("store", "import", run, out, "--user", "user-2", "--method", METHOD)
    told("store", "import", run, out, "--user", "newcomer", "--method", METHOD)
    assert chances("user-1") == chances("user-2") == chances("newcomer")
    refused(peftu("store", "export", run, "--user", "user-1", "-o", out, "--method", METHOD), "is not empty")
    file = run / "run.json"
    refused(peftu("store", "export", run, "--user", "user-1", "-o", file, "--method", METHOD), "is not empty")
    refused(peftu("store", "import", run, out, "--user", "user-2", "--method", "global[rank=1]"), "one module for ever")
    refused(peftu("store", "import", run, tmp_path, "--user", "user-2"), "adapter_config.json: is not there")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_neither_enter_nor_answer(run: Path, tmp_path: Path, number: float) -> None:
    out = tmp_path / "folder"
    ask = ("predict", run, "--user", "user-2", "--text", "x", "--method", METHOD)
    before = told(*ask)
    told("store", "export", run, "--user", "user-1", "-o", out, "--method", METHOD)
    tensors = load_file(out / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(tensor, number) for name, tensor in tensors.items()}, out / "adapter_model.safetensors"
    )
    refused(peftu("store", "import", run, out, "--user", "user-2", "--method", METHOD), "numbers that are not finite")
    assert told(*ask) == before
    assert told("store", "verify", run) == {"whole": 14}

    with AdapterStore(run / "modules") as store:  # a store that took such numbers before they were refused
        kind = next(found for found in store.collections() if found.label == METHOD)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("peftu.store.shards.finite", lambda rows: torch.ones(len(rows), dtype=torch.bool))
            store.add(kind, ["user-2"], torch.full((1, kind.width), number), [1])
    for more in ((), ("--json",)):
        for command in (ask, ("store", "verify", run), ("store", "export", run, *ask[2:4], "-o", tmp_path / "new")):
            refused(peftu(*command, *more), "numbers that are not finite")
    told("store", "rm", run, "--user", "user-2")
    assert told("store", "verify", run) == {"whole": 12}


def test_numbers_too_large_to_answer_with_are_one_line(run: Path) -> None:
    with AdapterStore(run / "modules") as store:
        kind = next(found for found in store.collections() if found.label == METHOD)
        store.add(kind, ["user-2"], torch.full((1, kind.width), 1e30), [1])
    ask = ("predict", run, "--user", "user-2", "--text", "x", "--method", METHOD)
    for more in ((), ("--json",)):
        refused(peftu(*ask, *more), "numbers are too large to answer with")


def test_deletion_is_deletion(run: Path) -> None:
    before = {path.name for path in (run / "modules" / "shards").iterdir()}
    done = told("store", "rm", run, "--user", "user-1")
    assert done["deleted"] == 2
    assert not any(Path(one["file"]).name == "predictions.parquet" for one in done["remains"])
    assert load_run(run).record.deleted_users == 1
    refused(peftu("predict", run, "--user", "user-1", "--text", "x"), "the asked user has no module")
    refused(peftu("store", "rm", run, "--user", "user-1"), "nothing was deleted")
    refused(peftu("store", "rm", run, "--user", ""), "--user: is empty")  # the key of what everybody shares
    refused(peftu("store", "import", run, run, "--user", "", "--method", METHOD), "--user: is empty")
    assert told("store", "verify", run) == {"whole": 12}
    assert len(before - {path.name for path in (run / "modules" / "shards").iterdir()}) == 2
    assert peftu("predict", run, "--user", "user-2", "--text", "x").code == 0


def test_versions_roll_back_and_are_approved(run: Path, tmp_path: Path) -> None:
    ask = ("predict", run, "--user", "user-2", "--text", "x", "--method", METHOD)
    one = ("--user", "user-2", "--method", METHOD)
    first = told(*ask)
    out = tmp_path / "folder"
    told("store", "export", run, "--user", "user-1", "-o", out, "--method", METHOD)
    told("store", "import", run, out, *one)
    second = told(*ask)
    assert second != first
    versions = [entry for entry in told("store", "show", run, "--user", "user-2") if entry["seed"] == 0]
    assert [(entry["version"], entry["status"]) for entry in versions] == [(2, "approved"), (1, "approved")]
    assert versions[0]["provenance"].keys() == {"source", "data"}
    made_of = versions[1]["provenance"]
    record = json.loads((run / "run.json").read_text())
    assert made_of["split"] in json.dumps(record)
    assert (made_of["source"], made_of["train"]["epochs"]) == ("run", 2)
    assert told("store", "rollback", run, *one)["version"] == 1
    assert told(*ask) == first
    refused(peftu("store", "rollback", run, *one), "no approved version before")
    refused(peftu("store", "rollback", run, *one, "--version", 2), "no approved version 2")
    told("store", "mark", run, *one, "--version", 2, "--status", "approved")
    assert told(*ask) == second
    for version in (1, 2):
        told("store", "mark", run, *one, "--version", version, "--status", "quarantined")
    refused(peftu(*ask), "has no module")
    refused(peftu("store", "mark", run, *one, "--version", 3, "--status", "revoked"), "no version 3")
    refused(peftu("store", "show", run, "--user", "nobody"), "the asked user has no module")
    assert told("store", "verify", run / "modules") == {"whole": 15}  # a store by itself, too
    assert told("store", "gc", run) == {"gone": 0}


def test_what_int8_changes_is_told_before_it_is_done(run: Path, place: Path) -> None:
    """The told difference is that between the run's own scores and those of the packed modules."""
    asked = ("store", "pack", run, "--int8", "--raw", "raw")
    refused(peftu("store", "pack", run), "nothing is asked for — pass --int8, --shards, or both")
    told_before = told(*asked, "--dry-run")
    assert told_before["written"] == 0
    table = load_task(TASK, Path("raw")).frame
    size = sum(path.stat().st_size for path in (run / "modules" / "shards").iterdir())
    assert told(*asked) == told_before | {"written": 14}
    assert sum(path.stat().st_size for path in (run / "modules" / "shards").iterdir()) < size
    assert told("store", "verify", run) == {"whole": 14}
    costs = {(cost["method"], cost["seed"]): cost for cost in told_before["costs"]}
    assert set(costs) == {(method, seed) for method in ("global[rank=1]@./llama", METHOD) for seed in (0, 1)}
    finished = Run(run)
    for (method, seed), cost in costs.items():
        rows = finished.predictions().filter(
            (pl.col("method") + "@" + pl.col("base") == method) & (pl.col("seed") == seed) & (pl.col("part") == "val")
        )
        rows = rows.join(table, on=["user_id", "item_id"])
        scores = finished.fitted(method, seed).scores(rows["user_id"].to_list(), [Text(text) for text in rows["text"]])
        apart = np.abs(np.exp(scores) - np.exp(np.array(rows["scores"].to_list())))
        assert cost["rows"] == len(rows) > 0
        assert 0 < cost["largest_difference"] == pytest.approx(apart.max(), abs=1e-5)
        assert cost["changed_decisions"] == (scores.argmax(1) != [np.argmax(row) for row in rows["scores"]]).sum()
