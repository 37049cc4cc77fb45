"""Answers for one user from the modules that a run stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from peftu.bank import derived_seed
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.execute.stored import Stored, opened
from peftu.generate import generate
from peftu.predict import score


def answer(
    run: Path,
    user: str,
    texts: Sequence[Text],
    method: str | None = None,
    seed: int | None = None,
    temperature: float = 0.0,
) -> dict[str, Any]:
    """Returns labels and probabilities of texts as this user's module sees them or, of free text, what it answers.

    Args:
        run: a finished run folder.
        user: the user's key. A user without a module is an error: the base never answers in their place.
        texts: what to judge.
        method: which method's modules, as in the run's table; needed when the run trained several personal ones.
        seed: which seed's modules; the first by default.
        temperature: free answers: 0 writes the likeliest token each time; above, each text's draws have a fixed seed.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    with opened(run, method, seed) as stored:
        rows, shared = stored.rows(user), stored.shared
    prompt, collection = stored.prompt, stored.collection
    if prompt.free:
        answers = _written(stored, rows, texts, temperature)
    elif temperature:
        raise PeftuError("predict: labels are not drawn — leave --temperature out")
    else:
        answers = _labelled(stored, rows, texts)
    return {"method": collection.label, "seed": collection.seed, "shared_module": shared, "answers": answers}


def _written(stored: Stored, rows: Tensor, texts: Sequence[Text], temperature: float) -> list[dict[str, Any]]:
    seeds = [derived_seed(stored.collection.seed, "draw", str(place)) for place in range(len(texts))]
    written = generate(
        stored.base,
        stored.prompt,
        texts,
        stored.region,
        stored.layout,
        rows,
        temperature=temperature,
        seeds=seeds,
    )
    return [{"text": text.text, "answer": own} for text, own in zip(texts, written, strict=True)]


def _labelled(stored: Stored, rows: Tensor, texts: Sequence[Text]) -> list[dict[str, Any]]:
    prompt, labels = stored.prompt, stored.made["labels"]
    context = stored.base.prefill(prompt, texts, stored.region)
    scores = score(stored.base, context, np.arange(len(texts)), stored.layout, rows)
    chance = np.exp(scores) if prompt.exclusive else 1 / (1 + np.exp(-scores))
    return [
        {
            "text": text.text,
            "label": labels[int(row.argmax())],
            "probabilities": dict(zip(labels, map(float, row), strict=True)),
        }
        for text, row in zip(texts, chance, strict=True)
    ]
