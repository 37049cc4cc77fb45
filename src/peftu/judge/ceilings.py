"""How well anything could do: the crowd on the same text, with and without a look at the answers, and the user again.

These are rows of analysis. They are scored on the same test rows as methods, but they are no methods: they
read other users' judgements of the very text that is asked about.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.data.task import TaskCard
from peftu.judge.board import Board
from peftu.judge.shapes import Ceiling, GapClosed
from peftu.judge.votes import TIE, Places, Votes
from peftu.metrics import PREDICTIONS
from peftu.metrics.rows import scored_rows
from peftu.metrics.users import scores_of_rows
from peftu.results import USER_MAJORITY, Score
from peftu.stats import Doubles, drawn_weights, user_matrix

Name = Literal["others-majority", "others-threshold", "self-consistency"]
TITLES: dict[Name, str] = {
    "others-majority": "What most other users say of the same text",
    "others-threshold": "Other users' votes on the same text, cut at each user's best threshold (oracle)",
    "self-consistency": "The user's own other judgement of the same text",
}


def ceilings(
    board: Board, tests: pl.DataFrame, votes: Votes, card: TaskCard
) -> tuple[tuple[Ceiling, ...], tuple[GapClosed, ...]]:
    """Returns the ceilings that the judgements allow, and how far each method goes towards them.

    Args:
        board: scores of the methods.
        tests: seed, user_id, item_id and target of every test row.
        votes: all judgements of the task.
        card: the task.
    """
    frames: dict[Name, pl.DataFrame] = {}
    row = votes.at(tests)
    known = row >= 0
    if known.any() and (votes.voters[row[known]] > 0).any():
        tests, row = tests.filter(pl.Series(known)), row[known]
        majority = votes.majority[row]
        frames["others-majority"] = _predicted(tests, majority, votes.voters[row] > 0, card)
        threshold = best_thresholds(votes, row, _units(tests))
        frames["others-threshold"] = _predicted(tests, threshold, votes.voters[row] > 0, card)
    again = _again(votes)
    if len(again):
        frames["self-consistency"] = again
    result: list[Ceiling] = []
    closed: list[GapClosed] = []
    for name, frame in frames.items():
        scores = scores_of_rows(scored_rows(frame, card), card)
        matrix = user_matrix(scores, board.metric.name)
        values = matrix.values[:, 0]
        estimate = board.estimate(values)
        result.append(
            Ceiling(
                name=name,
                title=TITLES[name],
                oracle=name == "others-threshold",
                score=Score.of(estimate),
                users=estimate.users,
                scored=int(scores["n_scored"].sum()),
                unscored=int((scores["n_test"] - scores["n_scored"]).sum()),
            )
        )
        closed += _closed(board, name, dict(zip(matrix.users, values.tolist(), strict=True)))
    return tuple(result), tuple(closed)


def best_thresholds(votes: Votes, row: Places, unit: Places) -> npt.NDArray[np.bool_]:
    """Returns [tests, labels] what an oracle would answer that knows only others' votes and one threshold a user.

    One label: for each user the label l and threshold that make most of their test rows right, when l is answered
    where the others' share of l is above the threshold, and the commonest other label among the others elsewhere.
    For two labels that is the best threshold on the vote share. Kind 'multi': the best threshold for each label.

    Args:
        votes: all judgements.
        row: [tests] the judgement of each test row.
        unit: [tests] the user (and seed) of each test row, numbered from 0.
    """
    given = votes.given[row] > 0
    shares = np.nan_to_num(votes.shares[row]) + TIE * votes.common
    labels = given.shape[1]
    answer = np.zeros_like(given)
    if not votes.answers.exclusive:
        for label in range(labels):
            answer[:, label] = _cut(shares[:, label], np.where(given[:, label], 1.0, -1.0), unit)[0]
        return answer
    most = np.full(unit.max() + 1, -np.inf)
    for label in range(labels):
        others = np.where(np.arange(labels) == label, -np.inf, shares).argmax(1)
        below = given[np.arange(len(given)), others]
        chosen, gained = _cut(shares[:, label], given[:, label].astype(np.float64) - below, unit)
        right = gained + np.bincount(unit, below, len(most))
        better = (right > most)[unit]
        picked = np.where(chosen, label, others)
        answer = np.where(better[:, None], np.arange(labels) == picked[:, None], answer)
        most = np.maximum(most, right)
    return answer


def _cut(share: Doubles, gain: Doubles, unit: Places) -> tuple[npt.NDArray[np.bool_], Doubles]:
    """Returns which rows lie above each unit's best threshold, and [units] the summed gain of these rows."""
    order = np.lexsort((-share, unit))
    sorted_unit, sorted_share = unit[order], share[order]
    starts = np.flatnonzero(np.append(True, sorted_unit[1:] != sorted_unit[:-1]))
    total = np.cumsum(gain[order])
    before = np.append(0.0, total)[starts]
    sizes = np.diff(np.append(starts, len(order)))
    running = total - np.repeat(before, sizes)
    # A threshold lies between two different shares, or below all of a unit's.
    last = np.append((sorted_share[1:] != sorted_share[:-1]) | (sorted_unit[1:] != sorted_unit[:-1]), True)
    running = np.where(last, running, -np.inf)
    best = np.maximum(np.maximum.reduceat(running, starts), 0.0)
    place = np.arange(len(order))
    at_best = np.where(running >= np.repeat(best, sizes), place, len(order))
    end = np.where(best > 0, np.minimum.reduceat(at_best, starts), starts - 1)
    above = np.empty(len(order), dtype=np.bool_)
    above[order] = place <= np.repeat(end, sizes)
    gained = np.zeros(int(unit.max()) + 1)
    gained[sorted_unit[starts]] = best
    return above, gained


def _units(tests: pl.DataFrame) -> Places:
    return tests.select(pl.struct("seed", "user_id").rank("dense")).to_series().to_numpy().astype(np.int64) - 1


def _predicted(
    tests: pl.DataFrame, answer: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], card: TaskCard
) -> pl.DataFrame:
    """Returns a predictions frame of these answers; rows that nobody else has judged have none."""
    row, label = np.nonzero(answer & known[:, None])
    given = pl.DataFrame({"row": row, "predicted": np.array(card.labels)[label]})
    sets = given.group_by("row").agg("predicted")
    # An answer of no label is an empty set; of a row that nobody else has judged there is none.
    numbered = pl.DataFrame({"row": np.arange(len(tests)), "known": known}).join(
        sets, on="row", how="left", maintain_order="left"
    )
    nothing = pl.lit(pl.Series([[]], dtype=PREDICTIONS["predicted"])).first()
    answers = numbered.select(predicted=pl.when("known").then(pl.col("predicted").fill_null(nothing)))
    return _frame(tests, answers["predicted"])


def _again(votes: Votes) -> pl.DataFrame:
    """Returns each judgement of a text that its user judged several times, predicted by the user's next one of it."""
    several = votes.rows.with_columns(times=pl.len().over("user_id", "text_key")).filter(pl.col("times") > 1)
    following = pl.col("target").shift(-1).fill_null(pl.col("target").first()).over("user_id", "text_key")
    answers = several.select(predicted=following)["predicted"]
    return _frame(several.with_columns(seed=pl.lit(0, pl.Int64)), answers)


def _frame(tests: pl.DataFrame, predicted: pl.Series) -> pl.DataFrame:
    return tests.select(
        pl.lit("ceiling").alias("method"),
        pl.lit(None, pl.String).alias("base"),
        pl.col("seed").cast(pl.Int64),
        "user_id",
        "item_id",
        pl.lit("test").alias("part"),
        "target",
        predicted,
        pl.lit(None, PREDICTIONS["scores"]).alias("scores"),
    )


def _closed(board: Board, name: Name, ceiling: dict[str, float]) -> Sequence[GapClosed]:
    """Returns the share of the way from user-majority to the ceiling that each method goes, on their common users."""
    majority = next((system for system in board.systems if system.name == USER_MAJORITY), None)
    if majority is None:
        return []
    sign = 1.0 if board.metric.higher_is_better else -1.0
    top = np.array([ceiling.get(user, np.nan) for user in board.matrix.users])
    way = sign * (top - board.matrix.column(majority))
    result = []
    for system in board.systems:
        if system == majority:
            continue
        gain = board.gains(system, majority)
        both = ~np.isnan(gain) & ~np.isnan(way)
        share = _ratio(board, gain[both], way[both])
        result.append(GapClosed(system=system, ceiling=name, share=share, users=int(both.sum())))
    return result


def _ratio(board: Board, gain: Doubles, way: Doubles) -> Score:
    """Returns mean gain over mean way with a percentile bootstrap interval over users; empty where no way is shown."""
    if len(way) < 2 or (board.estimate(way, gains=True).low or 0.0) <= 0:
        return Score(mean=None, ci=None)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of users without any way to go
        draws = np.concatenate(
            [(weights @ gain) / (weights @ way) for weights in drawn_weights(len(way), board.resamples, 0)]
        )
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return Score(mean=float(gain.mean() / way.mean()), ci=(float(low), float(high)))
