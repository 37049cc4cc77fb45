"""The mixed model against scikit-learn on the written-out design, and its limits."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression

from peftu.methods.mixed_features import TextFeatures
from peftu.methods.mixed_fit import INTERCEPT_SD, _Objective, _packed, fit_mixed
from peftu.methods.mixed_model import Data, Priors

PRIORS = Priors(embedding=0.7, tfidf=0.4, text=0.3, bias=1.5, slope=0.0, deviation=0.6)
USERS, TEXTS = 6, 30


def made_up(labels: int, link: str, seed: int = 0) -> Data:
    """Users with 1 to 40 rows; the last one has none."""
    draw = np.random.default_rng(seed)
    features = TextFeatures(*(draw.normal(size=(TEXTS, width)) / width**0.5 for width in (5, 3, 4)))
    user = np.repeat(np.arange(USERS - 1), [1, 3, 8, 23, 40])
    text = draw.integers(TEXTS, size=len(user))
    if link == "sigmoid":
        target = (draw.random((len(user), labels)) < 0.4).astype(float)
    else:
        target = np.eye(labels)[draw.integers(labels, size=len(user))]
    return Data(features, USERS, user, text, target, link)


def written_out(data: Data, priors: Priors, user: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The design matrix with a column for each parameter, divided by its prior's strength."""
    of_user, of_text = np.eye(USERS)[user], np.eye(TEXTS)[text]
    own = (of_user[:, :, None] * data.features.personal[text][:, None]).reshape(len(user), -1)
    return np.hstack(
        [
            np.full((len(user), 1), INTERCEPT_SD),
            data.features.embedding[text] * priors.embedding,
            data.features.tfidf[text] * priors.tfidf,
            of_text * priors.text,
            of_user * priors.bias,
            own * priors.deviation,
        ]
    )


def everything() -> tuple[np.ndarray, np.ndarray]:
    users, texts = np.meshgrid(np.arange(USERS), np.arange(TEXTS), indexing="ij")
    return users.ravel(), texts.ravel()


@pytest.mark.parametrize("labels", [2, 4])
def test_equals_scikit_learn_on_the_written_out_design(labels) -> None:
    data = made_up(labels, "softmax")
    oracle = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=5000)
    oracle.fit(written_out(data, PRIORS, data.user, data.text), data.target.argmax(1))
    pairs = everything()
    expected = oracle.predict_log_proba(written_out(data, PRIORS, *pairs))
    np.testing.assert_allclose(fit_mixed(data, PRIORS).log_probabilities(*pairs), expected, atol=1e-3)


def test_equals_one_scikit_learn_model_a_label_when_labels_do_not_exclude_each_other() -> None:
    data = made_up(3, "sigmoid")
    pairs = everything()
    found = fit_mixed(data, PRIORS).log_probabilities(*pairs)
    for label in range(3):
        oracle = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=5000)
        oracle.fit(written_out(data, PRIORS, data.user, data.text), data.target[:, label])
        expected = oracle.predict_log_proba(written_out(data, PRIORS, *pairs))[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=1e-3)


@pytest.mark.parametrize(("labels", "link"), [(2, "softmax"), (3, "softmax"), (3, "sigmoid")])
def test_the_gradient_is_that_of_the_posterior(labels, link) -> None:
    objective = _Objective(made_up(labels, link), PRIORS.model_copy(update={"slope": 0.8}))
    point = np.random.default_rng(1).normal(size=objective.size)
    numeric = approx_fprime(point, lambda at: objective(at)[0], 1e-6)
    np.testing.assert_allclose(objective(point)[1], numeric, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("part", ["deviation", "slope", "bias", "text", "tfidf", "embedding"])
def test_an_infinitely_strong_prior_leaves_the_part_out(part) -> None:
    data, priors = made_up(3, "softmax"), PRIORS.model_copy(update={"slope": 0.5})
    almost, never = (fit_mixed(data, priors.model_copy(update={part: sd})) for sd in (1e-4, 0.0))
    pairs = everything()
    np.testing.assert_allclose(almost.log_probabilities(*pairs), never.log_probabilities(*pairs), atol=1e-3)
    assert len(never.parts[part]) == 0


def test_users_without_slope_bias_and_deviation_are_all_alike() -> None:
    data = made_up(2, "softmax")
    model = fit_mixed(data, Priors(bias=0, slope=0, deviation=0))
    scores = model.logits(*everything()).reshape(USERS, TEXTS)
    assert np.ptp(scores, axis=0).max() == 0
    assert model.parameters_per_user == 0


def test_a_user_without_rows_has_the_shared_score() -> None:
    model = fit_mixed(made_up(2, "softmax"), Priors())
    for part in ("bias", "slope", "deviation"):
        assert not model.parts[part][USERS - 1].any()
    assert model.parameters_per_user == 1 + 1 + 4


def test_the_order_of_rows_users_and_texts_does_not_matter() -> None:
    data, priors = made_up(3, "softmax"), Priors()
    draw = np.random.default_rng(5)
    rows, users, texts = (draw.permutation(size) for size in (len(data.user), USERS, TEXTS))
    moved = [np.empty_like(matrix) for matrix in vars(data.features).values()]
    for new, old in zip(moved, vars(data.features).values(), strict=True):
        new[texts] = old
    shuffled = Data(
        TextFeatures(*moved), USERS, users[data.user][rows], texts[data.text][rows], data.target[rows], "softmax"
    )
    user, text = everything()
    one = fit_mixed(data, priors).log_probabilities(user, text)
    two = fit_mixed(shuffled, priors).log_probabilities(users[user], texts[text])
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_users_rows_say_nothing_about_another_once_the_shared_parts_are_off() -> None:
    data, alone = made_up(2, "softmax"), Priors(embedding=0, tfidf=0, text=0, slope=0)
    flipped = np.where((data.user == 4)[:, None], data.target[:, ::-1], data.target)
    one, two = (fit_mixed(dataclasses.replace(data, target=target), alone) for target in (data.target, flipped))
    change = (one.parts["deviation"] - two.parts["deviation"])[:4]
    # What is left passes through the intercept, which everybody shares.
    assert np.abs(change).max() < 0.3 * np.abs((one.parts["deviation"] - two.parts["deviation"])[4]).max()


def test_a_start_elsewhere_ends_in_the_same_place() -> None:
    data = made_up(3, "softmax")
    elsewhere = fit_mixed(data, Priors(bias=4, slope=0, deviation=0, text=0))
    one, two = (fit_mixed(data, PRIORS, start=start) for start in (None, elsewhere))
    pairs = everything()
    np.testing.assert_allclose(one.log_probabilities(*pairs), two.log_probabilities(*pairs), atol=1e-3)


def test_scoring_in_chunks_changes_nothing(monkeypatch) -> None:
    model = fit_mixed(made_up(2, "softmax"), Priors())
    pairs = everything()
    whole = model.logits(*pairs)
    monkeypatch.setattr("peftu.methods.mixed_model.CHUNK", 12)
    np.testing.assert_allclose(model.logits(*pairs), whole, rtol=1e-12)


def test_every_row_is_packed_once() -> None:
    data = made_up(2, "softmax")
    blocks = list(_packed(data))
    rows = np.concatenate([block.rows[block.real] for block in blocks])
    assert sorted(rows) == list(range(len(data.user)))
    assert sum(block.real.size for block in blocks) < 2 * len(rows)
    for block in blocks:
        assert (data.user[block.rows] == block.users[:, None])[block.real].all()


def test_likelihood_and_accuracy_are_those_of_the_rows() -> None:
    data = made_up(3, "softmax")
    model = fit_mixed(data, PRIORS)
    scores = model.log_probabilities(data.user, data.text)
    assert model.log_likelihood(data) == pytest.approx((scores * data.target).sum())
    assert model.accuracy(data) == pytest.approx((scores.argmax(1) == data.target.argmax(1)).mean())
    many = made_up(3, "sigmoid")
    model = fit_mixed(many, PRIORS)
    given = np.exp(model.log_probabilities(many.user, many.text))
    expected = np.log(np.where(many.target > 0, given, 1 - given)).sum()
    assert model.log_likelihood(many) == pytest.approx(expected)
    assert model.accuracy(many) == pytest.approx(((given > 0.5) == (many.target > 0)).all(1).mean())
