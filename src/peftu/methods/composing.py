"""What a prompting method is: it composes, from what a user has judged, what a base reads before a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from peftu.data.problem import Floats, Text
from peftu.methods.method import MethodCard


class Answered(NamedTuple):
    """An item that a user has judged.

    Attributes:
        text: what was judged.
        answer: the user's answer in words.
        labels: numbers of the labels given; empty where answers are free text.
    """

    text: Text
    answer: str
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Past:
    """What every user has judged so far: train items only.

    Attributes:
        users: user keys; a user's number is the place in this tuple.
        items: each user's items, in the table's order.
        words: the word for each label; empty where answers are free text.
    """

    users: tuple[str, ...]
    items: tuple[tuple[Answered, ...], ...]
    words: tuple[str, ...]


class Composed(NamedTuple):
    """What a base reads before the text that it is to judge.

    Attributes:
        profile: what is said of the user, after the instruction; may be empty.
        shown: items with the user's answers, least valuable first: where they do not all fit, the first go first.
    """

    profile: str = ""
    shown: tuple[Answered, ...] = ()


Composer = Callable[[int, Text], Composed]  # user number, text to be judged


class Tools(Protocol):
    """What a prompting method may ask of base models."""

    def embed(self, base: str, texts: Sequence[Text]) -> Floats:
        """Returns [texts, width] unit sentence vectors of a base of that name."""
        ...

    def write(self, instruction: str, text: str, tokens: int) -> str:
        """Returns what the base that answers writes when told this, in so many tokens at most."""
        ...


class PromptingMethod(Protocol):
    """A method without training: what the base reads is composed from the user's own train items."""

    card: ClassVar[MethodCard]

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what composes the prompt for any user and text; how answers are scored is no concern of it."""
        ...
