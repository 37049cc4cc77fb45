"""Fitted majorities: label frequencies of each user, and how a newcomer's are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from peftu.data.problem import Floats, Text
from peftu.methods.method import Numbers

Reals = npt.NDArray[np.float64]
EDGE = 0.001  # how far beside one half a label of the commonest set is put at least


class FittedMajority:
    """Label frequencies of each user, whatever the text.

    Attributes:
        table: [users, labels] log-probabilities; one row where all users have the same.
        overall: what new rows are smoothed with.
    """

    def __init__(self, table: Floats, overall: "Overall", parameters_per_user: int, notes: dict[str, object]) -> None:
        self.table, self.overall = table, overall
        self.parameters_per_user = parameters_per_user
        self.notes = notes

    def scores(self, users: Numbers, texts: Sequence[Text]) -> Floats:
        """Returns [pairs, labels] log-probabilities for pairs of user number and text.

        For kinds 'single' and 'ordinal' they are those of one label among all, and the largest is the commonest label.
        For kind 'multi' each label's is its own, and those above log ½ are the commonest set of labels.
        """
        return self.table[users if self.parameters_per_user else np.zeros_like(users)]

    def enrol(self, user: int | None, texts: Sequence[Text], target: Floats) -> int:
        """Returns the number of the user (None: a new one) whose row is that of these labels."""
        if not self.parameters_per_user:
            return 0
        row = self.overall.log_frequencies(np.zeros(len(target), np.int64), 1, target.astype(np.float64))
        number = len(self.table) if user is None else user
        self.table = np.concatenate([self.table[:number], row, self.table[number + 1 :]])
        return number

    def forget(self, user: int) -> None:
        """Drops a user's row; the numbers of later users fall by one."""
        if self.parameters_per_user:
            self.table = np.delete(self.table, user, axis=0)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns named tensors and JSON values that ``restore`` makes the same of."""
        shares = self.overall
        return {"table": self.table, "sets": shares.sets, "shares": shares.shares, "of_sets": shares.of_sets}, {
            "parameters_per_user": self.parameters_per_user
        }


@dataclass(frozen=True)
class Overall:
    """How common labels are among all users: one row of it is given to each group of rows.

    Attributes:
        shares: [labels] of each label.
        sets: [sets, labels] the sets of labels that were given, where several may hold; else none.
        of_sets: [sets] of each set.
    """

    shares: Reals
    sets: Reals
    of_sets: Reals

    @classmethod
    def of(cls, target: Reals, exclusive: bool) -> "Overall":
        """Returns the shares in all rows [rows, labels]."""
        if exclusive:
            return cls(_shares(target), np.zeros((0, target.shape[1])), np.zeros(0))
        sets, which = np.unique(target, axis=0, return_inverse=True)
        return cls(_shares(target), sets, _shares(np.eye(len(sets))[which.ravel()]))

    def log_frequencies(self, group: Numbers, groups: int, target: Reals) -> Floats:
        """Returns [groups, labels] log-frequencies, with the commonest label, or set of labels, on top.

        Every group is given one row more, shared out among the labels as all rows are. One row never outvotes a lead
        of one, so the commonest label stays it, ties go to the label that is commoner overall, and an empty group has
        the frequencies of all.
        """
        frequencies = _smoothed(group, groups, target, self.shares)
        if len(self.sets):
            sets, which = np.unique(np.concatenate([self.sets, target]), axis=0, return_inverse=True)
            which = which.ravel()
            shares = np.zeros(len(sets))
            shares[which[: len(self.sets)]] = self.of_sets
            given = np.eye(len(sets))[which[len(self.sets) :]]
            chosen = sets[_smoothed(group, groups, given, shares).argmax(1)] > 0
            frequencies = np.where(chosen, np.maximum(frequencies, 0.5 + EDGE), np.minimum(frequencies, 0.5 - EDGE))
        return np.log(frequencies).astype(np.float32)


def _shares(target: Reals) -> Reals:
    """Returns [labels] the share of rows with each label, none of them zero."""
    return np.asarray((target.sum(0) + 1 / target.shape[1]) / (len(target) + 1))


def _smoothed(group: Numbers, groups: int, target: Reals, overall: Reals) -> Reals:
    """Returns [groups, labels] the share of rows with each label, over a group's rows and one that is like all."""
    counts = np.zeros((groups, target.shape[1]))
    np.add.at(counts, group, target)
    rows = np.bincount(group, minlength=groups)[:, None]
    return np.asarray((counts + overall) / (rows + 1))
