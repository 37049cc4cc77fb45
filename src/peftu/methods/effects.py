"""Effects of users that are drawn from one Gaussian: what is known of a user from labels, and of all from each.

The logits of a user's rows are linear in the user's effects: offset [n, o] + design [n, o, q] · effects [q].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

Reals = npt.NDArray[np.float64]
Link = Literal["softmax", "sigmoid"]

STEPS = 50
CLOSE = 1e-10  # a Newton step that promises less than this many nats is the last


@dataclass(frozen=True)
class Labelled:
    """A user's labelled rows.

    Attributes:
        offset: [n, o] logits of whoever has no effects.
        design: [n, o, q] how each effect moves them.
        target: [n, o] 1.0 where the label was given.
        link: 'softmax' where one of several labels is given, 'sigmoid' where each is given or not.
    """

    offset: Reals
    design: Reals
    target: Reals
    link: Link

    def expected(self, logits: Reals) -> Reals:
        """Returns [n, o] how probable each label is."""
        return np.asarray(softmax(logits, axis=1) if self.link == "softmax" else expit(logits))

    def loss(self, logits: Reals) -> float:
        """Returns the negative log-likelihood."""
        return float(losses(logits, self.target, self.link).sum())


@dataclass(frozen=True)
class Effects:
    """What is known of a user's effects: a Gaussian's mean [q] and covariance [q, q]."""

    mean: Reals
    covariance: Reals


def losses(logits: Reals, target: Reals, link: Link) -> Reals:
    """Returns [n] the negative log-likelihood of each row."""
    whole = np.logaddexp.reduce(logits, axis=1) if link == "softmax" else np.logaddexp(0, logits).sum(1)
    return np.asarray(whole - (logits * target).sum(1))


def posterior(prior: Effects, rows: Labelled) -> Effects:
    """Returns a user's effects given labels: their likeliest values, and the curvature there (Laplace).

    Newton's method with halved steps, in coordinates in which the prior is a standard normal.
    """
    if not len(rows.target):
        return prior
    strength, axes = np.linalg.eigh(prior.covariance)
    root = axes * np.sqrt(strength.clip(min=0))
    design, offset = rows.design @ root, rows.offset + rows.design @ prior.mean
    point, logits = np.zeros(len(prior.mean)), offset
    value = rows.loss(logits)
    inverse: Reals = np.eye(len(point))
    for _ in range(STEPS):
        chances = rows.expected(logits)
        gradient = point + np.einsum("no,noq->q", chances - rows.target, design)
        inverse = np.asarray(np.linalg.inv(np.eye(len(point)) + curvature(chances, design, rows.link)), np.float64)
        step = inverse @ gradient
        promised = float(step @ gradient) / 2
        if promised < CLOSE:
            break
        size = 1.0
        while size > 1e-4:
            there = point - size * step
            logits = offset + design @ there
            reached = rows.loss(logits) + float(there @ there) / 2
            if reached <= value:
                break
            size /= 2
        else:
            break
        point, value = there, reached
    return Effects(prior.mean + root @ point, root @ inverse @ root.T)


def curvature(chances: Reals, design: Reals, link: Link) -> Reals:
    """Returns [q, q] the second derivative of the negative log-likelihood by the effects."""
    weighed = design * (chances if link == "softmax" else chances * (1 - chances))[..., None]
    size = design.shape[-1]
    whole = design.reshape(-1, size).T @ weighed.reshape(-1, size)
    if link == "softmax":
        centre = weighed.sum(1)
        whole -= centre.T @ centre
    return np.asarray(whole)


def population(users: Sequence[Effects], blocks: Sequence[int], full: int) -> Effects:
    """Returns the Gaussian that users' effects come from, by the moments of what is known of each (an EM step).

    Where users are few, a covariance between effects is not to be had from them: it counts as so many users more as
    there are effects that within each block all effects have one variance and no covariance.

    Args:
        users: what is known of each, given some prior.
        blocks: sizes of runs of effects that are alike.
        full: of so many first effects covariances are learned; the others have one variance a block.
    """
    means = np.array([user.mean for user in users])
    mean = means.mean(0)
    spread = (means - mean).T @ (means - mean) / len(users) + np.mean([user.covariance for user in users], axis=0)
    ends = np.cumsum([0, *blocks])
    pieces = pairwise(ends)
    alike = np.diag(np.concatenate([np.full(b - a, np.diag(spread)[a:b].mean()) for a, b in pieces if b > a]))
    covariance = alike.copy()
    first = slice(full)
    share = len(users) / (len(users) + full) if full else 0.0
    covariance[first, first] = share * spread[first, first] + (1 - share) * alike[first, first]
    mean = np.where(np.arange(len(mean)) < full, mean, 0.0)
    return Effects(mean, covariance)


def stretched(known: Effects, matrix: Reals) -> Effects:
    """Returns what is known of matrix · effects."""
    return replace(known, mean=matrix @ known.mean, covariance=matrix @ known.covariance @ matrix.T)
