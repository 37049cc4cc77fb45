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
from peftu.errors import PeftuError
from peftu.methods.composing import Answered, Composed, Composer, Past, Tools
from peftu.methods.method import MethodCard
from peftu.methods.similar import Bm25, Dense

ABOUT = "About the person who answers: {}"
ASK = (
    "You see texts and how one person answered each. In two short sentences, describe how this person tends to answer"
    " and what decides it."
)


class _Prompting(BaseModel):
    """What all prompting methods share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def balanced(items: Sequence[Answered], labels: int, seed: int, user: str) -> list[Answered]:
    """Returns all items in a random order that takes the labels in turn; it depends on seed and user alone."""
    order = sorted(range(len(items)), key=lambda i: (hashed(seed, "shown", user, i), i))
    groups: list[list[int]] = [[] for _ in range(max(1, labels))]
    for number in order:  # an item of several labels stands for the one that so far has fewest
        own = items[number].labels or (0,)
        groups[min(own, key=lambda label: len(groups[label]))].append(number)
    groups.sort(key=lambda group: order.index(group[0]) if group else len(order))
    return [items[i] for turn in zip_longest(*groups) for i in turn if i is not None]


def others(items: Sequence[Answered], text: Text, k: int) -> tuple[Answered, ...]:
    """Returns the first k items that are not the text itself, best last, next to the text."""
    return tuple(item for item in items if item.text != text)[:k][::-1]


class FewShot(_Prompting):
    """The same items of the user before every text, taking the labels in turn."""

    card: ClassVar[MethodCard] = MethodCard(
        name="few-shot",
        summary="The base reads some of the user's own answers first, each label in turn; nothing is trained.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2005.14165",
    )

    k: int = Field(8, ge=1, description="Items shown before each text.")

    @property
    def most_shown(self) -> int:
        """Returns how many items it shows at most."""
        return self.k

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what shows a user's items, never the judged text itself."""

        @cache
        def ranked(user: int) -> list[Answered]:
            return balanced(past.items[user], len(past.words), seed, past.users[user])

        return lambda user, text: Composed(shown=others(ranked(user), text, self.k))


class Retrieval(_Prompting):
    """The user's items that are most like the text, the likest last."""

    card: ClassVar[MethodCard] = MethodCard(
        name="retrieval",
        summary="The base first reads the user's own answers to the most similar texts; nothing is trained.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2304.11406 (LaMP)",
    )

    k: int = Field(8, ge=1, description="Items shown before each text.")
    by: Literal["bm25", "dense"] = Field("bm25", description="Words in common, or the cosine of sentence vectors.")
    encoder: str = Field("all-minilm-l6-v2", description="Base that gives the sentence vectors for by=dense.")

    @property
    def most_shown(self) -> int:
        """Returns how many items it shows at most."""
        return self.k

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


class Profile(_Prompting):
    """A few words about the user, from the train items alone, before every text."""

    card: ClassVar[MethodCard] = MethodCard(
        name="profile",
        summary="The base is told how the user tends to answer, in words from the user's train items alone.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2310.20081",
    )

    by: Literal["base", "shares"] = Field("base", description="Written by the base itself, or the shares of labels.")
    k: int = Field(16, ge=1, description="Items that the base reads to write the profile, each label in turn.")
    tokens: int = Field(60, ge=1, description="Longest profile that the base writes.")

    @property
    def most_shown(self) -> int:
        """Returns how many items it shows at most beside the text."""
        return 0

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what tells a user's profile.

        Raises:
            PeftuError: shares are asked for where answers are free text.
        """
        if self.by == "shares" and not past.words:
            raise PeftuError("profile: answers of this task are free text and have no shares — use by=base")

        @cache
        def told(user: int) -> str:
            items = past.items[user]
            if not items:
                return ""
            if self.by == "shares":
                return ABOUT.format(shares(items, past.words))
            chosen = balanced(items, len(past.words), seed, past.users[user])[: self.k]
            seen = "\n\n".join(f"{item.text.text}\nAnswer: {item.answer}" for item in chosen)
            return ABOUT.format(tools.write(ASK, seen, self.tokens))

        return lambda user, text: Composed(told=told(user))


def shares(items: Sequence[Answered], words: Sequence[str]) -> str:
    """Returns in words how often each label was given, the commonest first."""
    count = [sum(label in item.labels for item in items) for label in range(len(words))]
    order = sorted(range(len(words)), key=lambda label: (-count[label], label))
    said = ", ".join(f"{words[label]} to {100 * count[label] / len(items):.0f}%" for label in order if count[label])
    return f"of {len(items)} texts before, this person answered {said}."
