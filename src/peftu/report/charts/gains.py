"""What each user gains, and what gains go along with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl

from peftu.report.charts.theme import HELPED, HURT, MUTED, SAME_COLOUR, gain_axis, log_ticks, svg, zero_line
from peftu.report.words import Scale
from peftu.results import Score
from peftu.stats import SAME, Doubles

_MOST_BARS = 200
_MOST_DOTS = 200


class Bin(NamedTuple):
    """Users who are alike: the median of what they are ordered by, their mean gain and its interval."""

    at: float
    gain: float
    low: float
    high: float


class Dots(NamedTuple):
    """Single users: what they are ordered by, and their gains in the metric's own unit."""

    at: Doubles
    gains: Doubles


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
    sides = alt.Chart(frame).mark_rect().encode(x=x, x2=alt.X2("right:Q"), y=y, y2=alt.Y2("zero:Q"), color=colour)
    # A gain of 0 has no height: a short tick keeps the user visible.
    still = alt.Chart(frame.filter(pl.col("side") == "unchanged"))
    ticks = still.mark_rule(strokeWidth=3, color=SAME_COLOUR).encode(x=x, x2=alt.X2("right:Q"), y=y)
    return svg(alt.layer(*_mean_band(mean, scale, domain), sides, ticks, zero_line(y)))


def along_panel(bins: Sequence[Bin], dots: Dots | None, scale: Scale, domain: tuple[float, float], title: str) -> str:
    """Returns means and intervals of groups of users in the order of something known of them, over the users.

    The axis is logarithmic where the largest value is over ten times the smallest one.

    Args:
        bins: groups of users, gains as they are shown.
        dots: the users themselves, where they are known.
        scale: how gains are written.
        domain: of the gains.
        title: of what the users are ordered by.
    """
    along = [*(bin_.at for bin_ in bins), *([] if dots is None else dots.at.tolist())]
    low, high = min(along), max(along)
    wide = low >= 1 and high > 10 * low
    x_scale = alt.Scale(type="log" if wide else "linear", domain=[low, high], nice=not wide, padding=8, zero=False)
    axis = alt.Axis(tickCount=4, values=log_ticks(low, high) if wide else alt.Undefined, format="~r")
    x = alt.X("at:Q", scale=x_scale, axis=axis, title=title + (" (log scale)" if wide else ""))
    y = gain_axis(scale, domain)
    layers = [zero_line(y)]
    if dots is not None:
        keep = np.random.default_rng(0).permutation(len(dots.at))[:_MOST_DOTS]
        users = alt.Chart(pl.DataFrame({"at": dots.at[keep], "gain": dots.gains[keep] * scale.factor}))
        layers.append(users.mark_point(filled=True, size=26, opacity=0.4, color=SAME_COLOUR).encode(x=x, y=y))
    if bins:
        means = alt.Chart(pl.DataFrame(bins, schema=Bin._fields, orient="row"))
        bottom = gain_axis(scale, domain, "low")
        layers += [
            means.mark_rule(strokeWidth=3, color=HELPED).encode(x=x, y=bottom, y2=alt.Y2("high:Q")),
            means.mark_line(color=HELPED, strokeWidth=1.5).encode(x=x, y=y),
            means.mark_point(filled=True, size=70, opacity=1, color=HELPED).encode(x=x, y=y),
        ]
    return svg(alt.layer(*layers))


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
        band.mark_rect(color=MUTED, opacity=0.18).encode(y=gain_axis(scale, domain, "low"), y2=alt.Y2("high:Q")),
        band.mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=gain_axis(scale, domain)),
    ]
