"""What `history` reads users' labelled items with, many at once: own weights under learned priors, and attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from peftu.methods.mixed_model import USER_PARTS, Parts, Priors

T = TypeVar("T")
Float32 = npt.NDArray[np.float32]
TEMPERATURE = 4.0  # spread of a fresh head's scores: some heads tell items apart before they have learned to
MOST_NULL = 3.0  # fresh heads wait for one item up to e³ items before they say half of what they could


@dataclass(frozen=True)
class Attention:
    """Heads that look from a judged text at a user's items; where there are none, they add nothing.

    Attributes:
        query: [heads, features, size] projection of judged texts.
        key: [heads, features, size] projection of the user's items.
        null: [heads] score of an entry that stands for no item, and adds nothing.
        value: [heads, labels, labels] what an item that surprised by this much adds to each label's score.
    """

    query: Tensor
    key: Tensor
    null: Tensor
    value: Tensor

    @classmethod
    def fresh(cls, heads: int, features: int, size: int, labels: int, seed: int) -> "Attention":
        """Returns heads that look at random and add nothing yet."""
        draw = torch.Generator().manual_seed(seed)
        query = torch.randn(heads, features, size, generator=draw) * (TEMPERATURE / max(1, features)) ** 0.5
        null = torch.linspace(0, MOST_NULL, heads)
        return cls(query, query.clone(), null, torch.zeros(heads, labels, labels))

    def __call__(self, asked: Tensor, shown: Tensor, surprise: Tensor, seen: Tensor) -> Tensor:
        """Returns [users, texts, labels] what is added to the score of each label.

        Args:
            asked: [users, texts, features] of judged texts.
            shown: [users, items, features] of the user's items.
            surprise: [users, items, labels] given labels less what everybody's model had expected.
            seen: [users, texts or 1, items] which items a judged text may look at.
        """
        query = torch.einsum("umd,hds->uhms", asked, self.query)
        key = torch.einsum("und,hds->uhns", shown, self.key)
        likeness = (query @ key.mT).masked_fill(~seen[:, None], -torch.inf)
        null = self.null[:, None, None].expand(*likeness.shape[:-1], 1)
        weight = torch.cat([null, likeness], -1).softmax(-1)[..., 1:]
        said = torch.einsum("unl,hlk->uhnk", surprise, self.value)
        return (weight @ said).sum(1)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Returns its tensors by name."""
        return {name: getattr(self, name) for name in ("query", "key", "null", "value")}


def chances(logits: Tensor, exclusive: bool) -> Tensor:
    """Returns [..., outputs] the probability of what each logit of a mixed model stands for."""
    return logits.softmax(-1) if exclusive and logits.shape[-1] > 1 else logits.sigmoid()


def of_labels(outputs: Tensor, labels: int, of_first: Tensor) -> Tensor:
    """Returns [..., labels] what is known of each output, and of the first label where two share one output."""
    return outputs if outputs.shape[-1] == labels else torch.cat([of_first, outputs], -1)


def own_weights(
    shared: Tensor, design: Tensor, given: Tensor, seen: Tensor, exclusive: bool, steps: int = 40
) -> Tensor:
    """Returns [users, outputs, weights] users' own weights at their likeliest given the items that are seen.

    Accelerated steps of a bound on the curvature (Böhning 1992): one small matrix a user and output, no line search,
    and gradients of all that is passed.

    Args:
        shared: [users, items, outputs] logits of everybody's model.
        design: [users, items, outputs, weights] what each weight adds, in units of its prior deviation.
        given: [users, items, outputs] 1.0 where that label was given.
        seen: [users, items] which items count.
        exclusive: whether one label holds.
        steps: how many; forty are within 1e-3 of the optimum.
    """
    outputs = shared.shape[-1]
    x = design * seen[..., None, None]
    curvature = 0.5 if exclusive and outputs > 1 else 0.25
    hessian = curvature * torch.einsum("unow,unov->uowv", x, x) + torch.eye(x.shape[-1])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    weights = ahead = torch.zeros(len(shared), outputs, x.shape[-1])
    pace = 1.0
    for _ in range(steps):
        logits = shared + torch.einsum("unow,uow->uno", x, ahead)
        gradient = torch.einsum("unow,uno->uow", x, given - chances(logits, exclusive)) - ahead
        after = ahead + (inverse @ gradient[..., None])[..., 0]
        faster = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead = after + (pace - 1) / faster * (after - weights)
        weights, pace = after, faster
    return weights


@dataclass(frozen=True)
class Shrinkage:
    """How far users may go from what all share, and how far that itself is followed, for somebody new to it.

    Attributes:
        gain: [] logarithm of a factor on the shared logits.
        scale: [outputs, 3] logarithms of factors on the prior deviations of bias, slope and deviation.
        priors: [3] those deviations, as the mixed head has them.
    """

    gain: Tensor
    scale: Tensor
    priors: Tensor

    @classmethod
    def none(cls, outputs: int, priors: Priors) -> "Shrinkage":
        """Returns that of the mixed head."""
        deviations = torch.tensor([getattr(priors, name) for name in USER_PARTS], dtype=torch.float32)
        return cls(torch.zeros(()), torch.zeros(outputs, len(USER_PARTS)), deviations)

    @property
    def deviations(self) -> Tensor:
        """Returns [outputs, 3] the prior deviations."""
        return self.priors * self.scale.exp()

    def design(self, centred: Tensor, features: Tensor) -> Tensor:
        """Returns [..., outputs, weights] what each weight adds, given shared scores and features of texts."""
        bias, slope, deviation = self.deviations.T[..., None]
        one = bias.expand(*centred.shape, 1)
        return torch.cat([one, slope * centred[..., None], deviation * features[..., None, :]], -1)

    def parts(self, weights: Tensor) -> Parts:
        """Returns own weights [users, outputs, weights] as parts of a mixed model whose shared part has gained."""
        bias, slope, deviation = self.deviations.T
        found = {
            "bias": weights[..., 0] * bias,
            "slope": weights[..., 1] * slope / self.gain.exp(),
            "deviation": (weights[..., 2:] * deviation[:, None]).mT,
        }
        return {name: values.numpy().astype(np.float64) for name, values in found.items()}


class Past(NamedTuple):
    """Labelled items of a user, and what was expected of them by a model that never saw the user.

    Attributes:
        text: [items] numbers that the texts are known by.
        shown: [items, directions] features of the texts on which users may deviate.
        shared: [items, outputs] that model's logits.
        centred: [items, outputs] those without its intercept.
        target: [items, labels] 1.0 where the label was given.
    """

    text: npt.NDArray[np.int64]
    shown: Float32
    shared: Float32
    centred: Float32
    target: Float32


@dataclass(frozen=True)
class Side:
    """`Past` of several users side by side, filled up with zeros; ``real`` [users, most] is False there."""

    text: Tensor
    shown: Tensor
    shared: Tensor
    centred: Tensor
    target: Tensor
    real: Tensor

    @classmethod
    def of(cls, pasts: Sequence[Past]) -> "Side":
        """Returns these users' items side by side."""
        columns = {
            name: pad_sequence([torch.from_numpy(getattr(past, name)) for past in pasts], batch_first=True)
            for name in Past._fields
        }
        size = torch.tensor([len(past.text) for past in pasts])
        real = torch.arange(int(size.max()))[None] < size[:, None]
        return cls(**columns, real=real)

    def surprise(self, exclusive: bool) -> Tensor:
        """Returns [users, most, labels] given labels less what was expected."""
        chance = chances(self.shared, exclusive)
        return (self.target - of_labels(chance, self.target.shape[-1], 1 - chance)) * self.real[..., None]


class Reader(NamedTuple):
    """What is learned from all users of how a user's items are to be read."""

    shrinkage: Shrinkage
    attention: Attention

    def weights(self, known: Side, seen: Tensor, exclusive: bool, steps: int = 40) -> Tensor:
        """Returns [users, outputs, weights] users' own weights, fitted to the items that are seen [users, items]."""
        design = self.shrinkage.design(known.centred, known.shown)
        given = known.target[..., -known.shared.shape[-1] :]
        return own_weights(self.shrinkage.gain.exp() * known.shared, design, given, seen, exclusive, steps)

    def logits(self, known: Side, asked: Side, seen: Tensor, exclusive: bool, steps: int = 40) -> Tensor:
        """Returns [users, most, labels] logits of rows asked about, given what is seen of those known."""
        design = self.shrinkage.design(asked.centred, asked.shown)
        own = torch.einsum("umow,uow->umo", design, self.weights(known, seen, exclusive, steps))
        logits = self.shrinkage.gain.exp() * asked.shared + own
        added = self.attention(asked.shown, known.shown, known.surprise(exclusive), seen[:, None])
        return of_labels(logits, known.target.shape[-1], torch.zeros_like(logits)) + added

    @property
    def copied(self) -> "Reader":
        """Returns what does not move with it."""
        return Reader(_copied(self.shrinkage), _copied(self.attention))


def _copied(part: T) -> T:
    return type(part)(**{name: tensor.detach().clone() for name, tensor in vars(part).items()})
