"""Scores turned into the predictions frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.data.problem import PARTS, Floats, Problem
from peftu.execute.cells import Cell, thresholds_of
from peftu.plan import Job


def predictions_frame(job: Job, seed: int, problem: Problem, cell: Cell) -> pl.DataFrame:
    """Returns one cell's predictions in the schema of ``predictions.parquet``; a row without finite scores is null."""
    rows = cell.rows
    scored = [bool(np.isfinite(row).all()) for row in cell.scores]
    answers = problem.card.answers
    written = answers.written(cell.scores) if cell.logits else cell.scores
    target, predicted = _labels(problem, cell, written) if answers.labelled else _free(problem, cell)
    return pl.DataFrame(
        {
            "method": pl.repeat(job.label, len(rows), eager=True),
            "base": pl.Series([job.base] * len(rows), dtype=pl.String),
            "seed": pl.repeat(seed, len(rows), dtype=pl.Int64, eager=True),
            "user_id": np.array(problem.users, dtype=object)[problem.user[rows]].tolist(),
            "item_id": np.array(problem.item_ids, dtype=object)[rows].tolist(),
            "part": [PARTS[part] for part in problem.part[rows]],
            "target": target,
            "predicted": [said if ok else None for said, ok in zip(predicted, scored, strict=True)],
            "scores": [row if ok else None for row, ok in zip(written.tolist(), scored, strict=True)],
        },
        schema_overrides={
            "target": pl.List(pl.String),
            "predicted": pl.List(pl.String),
            "scores": pl.List(pl.Float32),
        },
    )


Column = Sequence[list[str] | None]


def _free(problem: Problem, cell: Cell) -> tuple[Column, Column]:
    """Returns what the user wrote in each row, and what was written in their place; null where nothing was."""
    written = [cell.written.get(row) for row in cell.rows.tolist()]
    return [[problem.answers[row]] for row in cell.rows], [None if said is None else [said] for said in written]


def _labels(problem: Problem, cell: Cell, scores: Floats) -> tuple[Column, Column]:
    """Returns the labels that the user gave in each row, and those predicted."""
    chosen = problem.card.answers.decide(scores, thresholds_of(problem, cell.rows, scores))
    labels = np.array(problem.card.labels, dtype=object)
    return _names(labels, problem.target[cell.rows] > 0), _names(labels, chosen)


def _names(labels: npt.NDArray[np.object_], chosen: npt.NDArray[np.bool_]) -> list[list[str]]:
    return [labels[row].tolist() for row in chosen]
