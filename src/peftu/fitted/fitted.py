"""What every fitted method gives, whatever its kind."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.answers import Answers, Kind, answers_of
from peftu.bank import derived_seed
from peftu.base.prompt import Prompt
from peftu.base.writing import Hear
from peftu.data.problem import Floats, Text
from peftu.data.stratify import hashed
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.lab.lab import Item, Lab
from peftu.plan import Job
from peftu.registry import did_you_mean

PAIRS = 4096  # pairs of user and text that are scored at once: what is held in memory does not grow with a file
HELD_OUT = 10  # of so many examples of a newcomer, one is held out to stop training by

Labels = tuple[str, ...]
Example = tuple[Text | str, str | Sequence[str]]  # a text, and the label, the labels or the free answer it was given


class TaskAnswers(NamedTuple):
    """What the answers of a task are."""

    name: str
    kind: Kind
    labels: Labels
    words: Labels
    metric: str = ""  # what is decided by; none: kept by an earlier release

    @property
    def answers(self) -> Answers:
        """Returns the kind of answer."""
        return answers_of(self.kind, self.metric)

    @classmethod
    def of(cls, card: TaskCard) -> "TaskAnswers":
        """Returns the answers of a task."""
        words = card.verbalisations if card.labels else ()
        return cls(card.name, card.kind, card.labels, words, card.main_metric)


@dataclass
class State:
    """A fitted method at rest.

    Attributes:
        about: JSON values.
        tensors: by name; rows of users stand in the order of ``about['users']``.
    """

    about: dict[str, Any]
    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """One user's labelled texts.

    Attributes:
        items: texts, with the free answers where answers are such.
        target: [items, labels] 1.0 where the label was given; [items, 0] for free answers.
    """

    items: tuple[Item, ...]
    target: Floats

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> list[Text]:
        """Returns the texts."""
        return [text for text, _ in self.items]

    def some(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """Returns those of the items that are chosen."""
        return Examples(tuple(self.items[place] for place in np.flatnonzero(chosen)), self.target[chosen])


class Fitted(ABC):
    """A fitted method: asked about any text, given new users, kept and opened again.

    Args:
        job: the method with its knobs, base, region and train settings.
        task: its answers.
        seed: of the fit.
        lab: bases, contexts and embeddings.
        prompt: what a base is told.
        notes: choices made on validation rows, counts.
    """

    kind: ClassVar[str]
    logits: ClassVar[bool] = True  # where several labels may hold, a read gives logits and not log-probabilities

    def __init__(
        self, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, notes: dict[str, Any] | None = None
    ) -> None:
        self.job, self.task, self.seed, self.lab, self.prompt = job, task, seed, lab, prompt
        self.notes: dict[str, Any] = notes or {}
        self.folder: Path | None = None  # where it lies, if it does: what is changed is kept there
        self.revision = ""  # which of the states that were kept there it is
        self.fitted_in: dict[str, Any] | None = None  # where it was fitted and how it read there, if it was opened
        self.remarks: list[str] = []  # what whoever asks it must know
        self.thresholds: Floats | None = None  # [labels], where several may hold; else the best label is named

    @property
    def label(self) -> str:
        """Returns the method with its knobs and base, as in the run's table."""
        return self.job.full_label

    @property
    def around(self) -> "dict[str, Fitted]":
        """Returns role -> the fitted methods that it is made around; they are kept beside it, or in its folder."""
        return {}

    # --- users ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users it knows, sorted."""

    @property
    def personal(self) -> bool:
        """Returns whether users have something of their own in it; if not, everybody is answered alike."""
        return True

    @abstractmethod
    def _enrol(self, user: str, train: Examples, val: Examples) -> None: ...

    @abstractmethod
    def _forget(self, user: str) -> None: ...

    def unknown(self, users: Sequence[str]) -> set[str]:
        """Returns those of the users that it does not know."""
        return set(users) - set(self.users)

    def knows(self, user: str) -> bool:
        """Returns whether anything in it is a user's, if only their key."""
        return not self.unknown([user])

    def enrol(self, user: str, examples: Sequence[Example], val: Sequence[Example] | None = None) -> None:
        """Takes in a user, or a known one anew; everybody else stays as they are, byte for byte.

        Args:
            user: the user's key.
            examples: labelled texts, at least one.
            val: held out, to stop training by; None: one of ten of the examples, drawn by hash.

        Raises:
            PeftuError: no examples, a label that is not of the task, an empty key, or a method without users.
        """
        if not self.personal:
            raise PeftuError(f"enrol: {self.label} answers everybody alike — enrol in a personal method")
        if not user:
            raise PeftuError("enrol: the user's key is empty — pass a key")
        held_out: Sequence[Example] = () if val is None else val
        if val is None:
            order = sorted(range(len(examples)), key=lambda place: hashed(self.seed, "enrol", user, place))
            chosen = set(order[: len(examples) // HELD_OUT])
            held_out = [example for place, example in enumerate(examples) if place in chosen]
            examples = [example for place, example in enumerate(examples) if place not in chosen]
        if not examples:
            raise PeftuError(f"enrol: {self.label} needs at least 1 labelled text, got 0 — pass more examples")
        self._enrol(user, self._examples(examples), self._examples(held_out))
        self._keep()

    def forget(self, user: str) -> None:
        """Drops all that belongs to a user; everybody else stays as they are, byte for byte.

        Raises:
            PeftuError: the user is not known.
        """
        if not self.knows(user):
            raise PeftuError(f"{self.label}: the asked user is not known here — nothing is deleted")
        self._forget(user)
        self._keep()

    def save(self, folder: Path | str) -> Path:
        """Returns the folder that now holds this fitted method; see `peftu.fitted.folder`."""
        from peftu.fitted.folder import save

        return save(self, Path(folder))

    def export(self, user: str, folder: Path | str) -> Path:
        """Returns the folder that now holds a user's module as peft writes it.

        Raises:
            PeftuError: the user is not known, or the method has no modules that peft knows.
        """
        raise PeftuError(f"export: {self.label} has no module of a kind that peft knows")

    def _keep(self) -> None:
        """Writes what is not in a store of modules to the folder, where there is one."""
        if self.folder is not None:
            from peftu.fitted.folder import keep

            keep(self)

    def check_users(self, users: Sequence[str]) -> None:
        """Checks that every user is known.

        Raises:
            PeftuError: one is not: nobody answers in their place.
        """
        if self.personal and (unknown := self.unknown(users)):
            who = "the asked user has" if len(set(users)) == 1 else f"{len(unknown)} of {len(set(users))} users have"
            raise PeftuError(f"{self.label}: {who} no module here — enrol them first")

    def _examples(self, examples: Sequence[Example]) -> Examples:
        labels = {label: place for place, label in enumerate(self.task.labels)}
        target = np.zeros((len(examples), len(labels)), dtype=np.float32)
        items: list[Item] = []
        for row, (text, given) in enumerate(examples):
            words = [given] if isinstance(given, str) else list(given)
            text = Text(text) if isinstance(text, str) else text
            if not self.task.answers.labelled:
                items.append((text, words[0]))
                continue
            items.append((text, None))
            if not words or (self.task.answers.exclusive and len(words) > 1):
                raise PeftuError(f"enrol: example {row + 1} has {len(words)} labels — give one")
            for label in words:
                if label not in labels:
                    raise PeftuError(f"enrol: example {row + 1}: unknown label '{label}'{did_you_mean(label, labels)}")
                target[row, labels[label]] = 1
        return Examples(tuple(items), target)

    def readings(self, items: Sequence[Item]) -> dict[str, Floats]:
        """Returns how these items are read, in numbers that are compared where it is opened elsewhere.

        Here the similarities [items, items] of its base's vectors.
        """
        vectors = self.lab.embed(str(self.job.base), self.prompt, [text for text, _ in items])
        return {"vectors": vectors @ vectors.T}

    # --- answers --------------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, labels] scores as training sees them; of free answers [pairs, 2] log-likelihood and tokens.

        They are log-probabilities, or a logit a label where several may hold and `logits` says so.
        """

    def scores(self, users: Sequence[str], texts: Sequence[Text], answers: Sequence[str] = ()) -> Floats:
        """Returns [pairs, labels] log-probabilities, any texts; where several labels may hold, each label's own.

        Of free answers: [pairs, 2] the log-likelihood of the answers passed, and their number of tokens.

        Raises:
            PeftuError: a user is not known, or the numbers are not finite.
        """
        self.check_users(users)
        items: list[Item] = list(zip(texts, answers or repeat(None, len(texts)), strict=True))
        number = {item: place for place, item in enumerate(dict.fromkeys(items))}
        order = sorted(range(len(items)), key=lambda pair: number[items[pair]])  # a text's pairs share its prefill
        read = np.zeros((len(items), self.prompt.columns), np.float32)
        for first in range(0, len(items), PAIRS):
            pairs = order[first : first + PAIRS]
            read[pairs] = self.read([users[pair] for pair in pairs], [items[pair] for pair in pairs])
        return self.written(read)

    def written(self, read: Floats) -> Floats:
        """Returns scores as they are written down, given them as they are read."""
        return np.asarray(self.task.answers.written(read), np.float32) if self.logits else read

    def write(
        self,
        users: Sequence[str],
        texts: Sequence[Text],
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
        hear: Hear | None = None,
    ) -> list[str]:
        """Returns a free answer to each text; ``hear`` is told of a pair's number and of its answer as it is written.

        Raises:
            PeftuError: the method chooses among labels.
        """
        raise PeftuError(f"{self.label}: chooses among labels and writes nothing — ask for its labels")

    def decide(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """Returns [pairs, labels] which labels are named, given `scores`."""
        return self.task.answers.decide(scores, self.thresholds)

    def predict(self, user: str, texts: Sequence[Text | str]) -> pl.DataFrame:
        """Returns a row a text: ``text``, ``label`` (``labels`` where several may hold) and ``p_LABEL`` for each label.

        Of free answers: ``text`` and ``answer``.

        Raises:
            PeftuError: the user is not known.
        """
        plain = [Text(text) if isinstance(text, str) else text for text in texts]
        return self.answered([user] * len(plain), plain)

    def predict_many(self, frame: Any) -> pl.DataFrame:
        """Returns the answers for a frame (polars or pandas) with columns ``user``, ``text`` and perhaps ``context``.

        Raises:
            PeftuError: no such frame, a column is missing, a user is null or not known.
        """
        from peftu.data.importer.frame import as_polars, column_names

        columns = column_names(frame, "predict")
        for column in ("user", "text"):
            if column not in columns:
                raise PeftuError(f"predict: no column '{column}' — pass columns user and text")
        pairs = as_polars(frame, [name for name in ("user", "text", "context") if name in columns], Path("predict"))
        for column in ("user", "text"):
            if pairs[column].null_count():
                row = pairs[column].is_null().arg_true()[0] + 1
                raise PeftuError(f"predict: column '{column}' is empty in row {row} — fill it in, or drop the row")
        contexts = pairs["context"].to_list() if "context" in pairs.columns else [None] * len(pairs)
        texts = [Text(str(text), context) for text, context in zip(pairs["text"], contexts, strict=True)]
        users = pairs["user"].cast(pl.String).to_list()
        return self.answered(users, texts).insert_column(0, pl.Series("user", users, pl.String))

    def answered(
        self, users: Sequence[str], texts: Sequence[Text], temperature: float = 0.0, first: int = 0
    ) -> pl.DataFrame:
        """Returns a row a pair; see `predict`. Draws go by a pair's place; ``first`` is that of the first pair."""
        frame = pl.DataFrame({"text": pl.Series([text.text for text in texts], dtype=pl.String)})
        if not self.task.answers.labelled:
            self.check_users(users)
            seeds = [derived_seed(self.seed, "draw", str(first + place)) for place in range(len(texts))]
            return frame.with_columns(answer=pl.Series(self.write(users, texts, temperature, seeds), dtype=pl.String))
        if temperature:
            raise PeftuError("predict: labels are not drawn — leave --temperature out")
        named, chances = self.named(users, texts)
        chosen = (
            pl.Series("labels", named, pl.List(pl.String))
            if not self.task.answers.exclusive
            else pl.Series("label", [row[0] for row in named], pl.String)
        )
        columns = zip(self.task.labels, chances.T, strict=True)
        return frame.with_columns(chosen, *(pl.Series(f"p_{label}", chance, pl.Float32) for label, chance in columns))

    def named(self, users: Sequence[str], texts: Sequence[Text]) -> tuple[list[list[str]], Floats]:
        """Returns the labels that are named for each pair, and [pairs, labels] the probability of each.

        Raises:
            PeftuError: as `scores`.
        """
        scores = self.scores(users, texts)
        if not np.isfinite(scores).all():
            raise PeftuError(f"{self.label}: the module's numbers are too large to answer with — train or import again")
        labels = np.array(self.task.labels, dtype=object)
        return [labels[row].tolist() for row in self.decide(scores)], np.exp(scores)

    # --- cost and rest --------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""

    @abstractmethod
    def state(self) -> State:
        """Returns all of it that is not the lab's, apart from what `about` of `peftu.fitted.folder` says of any."""

    @classmethod
    @abstractmethod
    def of(
        cls, state: State, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, **beside: Any
    ) -> "Fitted":
        """Returns the fitted method that `state` was taken of, given what is kept beside it: rows, or other methods."""
