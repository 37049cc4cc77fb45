"""Answers from what a run fitted: for one user, for the pairs of a file, for everybody."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import polars as pl

from peftu.base.reader import Cuts
from peftu.base.reading import cuts_line
from peftu.config import HardwareSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.execute.people import text_of, user_rows
from peftu.execute.stored import opened
from peftu.fitted.fitted import PAIRS, Fitted
from peftu.lab.lab import Lab


def answer(
    run: Path,
    user: str,
    texts: Sequence[Text],
    method: str | None = None,
    seed: int | None = None,
    temperature: float = 0.0,
    base: str | None = None,
    hardware: HardwareSpec | None = None,
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
        hardware: where it computes, and in which numbers; of what is unset, as it was fitted.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    fitted = opened(run, method, seed, base, Lab(hardware=hardware))
    frame = fitted.answered([user] * len(texts), texts, temperature)
    note = _cut_note(fitted, _cuts(fitted, texts), len(texts))
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
        "notes": [*fitted.remarks, *([note] if note else [])],
    }


def answered_file(
    fitted: Fitted, file: Path, say: Callable[[str], None], temperature: float = 0.0
) -> Iterator[pl.DataFrame]:
    """Yields answers to the pairs of a CSV file, thousands at a time: user, text, context if it has one, answer.

    The whole file is checked before the first answer, and never held in memory.

    Args:
        fitted: what answers.
        file: columns user, text and perhaps context.
        say: takes a line on texts that were cut, at the end.
        temperature: of free answers; see `answer`.

    Raises:
        PeftuError: as `answer`, or a row that cannot be used: its number is named, and no key.
    """
    users = set(fitted.users) if fitted.personal else None
    row: dict[str, str] = {}
    for number, row in enumerate(user_rows(file, ("user", "text")), 1):
        if users is not None and row["user"] not in users:
            raise PeftuError(
                f"{file}: row {number}: {fitted.label} does not know this user — enrol them first, or drop the row"
            )
    pairs = ((row["user"], text_of(row)) for row in user_rows(file, ("user", "text")))
    yield from _answered(fitted, pairs, "context" in row, temperature, say)


def answered_everyone(
    fitted: Fitted, texts: Sequence[Text], say: Callable[[str], None], temperature: float = 0.0
) -> Iterator[pl.DataFrame]:
    """Yields every known user's answers to the same texts; see `answered_file`.

    Raises:
        PeftuError: as `answer`, or the method answers everybody alike.
    """
    if not fitted.personal:
        raise PeftuError(
            f"--all-users: {fitted.label} answers everybody alike — choose a personal method with --method"
        )
    yield from _answered(fitted, product(fitted.users, texts), any(text.context for text in texts), temperature, say)


def _answered(
    fitted: Fitted,
    pairs: Iterable[tuple[str, Text]],
    context: bool,
    temperature: float,
    say: Callable[[str], None],
) -> Iterator[pl.DataFrame]:
    rest, cuts, number = iter(pairs), Cuts(), 0
    for remark in fitted.remarks:
        say(remark)
    while part := list(islice(rest, PAIRS)):
        users, texts = [user for user, _ in part], [text for _, text in part]
        frame = fitted.answered(users, texts, temperature, number)
        frame.insert_column(0, pl.Series("user", users, pl.String))
        if context:
            frame.insert_column(2, pl.Series("context", [text.context for text in texts], pl.String))
        more = _cuts(fitted, texts)
        cuts, number = Cuts(cuts.judged + more.judged, cuts.beside + more.beside), number + len(part)
        yield frame
    if note := _cut_note(fitted, cuts, number):
        say(note)


def _cuts(fitted: Fitted, texts: Sequence[Text]) -> Cuts:
    return Cuts() if fitted.job.base is None else fitted.lab.base(fitted.job.base).cuts(fitted.prompt, texts)


def _cut_note(fitted: Fitted, cuts: Cuts, texts: int) -> str | None:
    """Returns what is said of texts that are too long for the base, if some are."""
    if fitted.job.base is None or not any(cuts):
        return None
    return cuts_line(fitted.lab.base(fitted.job.base).name, cuts, texts, fitted.prompt)
