"""Intervals by user, by item and two-way, on data whose truth is known."""

import numpy as np
import polars as pl
import pytest
from boards import predictions

from peftu.data.task import TaskCard
from peftu.judge.board import Board
from peftu.judge.clusters import intervals
from peftu.judge.shapes import Intervals
from peftu.metrics import metrics
from peftu.metrics.rows import scored_rows
from peftu.metrics.users import scores_of_rows

CARD = TaskCard(
    name="made-up", version="1", title="Made up", description="d", user="a person", kind="single",
    labels=("no", "yes"), instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none",
    homepage="none", files=(),
)  # fmt: skip


def crossed(rng: np.random.Generator, users: int, items: int, by_user: float, by_item: float) -> Intervals:
    """Returns the intervals of one method that is right with chance 0.7, moved by each user and by each item."""
    chance = 0.7 + by_user * rng.uniform(-1, 1, (users, 1)) + by_item * rng.uniform(-1, 1, (1, items))
    gold = rng.integers(0, 2, (users, items))
    rows = scored_rows(predictions({"m": rng.random((users, items)) < chance}, gold), CARD)
    return intervals(Board(scores_of_rows(rows, CARD), metrics.get("accuracy"), 400), rows)[0]


def covered(found: list[Intervals], which: str) -> float:
    bounds = [getattr(one, which) for one in found]
    return float(np.mean([low <= 0.7 <= high for low, high in bounds]))


@pytest.mark.parametrize("times", [30, pytest.param(60, marks=pytest.mark.slow)])
def test_two_way_covers_where_one_way_does_not(times: int) -> None:
    rng = np.random.default_rng(0)
    shared_items = [crossed(rng, 20, 25, 0.02, 0.28) for _ in range(times)]
    assert covered(shared_items, "by_user") < 0.85  # every user has the same easy and hard items
    assert covered(shared_items, "two_way") >= 0.9
    assert covered([crossed(rng, 12, 60, 0.25, 0.02) for _ in range(times)], "two_way") >= 0.9


def test_two_way_is_never_the_narrowest() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        one = crossed(rng, 15, 15, 0.1, 0.1)
        assert (one.users, one.items, one.seeds, one.seed_sd) == (15, 15, 1, None)
        widths = [high - low for low, high in (one.by_user, one.by_item, one.two_way)]
        assert widths[2] >= min(widths[:2]) - 1e-9


def test_items_of_one_user_each_give_the_same_mean() -> None:
    gold = np.zeros((8, 3), dtype=np.int64)
    right = np.random.default_rng(2).random((8, 3)) < 0.6
    frame = predictions({"m": right}, gold).with_columns(item_id=pl.col("user_id") + pl.col("item_id"))
    rows = scored_rows(frame, CARD)
    found = intervals(Board(scores_of_rows(rows, CARD), metrics.get("accuracy"), 200), rows)[0]
    assert found.mean == pytest.approx(right.mean())
    assert found.items == 24
    assert found.two_way == pytest.approx(found.by_user, abs=0.15)


def test_a_metric_that_is_no_mean_of_rows_has_no_item_interval() -> None:
    rows = scored_rows(predictions({"m": np.eye(4, dtype=np.bool_)}, np.zeros((4, 4), dtype=np.int64)), CARD)
    found = intervals(Board(scores_of_rows(rows, CARD), metrics.get("macro_f1"), 200), rows)[0]
    assert found.by_user is not None
    assert (found.by_item, found.two_way) == (None, None)
