"""The kinds of answer against plain loops: decision, thresholds, commonest answer, probabilities, strata."""

import itertools
import math
from collections import Counter
from typing import get_args

import numpy as np
import pytest

from peftu.answers import KINDS, AnyOf, FreeText, Kind, OneOf, answers_of, commonest
from peftu.results import GLOBAL, MIXED_HEAD, USER_MAJORITY, ZERO_SHOT

LABELLED = [OneOf(), OneOf(ordered=True), AnyOf()]


def test_every_kind_that_is_written_has_an_object() -> None:
    assert sorted(KINDS) == sorted(get_args(Kind))
    assert [answers_of(kind) for kind in ("single", "ordinal", "multi", "text")] == [*LABELLED, FreeText()]
    assert [KINDS[kind].level for kind in KINDS] == ["nominal", "ordinal", "masi", None]
    assert OneOf().references == AnyOf().references == (USER_MAJORITY, GLOBAL, MIXED_HEAD)
    assert FreeText().references == (GLOBAL, ZERO_SHOT)


def f1(scores: list[float], gold: list[bool], cut: float) -> float:
    said = [score > cut for score in scores]
    hits = sum(s and g for s, g in zip(said, gold, strict=True))
    return 2 * hits / (sum(said) + sum(gold)) if sum(gold) else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_decision_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, gold = rng.integers(0, 6, (12, 3)) / 4.0, rng.random((12, 3)) < 0.5
    cuts = AnyOf().thresholds(scores, gold)
    for label, cut in enumerate(cuts):
        column, given = scores[:, label].tolist(), gold[:, label].tolist()
        best = max(f1(column, given, other) for other in (-1.0, *(value / 8 for value in range(12))))
        assert f1(column, given, cut) == pytest.approx(best)
    for answers in LABELLED:
        decided = answers.decide(scores, answers.thresholds(scores, gold))
        for row, chosen in zip(scores.tolist(), decided, strict=True):
            above = [score > cut for score, cut in zip(row, cuts, strict=True)] if isinstance(answers, AnyOf) else []
            first = row.index(max(row))
            assert chosen.tolist() == (above if any(above) else [place == first for place in range(3)])


@pytest.mark.parametrize("seed", range(10))
def test_the_commonest_answer_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 14))
    group, answer = rng.integers(0, 4, rows), rng.integers(0, 3, rows)
    overall = Counter(answer.tolist())
    for place, chosen in enumerate(commonest(group, 5, answer).tolist()):
        own = Counter(answer[group == place].tolist())
        assert chosen == min(overall, key=lambda one: (-own[one], -overall[one], one))


def test_probabilities_and_what_is_lost() -> None:
    table, gold = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]), np.array([[0, 1, 0], [1, 0, 1]], bool)
    for answers in LABELLED:
        assert answers.probabilities(np.log(table)) == pytest.approx(table)
        assert np.isnan(answers.probabilities(np.full((1, 3), np.nan))).all()
    assert OneOf().probabilities(np.log(table * 0.9)) == pytest.approx(table), "they add up to 1"
    assert AnyOf().probabilities(np.log(table * 0.9)) == pytest.approx(table * 0.9), "each is its own"
    pairs = [list(zip(p, y, strict=True)) for p, y in zip(table.tolist(), gold.tolist(), strict=True)]
    one = [sum(-math.log(p) for p, y in row if y) for row in pairs]
    each = [sum(-math.log(p if y else 1 - p) for p, y in row) / 3 for row in pairs]
    assert OneOf().log_loss(table, gold) == pytest.approx(one)
    assert AnyOf().log_loss(table, gold) == pytest.approx(each)
    certain = np.abs(np.subtract(*(np.eye(3)[place] for place in (0, 2))))[None]
    assert OneOf().distance(certain) == 1.0
    assert AnyOf().distance(certain) == pytest.approx(2 / 3)


def test_what_a_base_reads_is_written_as_log_probabilities() -> None:
    scores = np.array([[-2.0, 0.0, 3.0]], np.float32)
    assert OneOf().written(scores) is scores
    assert FreeText().written(scores) is scores
    expected = [[-math.log1p(math.exp(-value)) for value in scores[0].tolist()]]
    assert AnyOf().written(scores) == pytest.approx(np.array(expected), rel=1e-5)
    assert AnyOf().written(scores).dtype == np.float32


def test_strata_are_the_places_of_labels() -> None:
    place = {label: number for number, label in enumerate("abc")}
    rows = [[*labels] for size in (1, 2) for labels in itertools.combinations("abc", size)]
    for answers in LABELLED:
        assert answers.strata(rows, place) == [[place[label] for label in row] for row in rows]
    assert FreeText().strata([["mine"], ["other"]], {}) == [[0], [0]]


@pytest.mark.parametrize("seed", range(5))
def test_where_a_metric_is_a_distance_no_label_has_a_smaller_expected_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(6) * 0.7, size=40)
    decided = answers_of("ordinal", "mae").decide(np.log(chances))
    for row, chosen in zip(chances, decided.argmax(1), strict=True):
        expected = [sum(p * abs(label - other) for other, p in enumerate(row)) for label in range(6)]
        assert expected[chosen] == pytest.approx(min(expected))
    assert (decided.sum(1) == 1).all()
    assert (answers_of("ordinal", "accuracy").decide(np.log(chances)).argmax(1) == chances.argmax(1)).all()
    assert (answers_of("single", "mae").decide(np.log(chances)).argmax(1) == chances.argmax(1)).all()
