"""Users' effects: the posterior is the penalised regression's, and a population is found again."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from peftu.methods.effects import Effects, Labelled, population, posterior


def drawn(link: str, rows: int = 30, outputs: int = 3, size: int = 4, seed: int = 0) -> Labelled:
    draw = np.random.default_rng(seed)
    target = np.eye(outputs)[draw.integers(0, outputs, rows)]
    if link == "sigmoid":
        target = (draw.random((rows, outputs)) < 0.4).astype(float)
    return Labelled(draw.normal(size=(rows, outputs)), draw.normal(size=(rows, outputs, size)), target, link)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rows", [1, 30])
def test_the_posterior_is_the_likeliest_point_and_the_curvature_there(link, rows) -> None:
    draw = np.random.default_rng(1)
    root = draw.normal(size=(4, 4))
    prior, labelled = Effects(draw.normal(size=4), root @ root.T), drawn(link, rows)

    def objective(point):
        away = point - prior.mean
        misfit = labelled.loss(labelled.offset + labelled.design @ point)
        return misfit + 0.5 * away @ np.linalg.solve(prior.covariance, away)

    found = posterior(prior, labelled)
    expected = minimize(objective, prior.mean, options={"gtol": 1e-8}).x
    np.testing.assert_allclose(found.mean, expected, atol=1e-4)
    step = 1e-3 * np.eye(4)
    hessian = [
        [
            sum(a * b * objective(found.mean + a * one + b * two) for a in (1, -1) for b in (1, -1)) / 4e-6
            for one in step
        ]
        for two in step
    ]
    np.testing.assert_allclose(found.covariance @ np.array(hessian), np.eye(4), atol=1e-3)


def test_one_output_is_scikit_learn_s_logistic_regression() -> None:
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(60, 5)), draw.integers(0, 2, 60)
    oracle = LogisticRegression(C=0.7, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    rows = Labelled(np.zeros((60, 1)), x[:, None], y[:, None].astype(float), "sigmoid")
    np.testing.assert_allclose(posterior(Effects(np.zeros(5), 0.7 * np.eye(5)), rows).mean, oracle.coef_[0], atol=1e-4)


def test_without_rows_a_user_has_the_population_s_mean() -> None:
    prior = Effects(np.arange(3.0), np.eye(3))
    assert posterior(prior, drawn("softmax", 0, size=3)) is prior


def test_a_population_is_found_again() -> None:
    """Users with many rows, drawn from a Gaussian with a covariance: EM comes to its moments."""
    draw = np.random.default_rng(3)
    truth = Effects(np.array([0.5, -0.5]), np.array([[1.0, 0.7], [0.7, 1.0]]))
    users = []
    for effects in draw.multivariate_normal(truth.mean, truth.covariance, 150):
        design = draw.normal(size=(60, 1, 2))
        target = (draw.logistic(size=(60, 1)) < design @ effects).astype(float)
        users.append(Labelled(np.zeros((60, 1)), design, target, "sigmoid"))
    prior = Effects(np.zeros(2), np.eye(2))
    for _ in range(15):
        prior = population([posterior(prior, user) for user in users], (1, 1), full=2)
    np.testing.assert_allclose(prior.mean, truth.mean, atol=0.25)
    np.testing.assert_allclose(prior.covariance, truth.covariance, atol=0.35)


def test_few_users_say_nothing_of_covariances() -> None:
    """Of two users with one direction between them, effects of one block have the same variance."""
    draw = np.random.default_rng(4)
    users = [Effects(draw.normal(size=40), np.zeros((40, 40))) for _ in range(2)]
    found = population(users, (20, 20), full=30)
    spread = np.diag(found.covariance)
    assert np.ptp(spread[30:]) == 0
    assert not found.covariance[30:, :30].any()
    assert np.abs(found.covariance[0, 1]) < spread[0]
    assert np.linalg.eigvalsh(found.covariance).min() > 0
    assert not found.mean[30:].any()
