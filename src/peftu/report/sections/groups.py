"""Gains for rows with one label, and for groups of users."""

from peftu.judge import Judgement
from peftu.judge.shapes import Group
from peftu.report.blocks import Picture, Pictures, Section, Table
from peftu.report.charts.rows import Row, panel_rows
from peftu.report.names import above, capital
from peftu.report.sections.people import panels
from peftu.report.sections.tables import bounds, span
from peftu.report.view import RunView
from peftu.report.words import Scale, count, join
from peftu.results import USER_MAJORITY, MethodResult
from peftu.system import System

_LABEL = "label"


def labels(view: RunView) -> Section | None:
    """Returns each method's gain over user-majority on the rows of each gold label."""
    lead = (
        "Of the rows with a label, the share for which it is found; the gain of that over each user's habit. A habit "
        "finds all rows of a user's commonest label and none of the others."
    )
    return _section(view, _LABEL, "labels", "Which labels gain?", "Labels", lead)


def demographics(view: RunView) -> Section | None:
    """Returns each method's gain over user-majority for groups of users, where the task describes them."""
    judgement = view.judgement
    names = dict.fromkeys(group.by for group in judgement.groups if group.by != _LABEL) if judgement else {}
    if not names:
        return None
    parts = [_pictures(view, name, lead=f"By {name}.") for name in names]
    blocks = tuple(part for part in parts if part is not None)
    lead = "As the users described themselves to those who collected the data. Groups are small; mind the intervals."
    return Section("groups", "Which groups gain?", "Groups", blocks, lead=lead) if blocks else None


def _section(view: RunView, by: str, anchor: str, title: str, short: str, lead: str) -> Section | None:
    block = _pictures(view, by)
    return Section(anchor, title, short, (block,), lead=lead) if block else None


def _pictures(view: RunView, by: str, lead: str = "") -> Pictures | None:
    judgement = view.judgement
    if judgement is None or not view.compared:
        return None
    shown, more = (
        tuple(picture for result in half if (picture := _picture(view, result, _rows(view, judgement, half, by), by)))
        for half in panels(view)
    )
    if not shown and not more:
        return None
    scale = _scale(view, by)
    rows = tuple(
        (
            above(group.system),
            group.value,
            count(group.users),
            count(group.rows),
            scale.number(group.score.mean),
            scale.signed(group.gain.mean),
            bounds(scale, group.gain, gain=True),
        )
        for group in _of(judgement, by)
    )
    named = "found, %" if by == _LABEL else scale.title
    head = ("method", by, "users", "rows", named, f"gain, {scale.unit}", "95 % interval")
    return Pictures(shown, more, Table(f"Gain over habit by {by}.", head, rows, words=(1,)), lead=lead)


def _of(judgement: Judgement, by: str) -> list[Group]:
    return [group for group in judgement.groups if group.by == by and group.against.name == USER_MAJORITY]


def _rows(view: RunView, judgement: Judgement, half: list[MethodResult], by: str) -> dict[System, list[Row]]:
    """Returns each method's gain of each group, as it is shown."""
    factor = _scale(view, by).factor
    systems = {result.system for result in half}
    rows: dict[System, list[Row]] = {}
    for group in _of(judgement, by):
        if group.system in systems and group.gain.mean is not None and group.gain.ci is not None:
            rows.setdefault(group.system, []).append(Row(group.value, *span(group.gain, factor)))
    return rows


def _finding(view: RunView, result: MethodResult, by: str) -> str:
    """Returns for which groups a gain or loss is shown; a judgement from before they were tested shows none."""
    groups = [group for group in _of(view.judgement, by) if group.system == result.system] if view.judgement else []
    name = capital(view.short(result))
    if all(group.p is None for group in groups):
        return f"{name}: gain by {by}"
    up = [group.value for group in groups if group.decision == "better"]
    down = [group.value for group in groups if group.decision == "worse"]
    words = [f"clearly gains for {_few(up)}"] if up else []
    words += [f"clearly loses for {_few(down)}"] if down else []
    return f"{name} {' and '.join(words) or 'has no clear gain or loss'}"


def _picture(view: RunView, result: MethodResult, rows: dict[System, list[Row]], by: str) -> Picture | None:
    of_method = rows.get(result.system)
    if not of_method:
        return None
    everything = [bound for drawn in rows.values() for row in drawn for bound in (row.low, row.high, 0.0)]
    alt = "; ".join(f"{row.name} {row.mean:+.1f}" for row in of_method)
    unit = _scale(view, by).unit
    return Picture(
        title=_finding(view, result, by),
        svg=panel_rows(of_method, f"gain, {unit}", 0.0, (min(everything), max(everything))),
        alt=f"Gain over habit under {result.label} by {by}: {alt}",
    )


def _scale(view: RunView, by: str) -> Scale:
    """Returns how scores are written: of a label the share of its rows that are found, of people the main metric."""
    return Scale.of_shares() if by == _LABEL else view.scale


def _few(names: list[str]) -> str:
    return join([f"'{name}'" for name in names]) if len(names) <= 3 else f"{len(names)} of them"
