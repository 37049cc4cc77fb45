"""A task after its split, as arrays: what every method sees, the same users and the same rows for all."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from peftu.data.task import TaskCard

PARTS = ("train", "val", "test")
PART_NAMES = {part: part for part in PARTS} | {"dev": "val", "valid": "val", "validation": "val", "eval": "val"}
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def part_named(name: str) -> str | None:
    """Returns the part of a split that publishers call so ('dev', 'Test'), or None."""
    return PART_NAMES.get(name.strip().casefold())


class Text(NamedTuple):
    """What is judged: a text and, for replies, what it answers."""

    text: str
    context: str | None = None


@dataclass(frozen=True)
class Problem:
    """Rows of judgements over numbered users and numbered distinct texts.

    Attributes:
        card: the task's card.
        users: user keys; a user's number is the place in this tuple (sorted by key).
        texts: distinct texts; a text's number is the place in this tuple.
        item_ids: item key of each row, length N.
        user: [N] number of the user who judged.
        text: [N] number of the text judged.
        part: [N] place in PARTS.
        target: [N, labels] 1.0 where the user gave that label (one-hot unless the kind is 'multi').
        split_hash: 'sha256:…' of the split these rows come from.
        answers: what the user wrote, length N, where the kind is 'text' (target then has no columns); else empty.
    """

    card: TaskCard
    users: tuple[str, ...]
    texts: tuple[Text, ...]
    item_ids: tuple[str, ...]
    user: Ints
    text: Ints
    part: npt.NDArray[np.int8]
    target: Floats
    split_hash: str
    answers: tuple[str, ...] = ()

    def rows(self, part: str, user: int | None = None) -> npt.NDArray[np.int64]:
        """Returns the row numbers of a part, in order, for one user or for all."""
        chosen = self.part == PARTS.index(part)
        if user is not None:
            chosen &= self.user == user
        return np.flatnonzero(chosen)

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """Returns [N] the label's place in the label set (single and ordinal kinds)."""
        return np.asarray(self.target.argmax(1), dtype=np.int64)
