"""Paired tests between methods, corrected for their number, and what the test users can tell apart."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import polars as pl

from peftu.judge.board import Board
from peftu.judge.decide import LEVEL
from peftu.judge.noise import ItemNoise
from peftu.judge.shapes import Comparison
from peftu.results import Score
from peftu.stats import Doubles
from peftu.system import System

FLIPS = 9999
_EXACT = 13  # users up to which every one of the 2^n sign patterns is looked at
_CHUNK = 4_000_000
POWER = 0.8


def gains_over_references(board: Board, rows: pl.DataFrame | None = None) -> tuple[Comparison, ...]:
    """Returns every method against each reference method, corrected (see ``corrected``).

    Args:
        board: the scores.
        rows: what ``peftu.metrics.rows.scored_rows`` made of the predictions; without it nothing is said of test items.
    """
    pairs = [(system, reference) for reference in board.references for system in board.systems if system != reference]
    return corrected(_compared(board, pairs, rows))


def comparisons(board: Board, gains: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Returns every pair of methods, the later-run one first, corrected (see ``corrected``); gains are as above."""
    pairs = [(system, other) for other, system in combinations(board.systems, 2)]
    return corrected_pairs(_compared(board, pairs), gains)


def corrected(gains: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Returns gains over references with Holm's correction over the methods of a reference.

    Two references meet twice, once from each side. That is one question: it is asked, corrected and counted with the
    reference that stands first.
    """
    p_holm: dict[tuple[System, System], float | None] = {}
    for reference in dict.fromkeys(gain.against for gain in gains):
        new = [gain for gain in gains if gain.against == reference and (reference, gain.system) not in p_holm]
        for gain, p in zip(new, holm([gain.p for gain in new]), strict=True):
            p_holm[gain.system, reference] = p
    return tuple(gain.model_copy(update={"p_holm": _of_pair(gain, p_holm)}) for gain in gains)


def corrected_pairs(pairs: Sequence[Comparison], gains: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Returns pairs of methods: those with a reference as their gain has it, Holm's correction over all others."""
    p_holm = {(gain.system, gain.against): gain.p_holm for gain in gains}
    others = [pair for pair in pairs if not {(pair.system, pair.against), (pair.against, pair.system)} & set(p_holm)]
    for pair, p in zip(others, holm([pair.p for pair in others]), strict=True):
        p_holm[pair.system, pair.against] = p
    return tuple(pair.model_copy(update={"p_holm": _of_pair(pair, p_holm)}) for pair in pairs)


def detectable(gains: Sequence[Comparison]) -> float | None:
    """Returns the median over gains of the smallest true gain that would be found."""
    sizes = [gain.detectable for gain in gains if gain.detectable]
    return float(np.median(sizes)) if sizes else None


def sign_flip_test(gains: Doubles, seed: int = 0) -> list[float | None]:
    """Returns two-sided p-values of each column: could users' gains as well have had the other sign?

    The mean gain is set against those under random signs, a draw of signs for all columns (Fisher's randomisation
    test; valid when under the null each user's gain is symmetric about 0). Up to 13 users all 2^n signs are tried,
    else 9,999 at random and the observed one is counted among them (Phipson & Smyth, 2010). Users without a score
    (NaN) stay out; with fewer than two users, or none with a gain other than 0, p is None or 1.

    Args:
        gains: [users, columns].
        seed: of the random signs.
    """
    present = ~np.isnan(gains)
    filled = np.where(present, gains, 0.0)
    users, columns = filled.shape
    observed = np.abs(filled.sum(0))
    exact = users <= _EXACT
    if exact:
        patterns = (np.arange(2**users)[:, None] >> np.arange(users)) & 1
        extreme, draws = _as_extreme(patterns, filled, observed), 2**users
    else:
        rng = np.random.default_rng(seed)
        extreme, draws, step = np.ones(columns), FLIPS + 1, max(1, _CHUNK // users)
        for start in range(0, FLIPS, step):
            size = (min(step, FLIPS - start), users)
            extreme += _as_extreme(rng.integers(0, 2, size, dtype=np.int8), filled, observed)
    return [float(count / draws) if enough else None for count, enough in zip(extreme, present.sum(0) > 1, strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm, 1979); missing ones stay missing and do not count."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for number, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - number)))
        result[place] = largest
    return result


def smallest_detectable(gains: Doubles) -> float | None:
    """Returns the true mean gain that a paired t-test at the 5 % level finds with 80 % chance on users like these.

    (t(0.975) + t(0.8)) s / √n with n - 1 degrees of freedom, the usual approximation; None with fewer than two users.
    """
    known = gains[~np.isnan(gains)]
    if len(known) < 2:
        return None
    return detection_factor(len(known)) * float(known.std(ddof=1) / np.sqrt(len(known)))


def detection_factor(users: int, comparisons: int = 1) -> float:
    """Returns how many standard errors a gain must have to be found among so many comparisons (see above)."""
    from scipy.special import stdtrit

    return float(stdtrit(users - 1, 1 - LEVEL / 2 / comparisons) + stdtrit(users - 1, POWER))


def _as_extreme(signs: np.ndarray[tuple[int, ...], np.dtype[np.integer]], gains: Doubles, observed: Doubles) -> Doubles:
    """Returns how many sign patterns (0: as it is, 1: turned) give each column a sum as far from 0 as observed."""
    sums = np.abs((1.0 - 2.0 * signs) @ gains)
    return np.asarray((sums >= observed - 1e-9).sum(0), dtype=np.float64)


def _of_pair(pair: Comparison, p_holm: dict[tuple[System, System], float | None]) -> float | None:
    """Returns the corrected p-value of a pair, whichever way round it was asked."""
    key = (pair.system, pair.against)
    return p_holm[key] if key in p_holm else p_holm[key[::-1]]


def _compared(
    board: Board, pairs: Sequence[tuple[System, System]], rows: pl.DataFrame | None = None
) -> list[Comparison]:
    """Returns the comparisons of these pairs, not corrected yet."""
    if not pairs:
        return []
    gains = np.stack([board.gains(*pair) for pair in pairs], axis=1)
    p_values, estimates = sign_flip_test(gains), board.estimates(gains, gains=True)
    noise = None if rows is None else ItemNoise.of(board, rows)
    return [
        Comparison(
            system=system,
            against=other,
            gain=Score.of(estimates[place]),
            users=estimates[place].users,
            p=p_values[place],
            detectable=smallest_detectable(gains[:, place]),
            **({} if noise is None else noise.between(system, other, gains[:, place])),
        )
        for place, (system, other) in enumerate(pairs)
    ]
