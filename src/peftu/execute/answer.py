"""Answers for one user from the modules that a run stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftu.data.problem import Text
from peftu.execute.stored import opened
from peftu.predict import score


def answer(
    run: Path, user: str, texts: Sequence[Text], method: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Returns labels and probabilities of texts as this user's module sees them.

    Args:
        run: a finished run folder.
        user: the user's key. A user without a module is an error: the base never answers in their place.
        texts: what to judge.
        method: which method's modules, as in the run's table; needed when the run trained several personal ones.
        seed: which seed's modules; the first by default.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    with opened(run, method, seed) as stored:
        rows, shared = stored.rows(user), stored.shared
    prompt, labels = stored.prompt, stored.made["labels"]
    context = stored.base.prefill(prompt, texts, stored.region)
    scores = score(stored.base, context, np.arange(len(texts)), stored.layout, rows)
    chance = np.exp(scores) if prompt.exclusive else 1 / (1 + np.exp(-scores))
    answers = [
        {
            "text": text.text,
            "label": labels[int(row.argmax())],
            "probabilities": dict(zip(labels, map(float, row), strict=True)),
        }
        for text, row in zip(texts, chance, strict=True)
    ]
    collection = stored.collection
    return {"method": collection.label, "seed": collection.seed, "shared_module": shared, "answers": answers}
