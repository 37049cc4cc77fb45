"""Prompting: the user's own train items in front of the text, and nothing trained.

A user without train items is read as by `zero-shot`; how many there are is counted in the notes.
"""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from peftu.data.problem import Floats, Text
from peftu.data.stratify import hashed
from peftu.methods.composing import Answered, Composed, Composer, Past, Tools
from peftu.methods.method import MethodCard
from peftu.methods.similar import Bm25, Dense


class Prompting(BaseModel):
    """What all prompting methods share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def balanced(items: Sequence[Answered], labels: int, seed: int, user: str) -> list[Answered]:
    """Returns all items in a random order that takes the labels in turn; it depends on seed and user alone."""
    order = sorted(range(len(items)), key=lambda i: (hashed(seed, "shown", user, i), i))
    groups: list[list[int]] = [[] for _ in range(max(1, labels))]
    for number in order:  # an item of several labels stands for the one that so far has fewest
        item_labels = items[number].labels or (0,)
        groups[min(item_labels, key=lambda label: len(groups[label]))].append(number)
    groups.sort(key=lambda group: order.index(group[0]) if group else len(order))
    return [items[i] for turn in zip_longest(*groups) for i in turn if i is not None]


def others(items: Sequence[Answered], text: Text, k: int) -> tuple[Answered, ...]:
    """Returns the first k items that are not the text itself, best last, next to the text."""
    return tuple(item for item in items if item.text != text)[:k][::-1]


class FewShot(Prompting):
    """The same items of the user before every text, taking the labels in turn."""

    card: ClassVar[MethodCard] = MethodCard(
        name="few-shot",
        summary="The base reads some of the user's own answers first, each label in turn; nothing is trained.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2005.14165",
        families=("decoder", "encoder_decoder"),
    )

    k: int = Field(8, ge=1, description="Items shown before each text.")

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what shows a user's items, never the judged text itself."""

        @cache
        def ranked(user: int) -> list[Answered]:
            return balanced(past.items[user], len(past.words), seed, past.users[user])

        return lambda user, text: Composed(shown=others(ranked(user), text, self.k))


class Retrieval(Prompting):
    """The user's items that are most like the text, the likest last."""

    card: ClassVar[MethodCard] = MethodCard(
        name="retrieval",
        summary="The base first reads the user's own answers to the most similar texts; nothing is trained.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2304.11406 (LaMP)",
        families=("decoder", "encoder_decoder"),
    )

    k: int = Field(8, ge=1, description="Items shown before each text.")
    by: Literal["bm25", "dense"] = Field("bm25", description="Words in common, or the cosine of sentence vectors.")
    encoder: str = Field("all-minilm-l6-v2", description="Base that gives the sentence vectors for by=dense.")

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what shows the user's items most like a text, never the text itself; of equals the later one."""

        def embed(texts: Sequence[Text]) -> Floats:
            return tools.embed(self.encoder, texts)

        @cache
        def index(user: int) -> Bm25 | Dense:
            texts = [item.text for item in past.items[user]]
            return Bm25(texts) if self.by == "bm25" else Dense(texts, embed)

        def compose(user: int, text: Text) -> Composed:
            items = past.items[user]
            if not items:
                return Composed()
            likeness = index(user).likeness(text)
            order = np.lexsort((-np.arange(len(items)), -likeness))
            return Composed(shown=others([items[i] for i in order], text, self.k))

        return compose
