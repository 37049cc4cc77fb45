"""Gains against what is known of each user: distance from the majority, training items."""

from typing import Literal

import numpy as np

from peftu.judge.shapes import Trend
from peftu.report.blocks import Picture, Pictures, Section, Table
from peftu.report.charts.gains import Bin, Dots, along_panel, gain_domain
from peftu.report.names import above, capital
from peftu.report.sections.people import panels
from peftu.report.sections.tables import bounds, chance, span
from peftu.report.view import RunView
from peftu.report.words import Scale, count
from peftu.results import MethodResult
from peftu.system import System

By = Literal["n_train", "distance"]
_SHARE = Scale.of_shares()
_MOST_CHANCE = 0.05


def distance(view: RunView) -> Section | None:
    """Returns gains against how often a user says other than most others."""
    lead = (
        "Distance is the share of a user's texts on which the user says other than most others. Personalising should "
        "help those most who are far from the majority."
    )
    return _section(view, "distance", "distance", "Is it for those who differ?", "Distance", lead)


def training(view: RunView) -> Section | None:
    """Returns gains against the number of training items."""
    lead = "Gain over habit against the number of training items of the user."
    return _section(view, "n_train", "training", "Does more training data help?", "Training data", lead)


def direction(trend: Trend) -> Literal["grows", "shrinks"] | None:
    """Returns whether the gain clearly grows or shrinks; None where it does neither."""
    p = trend.p if trend.p_holm is None else trend.p_holm
    if trend.correlation is None or p is None or p >= _MOST_CHANCE:
        return None
    return "grows" if trend.correlation > 0 else "shrinks"


def _section(view: RunView, by: By, anchor: str, title: str, short: str, lead: str) -> Section | None:
    trends = view.judgement.trends if view.judgement else ()
    by_system = {trend.system: trend for trend in trends if trend.by == by and (trend.bins or by == "n_train")}
    if not view.compared or not by_system:
        return None
    shown, more = ([result for result in half if result.system in by_system] for half in panels(view))
    drawn, folded = (
        tuple(_picture(view, result, by_system[result.system], _domain(view, half, by_system)) for result in half)
        for half in (shown, more)
    )
    if by == "n_train":
        sample = " (a sample of 200)" if len(view.matrix.users) > 200 else ""
        lead += f" Grey dots are users{sample}."
    lead += " Blue points are averages of groups of users with 95 % intervals."
    block = Pictures(drawn, folded, numbers=_numbers(view, by_system, by), lead=lead)
    return Section(anchor, title, short, (block,))


def _domain(view: RunView, group: list[MethodResult], by_system: dict[System, Trend]) -> tuple[float, float]:
    """Returns the vertical range that these panels share: that of the users, or of the bins where no user is drawn."""
    if all(trend.by == "n_train" for trend in by_system.values()):
        return gain_domain(np.stack([view.gains(result) for result in group], axis=1), view.scale)
    ends = [span(bin_.gain) for result in group for bin_ in by_system[result.system].bins]
    return gain_domain(np.array([end for means in ends for end in means]), view.scale)


def _picture(view: RunView, result: MethodResult, trend: Trend, domain: tuple[float, float]) -> Picture:
    factor = 100.0 if trend.by == "distance" else 1.0
    bins = [
        Bin(factor * bin_.median, *span(bin_.gain, view.scale.factor))
        for bin_ in trend.bins
        if bin_.gain.mean is not None
    ]
    dots = None
    if trend.by == "n_train" and view.training is not None:
        gains = view.gains(result)
        known = ~np.isnan(gains) & ~np.isnan(view.training)
        dots = Dots(view.training[known], gains[known])
    finding = {"grows": "the gain grows", "shrinks": "the gain shrinks", None: "no clear trend"}[direction(trend)]
    note = (
        "" if trend.correlation is None else f"rho {trend.correlation:+.2f}, p {chance(trend.p)}".replace("-", "\u2212")
    )
    axis = "texts on which the user differs, %" if trend.by == "distance" else "training items of the user"
    ends = [f"{view.scale.signed(bin_.gain.mean)} at {_at(trend, bin_.median)}" for bin_ in trend.bins]
    return Picture(
        title=f"{capital(view.short(result))}: {finding}",
        note=note,
        svg=along_panel(bins, dots, view.scale, domain, axis),
        alt=f"Gain over habit under {result.label} against {trend.title}: {finding}. {', '.join(ends)}",
    )


def _at(trend: Trend, value: float) -> str:
    return f"{_SHARE.number(value)} %" if trend.by == "distance" else count(value)


def _numbers(view: RunView, by_system: dict[System, Trend], by: By) -> Table | None:
    rows = tuple(
        (
            above(trend.system),
            f"{_at(trend, bin_.low)} to {_at(trend, bin_.high)}",
            count(bin_.users),
            view.scale.signed(bin_.gain.mean),
            bounds(view.scale, bin_.gain, gain=True),
        )
        for trend in by_system.values()
        for bin_ in trend.bins
    )
    if not rows:
        return None
    what = "texts on which they differ" if by == "distance" else "training items"
    return Table(
        f"Mean gain over habit of groups of users, by {what}.",
        ("method", what, "users", f"gain, {view.scale.unit}", "95 % interval"),
        rows,
    )
