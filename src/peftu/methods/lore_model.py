"""The low-rank mixed model: directions of taste that are learned from all users, and each user's place along them.

The shared part is that of a fitted `MixedModel`. A user's effects are a bias, a slope on the shared score, weights on
the learned directions and small deviations on leading feature directions; all users' come from one Gaussian, whose mean
and covariance are learned with the directions (EM with Laplace posteriors).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from peftu.methods.effects import Effects, Labelled, Link, losses, population, posterior, stretched
from peftu.methods.mixed_features import TextFeatures
from peftu.methods.mixed_fit import summing
from peftu.methods.mixed_model import CHUNK, Data, MixedModel, Numbers, Parts, Priors, Reals, loss, shared_score

DEVIATIONS = 64  # most deviations of a user, over all outputs: beyond, they only cost time
LEAST = 0.125  # standard deviation that a bias or slope starts with: from zero no moments lead away
START = 0.5  # root mean square of the scores along a direction before it is learned
ROUNDS = 6  # of users' effects, their population and the directions in turn
STEPS = 15  # of L-BFGS for the directions in a round


@dataclass(frozen=True)
class LowRankModel(MixedModel):
    """logit(user, text) = intercept + shared(text) + design(text) · effects_u.

    Its parts beside those that `MixedModel` shares: directions [d, o, r], effects [users, q], and mean [q] and
    covariance [q, q] of their population.
    """

    @property
    def parameters_per_user(self) -> int:
        """Returns how many numbers belong to one user."""
        return len(self.parts["mean"])

    @property
    def prior(self) -> Effects:
        """Returns what is known of a user without labels."""
        return Effects(self.parts["mean"], self.parts["covariance"])

    @property
    def likelihood(self) -> Link:
        """Returns how its outputs become chances: two labels of which one is given have one output."""
        return "softmax" if self.link == "softmax" and self.parts["intercept"].shape[1] > 1 else "sigmoid"

    @property
    def blocks(self) -> list[int]:
        """Returns how many effects of a user are biases, slopes, weights on directions, deviations."""
        outputs, rank = self.parts["directions"].shape[1:]
        return [outputs, outputs, rank, len(self.parts["mean"]) - 2 * outputs - rank]

    def offset(self, text: Numbers) -> Reals:
        """Returns [rows, o] the logits of whoever has no effects."""
        return np.asarray(self.parts["intercept"] + self.score[text])

    def design(self, text: Numbers) -> Reals:
        """Returns [rows, o, q] how the effects move the logits."""
        score, outputs = self.score[text], self.score.shape[1]
        own = self.features.personal[text, : self.blocks[3] // outputs]
        eye = np.eye(outputs)
        pieces = (np.broadcast_to(eye, (len(text), *eye.shape)), score[:, :, None] * eye, self.along[text])
        return np.concatenate(
            [*pieces, np.einsum("nk,op->nokp", own, eye).reshape(len(text), outputs, self.blocks[3])], axis=2
        )

    @cached_property
    def score(self) -> Reals:
        """Returns [texts, o] what all users share of each text's score."""
        return shared_score(self.features, self.parts)

    @cached_property
    def along(self) -> Reals:
        """Returns [texts, o, r] each text's scores along the learned directions."""
        directions = self.parts["directions"]
        flat = coordinates(self.features) @ directions.reshape(len(directions), -1)
        return np.asarray(flat.reshape(len(flat), *directions.shape[1:]))

    def logits(self, user: Numbers, text: Numbers) -> Reals:
        """Returns [pairs, outputs] logits."""
        result, effects = self.offset(text), self.parts["effects"]
        step = max(1, CHUNK // (result.shape[1] * effects.shape[1]))
        for first in range(0, len(user), step):
            pairs = slice(first, first + step)
            result[pairs] += np.einsum("noq,nq->no", self.design(text[pairs]), effects[user[pairs]])
        return result

    def labelled(self, text: Numbers, target: Reals) -> Labelled:
        """Returns a user's rows, given the texts' numbers and targets [rows, labels]."""
        offset = self.offset(text)
        return Labelled(offset, self.design(text), target[:, -offset.shape[1] :], self.likelihood)


def coordinates(features: TextFeatures) -> Reals:
    """Returns [texts, d] the features that directions are learned on: all that are not sparse."""
    surface = features.personal if sparse.issparse(features.tfidf) else features.tfidf
    return np.hstack([features.embedding, surface])


def fit_low_rank(
    model: MixedModel, priors: Priors, train: Data, val: Data, ranks: Sequence[int], spread: float
) -> tuple[LowRankModel, dict[int, float]]:
    """Returns the model with as many directions as make the val rows likeliest, and the log-likelihood with each.

    Args:
        model: gives the shared part.
        priors: that it was fitted with; where its users' parts have a prior of zero deviations are left out.
        train: rows to fit on.
        val: rows to choose the number of directions and of rounds by.
        ranks: numbers of directions to choose from. One that is no better than those before, by more than users
            differ in that, is not taken; nor is a population other than the mixed head's own.
        spread: standard deviation of the directions' own prior.
    """
    learner = _Learner(train, val, spread)
    best = start = learner.known_by(learner.start(model, priors))
    tried = {}
    for rank in ranks:
        reached = learner.learned(start, rank)
        tried[rank] = -float(learner.losses(reached).sum())
        if len(ranks) == 1 or learner.is_better(reached, best):
            best = reached
    return best, tried


class _Learner:
    """Learns directions, population and effects in turn.

    Args:
        train: rows to fit on.
        val: rows to stop by; without any, the last round holds.
        spread: standard deviation of the directions' prior.
    """

    def __init__(self, train: Data, val: Data, spread: float) -> None:
        self.train, self.val, self.spread = train, val, spread
        order = np.argsort(train.user, kind="stable")
        self.rows = np.split(order, np.searchsorted(train.user[order], np.arange(1, train.users)))
        self.by_text = summing(train.text, len(train.features.personal))
        self.x = coordinates(train.features)

    def start(self, model: MixedModel, priors: Priors) -> LowRankModel:
        """Returns the model without directions, with the mixed model's own priors as population."""
        outputs = model.parts["intercept"].shape[1]
        width = min(self.train.features.personal.shape[1], DEVIATIONS // outputs) if priors.deviation else 0
        sizes = (outputs, outputs, width * outputs)
        variance = np.repeat(np.square([max(LEAST, priors.bias), max(LEAST, priors.slope), priors.deviation]), sizes)
        parts = {name: model.parts[name] for name in ("intercept", "embedding", "tfidf", "text")}
        parts["directions"] = np.zeros((self.x.shape[1], outputs, 0))
        return LowRankModel(model.features, _with_prior(parts, variance), model.labels, model.link, 0)

    def losses(self, model: LowRankModel) -> Reals:
        """Returns [users] the negative log-likelihood of each user's val rows."""
        val = self.val
        logits = model.logits(val.user, val.text)
        of_rows = losses(logits, val.target[:, -logits.shape[1] :], model.likelihood)
        return np.asarray(np.bincount(val.user, of_rows, minlength=val.users), np.float64)

    def is_better(self, model: LowRankModel, other: LowRankModel) -> bool:
        """Returns whether a model makes the val rows likelier than another, by more than users differ in that."""
        gain = self.losses(other) - self.losses(model)
        return bool(gain.sum() > gain.std() * np.sqrt(len(gain)))

    def learned(self, model: LowRankModel, rank: int) -> LowRankModel:
        """Returns the model, with users' effects, of the round that makes the val rows likeliest."""
        best, model = (None, self._with_directions(model, rank)) if rank else (model, model)
        for _ in range(ROUNDS):
            known = self.known(model)
            model = self.known_by(model, known)
            if best is not None and len(self.val.user) and self.losses(model).sum() > self.losses(best).sum():
                break
            best = model
            model = self._moved(model, known)
        assert best is not None  # noqa: S101  (there is a round)
        return best

    def known_by(self, model: LowRankModel, known: Sequence[Effects] | None = None) -> LowRankModel:
        """Returns the model with users' likeliest effects under its population, or those that are known."""
        known = self.known(model) if known is None else known
        return replace(model, parts={**model.parts, "effects": np.array([user.mean for user in known])})

    def known(self, model: LowRankModel) -> list[Effects]:
        """Returns what is known of each user."""
        train = self.train
        return [posterior(model.prior, model.labelled(train.text[rows], train.target[rows])) for rows in self.rows]

    def _with_directions(self, model: LowRankModel, rank: int) -> LowRankModel:
        """Returns the model with those directions along which users' labels most depart from it."""
        train = self.train
        residual = loss(model.logits(train.user, train.text), train)[1]
        slopes = np.array([(self.x[train.text[rows]].T @ residual[rows]).ravel() for rows in self.rows])
        strength, users = np.linalg.eigh(slopes @ slopes.T)
        chosen = users[:, ::-1][:, :rank] / np.sqrt(strength[::-1][:rank].clip(min=1e-12))
        directions = (slopes.T @ chosen).reshape(self.x.shape[1], -1, chosen.shape[1])
        flat = self.x[np.unique(train.text)] @ directions.reshape(len(directions), -1)
        scale = np.sqrt(np.square(flat.reshape(len(flat), -1, chosen.shape[1])).mean((0, 1)))
        parts = {**model.parts, "directions": directions * START / scale.clip(min=1e-12)}
        bias, slope, *_ = model.blocks
        variance = np.diag(model.parts["covariance"])
        variance = np.concatenate([variance[: bias + slope], np.ones(chosen.shape[1]), variance[bias + slope :]])
        return replace(model, parts=_with_prior(parts, variance))

    def _moved(self, model: LowRankModel, known: Sequence[Effects]) -> LowRankModel:
        """Returns the model with the population that these effects come from, and directions that suit them."""
        bias, slope, rank, _ = model.blocks
        prior = population(known, model.blocks, full=bias + slope + rank)
        own = slice(bias + slope, bias + slope + rank)
        parts = dict(model.parts)
        if rank:  # weights of unit variance: the directions say how much users differ along them
            root = np.linalg.cholesky(prior.covariance[own, own] + 1e-9 * np.eye(rank))
            turn = np.eye(len(prior.mean))
            turn[own, own] = np.linalg.inv(root)
            prior, known = stretched(prior, turn), [stretched(user, turn) for user in known]
            parts["directions"] = parts["directions"] @ root
        parts |= {"mean": prior.mean, "covariance": prior.covariance}
        model = self.known_by(replace(model, parts=parts), known)
        return self._with_learned(model, known, own) if rank else model

    def _with_learned(self, model: LowRankModel, known: Sequence[Effects], own: slice) -> LowRankModel:
        """Returns the model with the directions that make the labels likeliest, as far as the effects are known."""
        train, directions = self.train, model.parts["directions"]
        shape = directions.shape
        along = model.along[train.text]
        weights = model.parts["effects"][train.user][:, own]
        logits = model.logits(train.user, train.text)
        rest = logits - np.einsum("nor,nr->no", along, weights)
        rows = Labelled(rest, along, train.target[:, -shape[1] :], model.likelihood)
        chances = rows.expected(logits)
        doubt = np.array([user.covariance[own, own] for user in known])[train.user]
        others = np.zeros_like(along)  # doubt about the other effects that goes along with that about these
        for rows_u, user in zip(self.rows, known, strict=True):
            beside = user.covariance[:, own].copy()
            beside[own] = 0
            others[rows_u] = model.design(train.text[rows_u]) @ beside

        def weighed(values: Reals) -> Reals:
            if rows.link == "sigmoid":
                return (chances * (1 - chances))[..., None] * values
            mean = np.einsum("no,nor->nr", chances, values)
            return np.asarray(chances[..., None] * (values - mean[:, None]))

        def objective(point: Reals) -> tuple[float, Reals]:
            flat = point.reshape(shape[0], -1)
            there = (self.x @ flat).reshape(-1, *shape[1:])[train.text]
            now = rest + np.einsum("nor,nr->no", there, weights)
            misfit, residual = loss(now, train)
            spread = weighed(there @ doubt)
            beside = weighed(others)
            value = misfit + float((there * (spread / 2 + beside)).sum()) + float(point @ point) / 2 / self.spread**2
            slope = residual[..., None] * weights[:, None] + spread + beside
            gradient = self.x.T @ (self.by_text @ slope.reshape(len(slope), -1))
            return value, gradient.ravel() + point / self.spread**2

        found = minimize(objective, directions.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        return replace(model, parts={**model.parts, "directions": found.x.reshape(shape)})


def _with_prior(parts: Parts, variance: Reals) -> Parts:
    """Returns the parts with a population of independent effects around zero, and no users' effects yet."""
    size = len(variance)
    return {**parts, "mean": np.zeros(size), "covariance": np.diag(variance), "effects": np.zeros((0, size))}
