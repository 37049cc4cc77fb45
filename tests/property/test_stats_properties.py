"""What must hold for any scores."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.stats import SAME, Gain, bootstrap, interval, paired_gains, user_matrix
from peftu.system import System

unit = st.floats(0, 1)
A, B = System("a", None), System("b", "base")


def gain(scores: pl.DataFrame, own: System, other: System) -> Gain:
    matrix = user_matrix(scores, "accuracy")
    return paired_gains(matrix, other)[matrix.systems.index(own)]


@st.composite
def user_scores(draw: st.DrawFn) -> pl.DataFrame:
    users, seeds = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    rows = [
        (system.method, system.base, seed, f"u{user}", 4, 4, draw(unit))
        for system in (A, B)
        for seed in range(seeds)
        for user in range(users)
    ]
    names = ["method", "base", "seed", "user_id", "n_test", "n_scored", "accuracy"]
    return pl.DataFrame(rows, schema=names, orient="row", schema_overrides={"base": pl.String})


@settings(max_examples=25, deadline=None)
@given(user_scores())
def test_gain_over_itself_is_exactly_zero(scores: pl.DataFrame) -> None:
    zero = gain(scores, A, A)
    assert (zero.estimate.mean, zero.estimate.low, zero.estimate.high) == (0, 0, 0)
    assert (zero.helped, zero.hurt, zero.unchanged) == (0, 0, zero.estimate.users)


@settings(max_examples=25, deadline=None)
@given(user_scores(), st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(scores: pl.DataFrame, seed: int) -> None:
    shuffled = scores.sample(fraction=1, shuffle=True, seed=seed)
    assert gain(scores, B, A) == gain(shuffled, B, A)


@settings(max_examples=25, deadline=None)
@given(user_scores())
def test_gain_is_antisymmetric_and_every_user_is_counted_once(scores: pl.DataFrame) -> None:
    there, back = gain(scores, B, A), gain(scores, A, B)
    assert there.estimate.mean is not None
    assert back.estimate.mean is not None
    assert abs(there.estimate.mean + back.estimate.mean) < SAME
    assert (there.helped, there.hurt, there.unchanged) == (back.hurt, back.helped, back.unchanged)
    assert there.helped + there.unchanged + there.hurt == scores["user_id"].n_unique()


@settings(max_examples=25, deadline=None)
@given(st.lists(unit, min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_interval_holds_the_mean_and_ignores_order(values: list[float], random: object) -> None:
    estimate = interval(values)
    assert estimate.mean is not None
    assert estimate.low - 1e-12 <= estimate.mean <= estimate.high + 1e-12
    random.shuffle(values)  # type: ignore[attr-defined]
    assert interval(values) == estimate


@settings(max_examples=15, deadline=None)
@given(user_scores())
def test_columns_do_not_disturb_each_other(scores: pl.DataFrame) -> None:
    values = user_matrix(scores, "accuracy").values
    together = bootstrap(values)
    alone = bootstrap(values[:, :1])[0]
    assert together[0].mean == alone.mean
    assert np.allclose([together[0].low, together[0].high], [alone.low, alone.high])
