"""`lore`: without directions a mixed head; directions are the likeliest ones, and found where users have them."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from peftu.config import SplitSpec
from peftu.data.problem import Problem, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.methods import lore_model
from peftu.methods.effects import Effects
from peftu.methods.lore import Lore
from peftu.methods.lore_model import LowRankModel, _Learner, coordinates
from peftu.methods.mixed import MixedHead, data_of
from peftu.methods.mixed_model import Data, MixedModel, loss

KNOBS = {"tfidf": 0.5, "text": 0.3, "bias": 1.0, "slope": 0.5, "deviation": 0.6, "width": 4}


def made_up(kind: str = "single", users: int = 6, items: int = 30) -> Problem:
    table = synthetic_table(users, items, kind)
    return make_problem(table, table.card, make_split(table, SplitSpec(), 0))


def learner(problem: Problem) -> tuple[_Learner, LowRankModel, Data, MixedModel]:
    mixed = MixedHead(**KNOBS).fit(problem, None, 0)
    train, val = (data_of(problem, mixed.model.features, part) for part in ("train", "val"))
    made = _Learner(train, val, 0.5)
    return made, made.start(mixed.model, mixed.priors), train, mixed


@pytest.mark.parametrize("kind", ["single", "ordinal", "multi"])
def test_without_directions_a_user_is_a_mixed_head_s(kind) -> None:
    """Under the mixed head's own priors, a user's effects are the weights that it would enrol them with."""
    problem = made_up(kind)
    made, start, train, mixed = learner(problem)
    for user, known in enumerate(made.known(start)[:3]):
        rows = made.rows[user]
        texts = [problem.texts[text] for text in train.text[rows]]
        weights = mixed._user_weights(texts, train.target[rows])
        expected = np.concatenate([weights[name].ravel() for name in ("bias", "slope", "deviation")])
        np.testing.assert_allclose(known.mean, expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["single", "ordinal", "multi"])
def test_directions_are_the_likeliest_under_their_prior(kind, monkeypatch) -> None:
    """Against a plain loop: expected loss to second order in what is not known of the users, and a Gaussian prior."""
    monkeypatch.setattr(lore_model, "STEPS", 500)
    made, start, train, _ = learner(made_up(kind, users=4, items=20))
    model = made._with_directions(made.known_by(start), 2)
    known = made.known(model)
    model = made.known_by(model, known)
    bias, slope, rank, _ = model.blocks
    own = slice(bias + slope, bias + slope + rank)
    before = model.labelled(train.text, train.target).expected(model.logits(train.user, train.text))

    def objective(point):
        moved = dataclasses.replace(
            model, parts={**model.parts, "directions": point.reshape(model.parts["directions"].shape)}
        )
        value = loss(moved.logits(train.user, train.text), train)[0] + np.square(point).sum() / 2 / made.spread**2
        for row in range(len(train.user)):
            design, chance = moved.design(train.text[[row]])[0], before[row]
            weight = np.diag(chance) - np.outer(chance, chance)
            if model.likelihood == "sigmoid":
                weight = np.diag(chance * (1 - chance))
            doubt = known[train.user[row]].covariance
            value += np.trace(weight @ design @ doubt @ design.T) / 2
        return value

    found = made._with_learned(model, known, own).parts["directions"].ravel()
    there = approx_fprime(found, objective, 1e-6)
    start_slope = approx_fprime(model.parts["directions"].ravel(), objective, 1e-6)
    assert np.linalg.norm(there) < 0.01 * np.linalg.norm(start_slope) + 1e-3


class Vectors:
    """Each text's vector, by its number."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def embed(self, texts) -> np.ndarray:
        return self.vectors[[int(text.text) for text in texts]]


def along_one_taste(users: int = 60, items: int = 30, texts: int = 200, width: int = 24) -> tuple[Problem, Vectors]:
    """Returns users who differ in how much they like one thing, which is no leading direction of the texts."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(texts, width)) * np.linspace(2, 0.5, width)
    user = np.repeat(np.arange(users), items)
    text = np.concatenate([draw.choice(texts, items, replace=False) for _ in range(users)])
    logit = 3 * vectors[text, -1] / 0.5 * draw.normal(size=users)[user]
    label = (draw.logistic(size=len(user)) < logit).astype(int)
    problem = Problem(
        card=synthetic_card(),
        users=tuple(f"{number:03d}" for number in range(users)),
        texts=tuple(Text(str(number)) for number in range(texts)),
        item_ids=tuple(map(str, text)),
        user=user.astype(np.int32),
        text=text.astype(np.int32),
        part=np.tile(np.repeat([0, 1, 2], [10, 5, items - 15]), users).astype(np.int8),
        target=np.eye(2, dtype=np.float32)[label],
        split_hash="sha256:none",
    )
    return problem, Vectors(vectors.astype(np.float32))


def test_a_taste_that_users_share_is_found_from_ten_labels_each() -> None:
    problem, features = along_one_taste()
    rows = problem.rows("test")
    texts, target = [problem.texts[text] for text in problem.text[rows]], problem.target[rows]

    def likelihood(method) -> float:
        fitted = method.fit(problem, features, 0)
        if isinstance(method, Lore):
            assert fitted.notes["directions"] >= 1
            directions = fitted.model.parts["directions"]
            scores = (coordinates(fitted.model.features) @ directions[:, 0])[:, 0]
            assert abs(np.corrcoef(scores, features.vectors[:, -1])[0, 1]) > 0.8
        return float((fitted.scores(problem.user[rows], texts) * target).sum(1).mean())

    assert likelihood(Lore(features="embedding", spread=4.0)) > likelihood(MixedHead(features="embedding")) + 0.05


def test_who_has_no_rows_has_the_mean_of_all() -> None:
    problem = made_up(users=6)
    part = np.where((problem.user == 2) & (problem.part == 0), 2, problem.part).astype(np.int8)
    fitted = Lore(**KNOBS).fit(dataclasses.replace(problem, part=part), None, 0)
    np.testing.assert_array_equal(fitted.model.parts["effects"][2], fitted.model.parts["mean"])
    assert isinstance(fitted.model.prior, Effects)
    assert fitted.parameters_per_user == len(fitted.model.parts["mean"])


def test_a_settled_lore_fits_without_a_search() -> None:
    problem = made_up()
    fitted = Lore().fit(problem, None, 0)
    again = Lore().settled(fitted).fit(problem, None, 0)
    assert again.notes["priors_tried"] == 0
    assert len(again.notes["directions_tried"]) == 1
