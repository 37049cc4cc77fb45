"""Prompting methods: each pair's prompt composed, made to fit, and read by the base in a stream of batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np

from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.reading import clipped, prompt_tokens, reading_limit
from peftu.base.region import Region
from peftu.base.writing import Hear, write
from peftu.data.problem import Floats, Problem, Text
from peftu.fitted.fitted import Examples, Fitted, State, TaskAnswers
from peftu.generate import generate
from peftu.lab.lab import Item, Lab, prefill
from peftu.methods.composing import Answered, Composed, Composer, Past
from peftu.plan import Job
from peftu.predict import score

CHUNK = 256  # texts read at once: their last layer's states are all that is held
LAST_LAYER = Region(depth=1, span="answer")

Groups = dict[Prompt, dict[Item, list[int]]]  # prompt -> item -> places among the pairs


@dataclass(frozen=True)
class LabTools:
    """What a prompting method may ask of bases (`peftu.methods.composing.Tools`)."""

    lab: Lab
    base: FrozenBase
    prompt: Prompt

    def embed(self, base: str, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] unit sentence vectors of a base of that name."""
        return self.lab.embed(base, self.prompt, texts)

    def write(self, instruction: str, text: str, tokens: int) -> str:
        """Returns what the base that answers writes when told this."""
        limit = reading_limit(self.base)
        return write(self.base, instruction, text if limit is None else self._head(text, limit // 2), tokens)

    def _head(self, text: str, tokens: int) -> str:
        return clipped(self.base, [Text(text)], tokens)[0]


class PromptedFitted(Fitted):
    """A prompting method: what every user has judged so far.

    Args:
        past: each user's train items.
    """

    kind = "prompted"

    def __init__(self, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, past: Past) -> None:
        super().__init__(job, task, seed, lab, prompt)
        self.past = dict(zip(past.users, past.items, strict=True))

    @property
    def base(self) -> FrozenBase:
        """Returns the base."""
        return self.lab.base(cast(str, self.job.base))

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users it knows, sorted."""
        return tuple(sorted(self.past))

    @property
    def parameters(self) -> int:
        """Returns 0: nothing is trained."""
        return 0

    @cached_property
    def composer(self) -> Composer:
        """Returns what composes the prompts of the users as they are now.

        Raises:
            PeftuError: the base cannot be prompted.
        """
        reading_limit(self.base)
        past = Past(tuple(self.past), tuple(self.past.values()), self.task.words)
        composer: Composer = self.job.method.composer(past, LabTools(self.lab, self.base, self.prompt), self.seed)
        return composer

    def _take(self, past: dict[str, tuple[Answered, ...]]) -> None:
        """Takes this as everybody's past; prompts are composed anew when they are next needed."""
        self.past = past
        self.__dict__.pop("composer", None)

    def groups(self, users: Sequence[str], items: Sequence[Item]) -> tuple[Groups, int]:
        """Returns the pairs by the prompt that they are read with, and how many demonstrations found no room."""
        number = {user: place for place, user in enumerate(self.past)}
        composed: dict[Composed, dict[Item, list[int]]] = {}
        for place, (user, item) in enumerate(zip(users, items, strict=True)):
            prompt_parts = self.composer(number[user], item[0])
            composed.setdefault(prompt_parts, {}).setdefault(item, []).append(place)
        groups: Groups = {}
        dropped = 0
        for prompt_parts, places in composed.items():
            prompt, left_out = fitting(self.base, self.prompt, prompt_parts)
            dropped += left_out * sum(map(len, places.values()))
            for item, pairs in places.items():
                groups.setdefault(prompt, {}).setdefault(item, []).extend(pairs)
        return groups, dropped

    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, columns] readings; equal prompts are read once, and what stands before a text is shared."""
        return self.measured(users, items)[0]

    def measured(self, users: Sequence[str], items: Sequence[Item]) -> tuple[Floats, dict[str, Any]]:
        """Returns what `read` does, and counts."""
        groups, dropped = self.groups(users, items)
        out = np.empty((len(items), self.prompt.columns), dtype=np.float32)
        progress = self.lab.reporter.stage(f"reading prompts of {self.job.label}", sum(map(len, groups.values())))
        tokens = 0
        for prompt, places in groups.items():
            distinct = list(places)
            for first in range(0, len(distinct), CHUNK):
                part = distinct[first : first + CHUNK]
                context = prefill(self.base, prompt, part, LAST_LAYER, progress)
                tokens += context.tokens
                for row, item in zip(score(self.base, context, np.arange(len(part))), part, strict=True):
                    out[places[item]] = row
        return out, {
            "tokens_per_answer": round(tokens / max(1, len(items)), 1),
            "prompts": len(groups),
            "demonstrations_dropped": dropped,
            "users_without_train_rows": sum(not self.past[user] for user in set(users)),
        }

    def write(
        self,
        users: Sequence[str],
        texts: Sequence[Text],
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
        hear: Hear | None = None,
    ) -> list[str]:
        """Returns a free answer to each text; the pairs of one prompt are written in one batch."""
        self.check_users(users)
        progress = self.lab.reporter.stage(f"writing answers of {self.job.label}", len(texts))
        out = [""] * len(texts)
        for prompt, places in self.groups(users, [(text, None) for text in texts])[0].items():
            pairs = [pair for group in places.values() for pair in group]
            drawn: dict[str, Any] = {
                "temperature": temperature,
                "seeds": [seeds[pair] for pair in pairs] if seeds else (),
                "progress": progress,
                "hear": hear and partial(_heard, hear, pairs),
            }
            written = generate(self.base, prompt, [texts[pair] for pair in pairs], self.base.region(None), **drawn)
            for pair, answer in zip(pairs, written, strict=True):
                out[pair] = answer
        return out

    def _enrol(self, user: str, train: Examples, val: Examples) -> None:
        words = self.task.words
        shown = []
        for text, free, target in [
            (*item, target) for part in (train, val) for item, target in zip(part.items, part.target, strict=True)
        ]:
            labels = tuple(int(label) for label in np.flatnonzero(target > 0))
            shown.append(Answered(text, free or ", ".join(words[label] for label in labels), labels))
        self._take({**self.past, user: tuple(shown)})

    def _forget(self, user: str) -> None:
        self._take({key: items for key, items in self.past.items() if key != user})

    def state(self) -> State:
        """Returns what every user has judged so far."""
        items = [[[*item.text, item.answer, list(item.labels)] for item in judged] for judged in self.past.values()]
        return State({"users": list(self.past), "past": items})

    @classmethod
    def of(
        cls, state: State, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, **beside: Any
    ) -> "PromptedFitted":
        """Returns the fitted method that `state` was taken of."""
        items = tuple(
            tuple(Answered(Text(text, context), answer, tuple(labels)) for text, context, answer, labels in judged)
            for judged in state.about["past"]
        )
        return cls(job, task, seed, lab, prompt, Past(tuple(state.about["users"]), items, task.words))


def fit_prompted(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> tuple[PromptedFitted, None]:
    """Returns a prompting method over a problem's train rows, and that it has no modules."""
    lab.tell_cuts(lab.base(cast(str, job.base)).name, prompt)
    fitted = PromptedFitted(job, TaskAnswers.of(problem.card), seed, lab, prompt, past_of(problem))
    _ = fitted.composer  # what composing costs is part of fitting
    return fitted, None


def past_of(problem: Problem) -> Past:
    """Returns every user's train items with their answers, in the task's words or in the user's own."""
    words = problem.card.verbalisations
    items: list[list[Answered]] = [[] for _ in problem.users]
    for row in problem.rows("train"):
        labels = tuple(int(label) for label in np.flatnonzero(problem.target[row] > 0))
        answer = problem.answers[row] if problem.answers else ", ".join(words[label] for label in labels)
        items[problem.user[row]].append(Answered(problem.texts[problem.text[row]], answer, labels))
    return Past(problem.users, tuple(map(tuple, items)), tuple(words))


def fitting(base: FrozenBase, plain: Prompt, composed: Composed) -> tuple[Prompt, int]:
    """Returns the prompt that says and shows this, and how many items were left out, least valuable first, to fit.

    Room is kept for the longest text allowed, so that a user's prompt does not depend on the text judged. The texts
    shown are cut like the text judged.
    """
    instruction = f"{plain.instruction}\n\n{composed.profile}" if composed.profile else plain.instruction
    bodies = clipped(base, [item.text for item in composed.shown], plain.max_tokens, plain.about)
    answers = [item.answer for item in composed.shown]
    answers = clipped(base, [Text(answer) for answer in answers], plain.answer_tokens) if plain.free else answers
    shown = tuple(zip(bodies, answers, strict=True))
    limit = reading_limit(base)
    prompt = replace(plain, instruction=instruction, shown=shown)
    while limit is not None and prompt.shown and prompt_tokens(base, prompt) > limit:
        prompt = replace(prompt, shown=prompt.shown[1:])
    return prompt, len(shown) - len(prompt.shown)


def _heard(hear: Hear, pairs: Sequence[int], place: int, text: str) -> None:
    hear(pairs[place], text)
