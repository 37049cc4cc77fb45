"""Bases, contexts and embeddings: each made once, by key, and billed to whoever uses it. A lab knows no method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from peftu.base.answers import Answer
from peftu.base.cache import RegionCache
from peftu.base.families.family import Context
from peftu.base.joined import joined, size_of
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.reader import Cuts
from peftu.base.reading import cuts_line
from peftu.base.region import Region
from peftu.config import HardwareSpec
from peftu.data.problem import Floats, Problem, Text
from peftu.data.task import TaskCard
from peftu.lab.memo import Memo
from peftu.lab.progress import Reporter, Silent

Item = tuple[Text, str | None]  # a text and, where answers are free text, what was answered


class Lab:
    """Resources of any number of fits.

    What it expects to be read, a run's texts, is read once for all methods and may be kept on disk; anything else is
    read when it is asked for, and let go, or kept in memory for who asks next.

    Args:
        reporter: hears how far long work is.
        items: texts, with their free answers where there are any, that are going to be read.
        hardware: where bases compute, and in which numbers.
        kept_bytes: of what was made of other texts, for each prompt and region; beyond, it is let go.
    """

    def __init__(
        self,
        reporter: Reporter | None = None,
        items: Sequence[Item] = (),
        hardware: HardwareSpec | None = None,
        kept_bytes: int = 0,
    ) -> None:
        self.hardware = hardware or HardwareSpec()
        self._kept_bytes = kept_bytes
        self._kept: dict[tuple[str, Prompt, Region], tuple[Context, dict[Item, int]]] = {}  # and the row of each text
        self.reporter: Reporter = reporter or Silent()
        self.texts: list[Text] = list(dict.fromkeys(text for text, _ in items))
        self.place = {text: number for number, text in enumerate(self.texts)}
        bodies = dict.fromkeys(Text(text.text) for text in self.texts)  # some methods embed texts without contexts
        self.bodies = {text: number for number, text in enumerate(bodies)}
        # Distinct items, in order: the rows of a context. Without free answers they are the texts.
        self.items: list[Item] = list(dict.fromkeys(items))
        self.number = {item: number for number, item in enumerate(self.items)}
        self.loaded: dict[str, FrozenBase] = {}
        self.cuts: dict[str, Cuts] = {}
        self.answers_cut: dict[str, int] = {}
        self.memo = Memo()
        self.regions = RegionCache(say=self.reporter.note)

    def base(self, name: str) -> FrozenBase:
        """Returns the base of this name."""
        if name not in self.loaded:
            self.loaded[name] = load_base(name, self.hardware, self.reporter.note)
        return self.loaded[name]

    def add(self, name: str, base: FrozenBase) -> None:
        """Takes a base that is loaded already under this name."""
        self.loaded[name] = base

    def context(self, name: str, prompt: Prompt, region: Region) -> Context:
        """Returns the prefill of everything expected on a base."""

        def make() -> Context:
            progress = self.reporter.stage(f"reading texts with {name}", len(self.texts))
            base = self.base(name)
            answers = [Answer(self.place[text], words) for text, words in self.items if words is not None]
            context = self.regions.get(
                base, prompt, region, [*self.texts, *answers],
                lambda: prefill(base, prompt, self.items, region, progress),
            )  # fmt: skip
            self.tell_cuts(name, prompt, Cuts(context.cut, context.beside_cut))
            self.answers_cut[name] = context.answers_cut
            return context

        return self.memo.get(("context", name, prompt, region), make, lambda context: context.seconds)

    def read(
        self, name: str, prompt: Prompt, region: Region, items: Sequence[Item]
    ) -> tuple[Context, npt.NDArray[np.int64]]:
        """Returns a context that holds these items, and the row [items] of each in it."""
        if items and all(item in self.number for item in items):
            return self.context(name, prompt, region), np.array([self.number[item] for item in items], dtype=np.int64)
        if prompt.free or prompt.shown or not self._kept_bytes:
            rows = {item: row for row, item in enumerate(dict.fromkeys(items))}
            context = prefill(self.base(name), prompt, list(rows), region)
        else:
            context, rows = self._keep(name, prompt, region, items)
        return context, np.array([rows[item] for item in items], dtype=np.int64)

    def _keep(
        self, name: str, prompt: Prompt, region: Region, items: Sequence[Item]
    ) -> tuple[Context, dict[Item, int]]:
        """Returns a context that holds these texts and earlier ones, and the row of each."""
        key, base = (name, prompt, region), self.base(name)
        earlier, rows = self._kept.get(key, (None, {}))
        new = [item for item in dict.fromkeys(items) if item not in rows]
        if earlier is not None and not new:
            return earlier, rows
        context = prefill(base, prompt, new, region)
        if earlier is not None:
            whole = joined(earlier, context, base.family.shared)
            if whole is None or size_of(whole) > self._kept_bytes:  # too much, or cut in another place: begin anew
                del self._kept[key]
                return self._keep(name, prompt, region, items)
            context = whole
        self._kept[key] = made = context, rows | {item: len(rows) + place for place, item in enumerate(new)}
        return made

    def embed(self, name: str, prompt: Prompt, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] unit sentence vectors of a base; longer texts are cut as the prompt says."""
        limits = (prompt.max_tokens, prompt.about)
        for which, place in (("whole", self.place), ("bodies", self.bodies)):
            if texts and all(text in place for text in texts):
                self.tell_cuts(name, prompt)
                key = ("embedded", which, name, *limits)
                every = self.memo.get(key, partial(self.base(name).embed, list(place), *limits))
                return every[[place[text] for text in texts]]
        return self.base(name).embed(texts, *limits)

    def features(self, name: str, prompt: Prompt) -> "Vectors":
        """Returns a base's sentence vectors as `peftu.methods.method.Features`."""
        return Vectors(self, name, prompt)

    def tell_cuts(self, name: str, prompt: Prompt, cuts: Cuts | None = None) -> None:
        """Keeps how many expected texts are too long for a base, counted here where nobody has, and says so once."""
        if name in self.cuts:
            return
        self.cuts[name] = cuts = self.base(name).cuts(prompt, self.texts) if cuts is None else cuts
        if any(cuts):
            self.reporter.note(cuts_line(name, cuts, len(self.texts), prompt))


@dataclass(frozen=True)
class Vectors:
    """A base's sentence vectors; what a lab expects is embedded once."""

    lab: Lab
    base: str
    prompt: Prompt

    def embed(self, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] one vector a text, the same for every user."""
        return self.lab.embed(self.base, self.prompt, texts)


def prefill(
    base: FrozenBase,
    prompt: Prompt,
    items: Sequence[Item],
    region: Region,
    progress: Callable[[int], None] = lambda _: None,
) -> Context:
    """Returns the prefill of these items, in order; each text is read once however many answers it has."""
    if not prompt.free:
        return base.prefill(prompt, [text for text, _ in items], region, progress)
    place = {text: number for number, text in enumerate(dict.fromkeys(text for text, _ in items))}
    answers = [Answer(place[text], words or "") for text, words in items]
    return base.prefill_answers(prompt, list(place), answers, region, progress)


def items_of(problem: Problem) -> list[Item]:
    """Returns every row's item."""
    answers = problem.answers or [None] * len(problem.text)
    return [(problem.texts[text], words) for text, words in zip(problem.text, answers, strict=True)]


def prompt_of(card: TaskCard, max_tokens: int, answer_tokens: int = 128) -> Prompt:
    """Returns what a base is told about a task."""
    return Prompt(
        card.instruction,
        card.verbalisations,
        max_tokens,
        card.answers.exclusive,
        answer_tokens=answer_tokens,
        about=card.about,
    )
