"""Answers for one user from the modules that a run stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import log_expit
from torch import Tensor

from peftu.bank import derived_seed
from peftu.base.reading import cuts_line
from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError
from peftu.execute.frames import named, thresholds
from peftu.execute.stored import Stored, opened
from peftu.generate import generate
from peftu.predict import score
from peftu.results import load_run


def answer(
    run: Path,
    user: str,
    texts: Sequence[Text],
    method: str | None = None,
    seed: int | None = None,
    temperature: float = 0.0,
    base: str | None = None,
) -> dict[str, Any]:
    """Returns labels and probabilities of texts as this user's module sees them or, of free text, what it answers.

    Where several labels may hold, those above the run's own thresholds are named, as in its predictions.

    Args:
        run: a finished run folder.
        user: the user's key. A user without a module is an error: the base never answers in their place.
        texts: what to judge.
        method: which method's modules, as in the run's table; needed when the run trained several personal ones.
        seed: which seed's modules; the first by default.
        temperature: free answers: 0 writes the likeliest token each time; above, each text's draws have a fixed seed.
        base: where the base is now, if it has moved; it must be the same.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    with opened(run, method, seed, base) as stored:
        rows, shared = stored.rows(user), stored.shared
    prompt, collection = stored.prompt, stored.collection
    if prompt.free:
        answers = _written(stored, rows, texts, temperature)
    elif temperature:
        raise PeftuError("predict: labels are not drawn — leave --temperature out")
    else:
        least = None if prompt.exclusive else _thresholds(run, stored)
        answers = _labelled(stored, rows, texts, least)
    cuts = stored.base.cuts(prompt, texts)
    notes = [cuts_line(stored.base.name, cuts, len(texts), prompt)] if any(cuts) else []
    return {
        "method": collection.label,
        "seed": collection.seed,
        "shared_module": shared,
        "answers": answers,
        "notes": notes,
    }


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


def _labelled(stored: Stored, rows: Tensor, texts: Sequence[Text], least: Floats | None) -> list[dict[str, Any]]:
    labels = np.array(stored.made["labels"], dtype=object)
    context = stored.base.prefill(stored.prompt, texts, stored.region)
    scores = score(stored.base, context, np.arange(len(texts)), stored.layout, rows)
    if not np.isfinite(scores).all():
        raise PeftuError(
            f"{stored.collection.label}: the module's numbers are too large to answer with — train or import it again"
        )
    scores = scores if stored.prompt.exclusive else log_expit(scores)
    return [
        {
            "text": text.text,
            "labels": labels[chosen].tolist(),
            "probabilities": dict(zip(labels, map(float, chances), strict=True)),
        }
        for text, chosen, chances in zip(texts, named(scores, least), np.exp(scores), strict=True)
    ]


def _thresholds(run: Path, stored: Stored) -> Floats:
    """Returns [labels] what the run decided by: chosen on its validation rows of the same method and seed."""
    own, labels = stored.collection, stored.made["labels"]
    lines = load_run(run).predictions().filter(
        (pl.col("method") + "@" + pl.col("base") == own.label)
        & (pl.col("seed") == own.seed) & (pl.col("part") == "val") & pl.col("scores").is_not_null()
    )  # fmt: skip
    gold = [[label in given for label in labels] for given in lines["target"]]
    scores = np.array(lines["scores"].to_list(), dtype=np.float32).reshape(-1, len(labels))
    return thresholds(scores, np.array(gold, dtype=bool).reshape(scores.shape))
