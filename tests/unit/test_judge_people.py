"""Ceilings, trends, groups and shifts against plain loops."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from boards import predictions

from peftu.answers import Kind
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge import Evidence, Judgement, judge
from peftu.judge.ceilings import best_thresholds
from peftu.judge.groups import user_fields
from peftu.judge.person import about_user, log_odds
from peftu.judge.votes import Votes, votes
from peftu.metrics import user_scores
from peftu.results import summarise

LABELS = ("calm", "cross", "glad")


def card(kind: Kind = "single", labels: tuple[str, ...] = LABELS) -> TaskCard:
    return TaskCard(
        name="made-up", version="1", title="Made up", description="d", user="a person", kind=kind, labels=labels,
        instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none", homepage="none",
        files=(),
    )  # fmt: skip


def judgements(rng: np.random.Generator, users: int = 8, texts: int = 12, *, multi: bool = False) -> pl.DataFrame:
    """Returns judgements with holes, and one text in four under two item keys."""
    rows = []
    for user in range(users):
        for item in range(texts + texts // 4):
            if rng.random() < 0.8:
                chosen = [label for label in LABELS if rng.random() < 0.4] or ["calm"]
                target = chosen if multi else [LABELS[rng.integers(3)]]
                rows.append((f"u{user}", f"i{item}", f"text {item % texts}", None, target))
    schema = {"user_id": pl.String, "item_id": pl.String, "text": pl.String, "context": pl.String}
    return pl.DataFrame(rows, schema={**schema, "target": pl.List(pl.String)}, orient="row")


@pytest.mark.parametrize("multi", [False, True])
def test_votes_are_those_of_a_loop(multi: bool) -> None:
    frame = judgements(np.random.default_rng(0), multi=multi)
    found = votes(frame, card("multi" if multi else "single"))
    every = list(frame.iter_rows(named=True))
    for place, row in enumerate(found.rows.iter_rows(named=True)):
        text = next(one["text"] for one in every if one["item_id"] == row["item_id"])
        others = [one["target"] for one in every if one["text"] == text and one["user_id"] != row["user_id"]]
        given = Counter(label for target in others for label in target)
        assert found.voters[place] == len(others)
        assert found.others[place].tolist() == [given[label] for label in LABELS]
        if others and not multi:
            chosen = LABELS[found.majority[place].argmax()]
            assert given[chosen] == max(given.values())


def accuracy(answer: np.ndarray, own: np.ndarray) -> float:
    return float((answer == own).all(1).mean())


def test_the_oracle_threshold_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        frame = judgements(rng, users=4, texts=9)
        found = votes(frame, card())
        unit = found.rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        answer = best_thresholds(found, np.arange(len(found.rows)), unit)
        shares = np.nan_to_num(found.shares) + 1e-9 * found.common
        for user in range(4):
            mine = unit == user
            best = 0.0
            for label in range(3):
                others = np.where(np.arange(3) == label, -np.inf, shares[mine]).argmax(1)
                for threshold in [-1.0, *shares[mine][:, label], 2.0]:
                    said = np.where(shares[mine][:, label] > threshold, label, others)
                    best = max(best, accuracy(np.eye(3)[said] > 0, found.given[mine] > 0))
            assert accuracy(answer[mine], found.given[mine] > 0) == pytest.approx(best)


def test_the_oracle_of_label_sets_is_the_best_for_each_label() -> None:
    frame = judgements(np.random.default_rng(2), multi=True)
    found = votes(frame, card("multi"))
    unit = found.rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
    answer = best_thresholds(found, np.arange(len(found.rows)), unit)
    shares = np.nan_to_num(found.shares) + 1e-9 * found.common
    for user in range(8):
        mine = unit == user
        for label in range(3):
            own, share = found.given[mine][:, label] > 0, shares[mine][:, label]
            best = max(((share > threshold) == own).mean() for threshold in [-1.0, *share, 2.0])
            assert (answer[mine][:, label] == own).mean() == pytest.approx(best)


def crowd(users: int = 30, items: int = 40) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns predictions and judgements of users who follow the crowd but for user 0, who says yes to all."""
    rng = np.random.default_rng(3)
    mostly = rng.random(items) < 0.3
    gold = (mostly ^ (rng.random((users, items)) < 0.1)).astype(np.int64)
    gold[0] = 1
    right = {
        "user-majority": gold == np.round(gold.mean(1, keepdims=True)),
        "lora": rng.random((users, items)) < 0.95,
    }
    frame = predictions(right, gold)
    meta = pl.Series("meta", [json.dumps({"sex": "fm"[int(key[1:]) % 2], "n": key}) for key in frame["user_id"]])
    return frame, frame.with_columns(meta).filter(pl.col("method") == "lora")


def judged() -> Judgement:
    frame, everything = crowd()
    own = card(labels=("no", "yes"))
    scores = user_scores(frame, own)
    people = everything.select("user_id", "item_id", "target", "meta")
    return judge(Evidence(frame, own, scores, summarise(scores, own), people, resamples=300))


def test_a_whole_judgement_says_who_is_who() -> None:
    found = judged()
    by_name = {ceiling.name: ceiling for ceiling in found.ceilings}
    assert set(by_name) == {"others-majority", "others-threshold"}  # nobody judged a text twice
    assert by_name["others-threshold"].oracle
    assert by_name["others-majority"].score.mean == pytest.approx(0.9, abs=0.05)
    assert by_name["others-threshold"].score.mean >= by_name["others-majority"].score.mean
    closed = {one.ceiling: one.share.mean for one in found.closed if one.system.label == "lora"}
    assert 0.8 < closed["others-majority"] < 1.6
    assert (found.shifts[0].user, found.shifts[0].label) in {(1, "yes"), (1, "no")}
    assert "User 1 says" in found.shifts[0].words
    assert len({shift.user for shift in found.shifts}) <= 4  # one in twenty is chance
    people = {(group.by, group.value): group.users for group in found.groups if group.system.label == "lora"}
    assert people == {("label", "no"): 29, ("label", "yes"): 30, ("sex", "f"): 15, ("sex", "m"): 15}
    [trend] = found.trends
    assert (trend.by, trend.system.label, trend.users, len(trend.bins)) == ("distance", "lora", 30, len(trend.bins))
    helped = found.helped[0]
    assert helped.helped + helped.unchanged + helped.hurt == helped.users == 30
    assert 0 < helped.surely_helped <= helped.helped


def test_no_key_and_no_item_stands_in_a_judgement() -> None:
    text = judged().model_dump_json()
    assert "u0000" not in text
    assert '"i1"' not in text


def test_a_user_who_judges_twice_gives_self_consistency() -> None:
    frame, _ = crowd(10, 10)
    lora = frame.filter(pl.col("method") == "lora")
    twice = pl.concat([lora, lora.with_columns(item_id=pl.col("item_id") + "-again")])
    people = twice.select("user_id", "item_id", "target", text=pl.col("item_id").str.strip_suffix("-again"))
    own = card(labels=("no", "yes"))
    scores = user_scores(frame, own)
    found = judge(Evidence(frame, own, scores, summarise(scores, own), people, resamples=100))
    [again] = [ceiling for ceiling in found.ceilings if ceiling.name == "self-consistency"]
    assert (again.score.mean, again.users, again.scored) == (1.0, 10, 200)


def test_fields_of_people_are_those_that_stay_the_same() -> None:
    rows = [("a", '{"age": 20, "mood": 1, "split": "x"}'), ("a", '{"age": 20, "mood": 2}'), ("b", '{"age": 30}')]
    meta = pl.DataFrame(rows, schema=["user_id", "meta"], orient="row")
    assert user_fields(meta) == {"age": {"a": "20", "b": "30"}}
    many = pl.DataFrame(
        [(f"u{n}", json.dumps({"age": n})) for n in range(30)], schema=["user_id", "meta"], orient="row"
    )
    assert Counter(user_fields(many)["age"].values()) == {
        "up to 9.66667": 10,
        "9.66667 to 19.3333": 10,
        "above 19.3333": 10,
    }


def test_votes_of_nobody_else() -> None:
    alone = judgements(np.random.default_rng(5), users=1)
    found: Votes = votes(alone, card())
    assert not found.majority.any()
    assert np.isnan(found.shares).all()


def test_a_user_sees_what_differs_about_them() -> None:
    rows = []
    for item in range(40):
        text = f"the {'dog' if item % 4 == 0 else 'cat'} number{'abcdefgh'[item % 8]} sits"
        for user in range(6):
            own = "cross" if user == 0 and item % 4 == 0 else "glad" if item % 2 else "calm"
            rows.append((f"key-{user}", f"i{item}", text, None, [own]))
    schema = {"user_id": pl.String, "item_id": pl.String, "text": pl.String, "context": pl.String}
    frame = pl.DataFrame(rows, schema={**schema, "target": pl.List(pl.String)}, orient="row")
    found = about_user(frame, card(), "key-0")
    assert (found.judged, found.shared, found.agreed) == (40, 40, 0.75)
    assert (found.shifts[0].label, found.shifts[0].own, found.shifts[0].others) == ("cross", 0.25, 0.0)
    assert {(word.label, word.word) for word in found.words} >= {("cross", "dog")}
    assert "cat" not in {word.word for word in found.words}
    assert len(found.texts) == 10
    assert all("dog" in text.text and text.own == ("cross",) and text.others["calm"] == 1 for text in found.texts)
    assert "You say 'cross' more often than others: 25 % against 0 %." in found.sentences()
    assert "key-" not in found.model_dump_json()
    assert about_user(frame, card(), "key-3").texts == ()
    with pytest.raises(PeftuError, match="no judgement of that user"):
        about_user(frame, card(), "nobody")


def test_log_odds_are_large_for_words_of_one_side_only() -> None:
    here, there, prior = np.array([9.0, 5.0, 0.0]), np.array([0.0, 5.0, 9.0]), np.full(3, 0.5)
    z = log_odds(here, there, prior)
    assert z[0] == pytest.approx(-z[2])
    assert z[1] == pytest.approx(0)
    odds = [np.log(9.5 / (14 + 1.5 - 9.5)), np.log(0.5 / (14 + 1.5 - 0.5))]
    assert z[0] == pytest.approx((odds[0] - odds[1]) / (1 / 9.5 + 1 / 0.5) ** 0.5)
