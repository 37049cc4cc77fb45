"""TaskAnswers from what a run fitted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftu.base.reading import cuts_line
from peftu.data.problem import Text
from peftu.execute.stored import opened


def answer(
    run: Path,
    user: str,
    texts: Sequence[Text],
    method: str | None = None,
    seed: int | None = None,
    temperature: float = 0.0,
    base: str | None = None,
) -> dict[str, Any]:
    """Returns labels and probabilities of texts as this user's method sees them or, of free text, what it answers.

    Where several labels may hold, those above the run's own thresholds are named, as in its predictions.

    Args:
        run: a finished run folder.
        user: the user's key. A user who is not known is an error: the base never answers in their place.
        texts: what to judge.
        method: as in the run's table; needed when the run trained several personal ones.
        seed: which seed's; the first by default.
        temperature: free answers: 0 writes the likeliest token each time; above, each text's draws have a fixed seed.
        base: where the base is now, if it has moved; it must be the same.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    fitted = opened(run, method, seed, base)
    frame = fitted.answered([user] * len(texts), texts, temperature)
    notes = []
    if fitted.job.base is not None:
        frozen = fitted.lab.base(fitted.job.base)
        cuts = frozen.cuts(fitted.prompt, texts)
        notes = [cuts_line(frozen.name, cuts, len(texts), fitted.prompt)] if any(cuts) else []
    labels = fitted.task.labels
    answers = [
        {"text": row["text"], "answer": row["answer"]}
        if fitted.prompt.free
        else {
            "text": row["text"],
            "labels": row["labels"] if "labels" in row else [row["label"]],
            "probabilities": {label: row[f"p_{label}"] for label in labels},
        }
        for row in frame.iter_rows(named=True)
    ]
    return {
        "method": fitted.label,
        "seed": fitted.seed,
        "shared_module": not fitted.personal,
        "answers": answers,
        "notes": notes,
    }
