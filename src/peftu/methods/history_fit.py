"""Training of `history`: histories drawn anew in every step, judged by the rows left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from peftu.methods.history_model import Past, Reader, Side

ROWS = 1 << 13  # rows, filled up ones among them, of the users in a step
SEARCH = 12  # steps of the search for own weights in training; what is trained can do with less than the optimum
SEARCH_VAL = 25  # those where validation rows are read
VIEWS = 4  # histories by which validation rows are read: the whole, and others drawn once
EVERY, PATIENCE = 5, 3  # steps, a pass at least, between two looks at the validation rows; looks without a better one
WORTH = 1.0  # validation rows must become likelier by this much, in nats, or the mixed head stays as it was
NONE = 0.1  # share of drawn histories that are empty


@dataclass(frozen=True)
class Settings:
    """How a reader is trained.

    Attributes:
        steps: at most.
        rate: learning rate of the attention.
        shrink_rate: learning rate of the shrinkage.
        decay: of what attention adds to the scores.
        seed: of the draws.
    """

    steps: int
    rate: float
    shrink_rate: float
    decay: float
    seed: int


class Learned(NamedTuple):
    """What was trained; how much likelier it made the validation rows, in nats; and the steps it took."""

    reader: Reader
    nats: float
    steps: int


def learn(
    start: Reader, train: Sequence[Past], val: Sequence[Past], exclusive: bool, floor: float, how: Settings
) -> Learned:
    """Returns what makes answers for users whom a model never saw likelier; nothing, if that is not so.

    Args:
        start: what is trained.
        train: of each user, items that they are known by.
        val: of each user, items to stop by.
        exclusive: whether one label holds.
        floor: log-likelihood of all validation rows, given whole histories, that must be passed.
        how: it is trained.
    """
    batches = list(_batches(train, val))
    if not any(bool(asked.real.any()) for _, asked in batches):  # nothing tells what it is worth
        return Learned(start, 0.0, 0)
    draw = torch.Generator().manual_seed(how.seed)
    views = [[known.real, *(drawn(known, draw) for _ in range(VIEWS - 1))] for known, _ in batches]

    def misfits(reader: Reader) -> list[float]:
        """Returns how unlikely all validation rows are in each view."""
        total = [0.0] * VIEWS
        with torch.no_grad():
            for (known, asked), seen in zip(batches, views, strict=True):
                for view in range(VIEWS):
                    losses = _losses(reader.logits(known, asked, seen[view], exclusive, SEARCH_VAL), asked, exclusive)
                    total[view] += float(losses[asked.real].sum())
        return total

    first = misfits(start)
    reader = start.copied
    moving = {
        "shrinkage": (reader.shrinkage.gain, reader.shrinkage.scale),
        "looking": (reader.attention.query, reader.attention.key, reader.attention.null),
        "adding": (reader.attention.value,),
    }
    settings = {"shrinkage": (how.shrink_rate, 0.0), "looking": (how.rate, 0.0), "adding": (how.rate, how.decay)}
    groups = [
        {"params": [tensor.requires_grad_() for tensor in moving[name]], "lr": rate, "weight_decay": decay}
        for name, (rate, decay) in settings.items()
    ]
    optimiser = torch.optim.AdamW(groups)
    kept, best, since, done = start, first, 0, 0
    waiting: list[int] = []
    for done in range(1, how.steps + 1):
        waiting = waiting or torch.randperm(len(batches), generator=draw).tolist()
        known, _ = batches[waiting.pop()]
        seen = drawn(known, draw)
        judged = known.real & ~seen
        losses = _losses(reader.logits(known, known, seen, exclusive, SEARCH), known, exclusive)
        optimiser.zero_grad()
        (losses[judged].sum() / judged.sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if done % max(EVERY, len(batches)) == 0:
            now = misfits(reader)
            kept, best, since = (reader.copied, now, 0) if sum(now) < sum(best) else (kept, best, since + 1)
            if since == PATIENCE:
                break
    nats = (sum(first) - sum(best)) / VIEWS
    return Learned(kept, nats, done) if nats >= WORTH and -best[0] > floor else Learned(start, 0.0, done)


def drawn(side: Side, draw: torch.Generator) -> Tensor:
    """Returns [users, most] a history of each user, its size drawn log-uniformly; rows of one text stay together."""
    size = side.real.sum(1)
    most = (size - 1).clamp(min=0)
    count = torch.exp(torch.rand(len(size), generator=draw) * torch.log(most + 1.0)).long()
    count = torch.where(torch.rand(len(size), generator=draw) < NONE, 0, count.minimum(most))
    same = (side.text[:, :, None] == side.text[:, None, :]).int().argmax(2)
    place = torch.rand(side.real.shape, generator=draw).gather(1, same)
    place = torch.where(side.real, place, 2.0)
    last = place.sort(1).values.gather(1, (count - 1).clamp(min=0)[:, None])
    return side.real & (place <= last) & (count > 0)[:, None]


def _losses(logits: Tensor, side: Side, exclusive: bool) -> Tensor:
    """Returns [users, most] how unlikely the given labels are."""
    if exclusive:
        return -(logits.log_softmax(-1) * side.target).sum(-1)
    return binary_cross_entropy_with_logits(logits, side.target, reduction="none").sum(-1)


def _batches(train: Sequence[Past], val: Sequence[Past]) -> Iterator[tuple[Side, Side]]:
    """Yields both parts of all users with items, about as many items each, as many at once as `ROWS` allows."""
    octaves: dict[int, list[int]] = {}
    for user, past in enumerate(train):
        if len(past.text):
            octaves.setdefault(int(np.ceil(np.log2(len(past.text)))), []).append(user)
    for octave, members in sorted(octaves.items()):
        step = max(1, ROWS >> octave)
        for some in (members[first : first + step] for first in range(0, len(members), step)):
            yield Side.of([train[user] for user in some]), Side.of([val[user] for user in some])
