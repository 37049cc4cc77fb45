"""One run as the sections of its report look at it."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from peftu.judge import Judgement
from peftu.metrics import metrics
from peftu.report.terminal import ranked
from peftu.report.verdict import Verdict, verdict
from peftu.report.words import Scale
from peftu.results import USER_MAJORITY, MethodResult, RunRecord, Score, plain_name
from peftu.stats import Doubles, System, UserMatrix, differences, user_matrix


@dataclass(frozen=True)
class RunView:
    """A record with its user scores and judgement, and what several sections want to know of them.

    Attributes:
        record: the run.
        scores: the frame that ``peftu.metrics.user_scores`` made for it.
        judgement: what ``peftu.judge.judge`` made of it; None for runs from before there were any.
    """

    record: RunRecord
    scores: pl.DataFrame
    judgement: Judgement | None = None

    @cached_property
    def scale(self) -> Scale:
        """Returns how values of the main metric are written."""
        return Scale(metrics.get(self.record.task.main_metric))

    @cached_property
    def verdict(self) -> Verdict:
        """Returns the answer."""
        return verdict(self.record)

    @cached_property
    def ranked(self) -> list[MethodResult]:
        """Returns the results, best first."""
        return ranked(self.record)

    @cached_property
    def best(self) -> MethodResult | None:
        """Returns the method that the answer speaks of, else the best personal one."""
        personal = (result for result in self.ranked if result.personal and result.mean is not None)
        return self.verdict.method or next(personal, None)

    @cached_property
    def matrix(self) -> UserMatrix:
        """Returns the main metric's scores, averaged over seeds."""
        return user_matrix(self.scores, self.scale.metric.name)

    @cached_property
    def reference(self) -> System | None:
        """Returns the system that is user-majority."""
        return next((system for system in self.matrix.systems if plain_name(system.method) == USER_MAJORITY), None)

    @property
    def majority(self) -> float | None:
        """Returns the mean score of user-majority."""
        return next((result.mean for result in self.ranked if result.name == USER_MAJORITY), None)

    @cached_property
    def compared(self) -> list[MethodResult]:
        """Returns the methods that gain or lose against user-majority: personal ones first, then best first."""
        if self.reference is None:
            return []
        found = [result for result in self.ranked if result.name != USER_MAJORITY]
        found = [result for result in found if self.habit_gain(result).mean is not None]
        return sorted(found, key=lambda result: not result.personal)

    def short(self, result: MethodResult) -> str:
        """Returns a method's name for titles: without its base where no other line has that name."""
        alone = sum(other.method == result.method for other in self.ranked) == 1
        return result.method if alone else result.label

    @cached_property
    def by_label(self) -> dict[str, MethodResult]:
        """Returns label -> result; a judgement names methods by their labels."""
        return {result.label: result for result in self.ranked}

    def name(self, label: str) -> str:
        """Returns the short name of a label; the label itself where the record has no such line."""
        return self.short(self.by_label[label]) if label in self.by_label else label

    def habit_gain(self, result: MethodResult) -> Score:
        """Returns a method's mean gain over user-majority."""
        return result.gain.get(USER_MAJORITY, Score(mean=None, ci=None))

    def column(self, result: MethodResult) -> Doubles:
        """Returns [users] a method's scores; NaN where a user has none."""
        return self.matrix.column(System(result.method, result.base))

    def gains(self, result: MethodResult) -> Doubles:
        """Returns [users] a method's gain over user-majority; NaN where either has no score."""
        if self.reference is None:
            raise ValueError("gains are over user-majority, which was not run")
        better = self.scale.metric.higher_is_better
        return differences(self.column(result), self.matrix.column(self.reference), higher_is_better=better)

    @cached_property
    def has_training(self) -> bool:
        """Returns whether the numbers of training items are known."""
        return "n_train" in self.scores.columns and self.scores["n_train"].null_count() < len(self.scores)

    @cached_property
    def training(self) -> Doubles | None:
        """Returns [users] training items, averaged over seeds; None where they are unknown."""
        return self._sizes("n_train") if self.has_training else None

    @cached_property
    def testing(self) -> Doubles:
        """Returns [users] test items, averaged over seeds."""
        return self._sizes("n_test")

    @property
    def seeds(self) -> int:
        """Returns the number of seeds."""
        return max(len(self.record.hashes.splits), 1)

    def _sizes(self, name: str) -> Doubles:
        means = self.scores.group_by("user_id").agg(pl.col(name).mean()).sort("user_id")
        return means[name].cast(pl.Float64).to_numpy()
