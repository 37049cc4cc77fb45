import numpy as np
import pytest

from peftu.data.problem import Text
from peftu.methods import mixed_features
from peftu.methods.mixed_features import fit_features

WORDS = ["rain", "moss", "kites", "salt", "soup", "trains", "cats", "chess", "wind", "bread"]


def notes(number: int, seed: int = 0, context: bool = False) -> list[Text]:
    draw = np.random.default_rng(seed)
    pick = [" ".join(draw.choice(WORDS, 5)) for _ in range(2 * number)]
    return [Text(pick[2 * place], pick[2 * place + 1] if context else None) for place in range(number)]


def features(texts, seen=None, embedding=None, ngrams=True, rank=100, width=100):
    seen = np.arange(len(texts)) if seen is None else seen
    return fit_features(texts, seen, embedding, ngrams, rank, width, seed=0).features(texts, embedding)


def test_blocks_have_unit_length_on_average() -> None:
    made = features(notes(20), embedding=np.random.default_rng(1).normal(3, 2, size=(20, 7)))
    assert made.embedding.shape == (20, 7)
    for block in (made.embedding, made.tfidf, made.personal):
        assert np.square(block).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(made.embedding.mean(0), 0, atol=1e-12)


def test_rotation_keeps_every_inner_product() -> None:
    given = np.random.default_rng(1).normal(size=(20, 7))
    made = features(notes(20), embedding=given)
    centred = given - given.mean(0)
    np.testing.assert_allclose(
        made.embedding @ made.embedding.T, centred @ centred.T / np.square(centred).sum(1).mean(), atol=1e-12
    )
    both = np.hstack([made.embedding, made.tfidf])
    np.testing.assert_allclose(made.personal @ made.personal.T, both @ both.T / 2, atol=1e-9)


def test_the_randomised_directions_are_nearly_the_exact_ones(monkeypatch) -> None:
    texts = notes(60)
    exact = features(texts, rank=5).tfidf
    monkeypatch.setattr(mixed_features, "EXACT_ROWS", 10)
    quick = features(texts, rank=5).tfidf
    np.testing.assert_allclose(quick @ quick.T, exact @ exact.T, atol=0.05)


def test_unseen_texts_change_nothing() -> None:
    seen, given = np.arange(15), np.random.default_rng(1).normal(size=(20, 4))
    texts, others = notes(20), notes(20, seed=9)
    one = features(texts, seen, given)
    two = features(texts[:15] + others[15:], seen, np.vstack([given[:15], -9 * given[15:]]))
    for name in ("embedding", "tfidf", "personal"):
        np.testing.assert_allclose(getattr(one, name)[:15], getattr(two, name)[:15], atol=1e-12)


def test_contexts_count() -> None:
    texts = notes(20, context=True)
    alone = [Text(text.text) for text in texts]
    one, two = features(texts).tfidf, features(alone).tfidf
    assert np.abs(one @ one.T - two @ two.T).max() > 0.05


def test_what_is_not_used_has_width_0() -> None:
    made = features(notes(10), embedding=np.ones((10, 3)), ngrams=False, width=0)
    assert made.tfidf.shape == made.personal.shape == (10, 0)
    assert features(notes(10)).embedding.shape == (10, 0)
    lonely = features([Text("a"), Text("b")])
    assert lonely.tfidf.shape == lonely.personal.shape == (2, 0)


def test_what_texts_look_like_needs_no_shared_word() -> None:
    loud = [Text(f"W{number}X! Q{number}Z!", "Why?") for number in range(10)]
    calm = [Text(f"w{number}x q{number}z", "Why?") for number in range(10)]
    seen = np.arange(0, 20, 2)
    fitted = fit_features(loud + calm, seen, None, ngrams=False, rank=9, width=4, seed=0, form=True)
    made = fitted.features(loud + calm, None)
    assert np.square(made.embedding[seen]).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(made.embedding[seen].mean(0), 0, atol=1e-12)
    between = np.linalg.norm(made.embedding[:10].mean(0) - made.embedding[10:].mean(0))
    assert between > 5 * made.embedding[:10].std(0).max()
    assert made.personal.shape == (20, 4)
    words, letters = (
        fit_features(loud + calm, seen, None, ngrams=True, rank=0, width=4, seed=0, form=form).features(
            loud + calm, None
        )
        for form in (False, True)
    )
    assert letters.tfidf.shape[1] > words.tfidf.shape[1]
    assert words.embedding.shape[1] == 0
