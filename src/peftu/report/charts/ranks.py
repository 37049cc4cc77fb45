"""Which methods lie too close to tell apart."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from peftu.report.charts.theme import INK, MUTED, personal_colour, svg
from peftu.report.names import BENEATH

_NAME_WIDTH = 230
_WIDTH, _NARROW_WIDTH = 640, 290
_BAR = 16  # pixels between the bars that join methods


class Rank(NamedTuple):
    """A method with its mean rank."""

    name: str
    rank: float
    personal: bool


def rank_chart(
    ranks: Sequence[Rank], groups: Sequence[Sequence[str]], distance: float | None, *, narrow: bool = False
) -> str:
    """Returns a dot at each method's mean rank, best on top, and bars at the right that join what is not told apart.

    Args:
        ranks: methods, best first.
        groups: names that a bar joins, best first.
        distance: mean ranks nearer than this are not told apart; drawn from the best method's rank.
        narrow: names above the dots.
    """
    order = [rank.name for rank in ranks]
    longest = max(len(part) for name in order for part in name.split(BENEATH))
    room = 0 if narrow else min(_NAME_WIDTH, 20 + 8 * longest)
    places = {"labelAlign": "left", "labelPadding": -4, "labelOffset": -26} if narrow else {}
    names = alt.Axis(
        title=None, labelLimit=room or 260, labelFontSize=12, ticks=False, domain=False, minExtent=room, maxExtent=room,
        zindex=1, labelColor=INK, labelExpr="split(datum.label, '\\n')", labelLineHeight=14, **places,
    )  # fmt: skip
    y = alt.Y("name:N", sort=None, scale=alt.Scale(domain=order), axis=names)
    width = (_NARROW_WIDTH if narrow else _WIDTH) - _BAR * len(groups)
    x = alt.X(
        "rank:Q", title="mean rank over users (1 is best)",
        scale=alt.Scale(domain=[1, len(ranks)], nice=False), axis=alt.Axis(tickMinStep=1, tickCount=len(ranks)),
    )  # fmt: skip
    frame = pl.DataFrame(ranks, schema=Rank._fields, orient="row")
    layers = [alt.Chart(frame).mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=personal_colour())]
    if distance is not None:
        reach = pl.DataFrame({"rank": [ranks[0].rank], "end": [min(ranks[0].rank + distance, float(len(ranks)))]})
        band = alt.Chart(reach).mark_rect(color=MUTED, opacity=0.18)
        layers.insert(0, band.encode(x=x, x2=alt.X2("end:Q")))
    for number, group in enumerate(groups):
        ends = pl.DataFrame({"name": [group[0]], "last": [group[-1]]})
        bar = alt.Chart(ends).mark_rule(strokeWidth=5, strokeCap="round", color=MUTED, clip=False)
        layers.append(bar.encode(x=alt.value(width + _BAR * (number + 1)), y=y, y2=alt.Y2("last:N")))
    return svg(alt.layer(*layers), (width, (58 if narrow else 38) * len(ranks)))
