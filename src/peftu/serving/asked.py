"""What is asked of a method, and what is answered: pairs of users and texts, with who answered each."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from peftu.base.writing import Hear
from peftu.data.problem import Text

if TYPE_CHECKING:
    from peftu.serving.opened import Methods

OnMissing = Literal["error", "global", "base"]


@dataclass(frozen=True)
class Answerer:
    """Who answers for a user.

    Attributes:
        module: what answers, by content.
        fallback: what stands in for a module that the user does not have; None: nothing does.
    """

    module: str
    fallback: str | None = None


@dataclass
class Answered:
    """The answers to one request.

    Attributes:
        method: as in the run's table.
        rows: for each pair ``labels`` and ``p_LABEL``, or the ``answer``.
        answerers: user -> who answered.
        notes: what whoever asks must know.
    """

    method: str
    rows: list[dict[str, Any]]
    answerers: dict[str, Answerer]
    notes: list[str]

    def of(self, place: int, texts: int) -> list[dict[str, Any]]:
        """Returns the answers of the user at this place of a request, which has so many texts."""
        return self.rows[place * texts : (place + 1) * texts]


@dataclass
class Question:
    """One request's pairs.

    Attributes:
        method: as in the run's table.
        users: of each pair.
        texts: of each pair.
        on_missing: what becomes of users who are not known.
        temperature: of free answers.
        tokens: of a free answer at most; None: as many as the method's prompt allows.
        seed: of draws; None: the method's.
        first: place of the first pair in the request, by which draws go.
        hear: told, in another thread, of a pair and its answer as it is written.
        writes: whether free answers are asked for, and not labels.
        bare: whether the base without any module is asked.
        deadline: by `time.monotonic`.
        answer: what becomes of it.
    """

    method: str
    users: Sequence[str]
    texts: Sequence[Text]
    on_missing: OnMissing = "error"
    temperature: float = 0.0
    tokens: int | None = None
    seed: int | None = None
    first: int = 0
    hear: Hear | None = None
    writes: bool = False
    bare: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + 60)
    answer: "Future[Answered]" = field(default_factory=Future)

    @property
    def alike(self) -> tuple[Any, ...]:
        """Returns what questions that are read together have in common."""
        return self.method, self.writes, self.temperature, self.tokens, self.bare

    def __len__(self) -> int:
        return len(self.users)


@dataclass
class Errand:
    """Anything else that only the thread which owns the models may do.

    Attributes:
        work: what is done.
        deadline: by `time.monotonic`.
        answer: what becomes of it.
    """

    work: "Callable[[Methods], Any]"
    deadline: float = field(default_factory=lambda: time.monotonic() + 60)
    answer: "Future[Any]" = field(default_factory=Future)

    @property
    def alike(self) -> tuple[Any, ...]:
        """Returns what no other has."""
        return (id(self),)

    def __len__(self) -> int:
        return 1
