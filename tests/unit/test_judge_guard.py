"""A guard keeps what validation supports, and does no harm where nothing is to be gained."""

import numpy as np
import polars as pl
import pytest
from boards import predictions

from peftu.asked import with_guarded
from peftu.config import MethodSpec, RunSpec
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.execute.guarded import Guard, find_guards, guarded_system
from peftu.judge.guard import guard, shrunken_gains
from peftu.metrics import user_scores
from peftu.plan import plan
from peftu.results import MethodCost
from peftu.system import System

HABIT = System("user-majority")
CARD = TaskCard(
    name="made-up", version="1", title="Made up", description="d", user="a person", kind="single",
    labels=("no", "yes"), instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none",
    homepage="none", files=(),
)  # fmt: skip


def frames(rng: np.random.Generator, own: np.ndarray, other: float, val: int = 20) -> dict[str, pl.DataFrame]:
    """Returns predictions of a module that is right with each user's chance, and of a majority; val and test rows."""
    users, items = len(own), val + 40
    gold = rng.integers(0, 2, (users, items))
    right = {"lora": rng.random((users, items)) < own[:, None], "user-majority": rng.random((users, items)) < other}
    part = pl.when(pl.col("item_id").is_in([f"i{n}" for n in range(val)])).then(pl.lit("val")).otherwise(pl.lit("test"))
    both = predictions(right, gold).with_columns(part=part)
    return {name: both.filter(pl.col("method") == name) for name in right}


def mean(frame: pl.DataFrame) -> float:
    return float(user_scores(frame, CARD)["accuracy"].mean())


def test_a_module_that_helps_some_users_is_kept_for_these() -> None:
    rng = np.random.default_rng(0)
    own = np.repeat([0.95, 0.5], 15)
    made = frames(rng, own, 0.7)
    kept, said, _ = guard(made["lora"], {HABIT: made["user-majority"]}, CARD, "lora+guard")
    assert (said.system.label, said.fallback.label, said.users) == ("lora+guard", "user-majority", 30)
    assert 13 <= said.kept <= 18
    assert kept["method"].unique().to_list() == ["lora+guard"]
    assert kept.select("user_id", "item_id", "part", "target").equals(
        made["lora"].sort("user_id", "item_id").select("user_id", "item_id", "part", "target")
    )
    assert mean(kept) > max(mean(made["lora"]), mean(made["user-majority"])) + 0.05


@pytest.mark.parametrize("times", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_where_nothing_is_to_be_gained_a_guard_does_no_harm(times: int) -> None:
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(times):
        made = frames(rng, np.full(15, 0.7), 0.7)
        kept, _, _ = guard(made["lora"], {HABIT: made["user-majority"]}, CARD, "lora+guard")
        losses.append(mean(made["user-majority"]) - mean(kept))
    assert abs(np.mean(losses)) < 3 * np.std(losses) / times**0.5
    harmful = frames(rng, np.full(15, 0.5), 0.7)
    kept, said, _ = guard(harmful["lora"], {HABIT: harmful["user-majority"]}, CARD, "lora+guard")
    assert said.kept <= 1
    assert mean(kept) == pytest.approx(mean(harmful["user-majority"]), abs=0.02)


def test_test_rows_decide_nothing_and_without_validation_rows_all_fall_back() -> None:
    made = frames(np.random.default_rng(2), np.repeat([0.95, 0.4], 10), 0.7)
    turned = {
        name: frame.with_columns(predicted=pl.when(pl.col("part") == "test").then("target").otherwise("predicted"))
        for name, frame in made.items()
    }
    said = [guard(one["lora"], {HABIT: one["user-majority"]}, CARD, "x")[1] for one in (made, turned)]
    assert said[0] == said[1]
    bare = {name: frame.filter(pl.col("part") == "test") for name, frame in made.items()}
    kept, none, _ = guard(bare["lora"], {HABIT: bare["user-majority"]}, CARD, "x")
    assert none.kept == 0
    assert kept["predicted"].to_list() == bare["user-majority"].sort("user_id", "item_id")["predicted"].to_list()


def test_the_fallback_is_the_best_on_validation_rows() -> None:
    rng = np.random.default_rng(3)
    good = frames(rng, np.full(12, 0.9), 0.6)
    fallbacks = {HABIT: good["user-majority"], System("mixed-head"): good["lora"]}
    _, said, _ = guard(good["user-majority"], fallbacks, CARD, "x")
    assert said.fallback.label == "mixed-head"
    with pytest.raises(PeftuError, match="nothing to fall back to"):
        guard(good["lora"], {}, CARD, "x")


def test_references_of_one_name_are_each_a_fallback() -> None:
    """Two mixed-heads with knobs of their own, of which the first is the better one."""
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 2, (12, 60))
    right = {name: rng.random((12, 60)) < chance for name, chance in (("a", 0.9), ("b", 0.6), ("c", 0.5))}
    part = pl.when(pl.col("item_id").is_in([f"i{n}" for n in range(20)])).then(pl.lit("val")).otherwise(pl.lit("test"))
    both = predictions(right, gold).with_columns(part=part)
    names = ("mixed-head[form=false]@b", "mixed-head@b", "lora@b", "lora+guard@b")
    jobs = plan(RunSpec(task="t", methods=tuple(map(MethodSpec.parse, names))))
    guards = find_guards(jobs)
    kept = {place: both.filter(pl.col("method") == name) for place, name in enumerate(right)}
    costs = {place: MethodCost(seconds_per_user=1.0) for place in kept}
    guarded = guarded_system(3, guards[3], jobs, kept, costs, CARD)
    assert guarded.cost.notes["fallback"] == jobs[0].full_label
    assert guarded.cost.notes["kept"] == 0
    assert guarded.cost.seconds_per_user == 2.0


def test_gains_are_drawn_together_as_far_as_chance_explains_them() -> None:
    same = shrunken_gains(np.array([0.1, 0.2, 0.15]), np.array([10.0, 10.0, 10.0]), 1.0)
    assert same == pytest.approx([0.15] * 3)
    apart = shrunken_gains(np.array([-0.9, 0.9]), np.array([1e6, 1e6]), 1.0)
    assert apart == pytest.approx([-0.9, 0.9], abs=1e-3)


def test_what_a_guard_needs_is_run_beside_it() -> None:
    asked = with_guarded([MethodSpec.parse("lora+guard[rank=2]@b")])
    assert list(map(str, asked)) == ["user-majority", "lora[rank=2]@b", "lora+guard[rank=2]@b"]
    warm = with_guarded([MethodSpec.parse("user-majority"), MethodSpec.parse("global+lora+guard")])
    assert list(map(str, warm))[1:] == ["lora[warm_start=global]", "lora+guard[warm_start=global]"]
    given = tuple(map(MethodSpec.parse, ("mixed-head@b", "lora+guard@b", "lora@b")))
    assert with_guarded(given) == given
    jobs = plan(RunSpec(task="t", methods=(MethodSpec.parse("lora+guard"),)))
    assert [job.label for job in jobs] == ["user-majority", "lora", "lora+guard"]
    assert find_guards(jobs) == {2: Guard(1, (0,))}
    for shared in ("user-majority+guard", "zero-shot+guard", "global-majority+guard"):
        with pytest.raises(PeftuError, match="guard a personal method"):
            find_guards(plan(RunSpec(task="t", methods=(MethodSpec.parse(shared),))))
