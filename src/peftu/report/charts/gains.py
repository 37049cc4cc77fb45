"""What each user gains, and what gains go along with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl

from peftu.report.charts.theme import HELPED, HURT, MUTED, SAME_COLOUR, gain_axis, log_ticks, svg, zero_line
from peftu.report.words import Scale
from peftu.results import Score
from peftu.stats import SAME, Doubles, interval

_MOST_BARS = 200
_MOST_DOTS = 200
_FEWEST_A_BIN = 6


class Bin(NamedTuple):
    """Users who are alike: the median of what they are ordered by, their mean gain and its interval."""

    at: float
    gain: float
    low: float
    high: float


def gain_panel(gains: Doubles, mean: Score, scale: Scale, domain: tuple[float, float]) -> str:
    """Returns each user's gain as a bar, worst to best, over a band with the interval of the mean gain.

    Above 200 users each bar is a quantile of the users' gains.
    """
    ordered = np.sort(gains[~np.isnan(gains)])
    bars = min(len(ordered), _MOST_BARS)
    heights = np.quantile(ordered, (np.arange(bars) + 0.5) / bars) if bars < len(ordered) else ordered
    edges = np.linspace(0, 100, bars + 1)
    gap = (0.15 if bars <= 60 else -0.15) * 100 / bars  # many bars overlap a little: no seams between them
    frame = pl.DataFrame(
        {
            "left": np.maximum(edges[:-1] + gap, 0),
            "right": np.minimum(edges[1:] - gap, 100),
            "zero": np.zeros(bars),
            "gain": heights * scale.factor,
            "side": np.where(heights > SAME, "helped", np.where(heights < -SAME, "hurt", "unchanged")),
        }
    )
    y = gain_axis(scale, domain)
    x = alt.X("left:Q", scale=alt.Scale(domain=[0, 100], nice=False), title="users, % (worst to best)")
    colour = alt.Color(
        "side:N",
        scale=alt.Scale(domain=["helped", "unchanged", "hurt"], range=[HELPED, SAME_COLOUR, HURT]),
        legend=None,
    )
    sides = alt.Chart(frame).mark_rect().encode(x=x, x2="right:Q", y=y, y2="zero:Q", color=colour)
    # A gain of 0 has no height: a short tick keeps the user visible.
    still = alt.Chart(frame.filter(pl.col("side") == "unchanged"))
    ticks = still.mark_rule(strokeWidth=3, color=SAME_COLOUR).encode(x=x, x2="right:Q", y=y)
    return svg(alt.layer(*_mean_band(mean, scale, domain), sides, ticks, zero_line(y)))


def along_panel(
    gains: Doubles, along: Doubles, bins: Sequence[Bin], scale: Scale, domain: tuple[float, float], title: str
) -> str:
    """Returns each user's gain against something known of the user, with means and intervals of bins of users.

    The axis is logarithmic where the largest value is over ten times the smallest one.
    """
    low, high = float(along.min()), float(along.max())
    wide = low >= 1 and high > 10 * low
    x_scale = alt.Scale(type="log" if wide else "linear", domain=[low, high], nice=not wide, padding=8, zero=False)
    axis = alt.Axis(tickCount=4, values=log_ticks(low, high) if wide else alt.Undefined, format="~r")
    x = alt.X("at:Q", scale=x_scale, axis=axis, title=title + (" (log scale)" if wide else ""))
    y = gain_axis(scale, domain)
    keep = np.random.default_rng(0).permutation(len(gains))[:_MOST_DOTS]
    dots = pl.DataFrame({"at": along[keep], "gain": gains[keep] * scale.factor})
    layers = [
        zero_line(y),
        alt.Chart(dots).mark_point(filled=True, size=26, opacity=0.4, color=SAME_COLOUR).encode(x=x, y=y),
    ]
    if bins:
        frame = pl.DataFrame(bins, schema=Bin._fields, orient="row")
        means = alt.Chart(frame.with_columns(pl.col("gain", "low", "high") * scale.factor))
        bottom = gain_axis(scale, domain, "low")
        layers += [
            means.mark_rule(strokeWidth=3, color=HELPED).encode(x=x, y=bottom, y2="high:Q"),
            means.mark_line(color=HELPED, strokeWidth=1.5).encode(x=x, y=y),
            means.mark_point(filled=True, size=70, opacity=1, color=HELPED).encode(x=x, y=y),
        ]
    return svg(alt.layer(*layers))


def binned_gains(gains: Doubles, along: Doubles) -> list[Bin]:
    """Returns up to five about equally large groups of users, by what they are ordered by; none for too few users."""
    wanted = min(5, len(gains) // _FEWEST_A_BIN)
    if wanted < 2:
        return []
    cuts = np.unique(np.quantile(along, np.linspace(0, 1, wanted + 1)[1:-1]))
    place = np.searchsorted(cuts, along, side="left")
    groups = [np.flatnonzero(place == number) for number in range(len(cuts) + 1)]
    estimates = [(group, interval(gains[group])) for group in groups if len(group) >= _FEWEST_A_BIN - 1]
    return [
        Bin(float(np.median(along[group])), estimate.mean, estimate.low, estimate.high)
        for group, estimate in estimates
        if estimate.mean is not None and estimate.low is not None and estimate.high is not None
    ]


def gain_domain(gains: Doubles, scale: Scale) -> tuple[float, float]:
    """Returns the common vertical range of gain panels; with many users, of 99 % of the gains."""
    known = gains[~np.isnan(gains)]
    beyond = 0.005 if gains.shape[0] > 100 else 0.0
    low, high = np.quantile(known, (beyond, 1 - beyond)) if len(known) else (0.0, 0.0)
    return min(float(low), -0.05) * scale.factor, max(float(high), 0.05) * scale.factor


def _mean_band(mean: Score, scale: Scale, domain: tuple[float, float]) -> list[Any]:
    if mean.mean is None or mean.ci is None:
        return []
    low, high = (bound * scale.factor for bound in mean.ci)
    band = alt.Chart(pl.DataFrame({"low": [low], "high": [high], "gain": [mean.mean * scale.factor]}))
    return [
        band.mark_rect(color=MUTED, opacity=0.18).encode(y=gain_axis(scale, domain, "low"), y2="high:Q"),
        band.mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=gain_axis(scale, domain)),
    ]
