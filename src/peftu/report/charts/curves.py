"""Scores against the number of training items."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from peftu.report.charts.theme import HELPED, SAME_COLOUR, svg


class CurvePoint(NamedTuple):
    """A score and its interval where users had this many training items."""

    items: str
    score: float
    low: float
    high: float


def curve_panel(
    points: Sequence[CurvePoint],
    others: Sequence[Sequence[CurvePoint]],
    order: Sequence[str],
    domain: tuple[float, float],
    title: str,
) -> str:
    """Returns a method's curve with its intervals in front of the other methods' curves, which are grey.

    Args:
        points: the method's points.
        others: those of the other methods.
        order: the numbers of items, from none to all.
        domain: of the scores.
        title: of the scores.
    """
    x = alt.X("items:O", sort=list(order), title="training items of a user", axis=alt.Axis(labelAngle=0, grid=False))
    scale = alt.Scale(domain=list(domain), nice=True)
    y = alt.Y("score:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    layers = [
        alt.Chart(_frame(other)).mark_line(color=SAME_COLOUR, strokeWidth=1, opacity=0.6).encode(x=x, y=y)
        for other in others
    ]
    chart = alt.Chart(_frame(points))
    low = alt.Y("low:Q", scale=scale)
    layers += [
        chart.mark_rule(strokeWidth=3, color=HELPED).encode(x=x, y=low, y2=alt.Y2("high:Q")),
        chart.mark_line(color=HELPED, strokeWidth=2).encode(x=x, y=y),
        chart.mark_point(filled=True, size=60, opacity=1, color=HELPED).encode(x=x, y=y),
    ]
    return svg(alt.layer(*layers))


def _frame(points: Sequence[CurvePoint]) -> pl.DataFrame:
    return pl.DataFrame(points, schema=CurvePoint._fields, orient="row")
