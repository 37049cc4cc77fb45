"""Whether a method is as often right as it is sure."""

from peftu.judge.shapes import Reliability
from peftu.report.blocks import Picture, Pictures, Section, Table
from peftu.report.charts.reliability_panel import Believed, reliability_panel
from peftu.report.names import above, capital
from peftu.report.sections.people import MOST_PANELS
from peftu.report.view import RunView
from peftu.report.words import Scale, count

_SHARE = Scale.of_shares()
_WELL = 0.05  # a calibration error below five points is called small


def reliability(view: RunView) -> Section | None:
    """Returns confidence against the share of right answers, for methods that give probabilities."""
    reliabilities = view.judgement.reliability if view.judgement else ()
    ranked = [
        curve for result in view.ranked for curve in reliabilities if curve.system == result.system and curve.bins
    ]
    if not ranked:
        return None
    least = 10 * int(10 * min(min(bin_.confidence, bin_.right) for curve in ranked for bin_ in curve.bins))
    pictures = tuple(_picture(view, curve, float(min(least, 90))) for curve in ranked)
    rows = tuple(
        (
            above(curve.system),
            f"{_SHARE.number(bin_.low)} to {_SHARE.number(bin_.high)}",
            _SHARE.number(bin_.confidence),
            _SHARE.number(bin_.right),
            count(bin_.rows),
        )
        for curve in ranked
        for bin_ in curve.bins
    )
    head = ("method", "confidence, %", "mean confidence, %", "right, %", "rows")
    numbers = Table("Confidence and right answers, all users' rows together.", head, rows)
    block = Pictures(pictures[:MOST_PANELS], pictures[MOST_PANELS:], numbers)
    lead = (
        "A method that is 80 % sure should be right 80 times out of 100: on the dashed line. Below it, it is too sure "
        "of itself. Larger dots hold more rows."
    )
    return Section("reliability", "Can its confidence be believed?", "Confidence", (block,), lead=lead)


def _picture(view: RunView, curve: Reliability, least: float) -> Picture:
    sure = sum(bin_.confidence * bin_.rows for bin_ in curve.bins) / curve.rows
    right = sum(bin_.right * bin_.rows for bin_ in curve.bins) / curve.rows
    finding = "about as sure as it is right"
    if curve.error >= _WELL:
        finding = "too sure of itself" if sure > right else "not sure enough of itself"
    shares = (_SHARE.number(value) for value in (curve.error, sure, right))
    note = "calibration error {} points: {} % sure, {} % right".format(*shares)
    bins = [Believed(100 * bin_.confidence, 100 * bin_.right, bin_.rows) for bin_ in curve.bins]
    alt = "; ".join(f"at {bin_.confidence:.0f} % confidence {bin_.right:.0f} % right" for bin_ in bins)
    return Picture(
        f"{capital(view.name(curve.system))}: {finding}", reliability_panel(bins, least), f"{curve.system}: {alt}", note
    )
