"""Intervals cover the truth as often as they say, and what is not there is rarely found."""

import numpy as np
import pytest

from peftu.judge.compare import holm, sign_flip_test
from peftu.stats import bootstrap

WORLDS = 1000


def worlds(kind: str, users: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Returns [users, worlds] scores and their true mean: shares of 20 right answers, gains, or errors with a tail."""
    shape = (users, WORLDS)
    skill = rng.beta(8, 2, shape)
    match kind:
        case "accuracy":
            return rng.binomial(20, skill, shape) / 20, 0.8
        case "gain":
            return (rng.binomial(20, skill, shape) - rng.binomial(20, skill, shape)) / 20, 0.0
        case "easy":
            return rng.beta(9, 1, shape), 0.9
        case "tail":
            return rng.beta(0.7, 6.3, shape), 0.1
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["accuracy", "gain", "easy", "tail"])
@pytest.mark.parametrize("users", [20, 60])
def test_intervals_cover_the_truth_in_93_to_97_of_100_worlds(kind: str, users: int) -> None:
    values, truth = worlds(kind, users, np.random.default_rng(users))
    found = bootstrap(values, resamples=1000)
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.93 <= covered <= 0.97


def test_few_users_are_covered_too() -> None:
    for users in (3, 6, 10):
        values, truth = worlds("accuracy", users, np.random.default_rng(users))
        covered = np.mean([one.low <= truth <= one.high for one in bootstrap(values, resamples=600)])
        assert 0.91 <= covered <= 0.99


def test_personalisation_that_does_not_help_is_rarely_said_to() -> None:
    """Five personal methods as good as user-majority: at most 6 in 100 boards show one of them to be better."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        skill = rng.beta(8, 2, (20, 1))
        scores = rng.binomial(20, skill, (20, 6)) / 20
        gains = scores[:, 1:] - scores[:, :1]
        corrected = holm(sign_flip_test(gains))
        false += any(p is not None and p < 0.05 and gain > 0 for p, gain in zip(corrected, gains.mean(0), strict=True))
    assert false / 300 <= 0.06
