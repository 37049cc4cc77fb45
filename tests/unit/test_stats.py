"""Means, intervals and paired gains over users."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import t

from peftu.errors import PeftuError
from peftu.stats import Gain, MeanEstimate, bootstrap, interval, paired_gains, seed_means, user_matrix
from peftu.system import System

OWN, OTHER = System("own", "base"), System("other", None)


def scores(own: list[list[float | None]], other: list[list[float | None]]) -> pl.DataFrame:
    """Returns user scores from [users][seeds] lists."""
    rows = [
        (system.method, system.base, seed, f"u{user}", 5, 5, value)
        for system, values in ((OWN, own), (OTHER, other))
        for user, of_seeds in enumerate(values)
        for seed, value in enumerate(of_seeds)
    ]
    columns = {"method": pl.String, "base": pl.String, "seed": pl.Int64, "user_id": pl.String}
    schema = {**columns, "n_test": pl.Int64, "n_scored": pl.Int64, "accuracy": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def gain_over_other(frame: pl.DataFrame, **options: bool) -> Gain:
    return paired_gains(user_matrix(frame, "accuracy"), OTHER, **options)[0]


def test_interval_agrees_with_a_plain_loop() -> None:
    values = np.random.default_rng(5).beta(4, 2, 60)
    own = interval(values, resamples=8000)
    rng, mean, error = np.random.default_rng(1), values.mean(), values.std(ddof=1) / 60**0.5
    draws = [values[rng.integers(0, 60, 60)] for _ in range(8000)]
    ranked = [(draw.mean() - mean) / np.sqrt((draw.var() + error**2) / 60) for draw in draws]
    high, low = np.quantile(ranked, [0.975, 0.025])
    assert own.mean == pytest.approx(mean)
    assert (own.low, own.high) == (
        pytest.approx(mean - high * error, abs=error / 10),
        pytest.approx(mean - low * error, abs=error / 10),
    )


def test_interval_is_about_that_of_scipy_and_ends_at_the_bounds() -> None:
    values = np.random.default_rng(5).beta(4, 2, 60)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=8000, method="BCa", rng=1).confidence_interval
    own = interval(values)
    width = theirs.high - theirs.low
    assert abs(own.low - theirs.low) + abs(own.high - theirs.high) < width / 10
    assert interval([0.5, 1.0, 1.0, 1.0], bounds=(0, 1)).high == 1


def test_few_users_have_the_interval_of_student_at_least() -> None:
    values = [0.2, 0.5, 0.6]
    low, high = t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / 3**0.5)
    own = interval(values)
    assert own.low <= low + 1e-12 < high - 1e-12 <= own.high
    assert interval([0.3]) == MeanEstimate(0.3, None, None, 1)


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(11)
    worlds = rng.beta(6, 3, size=(40, 600))  # 600 experiments with 40 users each
    hits = [estimate.low <= 6 / 9 <= estimate.high for estimate in bootstrap(worlds, resamples=600)]
    assert 0.91 <= np.mean(hits) <= 0.97


def test_users_without_a_score_stay_out_of_the_mean() -> None:
    full = bootstrap(np.array([[0.2], [0.4], [0.9]]))[0]
    holes = bootstrap(np.array([[0.2], [np.nan], [0.4], [0.9]]))[0]
    assert (holes.mean, holes.users) == (pytest.approx(full.mean), 3)
    assert holes.low is not None
    assert holes.low < 0.2 < 0.9 < holes.high
    assert bootstrap(np.full((3, 1), np.nan)) == (MeanEstimate(None, None, None, 0),)
    assert interval([]) == MeanEstimate(None, None, None, 0)


def test_seeds_are_averaged_before_users_are_drawn() -> None:
    once = scores([[0.5], [1.0], [0.0]], [[0.0], [1.0], [0.5]])
    often = scores([[0.25, 0.75], [1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    assert gain_over_other(often) == gain_over_other(once)
    assert seed_means(often, "accuracy", OWN) == [pytest.approx(1.25 / 3), pytest.approx(1.75 / 3)]


def test_gain_counts_users_and_ignores_rounding() -> None:
    third = [[1 / 3], [0.1 + 0.2], [0.9], [0.0], [None]]
    gain = gain_over_other(scores(third, [[0.2], [0.3], [0.9], [0.5], [1.0]]))
    assert (gain.helped, gain.unchanged, gain.hurt) == (1, 2, 1)
    assert gain.estimate.users == 4
    assert gain.estimate.mean == pytest.approx((1 / 3 - 0.2 + 0 + 0 - 0.5) / 4)


def test_a_smaller_error_is_a_gain() -> None:
    frame = scores([[0.2]], [[0.5]])
    gain = gain_over_other(frame, higher_is_better=False)
    assert (gain.estimate.mean, gain.helped) == (pytest.approx(0.3), 1)


def test_what_is_not_there() -> None:
    frame = scores([[0.2]], [[0.5]])
    with pytest.raises(PeftuError, match="no metric 'jaccard' — computed: accuracy"):
        user_matrix(frame, "jaccard")
