"""Confidence against how often it is right."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from peftu.report.charts.theme import HELPED, MUTED, svg


class Believed(NamedTuple):
    """Rows of about the same confidence: its mean, the share that is right, both in percent, and how many rows."""

    confidence: float
    right: float
    rows: int


def reliability_panel(bins: Sequence[Believed], least: float) -> str:
    """Returns the share of right answers against confidence; dots grow with their rows, the line is perfect.

    Args:
        bins: what is drawn.
        least: where both axes begin, in percent.
    """
    scale = alt.Scale(domain=[least, 100], nice=False)
    axis = alt.Axis(tickCount=5)
    x = alt.X("confidence:Q", scale=scale, axis=axis, title="confidence, %")
    y = alt.Y("right:Q", scale=scale, axis=axis, title="right, %")
    perfect = pl.DataFrame({"confidence": [least, 100.0], "right": [least, 100.0]})
    frame = alt.Chart(pl.DataFrame(bins, schema=Believed._fields, orient="row"))
    size = alt.Size("rows:Q", scale=alt.Scale(range=[25, 240]), legend=None)
    layers = [
        alt.Chart(perfect).mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
        frame.mark_line(color=HELPED, strokeWidth=1.5).encode(x=x, y=y),
        frame.mark_point(filled=True, opacity=1, color=HELPED).encode(x=x, y=y, size=size),
    ]
    return svg(alt.layer(*layers), (210, 180))
