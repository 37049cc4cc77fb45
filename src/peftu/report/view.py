"""One run as the sections of its report look at it."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from peftu.judge import Judgement
from peftu.judge.board import Board
from peftu.judge.compare import gains_over_references
from peftu.judge.decide import Decision
from peftu.judge.findings import Findings
from peftu.metrics import metrics
from peftu.report.names import named, plain
from peftu.report.terminal import ranked
from peftu.report.verdict import Verdict, verdict
from peftu.report.words import Scale
from peftu.results import USER_MAJORITY, MethodResult, RunRecord, Score
from peftu.stats import RESAMPLES, SAME, Doubles, UserMatrix, differences, user_matrix
from peftu.system import System


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
        return verdict(self.record, self.findings)

    @cached_property
    def findings(self) -> Findings:
        """Returns the gains over reference methods and what was decided of them.

        A run from before there were judgements is tested now, from its user scores.
        """
        if self.judgement is not None:
            gains = self.judgement.gains
        elif self.scale.metric.name in self.scores.columns and len(self.scores):
            gains = gains_over_references(Board(self.scores, self.scale.metric, RESAMPLES))
        else:
            gains = ()
        return Findings(self.record.methods, gains, self.record.task.kind)

    @cached_property
    def ranked(self) -> list[MethodResult]:
        """Returns the results, best first."""
        return ranked(self.record)

    @cached_property
    def best(self) -> MethodResult | None:
        """Returns the method that the answer speaks of, else the best personal one, else the best."""
        scored = [result for result in self.ranked if result.mean is not None]
        personal = [result for result in scored if result.personal]
        return self.verdict.method or next(iter([*personal, *scored]), None)

    @cached_property
    def leaders(self) -> list[MethodResult]:
        """Returns the methods with the best mean, personal or not; several where they are equal."""
        scored = [result for result in self.ranked if result.mean is not None]
        return [result for result in scored if abs((result.mean or 0.0) - (scored[0].mean or 0.0)) <= SAME]

    @cached_property
    def matrix(self) -> UserMatrix:
        """Returns the main metric's scores, averaged over seeds."""
        return user_matrix(self.scores, self.scale.metric.name)

    @cached_property
    def reference(self) -> System | None:
        """Returns the system that is user-majority."""
        return next((system for system in self.matrix.systems if system.name == USER_MAJORITY), None)

    @property
    def majority(self) -> float | None:
        """Returns the mean score of user-majority."""
        return next((result.mean for result in self.ranked if result.name == USER_MAJORITY), None)

    @cached_property
    def compared(self) -> list[MethodResult]:
        """Returns the methods that gain or lose against user-majority: personal ones first, then best first."""
        if self.reference is None:
            return []
        results = [result for result in self.ranked if result.name != USER_MAJORITY]
        results = [result for result in results if self.habit_gain(result).mean is not None]
        return sorted(results, key=lambda result: not result.personal)

    def short(self, result: MethodResult) -> str:
        """Returns a method's plain name for titles: with its base where another line has that name, too."""
        alone = sum(other.method == result.method for other in self.ranked) == 1
        return plain(result.system) if alone else f"{plain(result.system)} on {result.base}"

    @cached_property
    def results(self) -> dict[System, MethodResult]:
        """Returns the results by what they are of, as a judgement names them."""
        return {result.system: result for result in self.ranked}

    def name(self, system: System) -> str:
        """Returns the short name of a system, or all that is known of it where the record has no such line."""
        return self.short(self.results[system]) if system in self.results else named(system)

    def habit_gain(self, result: MethodResult) -> Score:
        """Returns a method's mean gain over user-majority."""
        return result.gain.get(USER_MAJORITY, Score(mean=None, ci=None))

    def habit_decision(self, result: MethodResult) -> Decision:
        """Returns whether a method is shown to be better than user-majority."""
        return self.findings.decision(result, USER_MAJORITY) or "unclear"

    def column(self, result: MethodResult) -> Doubles:
        """Returns [users] a method's scores; NaN where a user has none."""
        return self.matrix.column(result.system)

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
