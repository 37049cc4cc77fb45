"""Near-duplicates against the definition: Jaccard similarity of sets of 5-grams, by loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.data.near import LEAST, MOST_CANDIDATES, WIDTH, Shingles, near_duplicates

TEXTS = st.lists(st.text(st.sampled_from("ab é😀"), max_size=30), min_size=1, max_size=8)
few = settings(max_examples=50, deadline=None)


def grams(text: str) -> set[str]:
    return {text[place : place + WIDTH] for place in range(max(1, len(text) - WIDTH + 1))}


def jaccard(one: str, other: str) -> float:
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def altered(text: str, changes: int, random: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(changes):
        letters[random.integers(len(letters))] = "x"
    return "".join(letters)


@few
@given(TEXTS)
def test_similarity_is_exact(texts: list[str]) -> None:
    shingles = Shingles(texts)
    for one, first in enumerate(texts):
        assert len(shingles.of(one)) == len(grams(first))
        for other, second in enumerate(texts):
            assert shingles.jaccard(one, other) == jaccard(first, second)


@few
@given(TEXTS, TEXTS)
def test_every_pair_found_is_a_pair(tested: list[str], trained: list[str]) -> None:
    for test, train, similarity in near_duplicates(tested, trained):
        assert similarity == jaccard(tested[test], trained[train]) >= LEAST
    same = {number for number, text in enumerate(tested) if text in trained}
    assert same <= {test for test, _, _ in near_duplicates(tested, trained)}


def test_what_is_there_is_found() -> None:
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(400)]
    trained = [" ".join(words[place] for place in random.integers(0, 400, 15)) for _ in range(300)]
    tested = [altered(text, number % 6, random) for number, text in enumerate(trained[:200])]
    alike = {test for test, text in enumerate(tested) if any(jaccard(text, other) >= LEAST for other in trained)}
    found = {test for test, _, _ in near_duplicates(tested, trained)}
    assert found <= alike
    assert len(found) >= len(alike) - 1  # 1 in 5,000 is missed at the threshold, fewer above it
    assert 50 < len(alike) < 200


def test_signatures_estimate_similarity() -> None:
    random = np.random.default_rng(1)
    text = " ".join(f"word{number}" for number in range(80))
    others = [altered(text, changes, random) for changes in (2, 5, 10, 20)]
    signatures = Shingles([text, *others]).signatures(512)
    for other, own in zip(others, signatures[1:], strict=True):
        assert abs((signatures[0] == own).mean() - jaccard(text, other)) < 0.08


def test_templates_are_not_compared_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"I would never ever go to the {number}th place of them all" for number in range(3000)]
    compared = []
    exact = Shingles.jaccard
    monkeypatch.setattr(Shingles, "jaccard", lambda self, *pair: compared.append(pair) or exact(self, *pair))
    assert len(near_duplicates(texts[:600], texts[600:])) == 600
    assert len(compared) < MOST_CANDIDATES * 600  # of 1,440,000 pairs


def test_nothing_to_compare() -> None:
    assert near_duplicates([], ["a"]) == near_duplicates(["a"], []) == []
    assert near_duplicates([""], ["", "a"]) == [(0, 0, 1.0)]
