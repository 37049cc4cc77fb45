"""Rows that modules are trained on, and the loss that training makes small.

Shape letters: g users, b rows a user, n = g·b rows, c labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.base.packed import sent
from peftu.base.prompt import Prompt


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to validate on.

    Attributes:
        text: [n] row numbers of the context: texts or, where answers are free text, answers.
        target: [n, c] one-hot, a distribution over labels, or multi-hot; [n, 0] where answers are free text.
        weight: [n] how much each row counts.
        offset: [n, c] what is added to the scores of a base with a module; None: nothing.
    """

    text: npt.NDArray[np.int64]
    target: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.text)


def joined(parts: Sequence[Examples]) -> Examples:
    """Returns the examples of all parts, end to end; all of them have an offset, or none has."""
    text, target, weight = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("text", "target", "weight")
    )
    offsets = [part.offset for part in parts if part.offset is not None]
    return Examples(text, target, weight, np.concatenate(offsets) if offsets else None)


def divided(examples: Examples, first: int) -> tuple[Examples, Examples]:
    """Returns so many first examples, and the rest."""

    def part(rows: slice) -> Examples:
        offset = None if examples.offset is None else examples.offset[rows]
        return Examples(examples.text[rows], examples.target[rows], examples.weight[rows], offset)

    return part(slice(first)), part(slice(first, None))


@dataclass(frozen=True)
class Unit:
    """Somebody with a module of their own: a user, or everyone together."""

    key: str
    train: Examples
    val: Examples


def with_offset(scores_nc: Tensor, offset_nc: Tensor | None, prompt: Prompt) -> Tensor:
    """Returns [n, c] scores with an offset: log-probabilities where one label holds, else a logit a label."""
    if offset_nc is None:
        return scores_nc
    both = scores_nc + offset_nc
    return both.log_softmax(-1) if prompt.exclusive else both


def row_loss(scores_nc: Tensor, target_nc: Tensor, prompt: Prompt, offset_nc: Tensor | None = None) -> Tensor:
    """Returns [n] what training makes small, given what the base read and what is added to it.

    One label holds: cross-entropy with the target distribution. Each label holds or not: the mean binary cross-entropy
    over labels. Free text: the mean of -log p over the answer's tokens; there the target has no columns.
    """
    scores_nc = with_offset(scores_nc, offset_nc, prompt)
    if prompt.free:
        return -scores_nc[:, 0] / scores_nc[:, 1]
    if prompt.exclusive:
        return -(target_nc * scores_nc).sum(-1)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores_nc, target_nc, reduction="none").mean(-1)


class Rows:
    """The examples of several units, end to end; targets and weights are given on a device, texts are not."""

    def __init__(self, parts: Sequence[Examples], device: torch.device) -> None:
        self.device = device
        self.size = np.array([len(part) for part in parts], dtype=np.int64)
        self.start = np.concatenate([[0], self.size.cumsum()[:-1]]).astype(np.int64)
        every = joined(parts)
        self.text, self.target, self.weight, self.offset = every.text, every.target, every.weight, every.offset

    def take(self, picked: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Returns texts [g, b], targets [g, b, c], weights [g, b] and offsets [n, c] of these rows, n = g·b.

        -1 is any row, with weight 0.
        """
        rows = picked.clip(min=0)
        target, weight = (sent(torch.from_numpy(x), self.device) for x in (self.target[rows], self.weighing(picked)))
        offset = None if self.offset is None else sent(torch.from_numpy(self.offset[rows.ravel()]), self.device)
        return torch.from_numpy(self.text[rows]), target, weight, offset

    def weighing(self, picked: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns [g, b] the weights of these rows, 0 for -1."""
        return np.where(picked >= 0, self.weight[picked.clip(min=0)], np.float32(0))
