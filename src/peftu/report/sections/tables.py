"""Cells that several sections write."""

from peftu.report.words import NOTHING, Scale
from peftu.results import Score


def bounds(scale: Scale, score: Score, *, gain: bool = False) -> str:
    """Returns '60.4 to 77.1', with signs for gains; a dash where there is no interval."""
    if score.ci is None:
        return NOTHING
    write = scale.signed if gain else scale.number
    return f"{write(score.ci[0])} to {write(score.ci[1])}"


def span(score: Score, factor: float = 1.0) -> tuple[float, float, float]:
    """Returns mean, lower and upper bound times a factor, for a picture; without an interval all are the mean."""
    mean = score.mean or 0.0
    low, high = score.ci or (mean, mean)
    return mean * factor, low * factor, high * factor


def chance(p: float | None) -> str:
    """Returns a p-value: '0.031', '< 0.001', or a dash."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
