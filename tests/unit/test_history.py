"""`history`: attention over a user's items, held to plain loops and to what may never reach a score."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from peftu.config import SplitSpec
from peftu.data.problem import Problem, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.methods import history_fit
from peftu.methods.history import History
from peftu.methods.history_fitted import NOBODY
from peftu.methods.history_model import Attention, Past, Reader, Side, own_weights
from peftu.methods.mixed import MixedHead
from peftu.testing.fitted import check_fitted

PRIORS = {"tfidf": 0.5, "text": 0.5, "bias": 1.0, "slope": 0.5, "deviation": 0.5}
HISTORY = History(**PRIORS, steps=10)


def made_up(kind: Any = "single", users: int = 8, items: int = 30, **options: Any) -> Problem:
    table = synthetic_table(users, items, kind, **options)
    return make_problem(table, table.card, make_split(table, SplitSpec(fractions=(0.6, 0.2, 0.2)), 0))


def every_pair(problem: Problem) -> tuple[np.ndarray, list[Text]]:
    return np.repeat(np.arange(len(problem.users)), len(problem.texts)), list(problem.texts) * len(problem.users)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_attention(features: int, labels: int, heads: int = 3) -> Attention:
    fresh = Attention.fresh(heads, features, 4, labels, 0)
    return dataclasses.replace(fresh, key=drawn(heads, features, 4, seed=1), value=drawn(heads, labels, labels, seed=2))


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is learned, whatever validation rows say of it."""

    def learned(start: Reader, *_: Any) -> history_fit.Learned:
        attention = some_attention(start.attention.query.shape[1], start.attention.value.shape[1])
        shrinkage = dataclasses.replace(start.shrinkage, gain=torch.tensor(-0.2), scale=start.shrinkage.scale + 0.3)
        return history_fit.Learned(Reader(shrinkage, attention), 9.0, 1)

    monkeypatch.setattr(history_fit, "learn", learned)


def test_a_batch_of_users_is_a_plain_loop_over_heads_texts_and_items() -> None:
    users, texts, items, features, labels = 3, 4, 6, 5, 3
    attention = some_attention(features, labels)
    asked, shown, surprise = (
        drawn(users, texts, features),
        drawn(users, items, features, seed=4),
        drawn(users, items, 3),
    )
    seen = drawn(users, texts, items, seed=5) > 0
    seen[1] = False  # a user without items
    query, key, null, value = (tensor.double().numpy() for tensor in attention.tensors.values())
    expected = np.zeros((users, texts, labels))
    for user, text, head in np.ndindex(users, texts, len(null)):
        looked = asked[user, text].double().numpy() @ query[head]
        there = [item for item in range(items) if seen[user, text, item]]
        likeness = [null[head], *(looked @ (shown[user, item].double().numpy() @ key[head]) for item in there)]
        for item, weight in zip(there, softmax(likeness)[1:], strict=True):
            expected[user, text] += weight * surprise[user, item].double().numpy() @ value[head]
    np.testing.assert_allclose(attention(asked, shown, surprise, seen), expected, atol=1e-4)
    assert not expected[1].any()


@pytest.mark.parametrize(("labels", "exclusive"), [(1, True), (3, True), (3, False)])
def test_own_weights_are_the_likeliest(labels: int, exclusive: bool) -> None:
    """Against scipy's search, one user at a time."""
    users, items, weights = 3, 9, 4
    shared, design = drawn(users, items, labels), drawn(users, items, labels, weights, seed=1)
    given = torch.nn.functional.one_hot(torch.arange(users * items) % 3, 3).float()[:, :labels]
    given = given.reshape(users, items, labels)
    seen = torch.arange(items)[None] < torch.tensor([9, 4, 0])[:, None]
    weights_found = own_weights(shared, design, given, seen, exclusive)
    result = torch.einsum("unow,uow->uno", design, weights_found)
    for user in range(users):
        x, s, y = (tensor[user][seen[user]].double().numpy() for tensor in (design, shared, given))

        def misfit(point: np.ndarray, x: Any = x, s: Any = s, y: Any = y) -> float:
            logits = s + np.einsum("now,ow->no", x, point.reshape(labels, weights))
            if exclusive and labels > 1:
                loss = -(log_softmax(logits, axis=1) * y).sum()
            else:
                loss = np.logaddexp(0, logits).sum() - (y * logits).sum()
            return float(loss + 0.5 * point @ point)

        best = minimize(misfit, np.zeros(labels * weights), options={"gtol": 1e-8}).x.reshape(labels, weights)
        expected = np.einsum("now,ow->no", design[user].double().numpy(), best)
        np.testing.assert_allclose(result[user], expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["single", "ordinal", "multi"])
def test_scores_are_those_that_were_trained(kind: Any, speaking: None) -> None:
    """What is answered, through a mixed model's parts and user by user, is what training computes for all at once."""
    problem = made_up(kind)
    fitted = HISTORY.fit(problem, None, 0)
    exclusive, texts = kind != "multi", [Text("new"), Text("Note 99: rain and soup.")]
    whole = np.zeros(len(problem.users), np.int64) + NOBODY
    fitted.read_by(fitted.reader, whole, fitted.past)  # every judged text is read by the model that answers
    scores = fitted.scores(np.repeat(np.arange(len(problem.users)), 2), texts * len(problem.users))
    known = Side.of(fitted.past)
    asked = Side.of([fitted.taken(NOBODY, texts, np.zeros((2, len(problem.card.labels))))] * len(problem.users))
    logits = fitted.reader.logits(known, asked, known.real, exclusive, 100)
    expected = logits.log_softmax(-1) if exclusive else torch.nn.functional.logsigmoid(logits)
    np.testing.assert_allclose(scores, expected.reshape(len(scores), -1), atol=1e-4)
    assert np.abs(scores - MixedHead(**PRIORS).fit(problem, None, 0).scores(*every_pair(problem))[0]).max() > 0.01


@pytest.mark.parametrize("kind", ["single", pytest.param("multi", marks=pytest.mark.slow)])
def test_what_was_learned_is_kept_and_newcomers_are_read_by_it(kind: Any, speaking: None) -> None:
    knobs = ",".join(f"{name}={value}" for name, value in PRIORS.items())
    check_fitted(f"history[features=tfidf,{knobs}]", "none", kind)


def test_a_texts_own_label_never_reaches_what_is_added_to_its_score(speaking: None) -> None:
    problem = made_up()
    fitted = HISTORY.fit(problem, None, 0)
    rows = problem.rows("train")[:12]
    users, texts = problem.user[rows], [problem.texts[text] for text in problem.text[rows]]
    asked = fitted.read(users, texts)[1].astype(np.float32)
    before = fitted.added(users, texts, asked)
    past = list(fitted.past)
    assert np.abs(before).max(1).min() > 0
    for row, (user, text) in enumerate(zip(users, texts, strict=True)):
        mine = past[user].text == fitted.taken(NOBODY, [text], np.ones((1, 2))).text
        assert mine.sum() == 1
        target = np.where(mine[:, None], 1 - past[user].target, past[user].target)
        fitted.past[user] = past[user]._replace(target=target)
        after = fitted.added(users, texts, asked)
        np.testing.assert_array_equal(after[row], before[row])
        assert not np.array_equal(after, before)  # but other texts see it
        fitted.past = list(past)


def test_enrolling_and_forgetting_change_nothing_in_place(speaking: None) -> None:
    problem = made_up()
    fitted = History(features="tfidf").fit(problem, None, 0)
    assert fitted.reader is not None
    earlier, (users, texts) = copy.copy(fitted), every_pair(problem)
    before = earlier.scores(users, texts)
    fitted.enrol(0, list(problem.texts[:5]), problem.target[:5])
    fitted.enrol(None, list(problem.texts[:5]), problem.target[:5])
    fitted.forget(1)
    assert np.array_equal(earlier.scores(users, texts), before)


def test_a_judged_row_is_never_trained_on_with_its_text_among_the_items() -> None:
    """Rows of one text stand on one side, in every draw and size."""
    none = np.zeros((6, 1), np.float32)
    text = np.array([[7, 7, 2, 3, 2, 5], [7, 1, 2, 2, 0, 0]])
    side = Side.of([Past(text[0], none, none, none, none), Past(text[1][:4], *[none[:4]] * 4)])
    draw, sizes = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        seen = history_fit.drawn(side, draw)
        assert not (seen & ~side.real).any()
        sizes |= set(seen.sum(1).tolist())
        for user in range(2):
            history, judged = (side.text[user][rows].tolist() for rows in (seen[user], side.real[user] & ~seen[user]))
            assert not set(history) & set(judged)
    assert {0, 1, 2, 4} <= sizes


def test_nothing_is_added_unless_validation_rows_become_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made_up()
    monkeypatch.setattr(history_fit, "WORTH", np.inf)
    fitted = HISTORY.fit(problem, None, 0)
    assert fitted.notes["history_nats"] == 0
    pairs = every_pair(problem)
    np.testing.assert_array_equal(fitted.scores(*pairs), MixedHead(**PRIORS).fit(problem, None, 0).scores(*pairs))


def test_test_rows_stay_unread_and_the_same_twice_gives_the_same_bits(speaking: None) -> None:
    problem = made_up()
    target = problem.target.copy()
    target[problem.rows("test")] = target[problem.rows("test")][:, ::-1]
    pairs = every_pair(problem)
    one, two = (
        HISTORY.fit(each, None, 0).scores(*pairs) for each in (problem, dataclasses.replace(problem, target=target))
    )
    np.testing.assert_array_equal(one, two)


def test_what_a_head_without_a_taste_of_ones_own_cannot_say_is_learned() -> None:
    """Users who like a topic or not, and a head that is held to biases."""
    problem = made_up(users=24, items=40, noise=0.0)
    held = {**PRIORS, "slope": 0.0, "deviation": 0.0}
    fitted, head = (method(**held).fit(problem, None, 0) for method in (History, MixedHead))
    assert fitted.notes["history_nats"] > 1
    rows = problem.rows("test")
    pairs = problem.user[rows], [problem.texts[text] for text in problem.text[rows]]
    given = problem.target[rows] > 0
    assert fitted.scores(*pairs)[given].mean() > head.scores(*pairs)[given].mean() + 0.01
