"""The task's data: how much there is, and how much its users agree."""

from collections.abc import Mapping
from typing import Any

from peftu.report.blocks import Block, Facts, Picture, Pictures, Section
from peftu.report.charts.rows import Row, panel_rows
from peftu.report.view import RunView
from peftu.report.words import count

_COUNTS = {
    "users": "users",
    "texts": "items",
    "distinct_texts": "different texts",
    "annotations": "judgements",
}


def data(view: RunView) -> Section | None:
    """Returns the statistics of the whole table that the run was drawn from."""
    known = view.record.statistics
    if not known:
        return None
    facts = [("Size", ", ".join(f"{count(known[key])} {name}" for key, name in _COUNTS.items() if _number(known, key)))]
    if _number(known, "examples_per_user"):
        spread = ""
        if all(_number(known, key) for key in ("fewest_examples", "median_examples", "most_examples")):
            ends = (count(known[f"{key}_examples"]) for key in ("fewest", "median", "most"))
            spread = " (fewest {}, median {}, most {})".format(*ends)
        facts.append(("Judgements a user", f"{known['examples_per_user']:.1f} on average{spread}"))
    if _number(known, "users_per_text"):
        facts.append(("Users an item", f"{known['users_per_text']:.1f} on average"))
    if _number(known, "alpha"):
        metric = known.get("alpha_metric") or "nominal"
        facts.append(("Agreement", f"{_agreement(known['alpha'])} (alpha {known['alpha']:.2f}, {metric})"))
    facts += _spread(known)
    blocks: list[Block] = [Facts(tuple((name, words) for name, words in facts if words)), *_shares(known)]
    lead = "The whole user table, before users and items were drawn for this run."
    return Section("data", "The data", "Data", tuple(blocks), lead=lead)


def _number(known: Mapping[str, Any], key: str) -> bool:
    return isinstance(known.get(key), int | float)


def _agreement(alpha: float) -> str:
    """Returns alpha in words; the steps are Krippendorff's (2004) for what conclusions it supports."""
    if alpha >= 0.8:
        return "users agree; there is little to personalise"
    if alpha >= 0.667:
        return "users mostly agree"
    return "users disagree a good deal" if alpha > 0.1 else "users agree hardly more than by chance"


def _spread(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns how far users are from the others, where the statistics tell."""
    disagreement = known.get("disagreement")
    if not isinstance(disagreement, Mapping) or not all(_number(disagreement, key) for key in ("p10", "median", "p90")):
        return []
    low, middle, high = (f"{100 * disagreement[key]:.0f} %" for key in ("p10", "median", "p90"))
    words = f"a typical user gives another label than the majority of the others to {middle} of the texts"
    return [
        ("Distance from the majority", f"{words}; a tenth of users to less than {low}, a tenth to more than {high}")
    ]


def _shares(known: Mapping[str, Any]) -> list[Block]:
    shares = known.get("label_shares")
    if not isinstance(shares, Mapping) or not 1 < len(shares) <= 40:
        return []
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    rows = [Row(name, 100 * share, 0.0, 100 * share) for name, share in ordered]
    title = f"'{ordered[0][0]}' is the commonest label, with {100 * ordered[0][1]:.0f} % of judgements"
    alt = "; ".join(f"{name} {100 * share:.1f} %" for name, share in ordered)
    return [Pictures((Picture(title, panel_rows(rows, "share of judgements, %", None), f"Label shares: {alt}"),))]
