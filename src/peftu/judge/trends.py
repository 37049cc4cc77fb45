"""Whom personalising helps more: gains against what is known of each user."""

import numpy as np
import polars as pl

from peftu.judge.board import Board
from peftu.judge.compare import holm
from peftu.judge.shapes import Trend, TrendBin
from peftu.judge.votes import Votes
from peftu.results import Score
from peftu.stats import Doubles

_MOST_BINS = 5
_FEWEST_A_BIN = 6
_FEWEST_TEXTS = 5
TITLES = {
    "n_train": "training items of the user",
    "distance": "share of texts on which the user says other than most others",
}


def trends(board: Board, votes: Votes | None) -> tuple[Trend, ...]:
    """Returns each method's gain over the first reference method against training items and distance from the crowd.

    Users are put into up to five equally large groups; the correlation is Spearman's rho with its p-value,
    corrected for the methods.
    """
    if not board.references:
        return ()
    numbers = {"n_train": _training(board)}
    if votes is not None:
        numbers["distance"] = distance(board, votes)
    result: list[Trend] = []
    for by, values in numbers.items():
        if values is not None and len(np.unique(values[~np.isnan(values)])) > 1:
            result += _trends(board, by, values)
    return tuple(result)


def distance(board: Board, votes: Votes) -> Doubles | None:
    """Returns [users] the share of a user's judgements that are not what most others say of the text.

    Over all judgements of texts that somebody else has judged; NaN for users with fewer than five such texts, None
    where there are none at all.
    """
    shared = votes.voters > 0
    if not shared.any():
        return None
    differs = (votes.majority != (votes.given > 0)).any(1)
    frame = votes.rows.select("user_id").with_columns(differs=pl.Series(differs)).filter(pl.Series(shared))
    shares = frame.group_by("user_id").agg(pl.col("differs").mean(), texts=pl.len())
    known = dict(shares.filter(pl.col("texts") >= _FEWEST_TEXTS).select("user_id", "differs").iter_rows())
    return np.array([known.get(user, np.nan) for user in board.matrix.users])


def _training(board: Board) -> Doubles | None:
    if "n_train" not in board.scores.columns:
        return None
    counts = dict(board.scores.group_by("user_id").agg(pl.col("n_train").mean()).iter_rows())
    return np.array([counts.get(user) for user in board.matrix.users], dtype=np.float64)


def _trends(board: Board, by: str, values: Doubles) -> list[Trend]:
    from scipy.stats import spearmanr

    reference = board.references[0]
    systems = [system for system in board.systems if system != reference]
    if not systems:
        return []
    gains = np.stack([board.gains(system, reference) for system in systems], axis=1)
    groups = _groups(values)
    estimates = [board.estimates(gains[group], gains=True) for group in groups]
    result = []
    for place, system in enumerate(systems):
        known = ~np.isnan(values) & ~np.isnan(gains[:, place])
        gained = gains[known, place]
        constant = len(gained) < 3 or np.ptp(gained) == 0 or np.ptp(values[known]) == 0
        rho, p = (None, None) if constant else map(float, spearmanr(values[known], gained))
        bins = [
            TrendBin(
                low=float(values[group].min()),
                high=float(values[group].max()),
                median=float(np.median(values[group])),
                users=of_group[place].users,
                gain=Score.of(of_group[place]),
            )
            for group, of_group in zip(groups, estimates, strict=True)
        ]
        result.append(
            Trend(
                system=system,
                against=reference,
                by=by,
                title=TITLES[by],
                users=int(known.sum()),
                correlation=rho,
                p=p,
                bins=tuple(bins),
            )
        )
    corrected = holm([trend.p for trend in result])
    return [trend.model_copy(update={"p_holm": p}) for trend, p in zip(result, corrected, strict=True)]


def _groups(values: Doubles) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Returns the users of up to five equally large groups by value; none for too few users."""
    known = values[~np.isnan(values)]
    wanted = min(_MOST_BINS, len(known) // _FEWEST_A_BIN)
    if wanted < 2:
        return []
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, wanted + 1)[1:-1]))
    place = np.where(np.isnan(values), -1, np.searchsorted(cuts, values, side="left"))
    groups = [np.flatnonzero(place == number) for number in range(len(cuts) + 1)]
    return [group for group in groups if len(group) >= _FEWEST_A_BIN - 1]
