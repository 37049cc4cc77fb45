"""A guard: a personal method for users whose validation rows support it, and a fallback for the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftu.base.prompt import Prompt
from peftu.data.problem import Floats, Text
from peftu.fitted.fitted import Examples, Fitted, State, TaskAnswers
from peftu.lab.lab import Item, Lab
from peftu.plan import Job


class GuardedFitted(Fitted):
    """A fitted method around two others, which keep what is fitted.

    Args:
        inner: the guarded method.
        fallback: what answers for users whose validation rows do not support it.
        kept: users for whom the guarded method answers.
    """

    kind = "guarded"
    logits = False

    def __init__(
        self, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt,
        inner: Fitted, fallback: Fitted, kept: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(job, task, seed, lab, prompt)
        self.inner, self.fallback, self.kept = inner, fallback, set(kept)

    @property
    def around(self) -> dict[str, Fitted]:
        """Returns both methods."""
        return {"inner": self.inner, "fallback": self.fallback}

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users that both know, sorted."""
        known = set(self.inner.users)
        return tuple(sorted(known & set(self.fallback.users) if self.fallback.personal else known))

    def unknown(self, users: Sequence[str]) -> set[str]:
        """Returns those of the users that one of both does not know."""
        return self.inner.unknown(users) | (self.fallback.unknown(users) if self.fallback.personal else set())

    def knows(self, user: str) -> bool:
        """Returns whether anything here or in either method is a user's."""
        return user in self.kept or self.inner.knows(user) or self.fallback.knows(user)

    @property
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""
        return self.inner.parameters

    def _each(self, users: Sequence[str]) -> list[tuple[Fitted, list[int]]]:
        """Returns both methods with the places of the pairs that each answers."""
        sides = [user in self.kept for user in users]
        return [(f, [p for p, side in enumerate(sides) if side is k]) for f, k in self._sides() if k in sides]

    def _sides(self) -> tuple[tuple[Fitted, bool], tuple[Fitted, bool]]:
        return (self.inner, True), (self.fallback, False)

    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, labels] log-probabilities of whichever answers for the user."""
        out = np.zeros((len(items), self.prompt.columns), dtype=np.float32)
        for fitted, places in self._each(users):
            read = fitted.read([users[place] for place in places], [items[place] for place in places])
            out[places] = fitted.written(read)
        return out

    def readings(self, items: Sequence[Item]) -> dict[str, Floats]:
        """Returns nothing: either method is compared by itself."""
        return {}

    def named(self, users: Sequence[str], texts: Sequence[Text]) -> tuple[list[list[str]], Floats]:
        """Returns labels and probabilities of each pair, decided as whichever answers decides it."""
        self.check_users(users)
        named: list[list[str]] = [[] for _ in users]
        chances = np.zeros((len(users), len(self.task.labels)), dtype=np.float32)
        for fitted, places in self._each(users):
            own, chances[places] = fitted.named([users[p] for p in places], [texts[p] for p in places])
            for place, labels in zip(places, own, strict=True):
                named[place] = labels
        return named, chances

    def _enrol(self, user: str, train: Examples, val: Examples) -> None:
        """Enrols in both; the guarded method answers where it gets more of the held-out rows right."""
        for fitted, _ in self._sides():
            if fitted.personal:
                fitted._enrol(user, train, val)
        right = [self._right(fitted, user, val) for fitted, _ in self._sides()]
        self.kept = self.kept | {user} if right[0] > right[1] else self.kept - {user}

    def _right(self, fitted: Fitted, user: str, val: Examples) -> int:
        if not len(val):
            return 0
        scores = fitted.scores([user] * len(val), val.texts)
        return int((fitted.decide(scores) == (val.target > 0)).all(1).sum())

    def _forget(self, user: str) -> None:
        for fitted, _ in self._sides():
            if fitted.knows(user):
                fitted._forget(user)
        self.kept = self.kept - {user}

    def state(self) -> State:
        """Returns for whom the guarded method answers; both methods are kept beside it."""
        return State({"kept": sorted(self.kept)})

    @classmethod
    def of(
        cls, state: State, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, **beside: Any
    ) -> "GuardedFitted":
        """Returns the guard that `state` was taken of, around the methods passed as ``inner`` and ``fallback``."""
        return cls(job, task, seed, lab, prompt, beside["inner"], beside["fallback"], state.about["kept"])
