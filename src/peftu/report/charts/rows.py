"""Names with a mean and its interval each, one below the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from peftu.report.charts.theme import INK, MUTED, personal_colour, svg
from peftu.report.names import BENEATH

_NAME_WIDTH = 260  # pixels of a name beside its dot
_WIDTH, _NARROW_WIDTH = 980, 310
_PANEL_NAME_WIDTH, _PANEL_WIDTH = 180, 330
# An axis label that is a list is drawn on several lines.
_LINES = "split(datum.label, '\\n')"


class Row(NamedTuple):
    """A name with its mean and interval, as they are to be shown; blue or grey."""

    name: str
    mean: float
    low: float
    high: float
    personal: bool = True


def method_rows(rows: Sequence[Row], title: str, line: float | None, *, narrow: bool = False) -> str:
    """Returns a dot with its interval for each method, names at the left or, when narrow, above the dots.

    ``line`` marks a value to compare with.
    """
    longest = max((len(part) for row in rows for part in row.name.split(BENEATH)), default=0)
    room = 0 if narrow else min(_NAME_WIDTH, 20 + 8 * longest)
    places: dict[str, Any] = {"labelAlign": "left", "labelPadding": -4, "labelOffset": -28} if narrow else {}
    names = alt.Axis(
        title=None, labelLimit=room or 300, labelFontSize=13, ticks=False, domain=False, minExtent=room, maxExtent=room,
        zindex=1, labelColor=INK, labelExpr=_LINES, labelLineHeight=15, **places,
    )  # fmt: skip
    width = _NARROW_WIDTH if narrow else _WIDTH - room
    height = (64 if narrow else 42) * max(len(rows), 1)
    return svg(_dots(rows, names, title, line, 5 if narrow else 10), (width, height))


def panel_rows(rows: Sequence[Row], title: str, line: float | None, domain: tuple[float, float] | None = None) -> str:
    """Returns dots with intervals as a small panel, short names at the left; a comma ends a line.

    Args:
        rows: names with means and intervals.
        title: of the values.
        line: a value to compare with.
        domain: of the values, where several panels share one.
    """
    rows = [row._replace(name=row.name.replace(", ", f",{BENEATH}")) for row in rows]
    lines = [row.name.split(BENEATH) for row in rows]
    room = min(_PANEL_NAME_WIDTH, 20 + 7 * max((len(part) for parts in lines for part in parts), default=0))
    names = alt.Axis(
        title=None, labelLimit=room, ticks=False, domain=False, minExtent=room, maxExtent=room, labelColor=INK,
        labelExpr=_LINES, labelLineHeight=13,
    )  # fmt: skip
    height = (24 if max(map(len, lines), default=1) == 1 else 34) * max(len(rows), 2)
    return svg(_dots(rows, names, title, line, 4, domain), (_PANEL_WIDTH - room, height))


def _dots(
    rows: Sequence[Row],
    names: alt.Axis,
    title: str,
    line: float | None,
    ticks: int,
    domain: tuple[float, float] | None = None,
) -> alt.LayerChart:
    base = alt.Chart(pl.DataFrame(rows, schema=Row._fields, orient="row"))
    y = alt.Y("name:N", sort=[row.name for row in rows], axis=names)
    limits: dict[str, Any] = {"zero": False} if domain is None else {"domain": list(domain)}
    scale, axis = alt.Scale(nice=True, **limits), alt.Axis(tickCount=ticks)
    layers = [
        base.mark_rule(strokeWidth=3, strokeCap="round").encode(
            y=y, x=alt.X("low:Q", scale=scale, title=title, axis=axis), x2=alt.X2("high:Q"), color=personal_colour()
        ),
        base.mark_point(filled=True, size=110 if ticks > 4 else 60, opacity=1).encode(
            y=y, x=alt.X("mean:Q", scale=scale), color=personal_colour()
        ),
    ]
    if line is not None:
        mark = alt.Chart(pl.DataFrame({"x": [line]})).mark_rule(strokeDash=[4, 4], color=MUTED)
        layers.insert(0, mark.encode(x=alt.X("x:Q")))
    return alt.layer(*layers)
