"""Score against cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from peftu.report.charts.places import Label, place
from peftu.report.charts.theme import INK, MUTED, personal_colour, svg
from peftu.report.words import Scale

_SIZE, _NARROW_SIZE = (400, 230), (270, 210)
_AROUND = 0.08  # share of the range that is left free beyond the points


class Point(NamedTuple):
    """A method's cost and score, and whether some other method is at least as good for no more."""

    method: str
    cost: float
    score: float
    personal: bool
    beaten: bool


def pareto_panel(
    points: Sequence[Point], scale: Scale, title: str, label: str, smallest: float, *, narrow: bool = False
) -> str:
    """Returns methods as dots, the cost on a logarithmic axis, and the line of those that nothing beats.

    Args:
        points: the methods.
        scale: how scores are written.
        title: of the cost axis.
        label: Vega expression that writes a cost.
        smallest: costs below it stand at it, so that 0 has a place.
        narrow: for narrow pages.
    """
    size = _NARROW_SIZE if narrow else _SIZE
    points = [point._replace(cost=max(point.cost, smallest), score=point.score * scale.factor) for point in points]
    points.sort(key=lambda point: (point.cost, point.score))
    powers = _range([math.log10(point.cost) for point in points], 1.0)
    scores = _range([point.score for point in points], 0.02 * scale.factor)
    frame = pl.DataFrame(points, schema=Point._fields, orient="row")
    x = alt.X(
        "cost:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[10**power for power in powers], nice=False),
        axis=alt.Axis(
            values=[10.0**power for power in range(math.floor(powers[0]), math.ceil(powers[1]) + 1)],
            labelExpr=label, labelOverlap=True, grid=False,
        ),
    )  # fmt: skip
    y = alt.Y("score:Q", title=scale.title, scale=alt.Scale(domain=scores, nice=False), axis=alt.Axis(tickCount=5))
    best = alt.Chart(frame.filter(~pl.col("beaten")))
    layers = [
        best.mark_line(interpolate="step-after", color=MUTED, strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y),
        alt.Chart(frame).mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=personal_colour()),
        *_names(points, powers, scores, x, y, size),
    ]
    return svg(alt.layer(*layers), size)


def _names(
    points: Sequence[Point], powers: Sequence[float], scores: Sequence[float], x: alt.X, y: alt.Y, size: tuple[int, int]
) -> list[alt.Chart]:
    """Returns the names of the methods that nothing beats, where they cover neither a dot nor each other."""
    width, height = size
    dots = [
        (
            (math.log10(point.cost) - powers[0]) / (powers[1] - powers[0]) * width,
            (scores[1] - point.score) / (scores[1] - scores[0]) * height,
        )
        for point in points
    ]
    kept = [number for number, point in enumerate(points) if not point.beaten]
    labels = [Label(points[number].method, *dots[number]) for number in kept]
    drawn = []
    for number, (dx, dy, align) in zip(kept, place(labels, dots, size), strict=True):
        frame = pl.DataFrame([points[number]], schema=Point._fields, orient="row")
        text = alt.Chart(frame).mark_text(dx=dx, dy=dy, align=align, baseline="middle", fontSize=12, color=INK)
        drawn.append(text.encode(x=x, y=y, text=alt.Text("method:N")))
    return drawn


def _range(values: Sequence[float], least: float) -> list[float]:
    """Returns a range around the values, with some room, at least this wide."""
    low, high = min(values), max(values)
    room = max(high - low, least) * _AROUND
    spare = max(least - (high - low), 0.0) / 2
    return [low - room - spare, high + 1.5 * room + spare]
