"""Tuning climbs on validation rows, within its budgets, and goes on where it stopped."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from peftu.bank import Layout
from peftu.cells import fits as cells
from peftu.cells.fits import FitResult
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import DivergedError, PeftuError
from peftu.execute import tune as module
from peftu.execute.tune import tune, validation_loss
from peftu.lab.memo import Billed
from peftu.lab.progress import Silent
from peftu.plan import plan
from peftu.preset import load_preset
from peftu.testing import load_tiny

torch.set_num_threads(1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Settings of every trial that was really made, on a synthetic task and a tiny base."""

    monkeypatch.setattr("peftu.lab.lab.load_base", load_tiny)
    monkeypatch.setattr(module, "load_task", lambda *_: synthetic_table(users=3, items=20))
    real, seen = module._Search._make, []

    def make(self: module._Search, settings: dict[str, Any]) -> module.Trial:
        seen.append(settings)
        return real(self, settings)

    monkeypatch.setattr(module._Search, "_make", make)
    return seen


class Told(Silent):
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, total: int) -> Any:
        return self.steps.append if name.startswith("tuning") else super().stage(name, total)


def width_of(method: str) -> int:
    (job,) = plan(spec_of(method))
    base = load_tiny("llama")
    return Layout(job.method, base.sites(job.region_on(base), 3)).parameters


def spec_of(*methods: str, **train: Any) -> RunSpec:
    asked = tuple(MethodSpec.parse(method) for method in methods)
    return RunSpec(task="any", methods=asked, base="llama", seeds=(10,), train={"epochs": 2, **train})


def test_climbs_from_a_poor_default_and_goes_on_where_it_stopped(made: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    spec = spec_of("lora[rank=2]", lr=1e-5)
    preset = tune(spec, out, trials=5)
    assert len(made) == 5
    assert preset.methods["llama"]["lora"]["lr"] > 1e-5
    assert preset.methods["llama"]["lora"]["rank"] == 2  # written in brackets, so what was found holds with it
    trials = [json.loads(line) for line in out.with_suffix(".trials.jsonl").read_text().splitlines()]
    losses = [trial["loss"] for trial in trials]
    assert preset.found["llama"]["lora"]["loss"] == min(losses) < losses[0]
    assert load_preset(str(out)) == preset
    assert preset.found["llama"]["lora"]["region"] == "depth=3,span=last"
    assert tune(spec, out, trials=5) == preset
    assert len(made) == 5
    tune(spec, out, trials=6)
    assert len(made) == 6
    both = tune(spec_of("lora[rank=2,warm_start=global]"), out, trials=1)
    assert set(both.methods["llama"]) == {"lora", "global+lora"}
    assert both.methods["llama"]["global+lora"] == {"rank": 2}


def test_what_a_method_fixes_of_its_region_is_no_axis(made: list[dict[str, Any]], tmp_path: Path) -> None:
    tune(spec_of("personal-head"), tmp_path / "mine.json", trials=6)
    assert not any("depth" in settings for settings in made)


def test_a_choice_over_the_parameter_budget_is_no_trial(made: list[dict[str, Any]], tmp_path: Path) -> None:
    """The defaults are over it, too: the climb begins at the nearest smaller module."""
    out, told = tmp_path / "mine.json", Told()
    spec = spec_of("lora")
    budget = 1600
    assert width_of("lora[rank=8]") > width_of("lora[rank=4]") > budget > width_of("lora[rank=2]")
    preset = tune(spec, out, trials=12, parameters=budget, reporter=told)
    trials = [json.loads(line) for line in out.with_suffix(".trials.jsonl").read_text().splitlines()]
    assert len(made) == len(trials) == 12
    assert all(np.isfinite(trial["loss"]) and trial["parameters"] <= budget for trial in trials)
    assert {trial["settings"].get("rank") for trial in trials} >= {1, 2}
    assert preset.found["llama"]["lora"]["trials"] == 12
    assert preset.found["llama"]["lora"]["loss"] == min(trial["loss"] for trial in trials)
    assert preset.methods["llama"]["lora"]["rank"] <= 2
    assert len({json.dumps(trial["settings"], sort_keys=True) for trial in trials}) == 12
    assert sum(told.steps) == 12


def test_when_no_choice_is_left_it_says_so(made: list[dict[str, Any]], tmp_path: Path) -> None:
    told = Told()
    spec = spec_of("lora[lr=0.001,epochs=2,targets=q]")
    budget = width_of("lora[rank=2,targets=q]")
    tune(spec, tmp_path / "mine.json", trials=12, parameters=budget, reporter=told)
    fits = [
        (r, d) for r in (1, 2, 4, 8) for d in (1, 2, 3) if width_of(f"lora[rank={r},depth={d},targets=q]") <= budget
    ]
    assert len(made) == len(fits) < 12
    (line,) = (note for note in told.notes if "are tried" in note)
    assert f"all {len(fits)} choices within {budget} parameters are tried, {12 - len(fits)} trials are left" in line


def test_a_budget_below_the_smallest_module_is_refused(made: list[dict[str, Any]], tmp_path: Path) -> None:
    least = width_of("lora[rank=1,depth=1]")
    complaint = rf"lora has {least} parameters a user or more, and at most {least - 1} are allowed — raise"
    with pytest.raises(PeftuError, match=complaint):
        tune(spec_of("lora"), tmp_path / "mine.json", trials=2, parameters=least - 1)
    assert not made


def test_a_value_that_the_base_cannot_host_is_no_trial(made: list[dict[str, Any]], tmp_path: Path) -> None:
    """The tiny base's maps are 16 and 32 wide: the ladder of ranks goes further."""
    tune(spec_of("lora[lr=0.001,epochs=2,depth=1,targets=k]"), tmp_path / "mine.json", trials=9)
    assert {settings.get("rank", 8) for settings in made} == {1, 2, 4, 8, 16}


def test_a_trial_that_diverges_ends_nothing(
    made: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cells.Fits.run

    def diverging(shop: Any, job: Any, seed: int) -> FitResult:
        if job.train.lr >= 1e-3:
            raise DivergedError("training on everyone diverged")
        return run(shop, job, seed)

    monkeypatch.setattr(cells.Fits, "run", diverging)
    out = tmp_path / "mine.json"
    with pytest.raises(PeftuError, match=r"global\[.*\] diverged with every choice tried — write a lower lr"):
        tune(spec_of("global[rank=1,lr=0.01]"), out, trials=2)
    assert not out.exists()
    preset = tune(spec_of("global[rank=1]", lr=2e-3), out, trials=5)
    assert preset.methods["llama"]["global"]["lr"] < 1e-3
    assert tune(spec_of("global[rank=1]", lr=2e-3), out, trials=5) == preset
    assert "Infinity" not in out.with_suffix(".trials.jsonl").read_text()


def test_a_method_without_modules_has_nothing_to_tune(made: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match="mixed-head trains no module"):
        tune(spec_of("mixed-head"), tmp_path / "mine.json")
    with pytest.raises(PeftuError, match=r"lora\+guard .*tune 'lora\[rank=2\]'"):
        tune(spec_of("lora+guard[rank=2]"), tmp_path / "mine.json")
    with pytest.raises(PeftuError, match=r"global\[method=ia3\] has no settings of its own — tune 'ia3'"):
        tune(spec_of("global[method=ia3]"), tmp_path / "mine.json")
    with pytest.raises(PeftuError, match=r"lora\[rank=2\] and lora\[rank=4\] have one entry in a preset — tune each"):
        tune(spec_of("lora[rank=2]", "global+lora", "lora[rank=4]"), tmp_path / "mine.json")
    with pytest.raises(PeftuError, match="unknown method 'lorra'"):
        tune(spec_of("lora", "lorra"), tmp_path / "mine.json")
    assert not made


def test_a_preset_that_no_run_could_read_is_refused_first(made: list[dict[str, Any]], tmp_path: Path) -> None:
    for out in (tmp_path / "mine", tmp_path):
        with pytest.raises(PeftuError, match=r"--out .* \.json"):
            tune(spec_of("lora"), out)
    assert not made


def test_the_loss_of_free_answers_is_a_mean_over_tokens() -> None:
    table = synthetic_table(users=2, items=40, kind="text")
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    rows = np.flatnonzero(problem.part == 1)
    scores = np.stack([-np.arange(1.0, len(rows) + 1), np.full(len(rows), 2.0)], 1).astype(np.float32)
    expected = [
        -scores[problem.user[rows] == user, 0].sum() / (2 * (problem.user[rows] == user).sum()) for user in (0, 1)
    ]
    assert validation_loss(problem, FitResult(rows, scores, SimpleNamespace(logits=True), Billed())) == pytest.approx(
        float(np.mean(expected))
    )


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_loss_is_a_mean_over_users(kind: Any) -> None:
    table = synthetic_table(users=3, items=40, kind=kind)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    rows = np.flatnonzero(problem.part > 0)
    scores = np.random.default_rng(0).normal(size=(len(rows), problem.target.shape[1]))
    if kind == "single":
        scores -= np.logaddexp.reduce(scores, 1, keepdims=True)
    losses = []
    for user in range(3):
        own = [place for place, row in enumerate(rows) if problem.user[row] == user and problem.part[row] == 1]
        gold = problem.target[rows[own]]
        if kind == "single":
            losses.append(log_loss(gold.argmax(1), np.exp(scores[own]), labels=range(gold.shape[1])))
        else:
            chance = 1 / (1 + np.exp(-scores[own]))
            losses.append(np.mean([log_loss(gold[:, c], chance[:, c], labels=[0, 1]) for c in range(gold.shape[1])]))
    cell = FitResult(rows, scores.astype(np.float64), SimpleNamespace(logits=True), Billed())  # type: ignore[arg-type]
    assert validation_loss(problem, cell) == pytest.approx(float(np.mean(losses)), abs=1e-9)
