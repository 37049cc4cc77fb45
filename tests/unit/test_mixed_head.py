import dataclasses

import numpy as np
import pytest

from peftu.config import SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import Problem, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.errors import PeftuError
from peftu.methods import mixed, mixed_search
from peftu.methods.mixed import MixedHead
from peftu.methods.mixed_features import TextFeatures
from peftu.methods.mixed_model import Data
from peftu.methods.mixed_search import likeliest_priors, searched
from peftu.methods.reference import UserMajority

PRIORS = {"embedding": 0.7, "tfidf": 0.4, "text": 0.3, "bias": 1.0, "slope": 0.5, "deviation": 0.6}


class Embeddings:
    """Vectors drawn from the letters of a text."""

    def embed(self, texts) -> np.ndarray:
        letters = np.random.default_rng(0).normal(size=(128, 6))
        vectors = np.array([letters[[ord(letter) % 128 for letter in text.text]].mean(0) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def made_up(kind="single", users=8, items=40, seed=0, regime="within-user", **options) -> Problem:
    table = synthetic_table(users, items, kind, seed, **options)
    return make_problem(table, table.card, make_split(table, SplitSpec(regime=regime), seed))


def every_pair(problem: Problem) -> tuple[np.ndarray, list[Text]]:
    return np.repeat(np.arange(len(problem.users)), len(problem.texts)), list(problem.texts) * len(problem.users)


def accuracy(fitted, problem: Problem, part="test") -> float:
    rows = problem.rows(part)
    texts = [problem.texts[text] for text in problem.text[rows]]
    return float((fitted.scores(problem.user[rows], texts).argmax(1) == problem.label[rows]).mean())


def test_many_users_are_searched_by_a_sample_drawn_from_their_keys(monkeypatch) -> None:
    problem = made_up(users=12, items=40)
    whole = MixedHead().fit(problem, None, 0)
    monkeypatch.setattr(mixed_search, "SEARCH_USERS", 12)  # all of them: nothing changes
    np.testing.assert_array_equal(
        MixedHead().fit(problem, None, 0).scores(*every_pair(problem)), whole.scores(*every_pair(problem))
    )
    monkeypatch.setattr(mixed_search, "SEARCH_USERS", 5)
    seen = []
    monkeypatch.setattr(mixed, "likeliest_priors", lambda *data: seen.append(data[:2]) or likeliest_priors(*data))
    fitted = MixedHead().fit(problem, None, 0)
    ((train, val),) = seen
    assert train.users == val.users == len(np.unique(train.user)) == 5
    assert len(train.features.personal) == len(np.unique(np.concatenate([train.text, val.text])))
    assert len(train.user) == len(train.target) == 5 * len(problem.rows("train")) // 12
    assert fitted.priors == likeliest_priors(train, val, {"embedding": 0.0})[0]  # there is no base
    other = dataclasses.replace(problem, users=tuple(f"other-{key}" for key in problem.users))
    MixedHead().fit(other, None, 0)
    assert not np.array_equal(seen[1][0].target, train.target)  # other keys, other users


def test_a_sampled_row_keeps_its_text_and_label(monkeypatch) -> None:
    monkeypatch.setattr(mixed_search, "SEARCH_USERS", 3)
    draw = np.random.default_rng(0)
    personal = draw.normal(size=(50, 4))
    features = TextFeatures(personal, personal, personal)
    user, text = np.repeat(np.arange(8), 5), draw.integers(0, 50, 40)
    target = np.stack([user, text], 1).astype(float)  # tells which row it was
    data = Data(features, 8, user, text, target, "sigmoid")
    for part in searched(data, data, [f"u{number}" for number in range(8)]):
        assert part.users == 3
        assert len(part.target) == 15
        np.testing.assert_array_equal(part.features.tfidf[part.text], personal[part.target[:, 1].astype(int)])
        np.testing.assert_array_equal(np.unique(part.target[:, 0])[part.user], part.target[:, 0])


@pytest.mark.parametrize("kind", ["single", "ordinal", "multi"])
def test_scores_are_log_probabilities_for_any_user_and_text(kind) -> None:
    problem = made_up(kind)
    fitted = MixedHead().fit(problem, Embeddings(), 0)
    scores = fitted.scores(*every_pair(problem))
    labels = len(problem.card.labels)
    assert scores.shape == (len(problem.users) * len(problem.texts), labels)
    assert scores.dtype == np.float32
    assert (scores <= 0).all()
    if kind != "multi":
        np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)
    assert fitted.parameters_per_user > 0


def test_learns_each_users_taste() -> None:
    problem = made_up(users=12, items=150, noise=0.05)
    fitted = MixedHead().fit(problem, None, 0)
    assert accuracy(fitted, problem) > accuracy(UserMajority().fit(problem, None, 0), problem) + 0.15
    assert accuracy(fitted, problem) > accuracy(MixedHead(slope=0, deviation=0).fit(problem, None, 0), problem) + 0.05


def test_notes_say_what_was_chosen() -> None:
    problem = made_up()
    notes = MixedHead().fit(problem, Embeddings(), 0).notes
    assert notes["features"] == "both"
    assert set(notes["priors"]) == set(PRIORS)
    assert notes["priors_tried"] > len(PRIORS)
    assert notes["users_without_train_rows"] == 0
    assert 0 < notes["val_accuracy"] <= 1
    assert notes["val_log_likelihood"] < 0


def test_the_chosen_priors_are_no_worse_on_val_than_those_it_started_from() -> None:
    problem = made_up(users=12, items=100)
    start = {"tfidf": 0.5, "text": 0.5, "bias": 1.0, "slope": 0.5, "deviation": 0.5}
    chosen, fixed = (MixedHead(**knobs).fit(problem, None, 0).notes for knobs in ({}, start))
    assert chosen["val_log_likelihood"] >= fixed["val_log_likelihood"]
    assert fixed["priors_tried"] == 0


def test_given_priors_stay() -> None:
    fitted = MixedHead(bias=3.3, deviation=0, features="tfidf").fit(made_up(), Embeddings(), 0)
    assert fitted.notes["features"] == "tfidf"
    assert fitted.notes["priors"]["bias"] == 3.3
    assert fitted.notes["priors"]["deviation"] == fitted.notes["priors"]["embedding"] == 0
    assert fitted.parameters_per_user <= 2


def test_test_rows_stay_unread() -> None:
    problem = made_up()
    target = problem.target.copy()
    target[problem.rows("test")] = target[problem.rows("test")][:, ::-1]
    other = dataclasses.replace(problem, target=target)
    pairs = every_pair(problem)
    one, two = (MixedHead().fit(each, Embeddings(), 0).scores(*pairs) for each in (problem, other))
    np.testing.assert_array_equal(one, two)


def test_weights_come_from_train_rows_only() -> None:
    problem = made_up()
    kept = problem.part == 0
    trained = dataclasses.replace(
        problem,
        item_ids=tuple(np.array(problem.item_ids)[kept]),
        user=problem.user[kept],
        text=problem.text[kept],
        part=problem.part[kept],
        target=problem.target[kept],
    )
    pairs = every_pair(problem)
    one, two = (MixedHead(**PRIORS).fit(each, Embeddings(), 0).scores(*pairs) for each in (problem, trained))
    np.testing.assert_array_equal(one, two)


def test_without_val_rows_it_keeps_the_priors_it_starts_from() -> None:
    problem = made_up()
    fitted = MixedHead().fit(dataclasses.replace(problem, part=np.where(problem.part == 1, 2, problem.part)), None, 0)
    assert fitted.notes["priors_tried"] == 0
    assert "val_accuracy" not in fitted.notes


def test_a_user_without_rows_gets_the_shared_model() -> None:
    problem = made_up(users=5)
    kept = problem.user != 2
    lost = dataclasses.replace(problem, part=np.where(kept, problem.part, 2).astype(np.int8))
    fitted = MixedHead(**PRIORS).fit(lost, Embeddings(), 0)
    assert fitted.notes["users_without_train_rows"] == 1
    texts = np.arange(len(problem.texts))
    parts = {name: np.zeros((0, *part.shape[1:])) for name, part in fitted.model.parts.items()} | {
        name: fitted.model.parts[name] for name in ("intercept", "embedding", "tfidf", "text")
    }
    shared = dataclasses.replace(fitted.model, parts=parts)
    nobody = np.full_like(texts, 2)
    np.testing.assert_allclose(
        fitted.scores(nobody, list(problem.texts)), shared.log_probabilities(nobody, texts), rtol=1e-6
    )


def test_the_same_twice_gives_the_same_bits() -> None:
    problem = made_up()
    one, two = (MixedHead().fit(problem, Embeddings(), 3).scores(*every_pair(problem)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_bad_inputs_are_said() -> None:
    problem = made_up()
    with pytest.raises(PeftuError, match="features=both needs a base"):
        MixedHead(features="both").fit(problem, None, 0)
    with pytest.raises(PeftuError, match="no training rows"):
        MixedHead().fit(dataclasses.replace(problem, part=np.full_like(problem.part, 2)), None, 0)
    with pytest.raises(PeftuError, match="no label set"):
        MixedHead().fit(dataclasses.replace(problem, card=synthetic_card("text")), None, 0)
    fitted = MixedHead(**PRIORS).fit(problem, Embeddings(), 0)
    with pytest.raises(IndexError):
        fitted.scores(np.array([-1]), [Text("a")])


def test_texts_without_a_common_word_leave_the_biases() -> None:
    problem = made_up()
    strange = tuple(Text(chr(0x4E00 + 7 * number)) for number in range(len(problem.texts)))
    fitted = MixedHead().fit(dataclasses.replace(problem, texts=strange), None, 0)
    assert fitted.notes["priors"]["tfidf"] == 0
    assert accuracy(fitted, problem, "train") > 0.5


@pytest.mark.parametrize("regime", ["within-user", "unseen-text"])
def test_beats_the_majority_on_real_annotators(shared_data, regime) -> None:
    table = load_task("tweeteval", shared_data("tweeteval"), {"group": "g3"})
    problem = make_problem(table, table.card, make_split(table, SplitSpec(regime=regime)))
    fitted = MixedHead().fit(problem, None, 0)
    assert accuracy(fitted, problem, "val") > accuracy(UserMajority().fit(problem, None, 0), problem, "val")


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_whole_ngrams_are_a_projection_that_loses_nothing(kind) -> None:
    problem = made_up(kind)
    whole, projected = (MixedHead(rank=rank, **PRIORS).fit(problem, Embeddings(), 0) for rank in (0, 10_000))
    assert whole.model.parts["tfidf"].shape[0] > projected.model.parts["tfidf"].shape[0]
    np.testing.assert_allclose(
        whole.scores(*every_pair(problem)), projected.scores(*every_pair(problem)), rtol=1e-3, atol=1e-4
    )


def test_texts_can_be_embedded_without_their_context() -> None:
    problem = made_up()
    texts = tuple(text._replace(context=f"after {place}") for place, text in enumerate(problem.texts))
    replies = dataclasses.replace(problem, texts=texts)
    asked = []

    class Counted(Embeddings):
        def embed(self, texts) -> np.ndarray:
            asked.append(tuple(texts))
            return super().embed(texts)

    for context in (True, False):
        MixedHead(**PRIORS, context=context).fit(replies, Counted(), 0)
    assert asked == [texts, tuple(Text(text.text) for text in texts)]
