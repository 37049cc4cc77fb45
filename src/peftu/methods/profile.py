"""A profile of the user in words, told to the base before every text."""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, Literal

from pydantic import Field

from peftu.errors import PeftuError
from peftu.methods.composing import Answered, Composed, Composer, Past, Tools
from peftu.methods.method import MethodCard
from peftu.methods.prompting import Prompting, balanced

ABOUT = "About the person who answers: {}"
ASK = (
    "You see texts and how one person answered each. In two short sentences, describe how this person tends to answer"
    " and what decides it."
)


class Profile(Prompting):
    """A few words about the user, from the train items alone, before every text."""

    card: ClassVar[MethodCard] = MethodCard(
        name="profile",
        summary="The base is told how the user tends to answer, in words from the user's train items alone.",
        scope="user",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2310.20081",
        families=("decoder", "encoder_decoder"),
    )

    by: Literal["base", "shares"] = Field("base", description="Written by the base itself, or the shares of labels.")
    k: int = Field(16, ge=1, description="Items that the base reads to write the profile, each label in turn.")
    tokens: int = Field(60, ge=1, description="Longest profile that the base writes.")

    def composer(self, past: Past, tools: Tools, seed: int) -> Composer:
        """Returns what tells a user's profile.

        Raises:
            PeftuError: shares are asked for where answers are free text.
        """
        if self.by == "shares" and not past.words:
            raise PeftuError("profile: answers of this task are free text and have no shares — use by=base")

        @cache
        def profile_of(user: int) -> str:
            items = past.items[user]
            if not items:
                return ""
            if self.by == "shares":
                return ABOUT.format(shares(items, past.words))
            chosen = balanced(items, len(past.words), seed, past.users[user])[: self.k]
            seen = "\n\n".join(f"{item.text.text}\nAnswer: {item.answer}" for item in chosen)
            return ABOUT.format(tools.write(ASK, seen, self.tokens))

        return lambda user, text: Composed(profile=profile_of(user))


def shares(items: Sequence[Answered], words: Sequence[str]) -> str:
    """Returns in words how often each label was given, the commonest first."""
    count = [sum(label in item.labels for item in items) for label in range(len(words))]
    order = sorted(range(len(words)), key=lambda label: (-count[label], label))
    listed = ", ".join(f"{words[label]} to {100 * count[label] / len(items):.0f}%" for label in order if count[label])
    return f"of {len(items)} texts before, this person answered {listed}."
