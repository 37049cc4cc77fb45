"""Scores turned into the predictions frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import log_expit

from peftu.data.problem import PARTS, Floats, Problem
from peftu.execute.cells import Cell
from peftu.execute.plan import Job, is_reference


def predictions_frame(job: Job, seed: int, problem: Problem, cell: Cell) -> pl.DataFrame:
    """Returns one cell's predictions in the schema of ``predictions.parquet``; a row without finite scores is null."""
    rows = cell.rows
    scored = [bool(np.isfinite(row).all()) for row in cell.scores]
    # Modules and prompts have a logit for each label where several may hold; majorities and the like a log-probability.
    logits = problem.card.kind == "multi" and not is_reference(job.method)
    written = log_expit(cell.scores) if logits else cell.scores
    target, predicted = _free(problem, cell) if problem.card.kind == "text" else _labels(problem, cell.rows, written)
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


def decide(problem: Problem, rows: npt.NDArray[np.int64], scores: Floats) -> npt.NDArray[np.bool_]:
    """Returns [rows, labels] which labels are predicted, given the scores as they are written down.

    One label: the best score. Several: those above a threshold for each label, chosen on the scored validation rows
    of all users as the one with the best F1; a row with none gets its best label, since every row has one.
    """
    if problem.card.kind != "multi":
        return named(scores)
    validation = np.isfinite(scores).all(1) & (problem.part[rows] == PARTS.index("val"))
    return named(scores, thresholds(scores[validation], problem.target[rows[validation]] > 0))


def named(scores: Floats, least: Floats | None = None) -> npt.NDArray[np.bool_]:
    """Returns [rows, labels] the labels above their thresholds; the best alone where none is, or without thresholds."""
    best = np.arange(scores.shape[1])[None] == scores.argmax(1)[:, None]
    if least is None:
        return np.asarray(best)
    above = scores > least
    return np.asarray(np.where(above.any(1, keepdims=True), above, best), dtype=np.bool_)


def thresholds(scores: Floats, gold: npt.NDArray[np.bool_]) -> Floats:
    """Returns [labels] each label's `threshold`, given [rows, labels] of both."""
    return np.array([threshold(own, given) for own, given in zip(scores.T, gold.T, strict=True)])


def threshold(scores: Floats, gold: npt.NDArray[np.bool_]) -> float:
    """Returns the threshold, half-way between two scores, above which naming the label gives the best F1."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    if not gold.any():
        return float("inf")
    hits = gold[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + gold.sum())
    last_of_ties = np.append(ranked[1:] < ranked[:-1], True)
    place = int(np.where(last_of_ties, f1, -1.0).argmax())
    return float((ranked[place] + ranked[place + 1]) / 2) if place + 1 < len(ranked) else -float("inf")


Column = Sequence[list[str] | None]


def _free(problem: Problem, cell: Cell) -> tuple[Column, Column]:
    """Returns what the user wrote in each row, and what was written in their place; null where nothing was."""
    written = [cell.written.get(row) for row in cell.rows.tolist()]
    return [[problem.answers[row]] for row in cell.rows], [None if said is None else [said] for said in written]


def _labels(problem: Problem, rows: npt.NDArray[np.int64], scores: Floats) -> tuple[Column, Column]:
    """Returns the labels that the user gave in each row, and those predicted."""
    labels = np.array(problem.card.labels, dtype=object)
    return _names(labels, problem.target[rows] > 0), _names(labels, decide(problem, rows, scores))


def _names(labels: npt.NDArray[np.object_], chosen: npt.NDArray[np.bool_]) -> list[list[str]]:
    return [labels[row].tolist() for row in chosen]
