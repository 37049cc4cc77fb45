"""Who is helped and who is hurt, and what the worst served get."""

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.judge.board import Board
from peftu.judge.shapes import Helped, WorstServed
from peftu.results import Score
from peftu.stats import LEVEL, Doubles, count_gains
from peftu.system import System

_TENTH = 10


def helped(board: Board, rows: pl.DataFrame) -> tuple[Helped, ...]:
    """Returns, for each method and each reference, the users it helps, leaves as they are, and hurts.

    A user is surely helped when an exact sign test over the rows on which the two methods differ in the metric's
    value says so at the 5 % level; that is not corrected for the number of users, so one in forty is expected by
    chance on either side. For metrics that are no mean over rows nobody is sure.
    """
    values = _row_values(board, rows)
    result = []
    for reference in board.references:
        for system in board.systems:
            if system == reference:
                continue
            gains = board.gains(system, reference)
            counts = count_gains(gains)
            users = sum(counts)
            better, worse = _sure(values, system, reference, higher_is_better=board.metric.higher_is_better)
            result.append(
                Helped(
                    system=system,
                    against=reference,
                    users=users,
                    helped=counts[0],
                    unchanged=counts[1],
                    hurt=counts[2],
                    helped_share=wilson(counts[0], users),
                    hurt_share=wilson(counts[2], users),
                    surely_helped=better,
                    surely_hurt=worse,
                )
            )
    return tuple(result)


def worst_served(board: Board) -> tuple[WorstServed, ...]:
    """Returns the mean score of the worst tenth of users (at least one) under each method and each reference.

    Each method's own worst tenth is taken: following the reference's worst users would show a gain by chance alone,
    since part of their bad score is bad luck. The interval takes the tenth for given.
    """
    result = []
    for reference in board.references:
        for system in board.systems:
            if system == reference:
                continue
            columns = [board.matrix.column(side) for side in (system, reference)]
            places = [_worst(board, column) for column in columns]
            tails = [column[place] for column, place in zip(columns, places, strict=True)]
            scores = [Score.of(board.estimate(tail)) for tail in tails]
            result.append(
                WorstServed(
                    system=system,
                    against=reference,
                    users=len(tails[0]),
                    score=scores[0],
                    reference=scores[1],
                    items=_items(board, system, places[0]),
                )
            )
    return tuple(result)


def wilson(count: int, of: int) -> Score:
    """Returns a share with Wilson's interval (1927); empty for a share of nothing."""
    if not of:
        return Score(mean=None, ci=None)
    from scipy.stats import binomtest

    ci = binomtest(count, of).proportion_ci(LEVEL, method="wilson")
    return Score(mean=count / of, ci=(float(ci.low), float(ci.high)))


def _worst(board: Board, values: Doubles) -> npt.NDArray[np.int64]:
    """Returns the places of the worst tenth, worst first."""
    order = np.argsort(values if board.metric.higher_is_better else -values, kind="stable")
    known = order[~np.isnan(values[order])]
    return np.asarray(known[: max(1, len(known) // _TENTH)])


def _items(board: Board, system: System, places: npt.NDArray[np.int64]) -> float:
    """Returns the scored test rows of these users together, averaged over seeds."""
    users = [board.matrix.users[place] for place in places]
    rows = board.scores.filter(system.rows, pl.col("user_id").is_in(users))
    return float(rows["n_scored"].sum()) / max(rows["seed"].n_unique(), 1)


def _row_values(board: Board, rows: pl.DataFrame) -> pl.DataFrame:
    """Returns method, base, seed, user_id, item_id and the metric's value of each scored row."""
    keys = ("method", "base", "seed", "user_id", "item_id")
    value = pl.lit(None, pl.Float64) if board.metric.value is None else board.metric.value.cast(pl.Float64)
    return rows.filter("scored").select(*keys, value=value).drop_nulls("value")


def _sure(values: pl.DataFrame, system: System, reference: System, *, higher_is_better: bool) -> tuple[int, int]:
    """Returns the users whose own rows show a gain, and those whose rows show a loss."""
    sides = [values.filter(side.rows) for side in (system, reference)]
    keys = ["seed", "user_id", "item_id"]
    gain = pl.col("value") - pl.col("value_right") if higher_is_better else pl.col("value_right") - pl.col("value")
    # An item tested in several seeds is one item: its seeds are averaged first.
    items = sides[0].join(sides[1], on=keys).group_by("user_id", "item_id").agg(gain.mean().alias("gain"))
    users = items.group_by("user_id").agg(up=(pl.col("gain") > 0).sum(), down=(pl.col("gain") < 0).sum())
    if users.is_empty():
        return 0, 0
    from scipy.stats import binom

    up, down = users["up"].to_numpy().astype(np.int64), users["down"].to_numpy().astype(np.int64)
    sure = 2 * binom.cdf(np.minimum(up, down), up + down, 0.5) < 1 - LEVEL
    return int((sure & (up > down)).sum()), int((sure & (down > up)).sum())
