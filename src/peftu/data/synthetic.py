"""Made-up users with tastes of their own: tables for tests and demonstrations, of any size, with nobody's data."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.answers import Kind, answers_of
from peftu.data.splits import hashed
from peftu.data.table import UserTable
from peftu.data.task import Row, SourceFile, TaskCard

TOPICS = ("cats", "rain", "trains", "soup", "chess", "moss", "kites", "salt")
LABELS: dict[str, tuple[str, ...]] = {
    "single": ("dislikes", "likes"),
    "multi": ("calm", "glad", "sad", "upset"),
    "ordinal": ("never", "seldom", "often", "always"),
    "text": (),
}


def synthetic_card(kind: Kind = "single") -> TaskCard:
    """Returns the card of the made-up task of a kind."""
    return TaskCard(
        name=f"synthetic-{kind}",
        version="1",
        title="Made-up tastes",
        description="Short notes on two topics each; every made-up user has a taste for each topic.",
        user="Nobody: a random taste for each topic.",
        kind=kind,
        labels=LABELS[kind],
        words=("no", "yes") if kind == "single" else (),
        instruction="Does this person like this note? Answer yes or no." if kind == "single" else "What is said of it?",
        main_metric="accuracy" if answers_of(kind).labelled else "perplexity",
        language="en",
        licence="Apache-2.0",
        citation="None: made up by peftu.",
        homepage="https://example.org",
        files=(SourceFile(name="none.txt"),),
    )


def synthetic_rows(
    users: int = 6, items: int = 30, kind: Kind = "single", seed: int = 0, noise: float = 0.1, share: float = 1.0
) -> Iterator[Row]:
    """Yields what each made-up user says of each note.

    Args:
        users: number of users.
        items: number of notes.
        kind: kind of target.
        seed: another seed gives other tastes and notes.
        noise: how often a user answers against the own taste.
        share: share of the notes that each user sees.
    """
    for user in range(users):
        for item in range(items):
            if hashed(seed, "sees", user, item) / 2**64 >= share:
                continue
            first, second = (hashed(seed, "topic", place, item) % len(TOPICS) for place in (1, 2))
            text = f"Note {item}: {TOPICS[first]} and {TOPICS[second]}."
            tastes = [hashed(seed, "taste", user, topic) / 2**64 for topic in (first, second)]
            if hashed(seed, "noise", user, item) / 2**64 < noise:
                tastes = [1 - taste for taste in tastes]
            yield Row(f"user-{user}", f"note-{item}", text, _target(kind, tastes), time=float(item))


def synthetic_table(
    users: int = 6, items: int = 30, kind: Kind = "single", seed: int = 0, noise: float = 0.1, share: float = 1.0
) -> UserTable:
    """Returns the table of ``synthetic_rows``."""
    return UserTable.build(synthetic_card(kind), synthetic_rows(users, items, kind, seed, noise, share))


class SyntheticTask:
    """The made-up task as a task that can be registered; it reads no file's content."""

    card: ClassVar[TaskCard] = synthetic_card()

    def rows(self, raw: Path, users: int = 6, items: int = 30) -> Iterator[Row]:
        """Yields what each made-up user says of each note."""
        yield from synthetic_rows(users, items)


def _target(kind: Kind, tastes: list[float]) -> tuple[str, ...]:
    labels, mean = LABELS[kind], sum(tastes) / len(tastes)
    if not answers_of(kind).exclusive:
        return tuple(dict.fromkeys(labels[int(taste * len(labels))] for taste in tastes))
    if not answers_of(kind).labelled:
        return (f"I give it {mean:.1f}.",)
    return (labels[int(mean * len(labels))],)
