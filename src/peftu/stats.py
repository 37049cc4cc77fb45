"""Intervals over users: how far a mean would move with other users of the same kind.

The unit of chance is the user. With several seeds a user's scores are averaged over the seeds first, then users are
resampled, so more seeds never pass for more users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.errors import PeftuError
from peftu.metrics import SYSTEM
from peftu.system import System

Doubles = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
UNBOUNDED = (-float("inf"), float("inf"))
SAME = 1e-9  # gains smaller than this are rounding: the user's score is unchanged
_FEW = 10
_KEPT = 25_000_000  # draws times users that are kept for the next metric, 50 MB
_CHUNK = 4_000_000  # drawn users held at once, 32 MB of weights


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over users with its interval; None without a scored user, no interval with one alone."""

    mean: float | None
    low: float | None
    high: float | None
    users: int

    @property
    def ci(self) -> tuple[float, float] | None:
        """Returns the interval, if there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Gain:
    """What one system gives its users over another, positive when better, on the users that both scored."""

    estimate: MeanEstimate
    helped: int
    unchanged: int
    hurt: int


@dataclass(frozen=True)
class UserMatrix:
    """Scores of the same users under every system.

    Attributes:
        users: user keys, sorted.
        systems: in the order in which the frame names them.
        values: [users, systems] score averaged over seeds; NaN where a user has none.
    """

    users: tuple[str, ...]
    systems: tuple[System, ...]
    values: Doubles

    def column(self, system: System) -> Doubles:
        """Returns [users] the scores under one system."""
        return self.values[:, self.systems.index(system)]


def user_matrix(scores: pl.DataFrame, metric: str) -> UserMatrix:
    """Returns each user's score under each system, averaged over the seeds that have one.

    Args:
        scores: the frame that ``peftu.metrics.user_scores`` returns.
        metric: one of its columns.

    Raises:
        PeftuError: the frame has no such column.
    """
    if metric not in scores.columns:
        raise PeftuError(f"user scores: there is no metric '{metric}' — computed: {', '.join(scores.columns[6:])}")
    systems = scores.select(SYSTEM).unique(maintain_order=True).with_row_index("system")
    users = scores.select("user_id").unique().sort("user_id").with_row_index("user")
    # Summing in seed order makes the last bit of a mean independent of the order of rows.
    cells = (
        scores.sort("seed")
        .group_by(*SYSTEM, "user_id", maintain_order=True)
        .agg(pl.col(metric).mean())
        .join(systems, on=SYSTEM, nulls_equal=True)
        .join(users, on="user_id")
    )
    values = np.full((len(users), len(systems)), np.nan)
    values[cells["user"].to_numpy(), cells["system"].to_numpy()] = cells[metric].cast(pl.Float64).to_numpy()
    return UserMatrix(tuple(users["user_id"]), tuple(System(*row[1:]) for row in systems.rows()), values)


def seed_means(scores: pl.DataFrame, metric: str, system: System) -> list[float]:
    """Returns the mean over users for each seed of a system, in seed order."""
    rows = scores.filter(system.rows)
    means = rows.sort("user_id").group_by("seed").agg(pl.col(metric).mean()).sort("seed")
    return means[metric].drop_nulls().to_list()


def bootstrap(
    values: Doubles,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    bounds: tuple[float, float] = UNBOUNDED,
) -> tuple[MeanEstimate, ...]:
    """Returns the mean of each column with its bootstrap-t interval over users (rows).

    Users are drawn with replacement ``resamples`` times, the same draws for every column. With m and s the mean and
    standard deviation of n users, and m*, s* those of a draw, T* = (m* - m) / sqrt((s*² + s²/n) / n) is ranked, and
    the interval is m - q s/√n for its (1 + level)/2 and (1 - level)/2 quantiles q (Efron & Tibshirani 1993, ch. 12.5).
    The s²/n under the root, one user's worth of the sample's own variance, keeps draws of equal users finite. Below
    ten users the interval is at least as wide as Student's. Measured by ``tests/property/test_coverage.py``: 93 % to
    97 % of intervals hold the true mean from 20 users up, where percentile intervals held it in 90 % to 94 %.
    NaN marks a user without a score: such users are left out of a column's mean in every draw. One user alone has
    no interval.

    Args:
        values: [users, columns].
        resamples: how often users are drawn.
        level: share of intervals that should cover the true mean.
        seed: of the draws; the same seed and the same values in the same order give the same interval.
        bounds: smallest and largest possible mean; intervals end there.
    """
    present = ~np.isnan(values)
    counts = present.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        filled = np.where(present, values, 0.0)
        # Column by column: the last bit of a sum over rows would depend on how many columns there are.
        means = np.array([filled[:, column].sum() for column in range(len(counts))]) / counts
        centred = np.where(present, values - means, 0.0)
        errors = np.sqrt((centred**2).sum(0) / (counts - 1) / counts)
    if not len(values):
        return tuple(MeanEstimate(None, None, None, 0) for _ in counts)
    draws = _studentised(centred, present, errors, resamples, seed)
    tails = [(1 + level) / 2, (1 - level) / 2]
    estimates = []
    for column, users in enumerate(counts.tolist()):
        if users < 2:
            mean = float(means[column]) if users else None
            estimates.append(MeanEstimate(mean, None, None, users))
            continue
        column_draws = draws[:, column]
        high_t, low_t = np.quantile(column_draws[~np.isnan(column_draws)], tails)
        if users < _FEW:
            student = _student(users - 1, tails[0])
            high_t, low_t = max(high_t, student), min(low_t, -student)
        mean, error = float(means[column]), float(errors[column])
        low, high = mean - max(high_t, 0.0) * error, mean - min(low_t, 0.0) * error
        estimates.append(MeanEstimate(mean, max(float(low), bounds[0]), min(float(high), bounds[1]), users))
    return tuple(estimates)


def interval(
    values: Sequence[float] | Doubles,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    bounds: tuple[float, float] = UNBOUNDED,
) -> MeanEstimate:
    """Returns the mean over users of one score with its bootstrap-t interval (see ``bootstrap``).

    The order of the values does not matter.
    """
    column = np.sort(np.asarray(values, dtype=np.float64))[:, None]
    return bootstrap(column, resamples=resamples, level=level, seed=seed, bounds=bounds)[0]


def differences(values: Doubles, other: Doubles, *, higher_is_better: bool = True) -> Doubles:
    """Returns [users] values minus other, turned so that positive is better; NaN where either has no score."""
    return values - other if higher_is_better else other - values


def count_gains(gains: Doubles) -> tuple[int, int, int]:
    """Returns how many users are helped (gain > 1e-9), unchanged (|gain| <= 1e-9) and hurt (gain < -1e-9)."""
    helped, hurt = int((gains > SAME).sum()), int((gains < -SAME).sum())
    return helped, int((~np.isnan(gains)).sum()) - helped - hurt, hurt


def paired_gains(
    matrix: UserMatrix,
    reference: System,
    *,
    higher_is_better: bool = True,
    seed: int = 0,
    bounds: tuple[float, float] = UNBOUNDED,
) -> list[Gain]:
    """Returns each system's gain over the reference on the same users, in the order of ``matrix.systems``.

    The gain is the mean over users of (own score - reference's score), each averaged over seeds; its interval
    resamples users, keeping a user's two scores together, so what makes a user easy for both cancels. A system's
    gain over itself is exactly 0 with the interval [0, 0]. ``bounds`` are those of the metric.
    """
    gains = differences(matrix.values, matrix.column(reference)[:, None], higher_is_better=higher_is_better)
    reach = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    estimates = bootstrap(gains, seed=seed, bounds=reach)
    return [Gain(estimate, *count_gains(gains[:, place])) for place, estimate in enumerate(estimates)]


def drawn_weights(users: int, resamples: int, seed: int) -> Iterator[Doubles]:
    """Yields [draws, users] how often each user was drawn, in pieces of bounded size."""
    kept = users * resamples <= _KEPT
    pieces = _drawn_before(users, resamples, seed) if kept else _drawn(users, resamples, seed)
    for piece in pieces:
        yield piece.astype(np.float64)


def _drawn(users: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int16]]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, users, size=(rows, users))
        drawn += np.arange(rows)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.int16)


@lru_cache(maxsize=4)
def _drawn_before(users: int, resamples: int, seed: int) -> tuple[npt.NDArray[np.int16], ...]:
    """Returns the draws that every column and metric of a board shares."""
    return tuple(_drawn(users, resamples, seed))


def _student(freedom: int, level: float) -> float:
    from scipy.special import stdtrit  # a third of a second, and only few users need it

    return float(stdtrit(freedom, level))


def _studentised(
    centred: Doubles, present: npt.NDArray[np.bool_], errors: Doubles, resamples: int, seed: int
) -> Doubles:
    """Returns [resamples, columns] T* of each draw; NaN where a draw has no user with a score."""
    users, squares = len(centred), centred**2
    complete = bool(present.all())
    own_counts = present.sum(0)
    result = []
    for weights in drawn_weights(users, resamples, seed):
        sizes = np.float64(users) if complete else weights @ present
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights @ centred / sizes
            spread = weights @ squares / sizes - means**2
            scale = np.sqrt((np.maximum(spread, 0.0) + errors**2) / own_counts)
            result.append(np.where(scale > 0, means / scale, np.where(np.isnan(means), np.nan, 0.0)))
    return np.concatenate(result)
