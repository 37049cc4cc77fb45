"""A fitted `mixed-head`: what it needs to answer for any text, and to take in or forget a user."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.optimize import minimize

from peftu.data.problem import Floats, Text
from peftu.methods.method import Features, Numbers
from peftu.methods.mixed_features import Featurizer, TextFeatures
from peftu.methods.mixed_model import Data, MixedModel, Parts, Priors, Reals, gain, loss, shared_score

if TYPE_CHECKING:
    from peftu.methods.mixed import MixedHead


class FittedMixedHead:
    """A fitted `mixed-head`.

    Args:
        method: with its knobs.
        featurizer: makes features of texts.
        priors: strengths that were fitted with.
        model: the fitted model, over the features of known texts.
        texts: known text, or its digest, -> its number in the model.
        features: gives sentence vectors, where the method reads a base.
        notes: choices made on validation rows, counts.
    """

    user_parts: ClassVar[tuple[str, ...]] = ("bias", "slope", "deviation")
    model_class: ClassVar[type[MixedModel]] = MixedModel

    def __init__(
        self,
        method: "MixedHead",
        featurizer: Featurizer,
        priors: Priors,
        model: MixedModel,
        texts: Mapping[Text, int],
        features: Features | None,
        notes: dict[str, object],
    ) -> None:
        self.method, self.featurizer, self.priors, self.model = method, featurizer, priors, model
        self.features, self.notes, self.known = features, notes, texts
        self.effects = {digest(text): number for text, number in texts.items()} if model.parts["text"].size else {}

    @property
    def parameters_per_user(self) -> int:
        """Returns how many numbers belong to one user."""
        return self.model.parameters_per_user

    def scores(self, users: Numbers, texts: Sequence[Text]) -> Floats:
        """Returns [pairs, labels] log-probabilities for pairs of user number and text, any text.

        For kind 'multi' each label's is its own: given or not, whatever the others.

        Raises:
            IndexError: a number is no user's.
        """
        return self.read(users, texts)[0].astype(np.float32)

    def read(self, users: Numbers, texts: Sequence[Text]) -> tuple[Reals, Reals]:
        """Returns what `scores` does, and [pairs, directions] features of the texts on which users may deviate.

        Raises:
            IndexError: a number is no user's.
        """
        if len(users) and users.min() < 0:  # numpy would take them from the end
            raise IndexError("user numbers start at 0")
        model, numbers = self._reading(texts)
        return model.log_probabilities(np.asarray(users), numbers), model.features.personal[numbers]

    def enrol(self, user: int | None, texts: Sequence[Text], target: Floats) -> int:
        """Returns the number of the user whose own weights were fitted to these labels; all else stays as it is.

        Args:
            user: who; None: a new one.
            texts: the user's labelled texts.
            target: [texts, labels] 1.0 where the label was given.
        """
        weights = self._user_weights(texts, target.astype(np.float64))
        parts = dict(self.model.parts)
        number = self._users if user is None else user
        for name, values in weights.items():
            if user is None:
                parts[name] = np.concatenate([parts[name], values[None]])
            else:
                parts[name] = parts[name].copy()
                parts[name][user] = values
        self.model = replace(self.model, parts=parts)
        return number

    def forget(self, user: int) -> None:
        """Drops a user's weights; the numbers of later users fall by one."""
        parts = {**self.model.parts}
        for name in self.user_parts:
            if len(parts[name]):
                parts[name] = np.delete(parts[name], user, axis=0)
        self.model = replace(self.model, parts=parts)

    def state(self) -> tuple[dict[str, Reals], dict[str, Any]]:
        """Returns named tensors, and JSON values, that `of` makes the same of; texts are digests in it."""
        parts = {f"parts.{name}": np.asarray(values) for name, values in self.model.parts.items()}
        about = {
            "priors": self.priors.model_dump(),
            "blocks": list(self.featurizer.blocks),
            "form": self.featurizer.form,
            "whole": self.featurizer.whole,
            "effects": self.effects,
            "labels": self.model.labels,
            "link": self.model.link,
        }
        return {**parts, **self.featurizer.tensors}, about

    @classmethod
    def of(
        cls, method: "MixedHead", tensors: Mapping[str, Reals], about: dict[str, Any], features: Features | None
    ) -> Self:
        """Returns what `state` was taken of."""
        parts: Parts = {key.removeprefix("parts."): tensors[key] for key in tensors if key.startswith("parts.")}
        rest = {key: tensors[key] for key in tensors if not key.startswith("parts.")}
        made = Featurizer(rest, tuple(about["blocks"]), about["form"], about["whole"])
        empty = TextFeatures(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))
        model = cls.model_class(empty, parts, about["labels"], about["link"], 0)
        restored = cls(method, made, Priors(**about["priors"]), model, {}, features, {})
        restored.effects = dict(about["effects"])
        return restored

    @property
    def _users(self) -> int:
        return max(len(self.model.parts[name]) for name in self.user_parts)

    def _reading(self, texts: Sequence[Text]) -> tuple[MixedModel, Numbers]:
        """Returns the model over the features of these texts, and each one's number in it."""
        if self.known and all(text in self.known for text in texts):
            return self.model, np.array([self.known[text] for text in texts], dtype=np.int64)
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        distinct = list(place)
        parts = dict(self.model.parts)
        if parts["text"].size:  # a text without training rows has no effect of its own
            numbers = np.array([self.effects.get(digest(text), -1) for text in distinct])
            parts["text"] = np.where(numbers[:, None] < 0, 0.0, parts["text"][numbers])
        made = self.featurizer.features(distinct, self.method.embedded(distinct, self.features))
        return replace(self.model, features=made, parts=parts), np.array([place[text] for text in texts], np.int64)

    def _user_weights(self, texts: Sequence[Text], target: Reals) -> Parts:
        """Returns a user's own weights: the likeliest given these rows, what is shared, and the priors."""
        model, numbers = self._reading(texts)
        shared = shared_score(model.features, model.parts)[numbers]
        personal = model.features.personal[numbers]
        shapes = {name: model.parts[name].shape[1:] for name in self.user_parts if len(model.parts[name])}
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        data = Data(model.features, 1, np.zeros(len(texts), np.int64), numbers, target, model.link)
        none = np.zeros((0, shared.shape[1]))

        def split(point: Reals) -> Parts:
            pieces = np.split(point, ends[:-1])
            return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

        def objective(point: Reals) -> tuple[float, Reals]:
            weights = split(point)
            slope = {"slope": weights["slope"][None] if "slope" in weights else none}
            follows = gain(slope, data.user)
            logits = model.parts["intercept"] + weights.get("bias", 0.0) + follows * shared
            if "deviation" in weights:
                logits = logits + personal @ weights["deviation"]
            misfit, residual = loss(logits, data)
            gradient = {
                "bias": residual.sum(0),
                "slope": (residual * shared).sum(0),
                "deviation": personal.T @ residual,
            }
            precision = {name: getattr(self.priors, name) ** -2.0 for name in shapes}
            misfit += sum(0.5 * precision[name] * float(np.square(weights[name]).sum()) for name in shapes)
            parts = [(gradient[name] + precision[name] * weights[name]).ravel() for name in shapes]
            return misfit, np.concatenate(parts)

        if not shapes:
            return {}
        start = np.zeros(int(ends[-1]))
        fitted = minimize(objective, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8})
        return split(fitted.x)


def digest(text: Text) -> str:
    """Returns what a text is known by in a file."""
    return hashlib.sha256(f"{text.context or ''}\x1f{text.text}".encode()).hexdigest()[:24]
