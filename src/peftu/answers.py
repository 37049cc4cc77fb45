"""The kinds of answer, and what each does its own way: vote, decision, probabilities, yardsticks. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["single", "multi", "ordinal", "text"]
DISTANCES = ("mae", "absolute_distance")  # metrics of which the expectation is least at the median
Reals = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.integer[Any]]


class Answers:
    """A kind of answer: exactly one a row, out of a label set, where the kind does not say otherwise.

    Attributes:
        labelled: whether there is a label set.
        exclusive: whether a row has exactly one answer.
        takes: how many labels a row has, in words.
        metric: the main metric of a task whose card names none.
        references: methods that others are compared with, where they were run, the most telling first.
        floor: the method that costs nothing.
    """

    labelled: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    takes: ClassVar[str] = "exactly one"
    metric: ClassVar[str] = "accuracy"
    # mixed-head costs seconds to fit: a dearer module must beat it or say that it does not.
    references: ClassVar[tuple[str, ...]] = ("user-majority", "global", "mixed-head")
    floor: ClassVar[str] = "user-majority"

    @property
    def level(self) -> str | None:
        """Returns the level of measurement at which users agree ('masi': of sets); None where nobody can."""
        return None

    def strata(self, target: Sequence[Sequence[str]], place: Mapping[str, int]) -> list[list[int]]:
        """Returns what each row is spread over the parts of a split by: the places of its labels."""
        return [[place[label] for label in labels] for labels in target]

    def written(self, scores: Reals) -> Reals:
        """Returns [rows, labels] log-probabilities of what a base with a module gives for each label."""
        return scores

    def thresholds(self, scores: Reals, gold: Marks) -> Reals | None:
        """Returns [labels] what `decide` goes by, best on these [rows, labels]; None: nothing but the scores."""
        return None

    def decide(self, scores: Reals, least: Reals | float | None = None) -> Marks:
        """Returns [rows, labels] which labels are predicted: the best one."""
        return np.asarray(np.arange(scores.shape[1]) == scores.argmax(1)[:, None])

    def probabilities(self, log_probabilities: Doubles) -> Doubles:
        """Returns [rows, labels] probabilities that add up to 1, which float32 does not quite; NaN stays NaN."""
        with np.errstate(invalid="ignore"):
            table = np.exp(log_probabilities - log_probabilities.max(1, keepdims=True, initial=-np.inf))
        return np.asarray(table / table.sum(1, keepdims=True))

    def log_loss(self, probabilities: Doubles, gold: Marks) -> Doubles:
        """Returns [rows] -log p of the gold label."""
        return np.asarray(np.where(gold, -np.log(probabilities), 0.0).sum(1))

    def distance(self, gap: Doubles) -> Doubles:
        """Returns [rows] half the sum of [rows, labels] gaps of probability: moving it from a label to another is 1."""
        return np.asarray(gap.sum(1) / 2)


@dataclass(frozen=True)
class OneOf(Answers):
    """One label a row.

    Attributes:
        ordered: labels are steps of a scale.
        median: the posterior's median is predicted, which is least far from the answer to be expected; else the best.
    """

    ordered: bool = False
    median: bool = False

    @property
    def level(self) -> str | None:
        """Returns the level of measurement of the labels."""
        return "ordinal" if self.ordered else "nominal"

    def decide(self, scores: Reals, least: Reals | float | None = None) -> Marks:
        """Returns [rows, labels] which label is predicted: the best one, or the first at half of all probability."""
        if not self.median:
            return super().decide(scores, least)
        with np.errstate(invalid="ignore"):
            upto = self.probabilities(scores.astype(np.float64)).cumsum(1)
        return np.asarray(np.arange(scores.shape[1]) == (upto >= 0.5).argmax(1)[:, None])


@dataclass(frozen=True)
class AnyOf(Answers):
    """A set of labels a row: each label is given or not, whatever the others."""

    exclusive: ClassVar[bool] = False
    takes: ClassVar[str] = "at least one label"
    metric: ClassVar[str] = "jaccard"

    @property
    def level(self) -> str | None:
        """Returns that sets agree by MASI."""
        return "masi"

    def written(self, scores: Reals) -> Reals:
        """Returns [rows, labels] log-probabilities of logits."""
        from scipy.special import log_expit

        return np.asarray(log_expit(scores))

    def thresholds(self, scores: Reals, gold: Marks) -> npt.NDArray[Any]:
        """Returns [labels] each label's `threshold`."""
        return np.array([threshold(label_scores, given) for label_scores, given in zip(scores.T, gold.T, strict=True)])

    def decide(self, scores: Reals, least: Reals | float | None = None) -> Marks:
        """Returns [rows, labels] those above their thresholds; the best alone where none is, or without thresholds."""
        above = scores > (np.inf if least is None else least)
        return np.where(above.any(1, keepdims=True), above, super().decide(scores))

    def probabilities(self, log_probabilities: Doubles) -> Doubles:
        """Returns [rows, labels] each label's own probability; NaN stays NaN."""
        return np.asarray(np.minimum(np.exp(log_probabilities), 1.0))

    def log_loss(self, probabilities: Doubles, gold: Marks) -> Doubles:
        """Returns [rows] the mean over labels of -y log p - (1-y) log(1-p)."""
        return np.asarray(-np.where(gold, np.log(probabilities), np.log1p(-probabilities)).mean(1))

    def distance(self, gap: Doubles) -> Doubles:
        """Returns [rows] the mean of [rows, labels] gaps of probability."""
        return np.asarray(gap.mean(1))


@dataclass(frozen=True)
class FreeText(Answers):
    """A text of the user's own a row; there are no labels to score, vote on or predict."""

    labelled: ClassVar[bool] = False
    metric: ClassVar[str] = "perplexity"
    references: ClassVar[tuple[str, ...]] = ("global", "zero-shot")
    floor: ClassVar[str] = "zero-shot"

    def strata(self, target: Sequence[Sequence[str]], place: Mapping[str, int]) -> list[list[int]]:
        """Returns one stratum for all rows."""
        return [[0]] * len(target)


KINDS: dict[str, Answers] = {
    "single": OneOf(),
    "ordinal": OneOf(ordered=True),
    "multi": AnyOf(),
    "text": FreeText(),
}


def answers_of(kind: str, metric: str = "") -> Answers:
    """Returns the kind of answer that cards, records and the command line write so.

    Args:
        kind: as written.
        metric: what predictions are to be good by; none: the kind's own.
    """
    return OneOf(ordered=True, median=True) if kind == "ordinal" and metric in DISTANCES else KINDS[kind]


def threshold(scores: Reals, gold: Marks) -> float:
    """Returns the threshold, half-way between two scores, above which naming the label gives the best F1."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    if not gold.any():
        return float("inf")
    hits = gold[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + gold.sum())
    last_of_ties = np.append(ranked[1:] < ranked[:-1], True)
    place = int(np.where(last_of_ties, f1, -1.0).argmax())
    return float((ranked[place] + ranked[place + 1]) / 2) if place + 1 < len(ranked) else -float("inf")


def log_odds(log_probabilities: Reals, certain: float) -> Doubles:
    """Returns log p - log(1 - p); log-probabilities above ``-certain`` count as that."""
    bounded = np.minimum(log_probabilities.astype(np.float64), -certain)
    return np.asarray(bounded - np.log(-np.expm1(bounded)))


def commonest(group: Numbers, groups: int, answer: Numbers) -> Numbers:
    """Returns [groups] each group's commonest answer, the commoner of all in a tie, then the smaller number.

    Args:
        group: [rows] number of each row's group; a group without rows gets the commonest answer of all.
        groups: how many there are.
        answer: [rows] number of each row's answer as a whole: a label, or a set of labels.
    """
    overall = np.bincount(answer)
    pair, number = np.unique(group.astype(np.int64) * len(overall) + answer, return_counts=True)
    owner, given = np.divmod(pair, len(overall))
    order = np.lexsort((given, -overall[given], -number, owner))
    having, first = np.unique(owner[order], return_index=True)
    result = np.full(groups, overall.argmax(), dtype=np.int64)
    result[having] = given[order[first]]
    return result
