"""Which labels are named, given their scores."""

import numpy as np
import numpy.typing as npt

from peftu.data.problem import PARTS, Floats, Problem


def thresholds_of(problem: Problem, rows: npt.NDArray[np.int64], scores: Floats) -> Floats | None:
    """Returns [labels] what labels are named by, chosen on the scored validation rows; None: the best is named.

    Where several labels may hold, each has the threshold with the best F1 over all users' rows.

    Args:
        problem: a task after its split.
        rows: [rows] numbers of its rows.
        scores: [rows, labels] log-probabilities.
    """
    if problem.card.kind != "multi":
        return None
    validation = np.isfinite(scores).all(1) & (problem.part[rows] == PARTS.index("val"))
    return thresholds(scores[validation], problem.target[rows[validation]] > 0)


def named(scores: Floats, least: Floats | None = None) -> npt.NDArray[np.bool_]:
    """Returns [rows, labels] the labels above their thresholds; the best alone where none is, or without thresholds."""
    best = np.arange(scores.shape[1])[None] == scores.argmax(1)[:, None]
    if least is None:
        return np.asarray(best)
    above = scores > least
    return np.asarray(np.where(above.any(1, keepdims=True), above, best), dtype=np.bool_)


def thresholds(scores: Floats, gold: npt.NDArray[np.bool_]) -> Floats:
    """Returns [labels] each label's `threshold`, given [rows, labels] of both."""
    return np.array([threshold(own, given) for own, given in zip(scores.T, gold.T, strict=True)])


def threshold(scores: Floats, gold: npt.NDArray[np.bool_]) -> float:
    """Returns the threshold, half-way between two scores, above which naming the label gives the best F1."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    if not gold.any():
        return float("inf")
    hits = gold[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + gold.sum())
    last_of_ties = np.append(ranked[1:] < ranked[:-1], True)
    place = int(np.where(last_of_ties, f1, -1.0).argmax())
    return float((ranked[place] + ranked[place + 1]) / 2) if place + 1 < len(ranked) else -float("inf")
