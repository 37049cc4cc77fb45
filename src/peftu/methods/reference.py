"""Majorities: what any method that looks at the text must beat."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from peftu.answers import Answers, commonest
from peftu.data.problem import Floats, Problem
from peftu.errors import PeftuError
from peftu.methods.method import Features, MethodCard, Numbers

Reals = npt.NDArray[np.float64]
EDGE = 0.001  # how far beside one half a label of the commonest set is put at least


class FittedMajority:
    """Label frequencies of each user, whatever the text.

    Attributes:
        table: [users, labels] log-probabilities.
    """

    def __init__(self, table: Floats, parameters_per_user: int, notes: dict[str, object]) -> None:
        self.table = table
        self.parameters_per_user = parameters_per_user
        self.notes = notes

    def scores(self, users: Numbers, texts: Numbers) -> Floats:
        """Returns [rows, labels] log-probabilities for pairs of user and text numbers of the problem.

        For kinds 'single' and 'ordinal' they are those of one label among all, and the largest is the commonest label.
        For kind 'multi' each label's is its own, and those above log ½ are the commonest set of labels.
        """
        return self.table[users]


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
        table = _log_frequencies(np.zeros(len(target), np.int64), 1, target, problem.card.answers)
        return FittedMajority(np.repeat(table, len(problem.users), axis=0), 0, {})


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
        answers = problem.card.answers
        without = int((np.bincount(user, minlength=len(problem.users)) == 0).sum())
        return FittedMajority(
            table=_log_frequencies(user, len(problem.users), target, answers),
            parameters_per_user=len(problem.card.labels) - answers.exclusive,
            notes={"users_without_train_rows": without},
        )


def _log_frequencies(group: Numbers, groups: int, target: Reals, answers: Answers) -> Floats:
    """Returns [groups, labels] log-frequencies, with the commonest label, or set of labels, on top.

    Every group is given one row more, shared out among the labels as all rows are. One row never outvotes a lead of
    one, so the commonest label stays it, ties go to the label that is commoner overall, and an empty group has the
    frequencies of all.
    """
    frequencies = _smoothed(group, groups, target)
    if not answers.exclusive:
        sets, which = np.unique(target, axis=0, return_inverse=True)
        chosen = sets[commonest(group, groups, which.ravel())] > 0
        frequencies = np.where(chosen, np.maximum(frequencies, 0.5 + EDGE), np.minimum(frequencies, 0.5 - EDGE))
    return np.log(frequencies).astype(np.float32)


def _smoothed(group: Numbers, groups: int, target: Reals) -> Reals:
    """Returns [groups, labels] the share of rows with each label, over a group's rows and one that is like all."""
    overall = (target.sum(0) + 1 / target.shape[1]) / (len(target) + 1)
    counts = np.zeros((groups, target.shape[1]))
    np.add.at(counts, group, target)
    rows = np.bincount(group, minlength=groups)[:, None]
    return np.asarray((counts + overall) / (rows + 1))
