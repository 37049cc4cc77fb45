"""Training a cohort is training each user alone, the way a plain PyTorch loop would."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftu import train as training
from peftu.bank import Bound, Layout, derived_seed
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec, TrainSpec
from peftu.methods.lora import Lora
from peftu.predict import read_rows
from peftu.testing import FAMILIES, tiny_base, tiny_prompt, tiny_texts, tiny_units
from peftu.testing.bank import AdapterBank
from peftu.train import Trained, train
from peftu.train_rows import Examples, Unit

torch.set_num_threads(1)

TEXTS = 16
GOLDEN = Path(__file__).parents[1] / "golden" / "four-steps.json"
SPEC = TrainSpec(epochs=3, lr=3e-3, batch=4, patience=3)


@dataclass(frozen=True)
class Bench:
    """A base with texts read and a module's layout: everything `train` needs but the users."""

    base: FrozenBase
    context: Context
    layout: Layout
    labels: int = 2

    def units(self, *sizes: int, val: int = 3, seed: int = 0) -> list[Unit]:
        return tiny_units(sizes, TEXTS, self.labels, val, seed, self.context.prompt.exclusive)

    def train(self, units: list[Unit], spec: TrainSpec = SPEC, seed: int = 0, start: Tensor | None = None) -> Trained:
        return train(self.base, self.context, self.layout, units, spec, seed, start)


def bench(
    family: str = "llama", region: RegionSpec | None = None, method: Lora | None = None, labels: int = 2, **prompt: Any
) -> Bench:
    base = tiny_base(family)
    resolved = base.region(region or base.default_region)
    words = tuple("abcdefgh"[:labels])
    context = base.prefill(tiny_prompt(words, **prompt), tiny_texts(TEXTS), resolved)
    return Bench(base, context, Layout(method or Lora(rank=2), base.sites(resolved, labels)), labels)


def steady(family: str) -> Bench:
    """A bench none of whose gradients is zero but for rounding, which Adam would take whole steps along.

    A T5 decoder that has read one token looks at that token alone, whatever its query is: queries are left as they are.
    """
    return bench(family, method=Lora(rank=2, targets=("v", "o", "down")) if family == "t5" else None)


@pytest.fixture(scope="module")
def shallow() -> Bench:
    return bench(region=RegionSpec(depth=1, span="answer"))


# --- against torch.optim ---------------------------------------------------------------------------------------------


def by_the_book(
    bench: Bench, unit: Unit, spec: TrainSpec, seed: int, start: Tensor | None = None
) -> tuple[Tensor, list[float]]:
    """Returns one user's module and validation losses (index: epoch, 0 before any) by a plain loop of torch's own.

    With ``spec.shrink`` the parameter is the difference from the start, so that AdamW's weight decay is the pull.
    """
    layout = bench.layout
    begin = layout.fresh([unit.key], seed) if start is None else start[None].clone()
    shift = begin if start is not None and spec.shrink else torch.zeros_like(begin)
    row = torch.nn.Parameter(begin - shift)
    decay = spec.shrink if start is not None and spec.shrink else spec.weight_decay
    optimiser = torch.optim.AdamW([row], lr=spec.lr, weight_decay=decay)
    batches = math.ceil(len(unit.train) / spec.batch)
    total = batches * spec.epochs
    warm = max(1, math.ceil(total * spec.warmup))

    def rate(step: int) -> float:
        return (step + 1) / warm if step < warm else (total - step) / (total - warm + 1)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)

    def loss_of(examples: Examples, chosen: np.ndarray) -> Tensor:
        binding = Bound(layout, layout.views(row + shift), 1)
        scores = bench.base.readout(bench.context, torch.from_numpy(examples.text[chosen]), binding)
        target, weight = torch.from_numpy(examples.target[chosen]), torch.from_numpy(examples.weight[chosen])
        if bench.context.prompt.exclusive:
            losses = torch.nn.functional.cross_entropy(scores, target, reduction="none")
        else:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(1)
        return (losses * weight).sum() / weight.sum()

    def validate() -> float:
        with torch.no_grad():
            return float(loss_of(unit.val, np.arange(len(unit.val)))) if len(unit.val) else math.nan

    rng = np.random.Generator(np.random.PCG64(derived_seed(seed, unit.key, "order")))
    losses, best, best_loss, waited = [validate()], begin, validate(), 0
    for _ in range(spec.epochs):
        order = rng.permutation(len(unit.train))
        for first in range(0, len(order), spec.batch):
            optimiser.zero_grad()
            loss_of(unit.train, order[first : first + spec.batch]).backward()
            torch.nn.utils.clip_grad_norm_([row], spec.clip)
            optimiser.step()
            schedule.step()
        losses.append(validate())
        waited += 1
        if not len(unit.val) or losses[-1] < best_loss:
            best, best_loss, waited = (row + shift).detach().clone(), losses[-1], 0
        if waited >= spec.patience:
            break
    return best[0], losses


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cohort_is_adamw_with_clipping_and_a_schedule_for_each_user(family: str) -> None:
    one = steady(family)
    units = one.units(9, 4, 1)
    trained = one.train(units)
    for row, log, unit in zip(trained.rows, trained.logs, units, strict=True):
        expected, losses = by_the_book(one, unit, SPEC, seed=0)
        assert torch.allclose(row, expected, atol=1e-5)
        assert log.start_loss == pytest.approx(losses[0], abs=1e-5)
        assert log.best_loss == pytest.approx(min(losses), abs=1e-5)
        assert log.best_epoch == int(np.argmin(losses))
        assert log.epochs == len(losses) - 1


@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.01},
        {"weight_decay": 5.0},
        {"warmup": 0.0},
        {"warmup": 0.9, "epochs": 5},
        {"batch": 1, "epochs": 2},
        {"batch": 64},
    ],
    ids=str,
)
def test_each_setting_means_what_it_means_in_torch(shallow: Bench, settings: dict[str, Any]) -> None:
    spec = SPEC.model_copy(update=settings)
    (unit,) = shallow.units(7)
    expected, _ = by_the_book(shallow, unit, spec, seed=3)
    assert torch.allclose(shallow.train([unit], spec, seed=3).rows[0], expected, atol=1e-5)


def test_several_labels_and_row_weights(shallow: Bench) -> None:
    many = bench(region=RegionSpec(depth=1, span="answer"), labels=4, exclusive=False)
    for one in (many, shallow):
        units = []
        for unit in one.units(6, 8):
            rng = np.random.default_rng(len(unit.train))
            weights = [rng.uniform(0.5, 4, len(part)).astype(np.float32) for part in (unit.train, unit.val)]
            units.append(Unit(unit.key, replace(unit.train, weight=weights[0]), replace(unit.val, weight=weights[1])))
        for row, unit in zip(one.train(units).rows, units, strict=True):
            assert torch.allclose(row, by_the_book(one, unit, SPEC, seed=0)[0], atol=1e-5)


# --- no user knows of another ----------------------------------------------------------------------------------------


def same_module(one: Tensor, other: Tensor) -> bool:
    """Returns whether two trainings of a user are the same but for rounding.

    Where a gradient is nearly zero, Adam divides one rounding error by another: a number in a thousand may be a little
    further off.
    """
    apart = (one - other).abs()
    return float(apart.quantile(0.995)) < 1e-6 and float(apart.max()) < 1e-4


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=7, max_size=7), order=st.permutations(range(7)))
def test_a_module_does_not_depend_on_the_cohort(shallow: Bench, sizes: list[int], order: list[int]) -> None:
    units = shallow.units(*sizes)
    together = shallow.train(units)
    shuffled = shallow.train([units[i] for i in order])
    three = shallow.train(units[:3])
    for place, unit in enumerate(units):
        alone = shallow.train([unit])
        assert same_module(alone.rows[0], together.rows[place])
        assert same_module(alone.rows[0], shuffled.rows[order.index(place)])
        if place < 3:
            assert same_module(alone.rows[0], three.rows[place])
        log = together.logs[place]
        assert (log.epochs, log.steps, log.best_epoch) == (
            alone.logs[0].epochs,
            alone.logs[0].steps,
            alone.logs[0].best_epoch,
        )


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_nor_on_how_many_fit_in_memory_at_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = steady(family)
    units = one.units(9, 2, 5, 7, 1)
    together = one.train(units)
    monkeypatch.setattr(training, "cohort_size", lambda *_: 2)
    in_twos = one.train(units)
    assert all(map(same_module, in_twos.rows, together.rows))
    assert [log.steps for log in in_twos.logs] == [log.steps for log in together.logs]


@pytest.mark.parametrize(("total", "expected"), [(1 << 30, 128 << 20), (2 << 30, 256 << 20), (512 << 30, 256 << 20)])
def test_a_cohort_s_memory_has_a_cap_and_is_less_on_small_machines(
    total: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "memory_bytes", lambda: total)
    assert training.cohort_bytes(torch.device("cpu")) == expected


def test_on_a_gpu_a_cohort_s_memory_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("mem_get_info", (10, 90)), ("memory_reserved", 24), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda _, answer=answer: answer)
    assert training.cohort_bytes(torch.device("cuda")) == 7


def test_longer_texts_make_smaller_cohorts() -> None:
    """Keys and values of the texts are held for the backward pass, whatever the span."""
    one = bench(region=RegionSpec(span="last"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "cohort_bytes", lambda _: 1 << 26)
        sizes = [
            training.cohort_size(one.base, replace(one.context, longest=tokens), one.layout, SPEC)
            for tokens in (10, 4000)
        ]
    assert sizes[0] > 2 * sizes[1]


def test_longer_texts_are_read_fewer_at_a_time() -> None:
    """Keys and values of the texts are gathered for every row of a read, whatever the span."""
    one = bench(region=RegionSpec(span="last"))
    sizes = [read_rows(one.base, replace(one.context, longest=tokens), one.layout) for tokens in (10, 100_000)]
    assert sizes[0] > 2 * sizes[1]


def test_nothing_is_left_over_for_the_next_user(shallow: Bench) -> None:
    """Training A, then B is for B the same as training B: byte for byte, base and context included."""
    a, b = shallow.units(9, 5)
    weights = {name: value.clone() for name, value in shallow.base.family.model.state_dict().items()}
    floors = [value.clone() for value in shallow.context.state["span_floors"]]
    before = shallow.train([b]).rows
    shallow.train([a], SPEC.model_copy(update={"lr": 0.5}))
    assert torch.equal(shallow.train([b]).rows, before)
    assert all(torch.equal(value, weights[name]) for name, value in shallow.base.family.model.state_dict().items())
    assert all(map(torch.equal, shallow.context.state["span_floors"], floors))


def test_training_one_user_leaves_the_bank_s_other_rows(shallow: Bench) -> None:
    a, b = shallow.units(6, 6)
    bank = AdapterBank(shallow.layout, slots=3)
    for unit, row in zip((a, b), shallow.train([a, b]).rows, strict=True):
        bank.put(unit.key, row)
    kept, own = bank.rows[bank.slot(b.key)].clone(), bank.rows[bank.slot(a.key)].clone()
    again = shallow.train([a], start=bank.rows[bank.slot(a.key)])
    assert torch.equal(bank.rows[bank.slot(a.key)], own)  # the start itself is copied, not trained in place
    bank.put(a.key, again.rows[0])
    assert torch.equal(bank.rows[bank.slot(b.key)], kept)
    assert not bank.rows[2].any()


# --- when to stop and where to start ---------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_patience_ends_the_rest(shallow: Bench) -> None:
    spec = TrainSpec(epochs=12, lr=0.1, batch=4, patience=2)  # so high a rate that validation gets worse
    units = shallow.units(8, 8, 8, 3, seed=1)
    trained = shallow.train(units, spec)
    for row, log, unit in zip(trained.rows, trained.logs, units, strict=True):
        expected, losses = by_the_book(shallow, unit, spec, seed=0)
        assert log.best_epoch == int(np.argmin(losses))
        assert log.best_loss == pytest.approx(min(losses), rel=1e-3)
        assert log.epochs == len(losses) - 1
        assert log.epochs in (12, log.best_epoch + 2)
        assert torch.allclose(row, expected, atol=1e-2)
    assert any(log.epochs < 12 for log in trained.logs)


def test_without_train_rows_the_start_stays(shallow: Bench) -> None:
    nobody, somebody = shallow.units(0, 5)
    trained = shallow.train([nobody, somebody])
    assert torch.equal(trained.rows[0], shallow.layout.fresh([nobody.key], 0)[0])
    assert (trained.logs[0].steps, trained.logs[0].epochs, trained.logs[0].best_epoch) == (0, 0, 0)
    assert torch.allclose(trained.rows[1], shallow.train([somebody]).rows[0], atol=1e-5)
    start = torch.ones(shallow.layout.width)
    assert torch.equal(shallow.train([nobody], start=start).rows[0], start)
    assert shallow.train([]).rows.shape == (0, shallow.layout.width)


def test_without_val_rows_the_last_state_is_the_result(shallow: Bench) -> None:
    (blind,) = shallow.units(6, val=0)
    seeing = shallow.units(9)
    trained = shallow.train([*seeing, blind])
    expected, _ = by_the_book(shallow, blind, SPEC, seed=0)
    assert torch.allclose(trained.rows[1], expected, atol=1e-5)
    log = trained.logs[1]
    assert (log.epochs, log.best_epoch, log.start_loss, log.best_loss) == (3, 3, None, None)


def test_shrink_pulls_towards_the_start(shallow: Bench) -> None:
    units = shallow.units(8, 6, val=0)
    start = shallow.layout.fresh(["everyone"], 7)[0] + 0.1
    apart = []
    for shrink in (0.0, 3.0, 30.0, 300.0):
        spec = SPEC.model_copy(update={"shrink": shrink, "weight_decay": 0.0})
        rows = shallow.train(units, spec, start=start).rows
        apart.append(float((rows - start).norm()))
        if shrink:
            expected, _ = by_the_book(shallow, units[0], spec, seed=0, start=start)
            assert torch.allclose(rows[0], expected, atol=1e-5)
    assert apart == sorted(apart, reverse=True)
    assert 0 < apart[-1] < 0.5 * apart[0]


def test_a_seed_decides_all(shallow: Bench) -> None:
    units = shallow.units(6, 6)
    first, again, other = (shallow.train(units, seed=seed).rows for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    fresh = shallow.layout.fresh(["a", "b"], 0)
    assert not torch.equal(fresh[0], fresh[1])
    assert torch.equal(shallow.layout.fresh(["b"], 0)[0], fresh[1])


def test_progress_hears_of_every_row(shallow: Bench) -> None:
    told: list[int] = []
    units = shallow.units(9, 4, 0)
    train(shallow.base, shallow.context, shallow.layout, units, SPEC, 0, progress=told.append)
    assert sum(told) == (9 + 4) * SPEC.epochs


def test_half_precision_bases_train_float32_modules() -> None:
    base = tiny_base("llama", dtype=torch.bfloat16)
    region = base.region(RegionSpec(depth=2, span="answer"))
    context = base.prefill(tiny_prompt(), tiny_texts(TEXTS), region)
    layout = Layout(Lora(rank=2), base.sites(region, 2))
    trained = train(base, context, layout, tiny_units((8, 3), TEXTS), SPEC, 0)
    assert trained.rows.dtype == torch.float32
    assert trained.rows.isfinite().all()
    assert all(log.best_loss is not None and log.best_loss <= (log.start_loss or 0) for log in trained.logs)


# --- golden ----------------------------------------------------------------------------------------------------------


def four_steps(family: str, method: Lora) -> list[float]:
    """Returns the mean training loss of a cohort of two in each of its first four steps."""
    one = bench(family, None if family == "bert" else RegionSpec(span="answer"), method)
    seen: list[float] = []
    plain = training.row_loss

    def listening(scores: Tensor, target: Tensor, prompt: Prompt, offset: Tensor | None) -> Tensor:
        losses = plain(scores, target, prompt, offset)
        if losses.requires_grad:
            seen.append(float(losses.detach().mean()))
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "row_loss", listening)
        one.train(one.units(8, 8), TrainSpec(epochs=2, lr=1e-2, batch=4))
    return seen


METHODS = {
    "lora": Lora(),
    "lora[rank=2,rslora=True,head=True]": Lora(rank=2, rslora=True, head=True),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_four_steps_is_what_it_was(method: str, family: str) -> None:
    expected = json.loads(GOLDEN.read_text())[f"{method}@{family}"]
    assert four_steps(family, METHODS[method]) == pytest.approx(expected, rel=1e-3)


# --- one user's training diverges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("val", [3, 0])
@pytest.mark.parametrize("warm", [False, True])
def test_a_user_whose_loss_is_not_a_number_is_stopped_and_nobody_else_notices(
    shallow: Bench, val: int, warm: bool
) -> None:
    first, lost, last = shallow.units(6, 7, 8, val=val)
    lost.train.weight[5] = np.nan
    start = shallow.layout.fresh(["everyone"], 5)[0] + 0.1 if warm else None
    together = shallow.train([first, lost, last], start=start)
    without = shallow.train([first, last], start=start)
    begin = shallow.layout.fresh([lost.key], 0)[0] if start is None else start
    assert torch.equal(together.rows[1], begin)
    assert [log.diverged for log in together.logs] == [False, True, False]
    assert (together.logs[1].epochs, together.logs[1].best_epoch) == (1, 0)
    assert together.logs[1].best_loss == together.logs[1].start_loss
    for mine, alone in zip((0, 2), (0, 1), strict=True):
        assert torch.allclose(together.rows[mine], without.rows[alone], atol=1e-5)
        assert together.logs[mine].epochs == without.logs[alone].epochs == SPEC.epochs


def test_a_learning_rate_that_everybody_diverges_at_leaves_every_start(shallow: Bench) -> None:
    units = shallow.units(6, 8)
    wild = shallow.train(units, SPEC.model_copy(update={"lr": 1e30}))
    assert torch.equal(wild.rows, shallow.layout.fresh([unit.key for unit in units], 0))
    assert all(log.diverged for log in wild.logs)


def test_modules_that_would_fill_the_memory_are_the_same_in_a_file(
    shallow: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = shallow.units(4, 6)
    held = shallow.train(units).rows
    monkeypatch.setattr(training, "ROWS_BYTES", 0)
    assert torch.equal(shallow.train(units).rows, held)
