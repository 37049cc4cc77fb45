"""One method at one seed: what is shared is made once, and sharing changes no number."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import DivergedError
from peftu.experiment import method_list
from peftu.fitted import training
from peftu.fitted.training import everyone_of, examples_of, rows_of, units_of
from peftu.lab import lab
from peftu.lab.progress import Silent
from peftu.plan import Job, plan
from peftu.predict import score
from peftu.store import EVERYONE
from peftu.testing import load_tiny
from peftu.train import train
from peftu.train_rows import Examples, Unit, row_loss

torch.set_num_threads(1)

Shop = Callable[..., Fits]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(lab, "load_base", load_tiny)

    def make(seeds: int = 1, kind: Any = "single") -> Fits:
        table = synthetic_table(users=4, items=20, kind=kind)
        problems = {
            seed: make_problem(table, table.card, make_split(table, SplitSpec(), seed)) for seed in range(seeds)
        }
        return Fits(table.card, problems, 64, Silent())

    return make


def jobs_of(methods: str, **train: Any) -> list[Job]:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    return plan(RunSpec(task="any", methods=asked, base="llama", train={"epochs": 1, **train}))


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_everyone_s_shares_are_everyone_s_judgements(shop: Shop, kind: str) -> None:
    """A text once, with its labels' shares and its count, has the loss of its single judgements."""
    fits = shop(kind=kind)
    problem, everyone = fits.problems[0], everyone_of(fits.problems[0], rows_of(fits.problems[0], fits.lab))
    assert everyone.key == EVERYONE
    base = fits.lab.base("llama")
    context = fits.lab.context("llama", fits.prompt, base.region(None))

    def loss(examples: Examples) -> tuple[float, float]:
        scores = base.readout(context, torch.from_numpy(examples.text))
        losses = row_loss(scores, torch.from_numpy(examples.target), context.prompt).numpy()
        return float((losses * examples.weight).sum()), float(examples.weight.sum())

    for part, shares in (("train", everyone.train), ("val", everyone.val)):
        single = examples_of(problem, rows_of(problem, fits.lab), problem.rows(part))
        assert len(np.unique(shares.text)) == len(shares) <= len(single)
        assert loss(shares) == pytest.approx(loss(single), rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_what_methods_share_is_made_once(shop: Shop, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    fits, trained = shop(), []

    def counted(base: Any, context: Any, layout: Any, units: list[Unit], *rest: Any) -> Any:
        trained.append([unit.key for unit in units])
        return train(base, context, layout, units, *rest)

    monkeypatch.setattr(training, "train", counted)
    first, second = (fits.run(job, 0) for job in jobs_of(f"global[method={method}],global+{method}"))
    users = list(fits.problems[0].users)
    assert trained == [[EVERYONE], users]
    assert second.cost.seconds > 0
    assert (first.parameters, second.parameters) == (0, second.modules.layout.width if second.modules else -1)

    alone = shop().run(jobs_of(f"global+{method}")[0], 0)
    assert np.allclose(alone.scores, second.scores, atol=1e-5)


def test_rows_are_the_validation_and_test_rows_of_each_user(shop: Shop) -> None:
    fits = shop(seeds=2)
    for job in jobs_of("user-majority,zero-shot,mixed-head,lora[rank=1]"):
        for seed, problem in fits.problems.items():
            cell = fits.run(job, seed)
            assert cell.rows.tolist() == np.flatnonzero(problem.part > 0).tolist()
            assert cell.scores.shape == (len(cell.rows), 2)
            assert np.allclose(np.exp(cell.scores).sum(1), 1, atol=1e-4)


def test_a_module_s_scores_are_its_own_user_s(shop: Shop) -> None:
    """Each row is read with the module of the user who judged it, whatever order the rows stand in."""
    fits = shop()
    cell = fits.run(jobs_of("lora[rank=2]", lr=0.05)[0], 0)
    problem, modules = fits.problems[0], cell.modules
    assert modules is not None
    assert modules.keys == problem.users
    base = fits.lab.base("llama")
    context = fits.lab.context("llama", fits.prompt, modules.region)
    for place, row in enumerate(cell.rows):
        own = modules.trained.rows[problem.user[row]][None]
        text = rows_of(problem, fits.lab)[[row]]
        expected = score(base, context, text, modules.layout, own)[0]
        assert np.allclose(cell.scores[place], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "prompt-tuning", "prefix-tuning", "user-token", "global"])
def test_bytes_of_a_user_are_those_in_the_store(shop: Shop, method: str) -> None:
    cell = shop().run(*jobs_of(method), 0)
    assert cell.modules is not None
    assert cell.modules.learned is cell.modules  # none diverged: rows that lie in a file are not copied into memory
    assert cell.bytes_per_user == (0 if method == "global" else cell.modules.trained.rows[0].nbytes)


def test_a_diverged_user_is_scored_by_what_the_notes_say_and_has_no_module(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = shop()
    users = units_of(fits.problems[0], rows_of(fits.problems[0], fits.lab))
    users[1].train.target[0] = np.nan
    monkeypatch.setattr(training, "units_of", lambda *_: users)
    plain, own, warm = (fits.run(job, 0) for job in jobs_of("zero-shot,lora,global+lora"))
    assert own.notes["diverged"] == "1 users, scored by the base and not stored"
    assert warm.notes["diverged"] == "1 users, scored by everyone's module and not stored"
    theirs = fits.problems[0].user[own.rows] == 1
    assert np.allclose(own.scores[theirs], plain.scores[theirs], atol=1e-5)
    assert not np.allclose(own.scores[~theirs], plain.scores[~theirs], atol=1e-5)
    for cell in (own, warm):
        assert cell.modules is not None
        kept = cell.modules.learned
        assert kept.keys == tuple(unit.key for unit in users if unit is not users[1])
        assert torch.equal(kept.trained.rows, cell.modules.trained.rows[[0, 2, 3]])


def test_everyone_s_training_that_diverges_is_an_error(shop: Shop) -> None:
    with pytest.raises(DivergedError, match="method global: training on everyone diverged at lr=1e\\+30 — lower lr"):
        shop().run(jobs_of("global+lora[lr=0.001]", lr=1e30)[0], 0)
