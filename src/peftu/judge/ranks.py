"""Places on the board, how sure they are, and the data of a critical-difference picture."""

import numpy as np

from peftu.judge.board import Board
from peftu.judge.shapes import CriticalDifference, Standing
from peftu.stats import Doubles, drawn_weights

_SAME = 1e-12  # means nearer than this differ by rounding


def standings(board: Board) -> tuple[Standing, ...]:
    """Returns the methods, best first, equal means on one rank by name; those without a score are left out.

    Users are drawn with replacement; in each draw methods are ranked by their mean over the drawn users that all
    methods have scored.
    """
    values, kept = _complete(board)
    if not kept:
        return ()
    overall = values.mean(0)
    places = 1 + (overall > overall[:, None] + _SAME).sum(1)
    means = np.concatenate([weights @ values for weights in drawn_weights(len(values), board.resamples, 0)])
    ranks = 1 + (means[:, None, :] > means[:, :, None] + _SAME * len(values)).sum(2)
    mean_ranks = user_ranks(values).mean(0)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    result = [
        Standing(
            system=board.systems[kept[place]],
            rank=rank,
            ci=(min(int(low[place]), rank), max(int(high[place]), rank)) if len(values) > 1 else None,
            first=float((ranks[:, place] == 1).mean()),
            mean_rank=float(mean_ranks[place]),
        )
        for place, rank in enumerate(places.tolist())
    ]
    return tuple(sorted(result, key=lambda standing: (standing.rank, standing.system.label)))


def critical_difference(board: Board) -> CriticalDifference:
    """Returns Friedman's test and Nemenyi's critical difference over users that all methods have scored.

    q(0.95; k, ∞) / √2 · √(k (k + 1) / (6 n)) for k methods and n users (Demšar, 2006). A group is a longest run of
    methods, by mean rank, whose first and last lie closer than that.
    """
    from scipy.stats import chi2, studentized_range

    values, kept = _complete(board)
    users, methods = values.shape
    if methods < 2 or users < 2:
        return CriticalDifference(users=users, friedman_p=None, distance=None, groups=())
    ranks = user_ranks(values)
    means = ranks.mean(0)
    # With ties: the variance of the ranks that there are, not of k distinct ones (Conover, 1999).
    within = float(((ranks - (methods + 1) / 2) ** 2).sum()) / (methods - 1)
    statistic = users**2 * float(((means - (methods + 1) / 2) ** 2).sum()) / within if within else 0.0
    quantile = float(studentized_range.ppf(0.95, methods, np.inf)) / 2**0.5
    distance = quantile * (methods * (methods + 1) / (6 * users)) ** 0.5
    order = np.argsort(means, kind="stable")
    systems = [board.systems[kept[place]] for place in order]
    return CriticalDifference(
        users=users,
        friedman_p=float(chi2.sf(statistic, methods - 1)),
        distance=distance,
        groups=tuple(tuple(systems[start:end]) for start, end in _runs(means[order], distance)),
    )


def user_ranks(values: Doubles) -> Doubles:
    """Returns [users, methods] each user's ranks, 1 for the largest value; ties share the mean of their ranks."""
    above = (values[:, None, :] > values[:, :, None] + _SAME).sum(2)
    level = (np.abs(values[:, None, :] - values[:, :, None]) <= _SAME).sum(2)
    return np.asarray(above + (level + 1) / 2, dtype=np.float64)


def _complete(board: Board) -> tuple[Doubles, list[int]]:
    """Returns [users, methods] scores, more always better, without holes, and which methods these are."""
    values = board.matrix.values if board.metric.higher_is_better else -board.matrix.values
    kept = [place for place in range(values.shape[1]) if not np.isnan(values[:, place]).all()]
    values = values[:, kept]
    values = values[~np.isnan(values).any(1)]
    return values, kept if len(values) else []


def _runs(means: Doubles, distance: float) -> list[tuple[int, int]]:
    """Returns the longest runs of at least two sorted means whose ends are closer than the distance."""
    result: list[tuple[int, int]] = []
    for start in range(len(means)):
        end = int(np.searchsorted(means, means[start] + distance, side="left"))
        if end - start > 1 and (not result or end > result[-1][1]):
            result.append((start, end))
    return result
