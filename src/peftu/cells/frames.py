"""What a cell scored, as a frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.cells.fits import FitResult
from peftu.data.problem import PARTS, Problem

SCHEMA: dict[str, Any] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "part": pl.String,
    "target": pl.List(pl.String),
    "predicted": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
}


def scores_frame(problem: Problem, result: FitResult) -> pl.DataFrame:
    """Returns ``predictions.parquet`` without method, base and seed, in the order of the problem's rows.

    A row without finite scores has null. ``predicted`` is what was written where answers are free text; labels are
    named later, by thresholds that all users' validation rows choose.
    """
    answers = problem.card.answers
    written = answers.written(result.scores) if result.logits else result.scores
    finite: list[bool] = [bool(np.isfinite(row).all()) for row in result.scores]
    free = [None if (answer := result.written.get(row)) is None else [answer] for row in result.rows.tolist()]
    return _frame(
        problem,
        result.rows,
        [answer if ok else None for answer, ok in zip(free, finite, strict=True)],
        [row if ok else None for row, ok in zip(written.tolist(), finite, strict=True)],
    )


def unscored_frame(problem: Problem) -> pl.DataFrame:
    """Returns the frame of a problem that nobody could score: all its validation and test rows, with null scores."""
    rows = np.flatnonzero(problem.part > 0)
    nothing = [None] * len(rows)
    return _frame(problem, rows, nothing, nothing)


def _frame(
    problem: Problem,
    rows: npt.NDArray[np.int64],
    predicted: Sequence[list[str] | None],
    scores: Sequence[list[float] | None],
) -> pl.DataFrame:
    target = (
        _names(np.array(problem.card.labels, dtype=object), problem.target[rows] > 0)
        if problem.card.answers.labelled
        else [[problem.answers[row]] for row in rows]
    )
    return pl.DataFrame(
        {
            "user_id": np.array(problem.users, dtype=object)[problem.user[rows]].tolist(),
            "item_id": np.array(problem.item_ids, dtype=object)[rows].tolist(),
            "part": [PARTS[part] for part in problem.part[rows]],
            "target": target,
            "predicted": predicted,
            "scores": scores,
        },
        schema=SCHEMA,
    )


def _names(labels: npt.NDArray[np.object_], chosen: npt.NDArray[np.bool_]) -> list[list[str]]:
    return [labels[row].tolist() for row in chosen]
