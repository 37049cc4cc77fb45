"""Every metric against another implementation, to 1e-12."""

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import wasserstein_distance
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, cohen_kappa_score, log_loss

from peftu.answers import Kind
from peftu.data.task import TaskCard
from peftu.metrics import PREDICTIONS, item_scores, user_scores
from peftu.metrics.overlap import chrf, rouge_1, rouge_l, words

LABELS = ("calm", "cross", "glad", "sad")
CLOSE = {"abs": 1e-12, "rel": 1e-12}


def card(kind: Kind) -> TaskCard:
    return TaskCard(
        name="made-up", version="1", title="Made up", description="d", user="a person", kind=kind,
        labels=LABELS if kind != "text" else (), instruction="?", main_metric="accuracy", language="en", licence="CC0",
        citation="none", homepage="none", files=(),
    )  # fmt: skip


def made(kind: Kind, seed: int = 0, users: int = 15, items: int = 9) -> pl.DataFrame:
    """Returns predictions with log-probabilities; about a third of the items of each user are missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for item in np.flatnonzero(rng.random(items) < 0.7):
            if kind == "multi":
                chance = rng.random(4)
                target = [label for label in LABELS if rng.random() < 0.4]
                said = [label for label, p in zip(LABELS, chance, strict=True) if p > 0.5]
            else:
                chance = rng.dirichlet(np.ones(4))
                target, said = [LABELS[rng.integers(4)]], [LABELS[rng.integers(4)]]
            rows.append(("m", None, 0, f"u{user:02d}", f"i{item}", "test", target, said, np.log(chance).tolist()))
    return pl.DataFrame(rows, schema=PREDICTIONS, orient="row")


def chances(frame: pl.DataFrame, *, exclusive: bool) -> np.ndarray:
    table = np.exp(np.array(frame["scores"].to_list(), dtype=np.float64))
    return table / table.sum(1, keepdims=True) if exclusive else table


@pytest.mark.parametrize("kind", ["single", "ordinal"])
def test_one_label_a_row_against_scikit_learn(kind: Kind) -> None:
    frame = made(kind)
    for row in user_scores(frame, card(kind)).iter_rows(named=True):
        own = frame.filter(pl.col("user_id") == row["user_id"])
        gold, said = ([LABELS.index(label) for label in own[side].list.first()] for side in ("target", "predicted"))
        table = chances(own, exclusive=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # predicted labels that are not among the gold ones
            assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, said), **CLOSE)
            assert row["log_loss"] == pytest.approx(log_loss(gold, table, labels=range(4)), **CLOSE)
            brier = brier_score_loss(gold, table, labels=list(range(4)), scale_by_half=True)
        assert row["brier"] == pytest.approx(brier, **CLOSE)
        assert row["ece"] == pytest.approx(ece(gold, table), **CLOSE)
        if kind == "ordinal":
            kappa = cohen_kappa_score(gold, said, labels=range(4), weights="quadratic")
            assert row["quadratic_kappa"] == pytest.approx(kappa, **CLOSE)


def ece(gold: list[int], table: np.ndarray) -> float:
    """Returns the expected calibration error, bin by bin."""
    total = 0.0
    for number in range(10):
        inside = [
            (row.max(), int(row.argmax()) == label)
            for row, label in zip(table, gold, strict=True)
            if number / 10 < row.max() <= (number + 1) / 10
        ]
        if inside:
            confidence, right = zip(*inside, strict=True)
            total += len(inside) / len(gold) * abs(float(np.mean(confidence)) - float(np.mean(right)))
    return total


def test_label_sets_against_scikit_learn() -> None:
    frame = made("multi")
    for row in user_scores(frame, card("multi")).iter_rows(named=True):
        own = frame.filter(pl.col("user_id") == row["user_id"])
        table = chances(own, exclusive=False)
        gold = np.array([[label in target for label in LABELS] for target in own["target"]])
        each = [log_loss(gold[:, k], table[:, k], labels=[False, True]) for k in range(4)]
        assert row["log_loss"] == pytest.approx(np.mean(each), **CLOSE)
        squares = [brier_score_loss(gold[:, k], table[:, k], pos_label=True) for k in range(4) if gold[:, k].mean() > 0]
        if len(squares) == 4:
            assert row["brier"] == pytest.approx(np.mean(squares), **CLOSE)


def test_kappa_of_constants_is_not_scored() -> None:
    frame = made("ordinal").with_columns(target=pl.lit(["calm"]), predicted=pl.lit(["calm"]))
    assert user_scores(frame, card("ordinal"))["quadratic_kappa"].null_count() == 15


def test_items_against_loops_and_scipy() -> None:
    frame = made("ordinal")
    found = item_scores(frame, card("ordinal"))
    assert found["n_users"].sum() == len(frame)
    for row in found.iter_rows(named=True):
        own = frame.filter(pl.col("item_id") == row["item_id"])
        gold, said = (
            np.array([LABELS.index(label) for label in own[side].list.first()]) for side in ("target", "predicted")
        )
        assert row["error_rate"] == pytest.approx(np.mean(gold != said), **CLOSE)
        assert row["absolute_distance"] == pytest.approx(np.mean(np.abs(gold - said)) / 3, **CLOSE)
        real = np.bincount(gold, minlength=4) / len(gold)
        guessed = chances(own, exclusive=True).mean(0)
        assert row["manhattan"] == pytest.approx(np.abs(real - guessed).sum(), **CLOSE)
        distance = wasserstein_distance(range(4), range(4), real, guessed)
        assert row["wasserstein"] == pytest.approx(distance, **CLOSE)


def test_items_without_probabilities_go_by_what_was_said() -> None:
    frame = made("single").with_columns(scores=pl.lit(None, PREDICTIONS["scores"]))
    for row in item_scores(frame, card("single")).iter_rows(named=True):
        own = frame.filter(pl.col("item_id") == row["item_id"])
        shares = [
            np.bincount([LABELS.index(label) for label in own[side].list.first()], minlength=4) / len(own)
            for side in ("target", "predicted")
        ]
        assert row["manhattan"] == pytest.approx(np.abs(shares[0] - shares[1]).sum(), **CLOSE)
    several = item_scores(made("multi"), card("multi"))
    assert several["manhattan"].is_between(0, 2).all()


texts = st.text(st.sampled_from("ab c.é1\n"), max_size=40)


@settings(max_examples=150, deadline=None)
@given(texts, texts)
def test_overlaps_against_rouge_score_and_sacrebleu(reference: str, answer: str) -> None:
    theirs = RougeScorer(["rouge1", "rougeL"], use_stemmer=False).score(reference, answer)
    cut = words(reference), words(answer)
    assert rouge_1(*cut) == pytest.approx(theirs["rouge1"].fmeasure, **CLOSE)
    assert rouge_l(*cut) == pytest.approx(theirs["rougeL"].fmeasure, **CLOSE)
    theirs_chrf = CHRF().sentence_score(answer, [reference]).score / 100
    assert chrf(reference, answer) == pytest.approx(theirs_chrf, **CLOSE)


def test_longer_texts_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pair = [" ".join(f"w{n}" for n in rng.integers(0, 30, rng.integers(50, 200))) for _ in range(2)]
        theirs = RougeScorer(["rougeL"], use_stemmer=False).score(*pair)["rougeL"].fmeasure
        assert rouge_l(*map(words, pair)) == pytest.approx(theirs, **CLOSE)
        assert chrf(*pair) == pytest.approx(CHRF().sentence_score(pair[1], [pair[0]]).score / 100, **CLOSE)


def test_answers_in_free_text() -> None:
    rows = [
        ("m", None, 0, "a", "i", "test", ["red sky"], ["red sky"], None),
        ("m", None, 0, "b", "i", "test", ["red sky"], ["red sea"], None),
        ("m", None, 0, "a", "j", "test", ["red sky"], ["no"], None),
        ("m", None, 0, "c", "i", "test", ["red sky"], None, None),
    ]
    vectors = {"target_vector": [[1.0, 0.0]] * 4, "predicted_vector": [[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], None]}
    frame = pl.DataFrame(rows, schema=PREDICTIONS, orient="row").with_columns(
        **{k: pl.Series(v) for k, v in vectors.items()}
    )
    found = {row["user_id"]: row for row in user_scores(frame, card("text")).iter_rows(named=True)}
    assert [found[user]["distinctness"] for user in "abc"] == [0.5, 0.5, None]  # nobody else has item j
    assert found["a"]["rouge_1"] == 0.5
    assert found["a"]["embedding_similarity"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert found["b"]["embedding_similarity"] == 0
    assert (found["c"]["n_scored"], found["c"]["rouge_l"]) == (0, None)
    assert "embedding_similarity" not in user_scores(frame.select(*PREDICTIONS), card("text")).columns
