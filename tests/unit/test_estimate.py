"""The estimate before a run: bytes to the byte, seconds that grow with the work."""

from typing import Any

import pytest
import torch

from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RegionSpec, RunSpec, SplitSpec
from peftu.data.problem import Problem
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.execute import estimate as estimating
from peftu.execute.estimate import Estimate, estimate, layer_flops, matmul_rate
from peftu.experiment import method_list
from peftu.lab.progress import Silent
from peftu.plan import plan
from peftu.testing import FAMILIES, load_tiny, tiny_base

torch.set_num_threads(1)

TABLE = synthetic_table(users=4, items=20)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.lab.lab.load_base", load_tiny)
    monkeypatch.setattr(estimating, "matmul_rate", lambda _: 1e9)


def shop(seeds: int = 1, users: int = 4) -> Fits:
    problems: dict[int, Problem] = {
        seed: make_problem(TABLE, TABLE.card, make_split(TABLE, SplitSpec(users=users), seed)) for seed in range(seeds)
    }
    return Fits(TABLE.card, problems, 64, Silent())


def guess(methods: str, seeds: int = 1, users: int = 4, **spec: Any) -> Estimate:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    fits = shop(seeds, users)
    return estimate(plan(RunSpec(task="any", methods=asked, base="llama", **spec)), fits, fits.problems)


def test_methods_without_modules_keep_no_bytes() -> None:
    assert guess("user-majority") == Estimate(0.0, 0)
    read = guess("zero-shot")
    assert read.module_bytes == 0
    assert read.seconds > 0
    assert guess("zero-shot,mixed-head").seconds == pytest.approx(read.seconds)  # texts are read once


@pytest.mark.parametrize("methods", ["lora[rank=2]", "global", "lora,global", "lora[warm_start=global,rank=1]"])
def test_bytes_are_those_that_will_be_stored(methods: str) -> None:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    fits = shop(seeds=2)
    jobs = plan(RunSpec(task="any", methods=asked, base="llama", train={"epochs": 1}))
    stored = 0
    for job in jobs:
        for seed in fits.problems:
            modules = fits.run(job, seed).modules
            assert modules is not None
            stored += modules.trained.rows.numel() * 4
    assert estimate(jobs, fits, fits.problems).module_bytes == stored


def test_seconds_grow_with_the_work() -> None:
    plain = guess("lora").seconds
    dearer = [
        guess("lora[epochs=80]"),
        guess("lora", seeds=2),
        guess("lora,global"),
        guess("lora[warm_start=global,epochs=8]"),
        guess("lora", region=RegionSpec()),
        guess("lora", region=RegionSpec(depth=3, span="all")),
    ]
    assert all(one.seconds > plain for one in dearer)
    assert guess("lora", users=2).seconds < plain
    assert guess("lora", region=RegionSpec(depth=1, span="last")).seconds < plain
    assert guess("lora", region=RegionSpec(span="answer")).seconds > plain


@pytest.mark.parametrize("span", ["all", "answer"])
def test_virtual_tokens_are_work(span: Any) -> None:
    spec: dict[str, Any] = {"region": RegionSpec(depth=1, span=span)}
    few, some, more = (guess(f"prompt-tuning[tokens={n}]", **spec).seconds for n in (1, 2, 4))
    assert more - some == pytest.approx(2 * (some - few))
    assert some > few
    assert guess("user-token", **spec).seconds > guess("user-embedding", **spec).seconds


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_what_methods_share_is_trained_once(method: str) -> None:
    warm = guess(f"global+{method}").seconds
    assert guess(f"global[method={method}],global+{method}").seconds == pytest.approx(warm)
    assert guess(f"global+{method},global+{method}[shrink=1]").seconds < 2 * warm


def test_what_a_base_cannot_hold_is_refused_before_any_work() -> None:
    with pytest.raises(PeftuError, match="rank 17 is above the width 16 of the base's v maps — use rank=16 or less"):
        guess("lora[rank=17]")
    with pytest.raises(PeftuError, match=r"full: 4 users' modules take 0.4 MB \([0-9,]+ numbers.*full\[max_users=4\]"):
        guess("full")
    assert guess("full[max_users=4]").module_bytes > guess("lora").module_bytes
    assert guess("global[method=full]").module_bytes > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_costs_twice_its_weights(family: str) -> None:
    base = tiny_base(family)
    model = base.family.model
    whole = sum(p.numel() for p in model.parameters())
    embedding = sum(p.numel() for name, p in model.named_parameters() if "embed" in name or "shared" in name)
    own = layer_flops(base) / 2
    assert (whole - embedding) / 3 * 0.5 < own <= whole / 3


def test_the_rate_is_measured() -> None:
    assert matmul_rate(tiny_base("llama")) > 1e6
