"""The leaderboard as a picture."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from peftu.report.charts.theme import INK, MUTED, personal_colour, svg
from peftu.report.words import Scale
from peftu.results import MethodResult

_NAME_WIDTH = 260  # pixels of a name beside its dot
_WIDTH, _NARROW_WIDTH = 980, 310
# A base stands below its method: an axis label that is a list is drawn on several lines.
_TWO_LINES = "split(datum.label, '@')"


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
    longest = max((len(part) for row in rows for part in row["method"].split("@")), default=0)
    room = 0 if narrow else min(_NAME_WIDTH, 20 + 8 * longest)
    places: dict[str, Any] = {"labelAlign": "left", "labelPadding": -4, "labelOffset": -28} if narrow else {}
    names = alt.Axis(
        title=None, labelLimit=room or 300, labelFontSize=13, ticks=False, domain=False, minExtent=room, maxExtent=room,
        zindex=1, labelColor=INK, labelExpr=_TWO_LINES, labelLineHeight=15, **places,
    )  # fmt: skip
    y = alt.Y("method:N", sort=[row["method"] for row in rows], axis=names)
    x = alt.Scale(zero=False, nice=True)
    base = alt.Chart(pl.DataFrame(rows))
    layers = [
        base.mark_rule(strokeWidth=3, strokeCap="round").encode(
            y=y,
            x=alt.X("low:Q", scale=x, title=scale.title, axis=alt.Axis(tickCount=5 if narrow else 10)),
            x2="high:Q",
            color=personal_colour(),
        ),
        base.mark_point(filled=True, size=110, opacity=1).encode(
            y=y, x=alt.X("mean:Q", scale=x), color=personal_colour()
        ),
    ]
    if line is not None:
        mark = alt.Chart(pl.DataFrame({"x": [line * scale.factor]})).mark_rule(strokeDash=[4, 4], color=MUTED)
        layers.insert(0, mark.encode(x="x:Q"))
    width = _NARROW_WIDTH if narrow else _WIDTH - room
    return svg(alt.layer(*layers), (width, (64 if narrow else 42) * max(len(rows), 1)))
