"""Methods fitted on labels and frozen features: majorities, mixed head."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftu.base.prompt import Prompt
from peftu.data.problem import Floats, Problem
from peftu.errors import PeftuError
from peftu.fitted.fitted import Examples, Fitted, State, TaskAnswers
from peftu.lab.lab import Item, Lab
from peftu.plan import Job

MEMBERS = ("notes", "parameters_per_user", "scores", "enrol", "forget", "state")  # of `FittedReference`


class ReferenceFitted(Fitted):
    """A reference method: numbers for each user, and what all share.

    Args:
        model: the fitted method (`peftu.methods.method.FittedReference`).
        users: keys, in the order of its numbers.
    """

    kind = "reference"
    logits = False

    def __init__(
        self, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, model: Any, users: Sequence[str]
    ) -> None:
        super().__init__(job, task, seed, lab, prompt, dict(model.notes))
        self.model, self._users = model, list(users)
        self._number = {user: number for number, user in enumerate(users)}

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users it knows, sorted."""
        return tuple(sorted(self._users))

    @property
    def personal(self) -> bool:
        """Returns whether users have numbers of their own."""
        return self.job.card.scope in ("user", "both")

    @property
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""
        return int(self.model.parameters_per_user)

    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, labels] log-probabilities."""
        if not items:
            return np.zeros((0, self.prompt.columns), dtype=np.float32)
        numbers = np.array([self._number.get(user, 0) for user in users], dtype=np.int64)
        scores: Floats = self.model.scores(numbers, [text for text, _ in items])
        return scores

    def with_user(self, user: str, examples: Examples) -> "ReferenceFitted":
        """Returns this with a user fitted to these examples; this one itself stays as it is."""
        other = self._copied()
        other._enrol(user, examples, examples.some(np.zeros(len(examples), dtype=bool)))
        return other

    def without_user(self, user: str) -> "ReferenceFitted":
        """Returns this without a user; this one itself stays as it is."""
        other = self._copied()
        other._forget(user)
        return other

    def _copied(self) -> "ReferenceFitted":
        other = copy.copy(self)
        other.model, other._users, other._number = copy.copy(self.model), [*self._users], {**self._number}
        return other

    def _enrol(self, user: str, train: Examples, val: Examples) -> None:
        # Nothing is chosen on held-out rows for one user: all of them are learned from.
        texts, target = [*train.texts, *val.texts], np.concatenate([train.target, val.target])
        number = self.model.enrol(self._number.get(user), texts, target)
        if user not in self._number:
            self._users.append(user)
            self._number[user] = number

    def _forget(self, user: str) -> None:
        number = self._number[user]
        self.model.forget(number)
        del self._users[number]
        self._number = {key: place for place, key in enumerate(self._users)}

    def state(self) -> State:
        """Returns the method's own state, and whose its numbers are."""
        tensors, about = self.model.state()
        return State({"users": self._users if self.personal else [], "model": about}, tensors)

    @classmethod
    def of(
        cls, state: State, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, **beside: Any
    ) -> "ReferenceFitted":
        """Returns the fitted method that `state` was taken of."""
        features = None if job.base is None else lab.features(job.base, prompt)
        model = job.method.restore(state.tensors, state.about["model"], features)
        return cls(job, task, seed, lab, prompt, model, state.about["users"])


def fit_reference(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> tuple[ReferenceFitted, None]:
    """Returns a reference method fitted on a problem's train rows, and that it has no modules.

    Raises:
        PeftuError: what another package's method fits lacks what is called later, when answers were waited for.
    """
    features = None if job.base is None else lab.features(job.base, prompt)
    model = job.method.fit(problem, features, seed)
    if missing := [name for name in MEMBERS if not hasattr(model, name)]:
        mend = "add them (see FittedReference in peftu.methods.method)"
        raise PeftuError(f"method {job.card.name}: what it fits has no {', '.join(missing)} — {mend}")
    return ReferenceFitted(job, TaskAnswers.of(problem.card), seed, lab, prompt, model, problem.users), None
