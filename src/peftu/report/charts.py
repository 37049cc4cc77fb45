"""Charts as SVG text that takes its colours from the page, so that it can be light, dark or printed."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl
import vl_convert as vlc

from peftu.report.words import Scale
from peftu.results import MethodResult, Score
from peftu.stats import SAME, Doubles, interval

PANEL = (244, 150)
_MOST_BARS = 200
_MOST_DOTS = 200
_FEWEST_A_BIN = 6
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
HELPED, SAME_COLOUR, HURT = "var(--helped)", "var(--same)", "var(--hurt)"
_INK, _MUTED, _LINE = "var(--ink)", "var(--muted)", "var(--line)"


class Bin(NamedTuple):
    """Users with about as many training items: the median of these, the mean gain and its interval."""

    items: float
    gain: float
    low: float
    high: float


def leaderboard_chart(
    results: Sequence[MethodResult], scale: Scale, line: float | None, *, narrow: bool = False
) -> str:
    """Returns a dot with its interval for each method, names at the left or, when narrow, above the dots.

    ``line`` marks what user-majority scores.
    """
    rows: list[dict[str, Any]] = [
        {
            "method": result.label,
            "mean": result.mean * scale.factor,
            "low": (result.ci or (result.mean, result.mean))[0] * scale.factor,
            "high": (result.ci or (result.mean, result.mean))[1] * scale.factor,
            "personal": result.personal,
        }
        for result in results
        if result.mean is not None
    ]
    room = 0 if narrow else min(250, 20 + max((7 * len(row["method"]) for row in rows), default=0))
    places: dict[str, Any] = {"labelAlign": "left", "labelPadding": -4, "labelOffset": -15} if narrow else {}
    names = alt.Axis(
        title=None, labelLimit=room or 300, labelFontSize=13, ticks=False, domain=False, minExtent=room, maxExtent=room,
        zindex=1, labelColor=_INK, **places,
    )  # fmt: skip
    y = alt.Y("method:N", sort=[row["method"] for row in rows], axis=names)
    x = alt.Scale(zero=False, nice=True)
    colour = alt.condition("datum.personal", alt.value(HELPED), alt.value(SAME_COLOUR))
    base = alt.Chart(pl.DataFrame(rows))
    layers = [
        base.mark_rule(strokeWidth=3, strokeCap="round").encode(
            y=y,
            x=alt.X("low:Q", scale=x, title=scale.title, axis=alt.Axis(tickCount=5 if narrow else 10)),
            x2="high:Q",
            color=colour,
        ),
        base.mark_point(filled=True, size=110, opacity=1).encode(y=y, x=alt.X("mean:Q", scale=x), color=colour),
    ]
    if line is not None:
        mark = alt.Chart(pl.DataFrame({"x": [line * scale.factor]})).mark_rule(strokeDash=[4, 4], color=_MUTED)
        layers.insert(0, mark.encode(x="x:Q"))
    return _svg(alt.layer(*layers), (310 if narrow else 720 - room, (50 if narrow else 34) * max(len(rows), 1)))


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
    y = _gain_axis(scale, domain)
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
    return _svg(alt.layer(*_mean_band(mean, scale, domain), sides, ticks, _zero(y)))


def training_panel(
    gains: Doubles, n_train: Doubles, bins: Sequence[Bin], scale: Scale, domain: tuple[float, float]
) -> str:
    """Returns each user's gain against the number of training items, with the mean and interval of bins of users."""
    wide = n_train.max() > 10 * max(n_train.min(), 1)
    ends = [float(n_train.min()), float(n_train.max())]
    x_scale = alt.Scale(type="log" if wide else "linear", domain=ends, nice=not wide, padding=8, zero=False)
    axis = alt.Axis(tickCount=4, values=_log_ticks(*ends) if wide else alt.Undefined, format="~d")
    x = alt.X(
        "items:Q", scale=x_scale, axis=axis, title="training items of the user" + (" (log scale)" if wide else "")
    )
    y = _gain_axis(scale, domain)
    keep = np.random.default_rng(0).permutation(len(gains))[:_MOST_DOTS]
    dots = pl.DataFrame({"items": n_train[keep], "gain": gains[keep] * scale.factor})
    layers = [
        _zero(y),
        alt.Chart(dots).mark_point(filled=True, size=26, opacity=0.4, color=SAME_COLOUR).encode(x=x, y=y),
    ]
    if bins:
        frame = pl.DataFrame(bins, schema=Bin._fields, orient="row")
        means = alt.Chart(frame.with_columns(pl.col("gain", "low", "high") * scale.factor))
        low = _gain_axis(scale, domain, "low")
        layers += [
            means.mark_rule(strokeWidth=3, color=HELPED).encode(x=x, y=low, y2="high:Q"),
            means.mark_line(color=HELPED, strokeWidth=1.5).encode(x=x, y=y),
            means.mark_point(filled=True, size=70, opacity=1, color=HELPED).encode(x=x, y=y),
        ]
    return _svg(alt.layer(*layers))


def binned_gains(gains: Doubles, n_train: Doubles) -> list[Bin]:
    """Returns up to five equally large groups of users, by training items; none for too few users."""
    wanted = min(5, len(gains) // _FEWEST_A_BIN)
    if wanted < 2:
        return []
    cuts = np.unique(np.quantile(n_train, np.linspace(0, 1, wanted + 1)[1:-1]))
    place = np.searchsorted(cuts, n_train, side="left")
    groups = [np.flatnonzero(place == number) for number in range(len(cuts) + 1)]
    estimates = [(group, interval(gains[group])) for group in groups if len(group) >= _FEWEST_A_BIN - 1]
    return [
        Bin(float(np.median(n_train[group])), estimate.mean, estimate.low, estimate.high)
        for group, estimate in estimates
        if estimate.mean is not None and estimate.low is not None and estimate.high is not None
    ]


def gain_domain(gains: Doubles, scale: Scale) -> tuple[float, float]:
    """Returns the common vertical range of gain panels, the same up and down; with many users, of 99 % of the gains."""
    sizes = np.abs(gains[~np.isnan(gains)])
    reach = float(np.quantile(sizes, 0.99 if gains.shape[0] > 100 else 1.0)) if len(sizes) else 0.0
    reach = max(reach, 0.05) * scale.factor
    return -reach, reach


def _gain_axis(scale: Scale, domain: tuple[float, float], field: str = "gain") -> Any:
    axis = alt.Axis(tickCount=5, format="+.3~f", labelExpr="datum.value == 0 ? '0' : datum.label")
    limits = alt.Scale(domain=list(domain), nice=True, clamp=True)
    return alt.Y(f"{field}:Q", scale=limits, axis=axis, title=f"gain, {scale.unit}")


def _mean_band(mean: Score, scale: Scale, domain: tuple[float, float]) -> list[Any]:
    if mean.mean is None or mean.ci is None:
        return []
    low, high = (bound * scale.factor for bound in mean.ci)
    band = alt.Chart(pl.DataFrame({"low": [low], "high": [high], "gain": [mean.mean * scale.factor]}))
    return [
        band.mark_rect(color=_MUTED, opacity=0.18).encode(y=_gain_axis(scale, domain, "low"), y2="high:Q"),
        band.mark_rule(color=_MUTED, strokeDash=[4, 3]).encode(y=_gain_axis(scale, domain)),
    ]


def _zero(y: Any) -> Any:
    line = alt.Chart(pl.DataFrame({"gain": [0.0]})).mark_rule(color=_INK, strokeWidth=1)
    return line.encode(y=y)


def _log_ticks(low: float, high: float) -> list[float]:
    ticks = [float(step * 10**power) for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    return ticks if len(ticks) <= 5 else ticks[:: len(ticks) // 5 + 1]


def _svg(chart: Any, size: tuple[int, int] = PANEL) -> str:
    """Returns the chart, its plot of this size, as SVG that may stand inside HTML.

    There are no namespace addresses, and screen readers skip it: the figure around it carries the words.
    """
    chart = chart.properties(width=size[0], height=size[1])
    chart = chart.configure(background="transparent", font=_FONT, aria=False, padding=4)
    chart = chart.configure_view(stroke=None).configure_axis(
        labelColor=_MUTED, titleColor=_MUTED, gridColor=_LINE, domainColor=_LINE, tickColor=_LINE,
        labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
    )  # fmt: skip
    svg = vlc.vegalite_to_svg(chart.to_dict())
    svg = re.sub(r'\s(xmlns(:\w+)?|role|aria-[a-z]+|pointer-events)="[^"]*"', "", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
