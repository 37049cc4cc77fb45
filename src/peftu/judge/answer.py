"""Was personalising worth it, and what to do: one case and one recommendation out of a fixed set."""

from collections.abc import Sequence
from typing import Any

from peftu.judge.compare import detection_factor
from peftu.judge.decide import FEWEST
from peftu.judge.findings import Findings
from peftu.judge.shapes import Answer, Comparison
from peftu.results import GLOBAL, MIXED_HEAD, MethodResult
from peftu.system import System

MOST = 4  # times as many users or items are still a suggestion; beyond, the gain is too small to be looked for


def answer(findings: Findings) -> Answer:
    """Returns the case that a complete run is, and what is recommended.

    A gain is shown where its decision says so (``peftu.judge.decide``), and nowhere else. The bar is habit or, for
    free text, the model shared by all. The answer speaks of the best personal method that is shown to be better than
    the bar and than the shared model, else of the best that is shown to be better than the bar, else of the best.
    """
    bar = findings.bar
    if not findings.personal:
        return _nothing_personal(findings)
    compared = [method for method in findings.personal if findings.over(method, bar)]
    if len(compared) < len(findings.personal):
        return Answer(case="no-yardstick", system=None, against=System(bar), shared=None, action=None)
    compared.sort(key=lambda method: -_gain(findings, method, bar))
    better = [method for method in compared if findings.decision(method, bar) == "better"]
    if better:
        return _better(findings, better)
    best = compared[0]
    subject = _subject(findings, best)
    gain = findings.over(best, bar)
    if gain is not None and gain.users < FEWEST:
        return Answer(case="too-few-users", **subject, **_collect(findings, best, gain))
    shared = _shown_shared(findings)
    beside = findings.decision(best, GLOBAL)
    if shared is not None and bar != GLOBAL and beside != "better":
        worse = beside == "worse"
        return Answer(case="shared-better" if worse else "shared-suffices", **subject, **_ship_shared(shared))
    harm = findings.decision(best, bar) == "worse"
    return Answer(case="harm" if harm else "no-gain", **subject, **_without_a_gain(findings, compared))


def needed(gain: float, users: int, detectable: float, comparisons: int) -> int | None:
    """Returns how many users would find a true gain of this size with 80 % chance, corrected for the comparisons.

    The smallest n with (t(1 - 0.025 / comparisons) + t(0.8)) s / √n at most the gain, n - 1 degrees of freedom; s is
    the standard deviation of users' gains, taken from what these users can detect. None beyond four times the users,
    and beyond forty of fewer than ten.
    """
    if gain <= 0 or users < 2:
        return None
    spread = detectable / detection_factor(users, 1) * users**0.5
    most = MOST * max(users, FEWEST)
    size = FEWEST
    while size <= most:
        if detection_factor(size, comparisons) * spread / size**0.5 <= gain:
            return size
        size += max(1, size // 50)
    return None


def needed_items(comparison: Comparison, comparisons: int) -> int | None:
    """Returns how many test items a user would do instead of more users; None where four times as many would not.

    More items shrink only that part of the variance of users' gains that comes from having few.
    """
    gain = comparison.gain.mean or 0.0
    if (
        comparison.item_noise is None
        or not comparison.items
        or not comparison.detectable
        or gain <= 0
        or comparison.users < FEWEST
    ):
        return None
    variance = (comparison.detectable / detection_factor(comparison.users, 1)) ** 2
    room = (gain / detection_factor(comparison.users, comparisons)) ** 2 - variance * (1 - comparison.item_noise)
    times = variance * comparison.item_noise / room if room > 0 else float("inf")
    return int(times * comparison.items) + 1 if times <= MOST else None


def rounded(number: int) -> int:
    """Returns a number rounded up to two digits: 7, 38, 130."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def _gain(findings: Findings, method: MethodResult, name: str) -> float:
    comparison = findings.over(method, name)
    return comparison.gain.mean or 0.0 if comparison else 0.0


def _subject(findings: Findings, method: MethodResult) -> dict[str, Any]:
    gain = findings.over(method, findings.bar)
    shared = findings.over(method, GLOBAL) if findings.bar != GLOBAL else None
    return {
        "system": method.system,
        "against": gain.against if gain else None,
        "shared": shared.against if shared else None,
    }


def _better(findings: Findings, better: Sequence[MethodResult]) -> Answer:
    """Returns the answer where personal methods, best first, are shown to be better than the bar."""
    if findings.bar == GLOBAL:
        chosen = _cheapest(findings, better)
        return Answer(case="pays", **_subject(findings, chosen), action="ship", target=chosen.system)
    beyond = [method for method in better if findings.decision(method, GLOBAL) == "better"]
    if beyond:
        chosen = _cheapest(findings, beyond)
        return Answer(case="pays", **_subject(findings, chosen), action="ship", target=chosen.system)
    chosen = _cheapest(findings, better)
    subject, shared = _subject(findings, chosen), findings.over(chosen, GLOBAL)
    if shared is not None and shared.decision == "worse":
        return Answer(case="shared-better", **subject, action="ship-shared", target=shared.against)
    known = _shown_shared(findings)
    if shared is not None and known is not None:
        return Answer(case="shared-suffices", **subject, **_ship_shared(known))
    return Answer(case="better-than-habit", **subject, action="ship", target=chosen.system)


def _cheapest(findings: Findings, shown: Sequence[MethodResult]) -> MethodResult:
    """Returns the best of these; the mixed head, which costs seconds, where the best is not shown to beat it."""
    if findings.decision(shown[0], MIXED_HEAD) == "better":
        return shown[0]
    return next((method for method in shown if method.name == MIXED_HEAD), shown[0])


def _shown_shared(findings: Findings) -> MethodResult | None:
    """Returns the best model shared by all that is shown to be better than what costs nothing."""
    better = [method for method in findings.shared if findings.decision(method, findings.floor) == "better"]
    return max(better, key=lambda method: _gain(findings, method, findings.floor), default=None)


def _ship_shared(shared: MethodResult) -> dict[str, Any]:
    return {"action": "ship-shared", "target": shared.system}


def _keep(findings: Findings) -> dict[str, Any]:
    """Returns to keep what costs nothing; for free text the shared model, unless it was tested and not shown better."""
    floor = next((method.system for method in findings.methods if method.name == findings.floor), None)
    shared = _shown_shared(findings) or (findings.shared[0] if findings.shared and floor is None else None)
    if shared is not None:
        return _ship_shared(shared)
    return {"action": "keep-habit", "target": floor} if floor else {"action": None}


def _nothing_personal(findings: Findings) -> Answer:
    bar = System(findings.bar)
    subject: dict[str, Any] = {"case": "nothing-personal", "system": None, "against": bar, "shared": None}
    tried = [method for method in findings.shared if findings.over(method, findings.floor)]
    if not tried:
        return Answer(**subject, action=None)
    return Answer(**subject, **(_keep(findings) if _shown_shared(findings) else _without_a_gain(findings, tried)))


def _without_a_gain(findings: Findings, tried: Sequence[MethodResult]) -> dict[str, Any]:
    """Returns to collect more where up to four times the users would show a gain, the soonest shown; else to keep."""
    name = findings.bar if any(method.personal for method in tried) else findings.floor
    others = findings.shared if name != GLOBAL else []
    gains = {method.system: (method, findings.over(method, name)) for method in [*tried, *others]}
    open_ones = [(method, gain) for method, gain in gains.values() if gain is not None and gain.decision == "unclear"]
    if not open_ones:
        return _keep(findings)
    open_ones.sort(key=lambda pair: -(pair[1].gain.mean or 0.0))
    advice = [_collect(findings, method, gain) for method, gain in open_ones]
    soonest = min(advice, key=lambda action: action["more_users"] or float("inf"))
    return soonest if soonest["more_users"] else _keep(findings)


def _collect(findings: Findings, method: MethodResult, gain: Comparison) -> dict[str, Any]:
    comparisons, mean = max(findings.corrected_for(gain), 1), gain.gain.mean or 0.0
    size = needed(mean, gain.users, gain.detectable, comparisons) if gain.detectable else None
    if size is None and gain.users < FEWEST:
        size = FEWEST
    items = needed_items(gain, comparisons)
    more_items = max(items - round(gain.items or 0), 1) if items else None
    return {
        "action": "collect",
        "target": method.system,
        "more_users": rounded(max(size - gain.users, 1)) if size else None,
        "more_items": rounded(more_items) if more_items else None,
    }
