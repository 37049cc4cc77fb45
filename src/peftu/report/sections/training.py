"""Gains against the number of training items."""

import numpy as np

from peftu.report.blocks import Picture, Pictures, Section, Table
from peftu.report.charts.gains import Bin, along_panel, binned_gains
from peftu.report.sections.people import domain, panels
from peftu.report.view import RunView
from peftu.report.words import Scale
from peftu.results import MethodResult
from peftu.stats import Doubles


def training(view: RunView) -> Section | None:
    """Returns each method's gains against the users' training items; None where these are unknown or all the same."""
    n_train = view.training
    if not view.compared or n_train is None or np.nanmin(n_train) == np.nanmax(n_train):
        return None
    shown, more = ([_picture(view, result, n_train, domain(view, group)) for result in group] for group in panels(view))
    rows = tuple(row for _, found in (*shown, *more) for row in found)
    head = ("method", "training items (median of the group)", f"mean gain, {view.scale.unit}", "95 % interval")
    numbers = Table("Mean gain of groups of users with about as many training items.", head, rows) if rows else None
    sample = " (a sample of 200)" if len(view.matrix.users) > 200 else ""
    lead = (
        f"Gain over user-majority against the number of training items of the user. Grey dots are users{sample}; blue "
        "points are averages of about equally large groups of users with 95 % intervals."
    )
    block = Pictures(tuple(picture for picture, _ in shown), tuple(picture for picture, _ in more), numbers, lead=lead)
    return Section("training", "Does more training data help?", "Training data", (block,))


def _picture(
    view: RunView, result: MethodResult, n_train: Doubles, limits: tuple[float, float]
) -> tuple[Picture, list[tuple[str, ...]]]:
    """Returns the chart of gains against training items, and the rows of its numbers."""
    gains = view.gains(result)
    known = ~np.isnan(gains) & ~np.isnan(n_train)
    bins = binned_gains(gains[known], n_train[known])
    note = _ends(bins, view.scale)
    picture = Picture(
        title=f"{view.short(result)}: {trend(bins)}",
        note=note,
        svg=along_panel(gains[known], n_train[known], bins, view.scale, limits, "training items of the user"),
        alt=f"Gain against training items under {result.label}: {trend(bins)}; {note}",
    )
    rows: list[tuple[str, ...]] = [
        (result.label, f"{bin_.at:.0f}", view.scale.signed(bin_.gain),
         f"{view.scale.signed(bin_.low)} to {view.scale.signed(bin_.high)}")
        for bin_ in bins
    ]  # fmt: skip
    return picture, rows


def trend(bins: list[Bin]) -> str:
    """Returns whether gains grow or shrink along the bins: only where the first and last intervals do not meet."""
    if len(bins) < 2:
        return "too few users for averages"
    first, last = bins[0], bins[-1]
    if last.low > first.high:
        return "the gain grows"
    return "the gain shrinks" if last.high < first.low else "no clear trend"


def _ends(bins: list[Bin], scale: Scale) -> str:
    if len(bins) < 2:
        return ""
    first, last = bins[0], bins[-1]
    return (
        f"on average {scale.signed(first.gain)} at {first.at:.0f} items and {scale.signed(last.gain)} at {last.at:.0f}"
    )
