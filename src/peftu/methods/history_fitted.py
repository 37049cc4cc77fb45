"""A fitted `history`: a mixed head whose users are known by their items, and how a newcomer's are taken in."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_expit, log_softmax

from peftu.answers import log_odds
from peftu.data.problem import Floats, Text
from peftu.methods.history_model import Attention, Float32, Past, Reader, Shrinkage, Side
from peftu.methods.method import Features, Numbers
from peftu.methods.mixed_fitted import FittedMixedHead, digest
from peftu.methods.mixed_model import USER_PARTS, MixedModel, Reals

NOBODY = -1  # the leaf of a newcomer: everybody's model itself, which never saw their labels
STEPS = 100  # of the search for own weights that stay
OURS = "history."
CERTAIN = 1e-12  # of a log-probability


class FittedHistory(FittedMixedHead):
    """A fitted `history`.

    Args:
        head: the mixed head that it stands on.
        leaves: models of what all share, each fitted without some of the users.
    """

    def __init__(self, head: FittedMixedHead, leaves: Sequence[MixedModel]) -> None:
        vars(self).update(vars(head))
        self.whole = copy.copy(head)  # what all share, as the head has it
        self.whole.model = head.model.shared
        self.leaves = [copy.copy(head) for _ in leaves]
        for leaf, model in zip(self.leaves, leaves, strict=True):
            leaf.model = model
        self.reader: Reader | None = None  # None: nothing was learned that the head cannot say
        self.leaf: list[int] = []  # which of the leaves never saw a user's labels
        self.past: list[Past] = []

    def read_by(self, reader: Reader, leaf: Numbers, past: Sequence[Past]) -> None:
        """Reads all users by their items from now on.

        Args:
            reader: what was learned.
            leaf: [users] which of the leaves never saw a user's labels.
            past: each user's items.
        """
        self.reader, self.leaf, self.past = reader, leaf.tolist(), list(past)
        gain = float(reader.shrinkage.gain.exp())
        parts = {name: gain * values for name, values in self.whole.model.parts.items() if name not in USER_PARTS}
        known = Side.of(self.past)
        self.model = replace(self.model, parts={**parts, **self._own(known)})

    def _own(self, known: Side) -> dict[str, Reals]:
        """Returns users' own weights, fitted to their items."""
        assert self.reader is not None  # noqa: S101
        with torch.no_grad():
            weights = self.reader.weights(known, known.real, self.model.link == "softmax", STEPS)
        found = self.reader.shrinkage.parts(weights)
        return {name: values if getattr(self.priors, name) else values[:0] for name, values in found.items()}

    def scores(self, users: Numbers, texts: Sequence[Text]) -> Floats:
        """Returns [pairs, labels] log-probabilities; attention does not look at a judged text itself."""
        scores, asked = self.read(users, texts)
        if self.reader is None or not bool(self.reader.attention.value.any()):
            return scores.astype(np.float32)
        added = self.added(np.asarray(users), texts, asked.astype(np.float32))
        if self.model.link == "softmax":
            return np.asarray(log_softmax(scores + added, axis=1), np.float32)
        return np.asarray(log_expit(log_odds(scores, CERTAIN) + added), np.float32)

    def added(self, users: Numbers, texts: Sequence[Text], asked: Float32) -> Float32:
        """Returns [pairs, labels] what attention adds, given the texts' features [pairs, directions].

        Each user is read alone, so that nobody's bits depend on who else is asked about.
        """
        assert self.reader is not None  # noqa: S101
        attention, exclusive = self.reader.attention, self.model.link == "softmax"
        added = np.zeros((len(users), attention.value.shape[-1]), np.float32)
        number = {text: _number(text) for text in dict.fromkeys(texts)}
        judged = torch.tensor([number[text] for text in texts])
        order = np.argsort(users, kind="stable")
        _, first = np.unique(users[order], return_index=True)
        for pairs in np.split(order, first[1:]) if len(order) else ():
            known = Side.of([self.past[users[pairs[0]]]])
            seen = known.text[:, None] != judged[None, pairs, None]
            asked_by = torch.from_numpy(asked[pairs])[None]
            added[pairs] = attention(asked_by, known.shown, known.surprise(exclusive), seen)[0].numpy()
        return added

    def taken(self, leaf: int, texts: Sequence[Text], target: Floats) -> Past:
        """Returns labelled texts as they are read, given the leaf that never saw these labels."""
        head = self.whole if leaf == NOBODY else self.leaves[leaf]
        model, numbers = head._reading(texts)
        shared = model.logits(np.zeros_like(numbers), numbers)
        values = (model.features.personal[numbers], shared, shared - model.parts["intercept"], target)
        return Past(
            np.array([_number(text) for text in texts], np.int64), *(np.asarray(each, np.float32) for each in values)
        )

    def pasts(self, leaf: Numbers, users: Numbers, texts: Sequence[Text], target: Floats) -> list[Past]:
        """Returns each user's rows as they are read, given the user, text and labels of all of them."""
        past: dict[int, Past] = {}
        for number in np.unique(leaf):
            members = np.flatnonzero(leaf == number)
            rows = np.flatnonzero(np.isin(users, members))
            rows = rows[np.argsort(users[rows], kind="stable")]
            whole = self.taken(int(number), [texts[row] for row in rows.tolist()], target[rows])
            ends = np.searchsorted(users[rows], members, "right")[:-1]
            columns = (np.split(values, ends) for values in whole)
            past |= {int(user): Past(*values) for user, *values in zip(members, *columns, strict=True)}
        return [past[user] for user in range(len(leaf))]

    def enrol(self, user: int | None, texts: Sequence[Text], target: Floats) -> int:
        """Returns the number of the user whose items these are now; nothing is trained, all else stays as it is."""
        if self.reader is None:
            return super().enrol(user, texts, target)
        number, leaf = (len(self.past), NOBODY) if user is None else (user, self.leaf[user])
        past = self.taken(leaf, texts, target)
        self.past = [*self.past[:number], past, *self.past[number + 1 :]]
        self.leaf = [*self.leaf[:number], leaf, *self.leaf[number + 1 :]]
        parts = dict(self.model.parts)
        for name, values in self._own(Side.of([past])).items():
            if len(values):
                parts[name] = np.concatenate([parts[name][:number], values, parts[name][number + 1 :]])
        self.model = replace(self.model, parts=parts)
        return number

    def forget(self, user: int) -> None:
        """Drops a user's weights and items; the numbers of later users fall by one."""
        super().forget(user)
        if self.reader is not None:
            self.past = [*self.past[:user], *self.past[user + 1 :]]
            self.leaf = [*self.leaf[:user], *self.leaf[user + 1 :]]

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns named tensors, and JSON values, that `of` makes the same of; texts are numbers in it."""
        tensors, about = super().state()
        if self.reader is None:
            return tensors, about
        shared = {"whole": self.whole, **{str(number): leaf for number, leaf in enumerate(self.leaves)}}
        ours: dict[str, npt.NDArray[Any]] = {
            **{f"reader.{name}": tensor.numpy() for part in self.reader for name, tensor in vars(part).items()},
            **{f"{key}.{name}": values for key, head in shared.items() for name, values in head.model.parts.items()},
            "leaf": np.array(self.leaf, np.int64),
            "items": np.array([len(past.text) for past in self.past], np.int64),
            **{f"past.{name}": np.concatenate([getattr(past, name) for past in self.past]) for name in Past._fields},
        }
        return {**tensors, **{f"{OURS}{name}": values for name, values in ours.items()}}, about

    @classmethod
    def of(
        cls, method: Any, tensors: Mapping[str, npt.NDArray[Any]], about: dict[str, Any], features: Features | None
    ) -> "FittedHistory":
        """Returns what `state` was taken of."""
        ours = {name.removeprefix(OURS): values for name, values in tensors.items() if name.startswith(OURS)}
        head = FittedMixedHead.of(
            method, {name: values for name, values in tensors.items() if not name.startswith(OURS)}, about, features
        )
        if not ours:
            return cls(head, [])

        def shared(key: str) -> MixedModel:
            return replace(head.model, parts={name: ours[f"{key}.{name}"] for name in head.model.parts})

        fitted = cls(head, [shared(str(number)) for number in range(method.folds)])
        fitted.whole.model = shared("whole")
        made = {name: torch.from_numpy(ours[f"reader.{name}"].copy()) for name in READ}
        fitted.reader = Reader(*(kind(**{name: made[name] for name in names}) for kind, names in KINDS.items()))
        fitted.leaf = ours["leaf"].tolist()
        ends = np.cumsum(ours["items"])[:-1]
        columns = (np.split(ours[f"past.{name}"], ends) for name in Past._fields)
        fitted.past = [Past(*values) for values in zip(*columns, strict=True)]
        return fitted


KINDS: dict[Any, list[str]] = {kind: [field.name for field in fields(kind)] for kind in (Shrinkage, Attention)}
READ = [name for names in KINDS.values() for name in names]


def _number(text: Text) -> int:
    """Returns what a text is known by among a user's items."""
    return int(digest(text)[:15], 16)
