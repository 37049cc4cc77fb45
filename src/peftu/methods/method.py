"""What a method is: the two protocols, the card, and the registry.

A *module method* (LoRA, …) adds tensors to a frozen base, stacked over users; the same code trains and serves one
user or thousands. A *reference method* (majorities, mixed head) is fitted on the labels and frozen features directly.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from peftu.data.problem import Floats, Problem, Text

Numbers = npt.NDArray[np.integer]


class MethodCard(BaseModel):
    """What a reader must weigh when a method's number stands beside another's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    scope: Literal["none", "global", "user", "both"]  # whose parameters it has
    trained: bool
    uses_others_labels: bool  # does a user's prediction depend on other users' labels?
    needs_base: Literal["no", "optional", "yes"]
    source: str  # paper or origin


class Features(Protocol):
    """Frozen sentence features; a base model gives them."""

    def embed(self, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] one vector a text, the same for every user."""
        ...


class Fitted(Protocol):
    """A fitted reference method."""

    parameters_per_user: int
    notes: dict[str, object]  # choices made on validation data, counts worth reporting

    def scores(self, users: Numbers, texts: Numbers) -> Floats:
        """Returns [rows, labels] log-probabilities for pairs of user and text numbers of the problem."""
        ...


class ReferenceMethod(Protocol):
    """A method fitted on labels and, where it wants them, frozen features."""

    card: ClassVar[MethodCard]

    def fit(self, problem: Problem, features: Features | None, seed: int) -> Fitted:
        """Returns the method fitted on the train rows; choices are made on the val rows, test rows stay unread."""
        ...
