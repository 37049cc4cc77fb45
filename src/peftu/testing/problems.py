"""Made-up texts and users with tastes of their own, small enough to train on in a second."""

from collections.abc import Sequence

import numpy as np

from peftu.base.prompt import Prompt
from peftu.data.problem import Text
from peftu.train_rows import Examples, Unit

TOPICS = ("cat", "rain", "train", "pea soup", "chess", "moss")


def tiny_prompt(words: tuple[str, ...] = ("no", "yes"), max_tokens: int = 64, exclusive: bool = True) -> Prompt:
    """Returns a short prompt that asks for one of these words."""
    return Prompt("Like it?", words, max_tokens, exclusive)


def tiny_texts(count: int) -> list[Text]:
    """Returns that many different texts of different lengths; every third one is a reply to another."""
    texts = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        body = f"{topic} {number}" + "!" * (number % 4)
        texts.append(Text(body, "So?" if number % 3 == 2 else None))
    return texts


def tiny_units(
    sizes: Sequence[int], texts: int, labels: int = 2, val: int = 3, seed: int = 0, exclusive: bool = True
) -> list[Unit]:
    """Returns a user for each size, with that many train rows and ``val`` val rows on different texts.

    Each user likes topics of their own, so there is something personal to learn.

    Args:
        sizes: number of train rows of each user.
        texts: number of texts, as from ``tiny_texts``.
        labels: number of labels.
        val: number of val rows.
        seed: another seed gives other rows and tastes.
        exclusive: one label a row, else any number.
    """
    units = []
    for user, size in enumerate(sizes):
        rng = np.random.Generator(np.random.PCG64([seed, user]))
        taste = rng.integers(0, labels, len(TOPICS))
        user_texts = rng.permutation(texts)[: size + val]
        if len(user_texts) < size + val:
            raise ValueError(f"{size} + {val} rows need more than {texts} texts")
        target = np.zeros((len(user_texts), labels), dtype=np.float32)
        target[np.arange(len(user_texts)), taste[user_texts % len(TOPICS)]] = 1
        if not exclusive:
            target[np.arange(len(user_texts)), rng.integers(0, labels, len(user_texts))] = 1
        train, held_out = (
            Examples(user_texts[part].astype(np.int64), target[part], np.ones(len(user_texts[part]), dtype=np.float32))
            for part in (slice(0, size), slice(size, None))
        )
        units.append(Unit(f"user-{seed}-{user}", train, held_out))
    return units
