"""What all charts share: colours from the page's style sheet, axes, sizes, and SVG that may stand inside HTML."""

import re
from typing import Any

import altair as alt
import polars as pl

from peftu.report.charts.drawing import draw
from peftu.report.words import Scale

PANEL = (244, 150)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
HELPED, SAME_COLOUR, HURT = "var(--helped)", "var(--same)", "var(--hurt)"
INK, MUTED, LINE, PAGE = "var(--ink)", "var(--muted)", "var(--line)", "var(--page)"

_CONFIG = {
    "background": "transparent",
    "font": FONT,
    "aria": False,
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": MUTED for part in ("label", "title")},
        **{f"{part}Color": LINE for part in ("grid", "domain", "tick")},
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    },
}


def personal_colour() -> Any:
    """Returns the colour of a row: personal methods stand out."""
    return alt.Color(condition={"test": "datum.personal", "value": HELPED}, value=SAME_COLOUR)


def gain_axis(scale: Scale, domain: tuple[float, float], field: str = "gain") -> Any:
    """Returns a vertical axis of gains, with signs; values beyond the domain stand at its edge."""
    axis = alt.Axis(tickCount=5, format="+.3~f", labelExpr="datum.value == 0 ? '0' : datum.label")
    limits = alt.Scale(domain=list(domain), nice=True, clamp=True)
    return alt.Y(f"{field}:Q", scale=limits, axis=axis, title=f"gain, {scale.unit}")


def zero_line(y: Any) -> Any:
    """Returns the line of no gain."""
    return alt.Chart(pl.DataFrame({"gain": [0.0]})).mark_rule(color=INK, strokeWidth=1).encode(y=y)


def log_ticks(low: float, high: float) -> list[float]:
    """Returns at most five round numbers between low and high, for a logarithmic axis."""
    ticks = [float(step * 10**power) for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    return ticks if len(ticks) <= 5 else ticks[:: len(ticks) // 5 + 1]


def svg(chart: Any, size: tuple[int, int] = PANEL) -> str:
    """Returns the chart, its plot of this size, as SVG that may stand inside HTML.

    There are no namespace addresses, and screen readers skip it: the figure around it carries the words.
    """
    spec = chart.to_dict(validate=False)
    spec["width"], spec["height"] = size
    spec["config"] = {**spec["config"], **_CONFIG}  # here, since altair copies a chart whole for each of its settings
    drawn = draw(spec)
    drawn = re.sub(r'\s(xmlns(:\w+)?|role|aria-[a-z]+|pointer-events)="[^"]*"', "", drawn)
    drawn = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", drawn)
    return drawn.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
