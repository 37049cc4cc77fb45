"""The main metric's interval over users, over items, and over both: whose draw the number depends on."""

from dataclasses import replace

import numpy as np
import polars as pl

from peftu.judge.board import Board
from peftu.judge.shapes import Intervals
from peftu.metrics import SYSTEM
from peftu.stats import Doubles, MeanEstimate, interval, seed_means
from peftu.system import System

_MOST_ITEMS = 20_000  # more are put into as many groups of items, which are drawn whole
_SAME = 1e-12  # a smaller surplus is rounding; a factor over such a variance would depend on the order of rows


def intervals(board: Board, rows: pl.DataFrame) -> tuple[Intervals, ...]:
    """Returns each method's mean with its interval by user, by item and two-way.

    By item and two-way are null for a metric that is no mean over rows (macro-F1, kappa).

    Args:
        board: the scores.
        rows: what ``peftu.metrics.rows.scored_rows`` returns for the same predictions.
    """
    by_user = board.estimates(board.matrix.values)
    return tuple(
        _intervals(board, system, estimate, rows) for system, estimate in zip(board.systems, by_user, strict=True)
    )


def _intervals(board: Board, system: System, by_user: MeanEstimate, rows: pl.DataFrame) -> Intervals:
    seeds = seed_means(board.scores, board.metric.name, system)
    scored = rows.filter("scored", system.rows)
    by_item: MeanEstimate | None = None
    both: MeanEstimate | None = None
    if board.metric.value is not None and by_user.mean is not None:
        weighted = _weighted(scored, board.metric.value)
        by_item, both = _by_item(board, weighted, by_user)
    return Intervals(
        system=system,
        mean=by_user.mean,
        by_user=by_user.ci,
        by_item=by_item and by_item.ci,
        two_way=both and both.ci,
        users=by_user.users,
        items=scored["item_id"].n_unique(),
        seeds=len(seeds),
        seed_sd=float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
    )


def _weighted(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """Returns user_id, item_id, value and weight of each row; the weighted sum is the mean over users.

    A user's seeds weigh the same, and so do a seed's rows.
    """
    rows = rows.select(*SYSTEM, "seed", "user_id", "item_id", value=value.cast(pl.Float64)).drop_nulls("value")
    seeds = pl.col("seed").n_unique().over("user_id")
    return rows.with_columns(weight=1 / (seeds * pl.len().over("user_id", "seed") * rows["user_id"].n_unique()))


def _by_item(
    board: Board, rows: pl.DataFrame, by_user: MeanEstimate
) -> tuple[MeanEstimate | None, MeanEstimate | None]:
    """Returns the interval over items, and over users and items.

    Over items the mean is a ratio; its linearised value of item i is m + n (A_i - m B_i), with A and B the weighted
    sum of values and of weights of its rows (Cochran, 1977), and these values go through the same bootstrap. Two-way:
    variance by user + by item - by row (Cameron, Gelbach & Miller, 2011), at least the larger of the first two; the
    interval of the fewer of users and items is stretched to it.
    """
    mean = by_user.mean
    assert mean is not None  # noqa: S101
    surplus = pl.col("weight") * (pl.col("value") - mean)
    items = rows.group_by("item_id").agg(surplus.sum().alias("surplus")).sort("item_id")["surplus"].to_numpy()
    if len(items) > _MOST_ITEMS:
        shuffled = np.random.default_rng(0).permutation(len(items)) % _MOST_ITEMS
        items = np.bincount(shuffled, items)
    users = rows.group_by("user_id").agg(surplus.sum().alias("surplus"))["surplus"].to_numpy()
    if min(len(items), len(users)) < 2:
        return None, None
    by_item = interval(mean + len(items) * items, resamples=board.resamples, bounds=board.metric.bounds)
    single = rows.select(surplus.alias("surplus"))["surplus"].to_numpy()
    v_user, v_item, v_row = _variance(users), _variance(items), _variance(single)
    total = max(v_user + v_item - v_row, v_user, v_item)
    fewer, variance = (by_user, v_user) if len(users) <= len(items) else (by_item, v_item)
    return replace(by_item, mean=mean), _stretched(
        fewer, (total / variance) ** 0.5 if variance else 1.0, board.metric.bounds
    )


def _variance(surplus: Doubles) -> float:
    """Returns the variance of a sum over clusters of what each has above its share of the mean."""
    surplus = np.where(np.abs(surplus) > _SAME, surplus, 0.0)
    return float((surplus**2).sum()) * len(surplus) / (len(surplus) - 1)


def _stretched(estimate: MeanEstimate, factor: float, bounds: tuple[float, float]) -> MeanEstimate:
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if mean is None or low is None or high is None:
        return estimate
    low, high = mean - factor * (mean - low), mean + factor * (high - mean)
    return replace(estimate, low=max(low, bounds[0]), high=min(high, bounds[1]))
