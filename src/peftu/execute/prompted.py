"""Prompting methods run: each row's prompt composed, made to fit, and read by the base in a stream of batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.reading import clipped, prompt_tokens, reading_limit
from peftu.base.region import Region
from peftu.base.writing import write
from peftu.data.problem import PARTS, Floats, Problem, Text
from peftu.generate import generate
from peftu.methods.composing import Answered, Composed, Past
from peftu.predict import score

if TYPE_CHECKING:
    from peftu.execute.cells import Workshop
    from peftu.execute.plan import Job

CHUNK = 256  # texts read at once: their last layer's states are all that is held
LAST_LAYER = Region(depth=1, span="answer")


@dataclass(frozen=True)
class WorkshopTools:
    """What a prompting method may ask of a run's bases (`Tools`)."""

    shop: "Workshop"
    base: FrozenBase

    def embed(self, base: str, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] unit sentence vectors of a base of that name."""
        return self.shop.embedded(base)[[self.shop.place[text] for text in texts]]

    def write(self, instruction: str, text: str, tokens: int) -> str:
        """Returns what the base that answers writes when told this."""
        limit = reading_limit(self.base)
        return write(self.base, instruction, text if limit is None else self._tail(text, limit // 2), tokens)

    def _tail(self, text: str, tokens: int) -> str:
        return clipped(self.base, [Text(text)], tokens)[0]


def past_of(problem: Problem) -> Past:
    """Returns every user's train items with their answers, in the task's words or in the user's own."""
    words = problem.card.verbalisations
    items: list[list[Answered]] = [[] for _ in problem.users]
    for row in problem.rows("train"):
        labels = tuple(int(label) for label in np.flatnonzero(problem.target[row] > 0))
        answer = problem.answers[row] if problem.answers else ", ".join(words[label] for label in labels)
        items[problem.user[row]].append(Answered(problem.texts[problem.text[row]], answer, labels))
    return Past(problem.users, tuple(map(tuple, items)), tuple(words))


def fitted(base: FrozenBase, plain: Prompt, composed: Composed) -> tuple[Prompt, int]:
    """Returns the prompt that says and shows this, and how many items were left out, least valuable first, to fit.

    Room is kept for the longest text allowed, so that a user's prompt does not depend on the text judged. The texts
    shown are cut like the text judged.
    """
    instruction = f"{plain.instruction}\n\n{composed.told}" if composed.told else plain.instruction
    bodies = clipped(base, [item.text for item in composed.shown], plain.max_tokens, plain.about)
    answers = [item.answer for item in composed.shown]
    answers = clipped(base, [Text(answer) for answer in answers], plain.answer_tokens) if plain.free else answers
    shown = tuple(zip(bodies, answers, strict=True))
    limit = reading_limit(base)
    prompt = replace(plain, instruction=instruction, shown=shown)
    while limit is not None and prompt.shown and prompt_tokens(base, prompt) > limit:
        prompt = replace(prompt, shown=prompt.shown[1:])
    return prompt, len(shown) - len(prompt.shown)


@dataclass(frozen=True)
class Prompted:
    """What was asked, and how it was read.

    Attributes:
        rows: numbers of the problem's rows that were scored.
        scores: [rows, columns] the readings.
        groups: prompt -> item -> the places of the rows that the two stand for.
        notes: counts.
    """

    rows: npt.NDArray[np.int64]
    scores: Floats
    groups: dict[Prompt, dict[int, list[int]]]
    notes: dict[str, Any]


def prompted(shop: "Workshop", job: "Job", seed: int) -> Prompted:
    """Returns every validation and test row's reading; equal prompts are read once.

    Rows that share all but the judged text share the keys and values of what stands before it.
    """
    problem, base = shop.problems[seed], shop.base(cast(str, job.base))
    reading_limit(base)
    shop.tell_cuts(base.name)
    past = past_of(problem)
    compose = job.method.composer(past, WorkshopTools(shop, base), seed)
    rows = np.flatnonzero(problem.part > 0)
    composed: dict[Composed, dict[int, list[int]]] = {}
    for place, row in enumerate(rows):
        found = composed.setdefault(compose(int(problem.user[row]), problem.texts[problem.text[row]]), {})
        found.setdefault(int(shop.items[seed][row]), []).append(place)
    groups: dict[Prompt, dict[int, list[int]]] = {}
    dropped = 0
    for said, items in composed.items():
        prompt, left_out = fitted(base, shop.prompt, said)
        dropped += left_out * sum(map(len, items.values()))
        for item, places in items.items():
            groups.setdefault(prompt, {}).setdefault(item, []).extend(places)
    out = np.empty((len(rows), shop.prompt.columns), dtype=np.float32)
    told = shop.reporter.stage(f"reading prompts of {job.label}", sum(map(len, groups.values())))
    tokens = 0
    for prompt, items in groups.items():
        numbers = list(items)
        for first in range(0, len(numbers), CHUNK):
            part = numbers[first : first + CHUNK]
            context = shop.prefill(base, prompt, part, LAST_LAYER, told)
            tokens += context.tokens
            scores = score(base, context, np.arange(len(part)))
            for own, number in zip(scores, part, strict=True):
                out[items[number]] = own
    without = sum(not past.items[user] for user in set(problem.user[rows].tolist()))
    notes = {
        "tokens_per_answer": round(tokens / max(1, len(rows)), 1),
        "prompts": len(groups),
        "demonstrations_dropped": dropped,
        "users_without_train_rows": without,
    }
    return Prompted(rows, out, groups, notes)


def written(shop: "Workshop", job: "Job", seed: int, asked: Prompted) -> dict[int, str]:
    """Returns row number -> free answer for every test row; the rows of one prompt are written in one batch."""
    problem, base = shop.problems[seed], shop.base(cast(str, job.base))
    tested = problem.part == PARTS.index("test")
    told = shop.reporter.stage(f"writing answers of {job.label}", int(tested[asked.rows].sum()))
    out: dict[int, str] = {}
    for prompt, items in asked.groups.items():
        own = [row for places in items.values() for row in asked.rows[places].tolist() if tested[row]]
        texts = [problem.texts[problem.text[row]] for row in own]
        out |= zip(own, generate(base, prompt, texts, base.region(None), progress=told), strict=True)
    return out
