"""Was personalising worth it, and what to do now? The answer of ``peftu.judge.answer`` in plain words."""

from dataclasses import dataclass
from typing import Literal

from peftu.judge.answer import MOST, answer
from peftu.judge.decide import FEWEST, doubt
from peftu.judge.findings import Findings
from peftu.judge.shapes import Answer, Case, Comparison
from peftu.metrics import metrics
from peftu.report.names import capital, named, plain
from peftu.report.words import Scale, join, plural
from peftu.results import GLOBAL, USER_MAJORITY, MethodResult, RunRecord
from peftu.system import System

Tone = Literal["yes", "open", "no"]

_HEADLINES: dict[Case, tuple[Tone, str]] = {
    "nothing-personal": ("open", "Nothing personal was run"),
    "no-yardstick": ("open", "No yardstick"),
    "too-few-users": ("open", "Too few users"),
    "pays": ("yes", "Personalising paid off"),
    "better-than-habit": ("yes", "Better than habit"),
    "shared-suffices": ("open", "Not shown better than one shared model"),
    "shared-better": ("no", "One shared model does better"),
    "no-gain": ("open", "No gain shown"),
    "harm": ("no", "Personalising did harm"),
}


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        tone: what the answer comes to.
        headline: in three words.
        text: in one or two sentences.
        method: the method it speaks of.
        whom: for how many users that method is better than their habit; empty where nothing was judged.
        advice: what to do, and why; empty where nothing can be recommended.
        action: what to do, in few words.
    """

    tone: Tone
    headline: str
    text: str
    method: MethodResult | None = None
    whom: str = ""
    advice: str = ""
    action: str = ""


def verdict(record: RunRecord, findings: Findings) -> Verdict:
    """Returns whether personalising was worth it on this run's users, and what is recommended."""
    if record.status != "complete" and not record.failures:  # otherwise all that was judged is there
        how = {"failed": "failed", "interrupted": "was interrupted"}[record.status]
        return Verdict("open", "Not finished", f"This run {how}: its numbers are not final.")
    return _Words(record, findings, answer(findings)).verdict()


@dataclass(frozen=True)
class _Words:
    record: RunRecord
    findings: Findings
    answer: Answer

    def verdict(self) -> Verdict:
        tone, headline = _HEADLINES[self.answer.case]
        action, reason = self._advice()
        return Verdict(
            tone=tone,
            headline=headline,
            text=capital(self._text()),
            method=self._method,
            whom=capital(self._whom()),
            advice=f"{action}. {reason}".strip() if action else "",
            action=action,
        )

    @property
    def _method(self) -> MethodResult | None:
        return next((method for method in self.findings.methods if method.system == self.answer.system), None)

    @property
    def _scale(self) -> Scale:
        return Scale(metrics.get(self.record.task.main_metric))

    def _text(self) -> str:
        bar, case, best = self.findings.bar, self.answer.case, self._method
        if case == "nothing-personal":
            return "No personal method was run."
        gain = self.findings.over(best, bar) if best else None
        if best is None or gain is None:
            name = named(System(bar))
            return f"{name} was not run beside every personal method, so nothing says what more than it is worth."
        name, other = named(best.system), named(gain.against)
        if case == "too-few-users":
            few = f"{plural(gain.users, 'user')} {'are' if gain.users != 1 else 'is'} too few"
            return f"{few} to tell a gain from chance: {name} stands at {self._gain(gain)} over {other}."
        text = f"{name} {self._stands(gain)} {other}: {self._gain(gain)}."
        if gain.decision == "unclear":
            text += self._why(gain)
        return text + self._others(best) + self._shared(best)

    def _stands(self, gain: Comparison) -> str:
        verbs = {"better": "is clearly better than", "worse": "is clearly worse than"}
        return verbs.get(gain.decision, "is not clearly better than")

    def _gain(self, gain: Comparison) -> str:
        return self._scale.whole_gain(gain.gain)

    def _why(self, gain: Comparison) -> str:
        """Returns why a gain is not clear where its interval alone would say that it is."""
        comparisons = self.findings.corrected_for(gain)
        if doubt(gain.gain, gain.users, gain.p_holm) != "correction" or gain.p_holm is None:
            return ""
        among = f" among {comparisons} comparisons" if comparisons > 1 else ""
        return f" The interval excludes 0, but so large a difference may still be chance{among}, so it does not count."

    def _others(self, best: MethodResult) -> str:
        """Returns a word on a personal method with a larger gain, where the answer speaks of another one."""
        bar = self.findings.bar
        gains = {method.system: self.findings.over(method, bar) for method in self.findings.personal}
        means = {system: gain.gain.mean or 0.0 for system, gain in gains.items() if gain}
        leader = max(sorted(means, key=str), key=lambda system: means[system])
        if means[leader] <= means[best.system] + 1e-9 or self.answer.case in ("no-gain", "harm"):
            return ""
        return f" {capital(named(leader))} averages more ({self._scale.signed(means[leader])}), but not clearly so."

    def _shared(self, best: MethodResult) -> str:
        """Returns how the method stands beside one model shared by all, where that is not the bar itself."""
        if self.findings.bar == GLOBAL:
            return ""
        shared = self.findings.over(best, GLOBAL)
        if shared is None:
            return " No shared model (global) was run beside it." if self.answer.case == "better-than-habit" else ""
        name = named(shared.against)
        if shared.decision == "better":
            also = "also " if self.findings.decision(best, self.findings.bar) == "better" else ""
            return f" It is {also}clearly better than {name}: {self._gain(shared)}."
        if shared.decision == "worse":
            return f" It is clearly worse than {name}: {self._gain(shared)}."
        return f" Beside {name} it cannot be told which is better: {self._gain(shared)}."

    def _whom(self) -> str:
        best = self._method
        if best is None or best.helped is None or best.unchanged is None or best.hurt is None:
            return ""
        users = best.helped + best.unchanged + best.hurt
        verb = "does" if best.helped == 1 else "do"
        better = f"{best.helped} of {plural(users, 'user')} {verb} better than with their habit"
        return f"With {plain(best.system)}: {better}, {best.unchanged} the same, {best.hurt} worse."

    def _advice(self) -> tuple[str, str]:
        """Returns what to do, and why."""
        target = self.answer.target
        if self.answer.action is None or target is None:
            return "", ""
        name = named(target)
        if self.answer.action == "ship":
            return f"Ship {name}", self._why_ship()
        if self.answer.action == "ship-shared":
            return f"Ship the shared model: {target}", self._why_shared(target)
        if self.answer.action == "keep-habit":
            what = "each user's habit" if target.name == USER_MAJORITY else "the base as it is"
            return f"Keep {what}: {target}", self._why_keep()
        return f"Collect {self._more()} first", self._why_collect()

    def _why_ship(self) -> str:
        beaten = [self.findings.bar]
        if self.answer.case == "pays" and self.findings.bar != GLOBAL:
            beaten.append(GLOBAL)
        reason = f"It is clearly better than {join([plain(System(name)) for name in beaten])}."
        if self.answer.case == "better-than-habit" and self.answer.shared:
            reason = "It is clearly better than each user's habit, which one shared model is not."
        return reason + self._seeds()

    def _why_shared(self, target: System) -> str:
        shared = next(method for method in self.findings.methods if method.system == target)
        floor = plain(System(self.findings.floor))
        if self.findings.decision(shared, self.findings.floor) == "better":
            reason = f"It is clearly better than {floor}"
        elif self.answer.case == "shared-better":
            reason = "It is clearly better than the best personal method"
        else:
            return "No personal method is clearly better." + self._seeds()
        beyond = "" if self.answer.case in ("nothing-personal", "shared-better") else (
            ", and no personal method is clearly better still"
        )  # fmt: skip
        return f"{reason}{beyond}.{self._seeds()}"

    def _why_keep(self) -> str:
        name = self.findings.floor
        others = [self.findings.over(method, name) for method in self.findings.methods]
        means = [gain.gain.mean or 0.0 for gain in others if gain and gain.decision != "worse"]
        reason = "No method is clearly better"
        if max(means, default=0.0) > 0:
            reason += f"; to show a gain as small as those seen here would take more than {MOST} times the users"
        return f"{reason}.{self._seeds()}"

    def _more(self) -> str:
        users, items = self.answer.more_users, self.answer.more_items
        wanted = [f"about {plural(users, 'more user')}"] if users else []
        wanted += [f"about {plural(items, 'more test item')} from each user"] if items else []
        return " or ".join(wanted)

    def _why_collect(self) -> str:
        target = next((method for method in self.findings.methods if method.system == self.answer.target), None)
        name = self.findings.bar if target is None or target.personal else self.findings.floor
        gain = self.findings.over(target, name) if target else None
        mean = gain.gain.mean if gain else None
        if gain is None or mean is None:
            return ""
        few = f"From {FEWEST} users on a gain can be called clear. " if gain.users < FEWEST else ""
        if gain.users + (self.answer.more_users or 0) <= FEWEST:
            return few.strip()
        return (
            f"{few}If the true gain of {plain(target.system) if target else ''} over {plain(System(name))} is the one "
            f"seen here ({self._scale.signed(mean)} {self._scale.unit}), that many would show it four times out of "
            "five."
        )

    def _seeds(self) -> str:
        return "" if len(self.record.hashes.splits) != 1 else " All of this rests on one seed."
