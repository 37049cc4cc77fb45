"""Cold start: scores against the number of training items a user has."""

from peftu.judge.shapes import Curve
from peftu.report.blocks import Picture, Pictures, Section, Table
from peftu.report.charts.curves import CurvePoint, curve_panel
from peftu.report.names import above, capital
from peftu.report.sections.people import MOST_PANELS
from peftu.report.sections.tables import bounds, span
from peftu.report.view import RunView
from peftu.report.words import count
from peftu.results import USER_MAJORITY


def cold(view: RunView) -> Section | None:
    """Returns a curve for each method: no items, a few, all."""
    judgement = view.judgement
    if judgement is None or not judgement.cold_start:
        return None
    drawn = {curve.system: _points(view, curve) for curve in judgement.cold_start}
    habit = next((curve for curve in judgement.cold_start if curve.system.name == USER_MAJORITY), None)
    order = {
        _items(point.k, point.all): (point.all, point.k) for curve in judgement.cold_start for point in curve.points
    }
    names = sorted(order, key=order.__getitem__)
    everything = [point for points in drawn.values() for point in points]
    domain = (min(point.low for point in everything), max(point.high for point in everything))
    pictures = []
    for curve in judgement.cold_start:
        if curve is habit or not drawn[curve.system]:
            continue
        others = [points for system, points in drawn.items() if system != curve.system and points]
        title = f"{capital(view.name(curve.system))}: {_finding(view, curve)}"
        alt = ", ".join(f"{point.items} items {point.score:.1f}" for point in drawn[curve.system])
        chart = curve_panel(drawn[curve.system], others, names, domain, view.scale.title)
        pictures.append(Picture(title, chart, f"{title}. {alt}"))
    rows = tuple(
        (above(curve.system), _items(point.k, point.all), count(point.users), view.scale.number(point.score.mean),
         bounds(view.scale, point.score))
        for curve in judgement.cold_start
        for point in curve.points
    )  # fmt: skip
    head = ("method", "training items", "users", view.scale.title, "95 % interval")
    numbers = Table("Scores by the number of training items, on the same test rows.", head, rows)
    block = Pictures(tuple(pictures[:MOST_PANELS]), tuple(pictures[MOST_PANELS:]), numbers)
    lead = (
        "What a new user can expect: each method given only the first few of a user's training items, tested on the "
        "same rows. Grey: the other methods."
    )
    return Section("cold", "How soon does it pay?", "Cold start", (block,), lead=lead)


def _points(view: RunView, curve: Curve) -> list[CurvePoint]:
    return [
        CurvePoint(_items(point.k, point.all), *span(point.score, view.scale.factor))
        for point in curve.points
        if point.score.mean is not None
    ]


def _items(k: float, everything: bool) -> str:
    return "all" if everything else f"{k:g}"


def _finding(view: RunView, curve: Curve) -> str:
    """Returns from how many items on the method is shown to be better than user-majority given as many."""
    points = sorted(curve.points, key=lambda point: (point.all, point.k))
    tested = [point for point in points if point.over_habit is not None]
    if not tested:
        ends = [view.scale.number(point.score.mean) for point in points]
        return f"from {ends[0]} to {ends[-1]}"
    better = [point.over_habit is not None and point.over_habit.decision == "better" for point in tested]
    start = next((place for place in range(len(better)) if all(better[place:])), None)
    if start is None:
        last = "with all items" if tested[-1].all else f"with {tested[-1].k:g} items"
        return f"not clearly better than habit, even {last}"
    first = tested[start]
    if start == 0:
        return "clearly better than habit from the start"
    return "clearly better than habit with all items only" if first.all else (
        f"clearly better than habit from {first.k:g} items on"
    )  # fmt: skip
