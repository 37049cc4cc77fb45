"""Majorities: what any method that looks at the text must beat."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from peftu.data.problem import Problem
from peftu.errors import PeftuError
from peftu.methods.majority import FittedMajority, Overall
from peftu.methods.method import Features, MethodCard, Numbers

Reals = npt.NDArray[np.float64]


class _Majority(BaseModel):
    """What both majorities share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _rows(self, problem: Problem) -> tuple[Numbers, Reals]:
        """Returns the user numbers and targets of the train rows.

        Raises:
            PeftuError: there are none, or the task has no label set.
        """
        if not problem.card.answers.labelled:
            raise PeftuError(f"task {problem.card.name}: has no label set, so no majority — choose another method")
        rows = problem.rows("train")
        if not len(rows):
            raise PeftuError(f"task {problem.card.name}: no training rows — use a larger train share")
        return problem.user[rows], problem.target[rows].astype(np.float64)

    def restore(
        self, tensors: Mapping[str, npt.NDArray[Any]], about: dict[str, Any], features: Features | None
    ) -> FittedMajority:
        """Returns the fitted method that `FittedMajority.state` made this of."""
        overall = Overall(tensors["shares"], tensors["sets"], tensors["of_sets"])
        return FittedMajority(tensors["table"], overall, about["parameters_per_user"], {})


class GlobalMajority(_Majority):
    """The commonest label of all users together, for everyone."""

    card: ClassVar[MethodCard] = MethodCard(
        name="global-majority",
        summary="Always the commonest label of all users.",
        scope="global",
        trained=False,
        uses_others_labels=True,
        needs_base="no",
        source="majority class",
    )

    def fit(self, problem: Problem, features: Features | None, seed: int) -> FittedMajority:
        """Returns the label frequencies of all train rows.

        Raises:
            PeftuError: there are no train rows, or the task has no label set.
        """
        _, target = self._rows(problem)
        overall = Overall.of(target, exclusive=problem.card.answers.exclusive)
        return FittedMajority(overall.log_frequencies(np.zeros(len(target), np.int64), 1, target), overall, 0, {})


class UserMajority(_Majority):
    """Each user's own commonest label; the bar for every method that claims to know the user."""

    card: ClassVar[MethodCard] = MethodCard(
        name="user-majority",
        summary="Always the user's own commonest label; ties and users without training rows go by all users' labels.",
        scope="user",
        trained=False,
        uses_others_labels=True,
        needs_base="no",
        source="majority class",
    )

    def fit(self, problem: Problem, features: Features | None, seed: int) -> FittedMajority:
        """Returns the label frequencies of each user's train rows.

        Raises:
            PeftuError: there are no train rows, or the task has no label set.
        """
        user, target = self._rows(problem)
        exclusive = problem.card.answers.exclusive
        without = int((np.bincount(user, minlength=len(problem.users)) == 0).sum())
        overall = Overall.of(target, exclusive)
        return FittedMajority(
            table=overall.log_frequencies(user, len(problem.users), target),
            overall=overall,
            parameters_per_user=len(problem.card.labels) - exclusive,
            notes={"users_without_train_rows": without},
        )
