"""A judgement does not depend on the order of rows, the names of labels, or the names of users."""

from typing import Any

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peftu.data.task import TaskCard
from peftu.judge import Evidence, judge
from peftu.metrics import PREDICTIONS, user_scores
from peftu.results import summarise

LABELS = ("calm", "cross", "glad")


def card(labels: tuple[str, ...] = LABELS) -> TaskCard:
    return TaskCard(
        name="made-up", version="1", title="Made up", description="d", user="a person", kind="ordinal", labels=labels,
        instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none", homepage="none",
        files=(),
    )  # fmt: skip


def predictions(seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    users, items = int(rng.integers(2, 7)), int(rng.integers(2, 8))
    tested = [(u, i) for u in range(users) for i in range(items) if rng.random() < 0.8] or [(0, 0)]
    gold = {place: LABELS[rng.integers(3)] for place in tested}
    rows = [
        (method, None, number, f"u{u}", f"i{i}", "test", [gold[u, i]], said, np.log(rng.dirichlet(np.ones(3))).tolist())
        for method in ("user-majority", "lora")
        for number in range(2)
        for u, i in tested
        for said in ([LABELS[rng.integers(3)]] if rng.random() < 0.9 else None,)
    ]
    return pl.DataFrame(rows, schema=PREDICTIONS, orient="row")


def judged(frame: pl.DataFrame, labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    own = card(labels)
    scores = user_scores(frame, own)
    results = summarise(scores, own)
    found = judge(Evidence(frame, own, scores, results, resamples=60)).model_dump()
    return found | {"leaderboard": [result.model_dump() for result in results]}


def close(one: Any, other: Any) -> bool:
    """Returns whether two judgements are equal but for the last bits of their numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-9
    return bool(one == other)


seeds = st.integers(0, 10_000)


@settings(max_examples=8, deadline=None)
@given(seeds)
@example(244)  # users whose means are equal but for rounding
def test_order_of_rows_does_not_matter(seed: int) -> None:
    frame = predictions(seed)
    methods = [frame.filter(pl.col("method") == name) for name in ("user-majority", "lora")]
    shuffled = pl.concat([own.sample(fraction=1, shuffle=True, seed=seed) for own in methods])
    assert close(judged(frame), judged(shuffled))


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_names_of_users_and_items_do_not_matter(seed: int) -> None:
    """As long as users keep their order, which numbers them and the bootstrap's draws."""
    frame = predictions(seed)
    renamed = frame.with_columns(user_id="zz-" + pl.col("user_id"), item_id="other-" + pl.col("item_id"))
    assert close(judged(frame), judged(renamed))


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_names_of_labels_do_not_matter(seed: int) -> None:
    frame = predictions(seed)
    names = dict(zip(LABELS, ("zero", "one", "a two"), strict=True))
    renamed = frame.with_columns(pl.col("target", "predicted").list.eval(pl.element().replace_strict(names)))
    one, other = judged(frame), judged(renamed, tuple(names.values()))
    for judgement in (one, other):
        judgement["groups"] = [{**group, "value": ""} for group in judgement["groups"]]
        judgement["shifts"] = [{**shift, "label": "", "words": ""} for shift in judgement["shifts"]]
    assert close(one, other)


@settings(max_examples=8, deadline=None)
@given(seeds, st.randoms(use_true_random=False))
def test_other_names_in_another_order_change_no_score(seed: int, random: Any) -> None:
    frame = predictions(seed)
    users = frame["user_id"].unique().sort().to_list()
    names = users.copy()
    random.shuffle(names)
    renamed = frame.with_columns(pl.col("user_id").replace_strict(dict(zip(users, names, strict=True))))
    one, other = judged(frame), judged(renamed)
    for key in ("helped", "critical_difference", "detectable", "users"):
        assert close(one[key], other[key])
    for mine, theirs in zip(one["gains"], other["gains"], strict=True):
        assert close((mine["gain"]["mean"], mine["p"]), (theirs["gain"]["mean"], theirs["p"]))
    for mine, theirs in zip(one["scores"], other["scores"], strict=True):
        means = [{name: score["mean"] for name, score in own["scores"].items()} for own in (mine, theirs)]
        assert close(*means)
