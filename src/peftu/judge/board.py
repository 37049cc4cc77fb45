"""What the analyses share: the main metric, each user's score under each method, and the reference methods."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from peftu.answers import FreeText, OneOf, answers_of
from peftu.metrics import Metric
from peftu.stats import Doubles, MeanEstimate, UserMatrix, bootstrap, differences, user_matrix
from peftu.system import System


@dataclass(frozen=True)
class Board:
    """Scores of the same users under every method.

    Attributes:
        scores: the frame that ``peftu.metrics.user_scores`` returns.
        metric: the main metric.
        resamples: bootstrap draws of users.
    """

    scores: pl.DataFrame
    metric: Metric
    resamples: int

    @cached_property
    def matrix(self) -> UserMatrix:
        """Returns each user's score, averaged over seeds."""
        return user_matrix(self.scores, self.metric.name)

    @property
    def systems(self) -> tuple[System, ...]:
        """Returns the methods in the order in which they were run."""
        return self.matrix.systems

    @cached_property
    def references(self) -> tuple[System, ...]:
        """Returns the reference methods that were run, the most telling first."""
        free = not any(answers_of(kind).labelled for kind in self.metric.kinds)
        names = (FreeText() if free else OneOf()).references
        return tuple(system for name in names for system in self.systems if system.name == name)

    def gains(self, system: System, other: System) -> Doubles:
        """Returns [users] the gain of one method over another, positive when better; NaN where either has no score."""
        return differences(
            self.matrix.column(system), self.matrix.column(other), higher_is_better=self.metric.higher_is_better
        )

    def estimates(self, values: Doubles, *, gains: bool = False) -> tuple[MeanEstimate, ...]:
        """Returns the mean and interval over users (rows) of each column of scores or of gains."""
        low, high = self.metric.bounds
        bounds = (low - high, high - low) if gains else (low, high)
        return bootstrap(values, resamples=self.resamples, bounds=bounds)

    def estimate(self, values: Doubles, *, gains: bool = False) -> MeanEstimate:
        """Returns the mean and interval over users of one column."""
        return self.estimates(values[:, None], gains=gains)[0]
