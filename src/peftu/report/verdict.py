"""Was personalising worth it? A plain answer, computed from intervals."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from peftu.metrics import metrics
from peftu.report.words import Scale, spoken
from peftu.results import GLOBAL, USER_MAJORITY, MethodResult, RunRecord, Score

FEWEST_USERS = 10

Tone = Literal["yes", "open", "no"]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        tone: what the answer comes to.
        headline: in three words.
        text: in one or two sentences.
        method: the method it speaks of.
    """

    tone: Tone
    headline: str
    text: str
    method: MethodResult | None = None

    @property
    def whom(self) -> str:
        """Returns for how many users the method is better than their habit; empty where nothing was judged."""
        if self.method is None or self.method.helped is None:
            return ""
        best = self.method
        return f"{best.helped} of {best.users} users do better with it, {best.unchanged} the same, {best.hurt} worse."


def yardstick(record: RunRecord) -> str:
    """Returns the method that a personal one must beat first: habit or, where answers are free text, one for all."""
    return GLOBAL if record.task.kind == "text" else USER_MAJORITY


def verdict(record: RunRecord) -> Verdict:
    """Returns whether the best personal method beats user-majority and one shared model on this run's users.

    'user-majority' always gives a user's own commonest label: the cheapest thing that knows the user; free text has no
    such thing. The best of k
    personal methods was picked after seeing the results, so its interval must exclude 0 also after it is widened for
    k comparisons (see ``widened``). Fewer than ten users give no verdict.
    """
    if record.status != "complete":
        how = {"failed": "failed", "interrupted": "was interrupted"}[record.status]
        return Verdict("open", "Not finished", f"This run {how}: its numbers are not final.")
    personal = [method for method in record.methods if method.personal and method.mean is not None]
    if not personal:
        return Verdict("open", "Nothing to judge", "No personal method was run.")
    bar = yardstick(record)
    if not all(bar in method.gain for method in personal):
        worth = "merely knowing a user's habit" if bar == USER_MAJORITY else "one model shared by all"
        return Verdict("open", "No yardstick", f"{bar} was not run, so nothing says what {worth} is worth.")
    best = max(personal, key=lambda method: method.gain[bar].mean or 0.0)
    if best.users < FEWEST_USERS:
        return Verdict("open", "Too few users", f"{best.users} users are too few to tell a gain from chance.", best)
    return _judge(best, len(personal), Scale(metrics.get(record.task.main_metric)), bar)


def widened(gain: Score, comparisons: int) -> tuple[float, float]:
    """Returns the interval that holds for all of several comparisons at once (Bonferroni).

    The 95 % interval is stretched about its mean by z(1 - 0.025 / comparisons) / z(0.975), which takes the resampled
    means for normal; without an interval nothing is known and the result is unbounded.
    """
    if gain.mean is None or gain.ci is None:
        return float("-inf"), float("inf")
    quantile = NormalDist().inv_cdf
    stretch = quantile(1 - 0.025 / comparisons) / quantile(0.975)
    return gain.mean - stretch * (gain.mean - gain.ci[0]), gain.mean + stretch * (gain.ci[1] - gain.mean)


def _judge(best: MethodResult, tried: int, scale: Scale, bar: str) -> Verdict:
    gain = best.gain[bar]
    low, high = widened(gain, tried)
    name = f"{best.label}, the best of {tried} personal methods," if tried > 1 else best.label
    if high < 0:
        text = f"{name} falls behind {spoken(bar)} by {scale.spoken_gain(gain)}."
        return Verdict("no", "Personalising did harm", text, best)
    if low <= 0:
        text = f"{name} is not distinguishable from {spoken(bar)} on this task: {scale.gain(gain)} {scale.unit}."
        return Verdict("open", "No gain shown", text, best)
    text = f"{name} beats {spoken(bar)} by {scale.spoken_gain(gain)}."
    if bar == GLOBAL:
        return Verdict("yes", "Personalising paid off", text, best)
    return _against_shared(best, tried, scale, text)


def _against_shared(best: MethodResult, tried: int, scale: Scale, text: str) -> Verdict:
    """Returns the verdict for a method that beats user-majority, given how it does against one shared model."""
    shared = best.gain.get(GLOBAL)
    if shared is None:
        return Verdict("yes", "Better than habit", f"{text} No shared model ({GLOBAL}) was run beside it.", best)
    low, high = widened(shared, tried)
    if low > 0:
        text += f" It also beats {spoken(GLOBAL)}, by {scale.spoken_gain(shared)}."
        return Verdict("yes", "Personalising paid off", text, best)
    if high < 0:
        text += f" But {spoken(GLOBAL)} does better still, by {scale.spoken_gain(shared)}."
        return Verdict("no", "One shared model does better", text, best)
    text += f" It is not distinguishable from {spoken(GLOBAL)}: {scale.gain(shared)} {scale.unit}."
    return Verdict("open", "Better than habit, not shown better than one shared model", text, best)
