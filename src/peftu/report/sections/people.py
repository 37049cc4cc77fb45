"""Who gains and who loses."""

from dataclasses import replace

import numpy as np

from peftu.judge.decide import Decision
from peftu.judge.shapes import WorstServed
from peftu.report.blocks import Block, Picture, Pictures, Section, Table
from peftu.report.charts.gains import gain_domain, gain_panel
from peftu.report.names import above, capital, named, plain
from peftu.report.sections.tables import bounds
from peftu.report.view import RunView
from peftu.report.words import NOTHING, Scale, count, plural
from peftu.results import USER_MAJORITY, MethodResult

MOST_PANELS = 6
_EXTREMES = 3
_SHARE = Scale.of_shares()
_DECIDED: dict[Decision, str] = {
    "better": "a clear gain", "worse": "a clear loss", "unclear": "no clear gain or loss"
}  # fmt: skip
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_QUANTILE_NAMES = ("worst", "10 %", "25 %", "median", "75 %", "90 %", "best")


def people(view: RunView) -> Section | None:
    """Returns each method's gain for each user, and the users it helps most and least."""
    title, short = "Who gains, who loses", "For whom"
    if not view.compared:
        return None
    shown, more = (tuple(_pictures(view, group)) for group in panels(view))
    block = Pictures(shown, more, _quantiles(view), lead=_lead(view), key=True)
    return Section("people", title, short, (block, *_shares(view), *_guards(view), *_extremes(view)))


def panels(view: RunView) -> tuple[list[MethodResult], list[MethodResult]]:
    """Returns the methods whose gains are drawn at once, and those that are folded away.

    Shown are the best personal methods; where there is none, the best of the others.
    """
    personal = [result for result in view.compared if result.personal] or view.compared
    shown = personal[:MOST_PANELS]
    return shown, [result for result in view.compared if result not in shown]


def domain(view: RunView, group: list[MethodResult]) -> tuple[float, float]:
    """Returns the vertical range that the panels of these methods share."""
    return gain_domain(np.stack([view.gains(result) for result in group], axis=1), view.scale)


def _pictures(view: RunView, group: list[MethodResult]) -> list[Picture]:
    return [_picture(view, result, domain(view, group)) for result in group] if group else []


def _lead(view: RunView) -> str:
    users = len(view.matrix.users)
    bar = "one user" if users <= 200 else f"one of 200 equal slices of the {count(users)} users"
    seeds = "averaged over seeds, " if view.seeds > 1 else ""
    typical = plural(float(np.nanmedian(view.testing)), "test item")
    return (
        f"Each bar is {bar}: the gain over the user's habit, {seeds}from worst to best. The grey band is the 95 % "
        f"interval of the average gain. A user has about {typical} a seed, so look at the shape, not at single bars."
    )


def _picture(view: RunView, result: MethodResult, domain: tuple[float, float]) -> Picture:
    mean, gains = view.habit_gain(result), view.gains(result)
    users = int((~np.isnan(gains)).sum())
    name = capital(view.short(result))
    title = f"{name}: {result.helped} of {plural(users, 'user')} do better than with their habit, {result.hurt} worse"
    note = f"on average {view.scale.gain(mean)} {view.scale.unit}, {_DECIDED[view.habit_decision(result)]}"
    return Picture(
        title=title,
        note=note,
        svg=gain_panel(gains, mean, view.scale, domain),
        alt=f"Gain of each user over their habit under {result.label}: {result.helped} helped, "
        f"{result.unchanged} unchanged, {result.hurt} hurt, {note}",
    )


def _quantiles(view: RunView) -> Table:
    rows = [
        (
            above(result.system),
            *(view.scale.signed(float(value)) for value in np.nanquantile(view.gains(result), _QUANTILES)),
        )
        for result in view.compared
    ]
    caption = f"Gain over habit, {view.scale.unit}: the user at each place, from worst to best."
    return Table(caption, ("method", *_QUANTILE_NAMES), tuple(rows))


def _shares(view: RunView) -> list[Block]:
    """Returns how many users are helped and hurt, with intervals, and what the worst served get."""
    judgement = view.judgement
    if judgement is None:
        return []
    worst = {tail.system: tail for tail in judgement.worst if tail.against.name == USER_MAJORITY}
    rows = []
    helped = {shares.system: shares for shares in judgement.helped if shares.against.name == USER_MAJORITY}
    for result in view.compared:
        shares, tail = helped.get(result.system), worst.get(result.system)
        if shares is None:
            continue
        rows.append(
            (
                above(shares.system),
                f"{_SHARE.number(shares.helped_share.mean)} ({bounds(_SHARE, shares.helped_share)})",
                f"{_SHARE.number(shares.hurt_share.mean)} ({bounds(_SHARE, shares.hurt_share)})",
                count(shares.surely_helped),
                count(shares.surely_hurt),
                NOTHING if tail is None else f"{view.scale.number(tail.score.mean)}{_rests(tail)}",
                NOTHING if tail is None else view.scale.number(tail.reference.mean),
            )
        )
    caption = (
        "Shares of users who do better and worse than with their habit, with 95 % intervals. Surely: the user's own "
        "answers show it, as they would by chance for one user in forty. Worst tenth: the mean score of the tenth of "
        "users that each method serves worst, and how many of them and of their test items that rests on."
    )
    head = ("method", "helped, %", "hurt, %", "surely helped", "surely hurt", "its worst tenth", "habit's")
    return [Table(caption, head, tuple(rows))] if rows else []


def _rests(tail: WorstServed) -> str:
    items = "" if tail.items is None else f", {plural(round(tail.items), 'item')}"
    return f" ({plural(tail.users, 'user')}{items})"


def _guards(view: RunView) -> list[Block]:
    """Returns for how many users a guarded method kept the module."""
    guards = view.judgement.guards if view.judgement else ()
    rows = tuple(
        (above(guard.system), plain(guard.fallback), f"{count(guard.kept)} of {count(guard.users)}") for guard in guards
    )
    caption = "When to personalise: guarded methods keep a module only where a user's validation rows support it."
    return [Table(caption, ("method", "falls back to", "users who keep the module"), rows)] if rows else []


def _extremes(view: RunView) -> tuple[Block, ...]:
    """Returns the users whom the best method helps most and least, by number."""
    best = view.best
    if best is None or view.reference is None:
        return ()
    gains, scores, habit = view.gains(best), view.column(best), view.matrix.column(view.reference)
    order = [int(place) for place in np.argsort(-gains, kind="stable") if not np.isnan(gains[place])]
    chosen = order if len(order) <= 2 * _EXTREMES else order[:_EXTREMES] + order[-_EXTREMES:]
    rows = tuple(
        (
            f"user {place + 1}",
            NOTHING if view.training is None else count(view.training[place]),
            count(view.testing[place]),
            view.scale.number(habit[place]),
            view.scale.number(scores[place]),
            view.scale.signed(gains[place]),
        )
        for place in chosen
    )
    caption = (
        f"The users that {named(best.system)} helps most and least. Users are numbered in a fixed order; their keys "
        "are in no report."
    )
    head = ("user", "training items", "test items", "habit", view.short(best), f"gain, {view.scale.unit}")
    summary = "The users helped most and least"
    return (replace(Table(caption, head, rows).known(), summary=summary),)
