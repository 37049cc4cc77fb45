"""The search for the priors of a mixed model: the strengths that make the validation rows likeliest."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftu.data.stratify import hashed
from peftu.methods.mixed_features import TextFeatures
from peftu.methods.mixed_fit import fit_mixed
from peftu.methods.mixed_model import Data, MixedModel, Numbers, Priors

LADDER = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
WORTH = 1.0  # a rung must make the val rows likelier by this much, or it only follows their noise
PASSES = 3
SEARCH_TOLERANCE = 1e-8
SEARCH_USERS = 1000  # six strengths are told apart by so many; more users make the search dearer, and no better


def likeliest_priors(train: Data, val: Data, given: Mapping[str, float]) -> tuple[Priors, int]:
    """Returns the priors that make the val rows likeliest, and how many were tried.

    Each prior in turn climbs up or else down a ladder of strengths while a rung is worth it, until none is.

    Args:
        train: rows to fit on.
        val: rows to choose by; where there are none, the first priors are taken.
        given: strengths that are not searched.
    """
    useless = {
        "embedding": not train.features.embedding.size,
        "tfidf": not train.features.tfidf.shape[1],
        "deviation": not train.features.personal.size,
    }
    fixed = {**given, **{name: 0.0 for name, missing in useless.items() if missing}}
    free = [name for name in Priors.model_fields if name not in fixed]
    first = Priors(**fixed)
    if not len(val.user) or not free:
        return first, 0
    climb = _Climb(train, val)
    best = climb.try_out(first)
    for _ in range(PASSES):
        before = best
        for name in free:
            higher = climb.along(best, name, 1)
            best = climb.along(best, name, -1) if higher is best else higher
        if best is before:
            break
    return best.priors, len(climb.tried)


def searched(train: Data, val: Data, users: Sequence[str]) -> tuple[Data, Data]:
    """Returns the rows that the search looks at: everyone's, or those of `SEARCH_USERS` drawn by hash of their keys.

    Args:
        train: rows to fit on.
        val: rows to choose by, over the same texts and users.
        users: their keys.
    """
    if len(users) <= SEARCH_USERS:
        return train, val
    drawn = sorted(range(len(users)), key=lambda user: (hashed("priors", users[user]), users[user]))
    chosen = np.sort(drawn[:SEARCH_USERS])
    kept = [np.isin(data.user, chosen) for data in (train, val)]
    texts = np.unique(np.concatenate([data.text[rows] for data, rows in zip((train, val), kept, strict=True)]))
    features = TextFeatures(*(getattr(train.features, f.name)[texts] for f in dataclasses.fields(TextFeatures)))
    first, second = (_of(data, rows, chosen, texts, features) for data, rows in zip((train, val), kept, strict=True))
    return first, second


def _of(data: Data, rows: npt.NDArray[np.bool_], users: Numbers, texts: Numbers, features: TextFeatures) -> Data:
    """Returns some rows, over their own users and texts, both sorted."""
    return dataclasses.replace(
        data,
        features=features,
        users=len(users),
        user=np.searchsorted(users, data.user[rows]),
        text=np.searchsorted(texts, data.text[rows]),
        target=data.target[rows],
    )


class _Tried(NamedTuple):
    """Priors, the model fitted with them, and how likely it makes the val rows."""

    priors: Priors
    model: MixedModel
    likelihood: float


class _Climb:
    """The search for priors, and what it has tried."""

    def __init__(self, train: Data, val: Data) -> None:
        self.train, self.val = train, val
        self.tried: set[Priors] = set()

    def try_out(self, priors: Priors, start: MixedModel | None = None) -> _Tried:
        """Returns what these priors reach."""
        self.tried.add(priors)
        model = fit_mixed(self.train, priors, SEARCH_TOLERANCE, start)
        return _Tried(priors, model, model.log_likelihood(self.val))

    def along(self, best: _Tried, name: str, step: int) -> _Tried:
        """Returns the best found when one prior moves up or down the ladder while that is worth it."""
        while (priors := _moved(best.priors, name, step)) is not None and priors not in self.tried:
            reached = self.try_out(priors, best.model)
            if reached.likelihood < best.likelihood + WORTH:
                break
            best = reached
        return best


def _moved(priors: Priors, name: str, step: int) -> Priors | None:
    """Returns the priors with one of them a rung up or down; None at the ladder's end."""
    rung = LADDER.index(getattr(priors, name)) + step
    return priors.model_copy(update={name: LADDER[rung]}) if 0 <= rung < len(LADDER) else None
