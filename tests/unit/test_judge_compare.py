"""Tests, ranks and costs against scipy and plain loops."""

from itertools import product

import numpy as np
import pytest
from boards import board
from scipy import stats as oracle

from peftu.judge.compare import holm, sign_flip_test, smallest_detectable
from peftu.judge.helped import wilson
from peftu.judge.pareto import pareto
from peftu.judge.ranks import critical_difference, standings, user_ranks
from peftu.results import MethodResult, Score
from peftu.system import System


def test_sign_flips_of_few_users_are_all_tried() -> None:
    gains = np.random.default_rng(0).normal(0.2, 0.5, 7)
    every = [abs(np.dot(signs, gains)) >= abs(gains.sum()) - 1e-9 for signs in product((1, -1), repeat=7)]
    assert sign_flip_test(gains[:, None]) == [pytest.approx(np.mean(every))]


def test_sign_flips_of_many_users_agree_with_scipy() -> None:
    gains = np.random.default_rng(1).normal(0.1, 0.4, (40, 2))
    own = sign_flip_test(gains)
    for column, p in enumerate(own):
        theirs = oracle.permutation_test(
            (gains[:, column],), np.mean, permutation_type="samples", n_resamples=9999, rng=2
        ).pvalue
        assert p == pytest.approx(theirs, abs=0.02)


def test_no_difference_is_no_finding_and_one_user_no_test() -> None:
    assert sign_flip_test(np.zeros((20, 1))) == [1.0]
    assert sign_flip_test(np.array([[0.3], [np.nan]])) == [None]


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]


def test_wilson_is_that_of_scipy() -> None:
    ci = oracle.binomtest(3, 20).proportion_ci(method="wilson")
    assert wilson(3, 20).ci == (pytest.approx(ci.low), pytest.approx(ci.high))
    assert wilson(0, 0) == Score(mean=None, ci=None)


def test_detectable_gain_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    size = np.mean([smallest_detectable(rng.normal(0, 0.1, 20)) or 0 for _ in range(300)])
    found = oracle.ttest_1samp(rng.normal(size, 0.1, (2000, 20)), 0, axis=1).pvalue < 0.05
    assert 0.76 <= found.mean() <= 0.84


def test_friedman_and_ranks_are_those_of_scipy() -> None:
    values = np.random.default_rng(4).integers(0, 6, (15, 4)) / 5
    found = critical_difference(board(values))
    assert found.friedman_p == pytest.approx(oracle.friedmanchisquare(*values.T).pvalue)
    assert np.allclose(user_ranks(values), oracle.rankdata(-values, axis=1))
    assert found.distance == pytest.approx(2.569 * (4 * 5 / (6 * 15)) ** 0.5, abs=1e-3)  # Demšar's table 5


def test_groups_are_longest_runs_within_the_distance() -> None:
    rng = np.random.default_rng(5)
    values = np.clip(np.array([0.9, 0.5, 0.495, 0.1]) + rng.normal(0, 0.02, (30, 4)), 0, 1)
    assert critical_difference(board(values)).groups == ((System("m1"), System("m2")),)


def test_a_clear_board_has_sure_ranks() -> None:
    values = np.array([0.2, 0.8, 0.5]) + np.random.default_rng(6).normal(0, 0.01, (12, 3))
    places = standings(board(values))
    assert [(place.system.label, place.rank, place.ci, place.first) for place in places] == [
        ("m1", 1, (1, 1), 1.0),
        ("m2", 2, (2, 2), 0.0),
        ("m0", 3, (3, 3), 0.0),
    ]
    errors = standings(board(values, higher_is_better=False))
    assert [place.system.label for place in errors] == ["m0", "m2", "m1"]


def test_equal_means_share_a_rank_whatever_their_order() -> None:
    rng = np.random.default_rng(8)
    values = rng.integers(0, 5, (12, 1)) / 5
    values = np.hstack([values, rng.permutation(values), values + 0.1, np.roll(values, 3), values])
    places = standings(board(values))
    assert [(place.system.label, place.rank) for place in places] == [
        ("m2", 1),
        ("m0", 2),
        ("m1", 2),
        ("m3", 2),
        ("m4", 2),
    ]
    turned = standings(board(values[:, ::-1]))
    assert {place.rank: place.first for place in places} == {place.rank: place.first for place in turned}
    for place in places:
        assert place.ci is not None
        assert place.ci[0] <= place.rank <= place.ci[1]


def result(name: str, mean: float, size: int | None) -> MethodResult:
    nothing = Score(mean=None, ci=None)
    return MethodResult(
        method=name, base=None, mean=mean, ci=None, seeds=(mean,), gain={}, helped=None, unchanged=None, hurt=None,
        bytes_per_user=size, macro_f1=nothing, users=1, scored=1, unscored=0,
    )  # fmt: skip


def test_pareto_front() -> None:
    points = pareto(
        [result("cheap", 0.6, 1), result("dear", 0.8, 10), result("beaten", 0.7, 11), result("unmeasured", 0.9, None)],
        higher_is_better=True,
    )
    assert {point.system.label: point.front for point in points} == {
        "cheap": ("bytes_per_user",), "dear": ("bytes_per_user",), "beaten": (), "unmeasured": (),
    }  # fmt: skip
