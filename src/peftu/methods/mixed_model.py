"""The mixed logistic model: what all users share, and how each departs from it, under Gaussian priors."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit, log_expit, log_softmax

from peftu.methods.mixed_features import TextFeatures

Reals = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.integer]
Parts = dict[str, Reals]

USER_PARTS = ("bias", "slope", "deviation")
CHUNK = 1 << 24  # numbers gathered at once when scoring


class Priors(BaseModel):
    """Standard deviations of the parts' Gaussian priors, in logits for a text of average length; 0: part left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: float = Field(0.5, ge=0, description="Shared weights on the sentence embedding.")
    tfidf: float = Field(0.5, ge=0, description="Shared weights on the n-grams.")
    text: float = Field(0.5, ge=0, description="A shared effect of each text: what its other annotators said.")
    bias: float = Field(1.0, ge=0, description="A user's bias.")
    slope: float = Field(0.5, ge=0, description="How much more or less than others a user follows the shared score.")
    deviation: float = Field(0.5, ge=0, description="A user's own weights on the leading feature directions.")


@dataclass(frozen=True)
class Data:
    """Rows to fit on or to score, with the features of every text.

    Attributes:
        features: of every text.
        users: how many users there are.
        user: [rows] user number.
        text: [rows] text number.
        target: [rows, labels] 1.0 where the label was given.
        link: 'softmax' when one label is given, 'sigmoid' when each label is a question of its own.
    """

    features: TextFeatures
    users: int
    user: Numbers
    text: Numbers
    target: Reals
    link: Literal["softmax", "sigmoid"]

    def of(self, rows: npt.NDArray[np.bool_] | Numbers) -> "Data":
        """Returns some of the rows, over the same users and texts."""
        return replace(self, user=self.user[rows], text=self.text[rows], target=self.target[rows])

    @property
    def outputs(self) -> int:
        """Returns the number of logits: two labels of which one is given need only one."""
        labels = self.target.shape[1]
        return 1 if self.link == "softmax" and labels == 2 else labels


@dataclass(frozen=True)
class MixedModel:
    """logit(user, text) = intercept + bias_u + (1 + slope_u) · shared(text) + deviation_u · personal(text).

    shared(text) = w · embedding + v · n-grams + effect of the text.

    Attributes:
        features: of every text.
        parts: intercept [1, o], embedding and tfidf [directions, o], text [texts, o], bias and slope [users, o],
            deviation [users, directions, o] for o outputs; a part left out has length 0.
        labels: size of the label set.
        link: as in Data.
        evaluations: how often the likelihood was computed in the fit.
    """

    features: TextFeatures
    parts: Parts
    labels: int
    link: Literal["softmax", "sigmoid"]
    evaluations: int

    @property
    def parameters_per_user(self) -> int:
        """Returns how many numbers belong to one user."""
        return sum(self.parts[name][0].size for name in USER_PARTS if len(self.parts[name]))

    @property
    def shared(self) -> "MixedModel":
        """Returns what all users share, as a model in which nobody has weights of their own."""
        own = {name: self.parts[name][:0] for name in USER_PARTS}
        return replace(self, parts={**self.parts, **own})

    def logits(self, user: Numbers, text: Numbers) -> Reals:
        """Returns [pairs, outputs] logits; a user without training rows has the shared model's."""
        result = without_deviation(self.parts, shared_score(self.features, self.parts)[text], user)
        deviation, personal = self.parts["deviation"], self.features.personal
        if deviation.size:
            step = max(1, CHUNK // deviation[0].size)
            for first in range(0, len(user), step):
                pairs = slice(first, first + step)
                result[pairs] += np.einsum("nk,nko->no", personal[text[pairs]], deviation[user[pairs]])
        return result

    def log_probabilities(self, user: Numbers, text: Numbers) -> Reals:
        """Returns [pairs, labels] log-probabilities (of each label on its own when the link is 'sigmoid')."""
        logits = self.logits(user, text)
        if self.link == "sigmoid":
            return np.asarray(log_expit(logits))
        if logits.shape[1] < self.labels:
            return np.asarray(log_expit(np.hstack([-logits, logits])))
        return np.asarray(log_softmax(logits, axis=1))

    def log_likelihood(self, data: Data) -> float:
        """Returns the log-likelihood of all rows together."""
        return -loss(self.logits(data.user, data.text), data)[0]

    def accuracy(self, data: Data) -> float:
        """Returns the share of rows whose label, or whole set of labels, is guessed right."""
        scores = self.log_probabilities(data.user, data.text)
        if self.link == "softmax":
            return float((scores.argmax(1) == data.target.argmax(1)).mean())
        return float(((scores > np.log(0.5)) == (data.target > 0)).all(1).mean())


def shared_score(features: TextFeatures, parts: Parts) -> Reals:
    """Returns [texts, outputs] the score of each text that all users share."""
    score = np.zeros((len(features.personal), parts["intercept"].shape[1]))
    for name, matrix in (("embedding", features.embedding), ("tfidf", features.tfidf)):
        if parts[name].size:
            score += matrix @ parts[name]
    return score + parts["text"] if parts["text"].size else score


def without_deviation(parts: Parts, shared: Reals, user: Numbers) -> Reals:
    """Returns [rows, outputs] logits from the rows' shared scores, before the users' own weights."""
    bias = parts["bias"][user] if parts["bias"].size else 0.0
    return parts["intercept"] + bias + gain(parts, user) * shared


def gain(parts: Parts, user: Numbers) -> Reals:
    """Returns how much of the shared score each row's user follows: 1 + slope, [rows, outputs] or [1, 1]."""
    return 1 + parts["slope"][user] if parts["slope"].size else np.ones((1, 1))


def loss(logits: Reals, data: Data) -> tuple[float, Reals]:
    """Returns the negative log-likelihood and its derivative by the logits."""
    if data.link == "softmax" and logits.shape[1] > 1:
        scores = log_softmax(logits, axis=1)
        return -float((data.target * scores).sum()), np.exp(scores) - data.target
    given = data.target[:, -logits.shape[1] :]
    return float(np.logaddexp(0, logits).sum() - (given * logits).sum()), expit(logits) - given
