"""Scores become predictions: the schema, the choice of labels, and what could not be scored."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit

from peftu.answers import Kind, threshold
from peftu.cells.cache import StoredCell
from peftu.cells.fill import SCORES
from peftu.cells.fits import FitResult, thresholds_of
from peftu.cells.frames import scores_frame
from peftu.cells.spec import CellSpec, Reading
from peftu.config import MethodSpec, SplitSpec, TrainSpec
from peftu.data.problem import PARTS, Problem
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.execute.assemble import SystemCells
from peftu.lab.memo import Billed
from peftu.methods.zero_shot import ZeroShot
from peftu.plan import Job

SCHEMA = {
    "method": pl.String(),
    "base": pl.String(),
    "seed": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "part": pl.String(),
    "target": pl.List(pl.String),
    "predicted": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
}


def problem(kind: Kind = "single") -> Problem:
    table = synthetic_table(users=3, items=20, kind=kind)
    return make_problem(table, table.card, make_split(table, SplitSpec()))


def cell_of(made: Problem, seed: int = 0) -> FitResult:
    rows = np.flatnonzero(made.part > 0)
    scores = np.random.default_rng(seed).normal(size=(len(rows), len(made.card.labels)))
    fitted: Any = SimpleNamespace(logits=True)
    return FitResult(rows, scores.astype(np.float32), fitted, Billed())


def predictions_frame(job: Job, seed: int, made: Problem, cell: FitResult) -> pl.DataFrame:
    """The predictions of one cell, through the file that it is kept in."""
    with TemporaryDirectory() as folder:
        scores_frame(made, cell).write_parquet(Path(folder) / SCORES)
        pieces: list[Any] = [(CellSpec(job, seed, made, Reading(64)), StoredCell("", Path(folder), {}))]
        return SystemCells(job, seed, made, pieces).predictions()[0]


def decide(made: Problem, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return made.card.answers.decide(scores, thresholds_of(made, rows, scores))


def job(base: str | None = "b") -> Job:
    return Job(MethodSpec(name="zero-shot", params={"k": 1}, base="b"), ZeroShot(), base, None, TrainSpec())


@pytest.mark.parametrize("kind", ["single", "ordinal", "multi"])
def test_the_frame_says_who_judged_what_and_what_was_guessed(kind: Kind) -> None:
    made = problem(kind)
    cell = cell_of(made)
    frame = predictions_frame(job(), 7, made, cell)
    assert dict(frame.schema) == SCHEMA
    assert frame["method"].unique().to_list() == ["zero-shot[k=1]"]
    assert frame["base"].unique().to_list() == ["b"]
    assert frame["seed"].unique().to_list() == [7]
    assert set(frame["part"]) == {"val", "test"}
    scores = log_expit(cell.scores) if kind == "multi" else cell.scores  # of each label on its own
    labels, chosen = made.card.labels, decide(made, cell.rows, scores)
    for place, (row, line) in enumerate(zip(cell.rows, frame.iter_rows(named=True), strict=True)):
        assert line["user_id"] == made.users[made.user[row]]
        assert line["item_id"] == made.item_ids[row]
        assert line["part"] == PARTS[made.part[row]]
        assert line["target"] == [label for label, given in zip(labels, made.target[row], strict=True) if given]
        assert line["predicted"] == [label for label, taken in zip(labels, chosen[place], strict=True) if taken]
        assert line["scores"] == scores[place].tolist()
        assert kind == "multi" or line["predicted"] == [labels[int(cell.scores[place].argmax())]]
    bare = predictions_frame(job(None), 7, made, cell)
    assert dict(bare.schema) == SCHEMA
    assert bare["base"].null_count() == bare.height


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seed", range(5))
def test_a_row_without_finite_scores_is_null_and_decides_nothing(kind: Kind, value: float, seed: int) -> None:
    made = problem(kind)
    cell = cell_of(made, seed)
    lost = np.flatnonzero(made.part[cell.rows] == PARTS.index("val"))[:2]
    keep = np.setdiff1d(np.arange(len(cell.rows)), lost)
    without = decide(made, cell.rows[keep], cell.scores[keep])
    cell.scores[lost, 0] = value
    frame = predictions_frame(job(), 0, made, cell)
    null = frame.select(pl.col("predicted", "scores").is_null())
    for column in null:
        assert np.flatnonzero(column.to_numpy()).tolist() == lost.tolist()
    assert np.array_equal(decide(made, cell.rows, cell.scores)[keep], without)


def f1_above(limit: float, scores: list[float], gold: list[bool]) -> float:
    named = [score > limit for score in scores]
    hits = sum(one and other for one, other in zip(named, gold, strict=True))
    return 2 * hits / (sum(named) + sum(gold)) if any(gold) else 0.0


@given(
    rows=st.lists(st.tuples(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 3.0]), st.booleans()), min_size=1, max_size=9)
)
def test_no_threshold_has_a_better_f1(rows: list[tuple[float, bool]]) -> None:
    scores, gold = map(list, zip(*rows, strict=True))
    found = threshold(np.array(scores, dtype=np.float32), np.array(gold))
    best = max(f1_above(limit, scores, gold) for limit in [-9.0, *scores])
    assert f1_above(found, scores, gold) == pytest.approx(best)
    assert all(found != score for score in scores)  # between two scores, or beyond them all


def test_a_label_nobody_gave_is_named_only_when_nothing_else_is() -> None:
    made = problem("multi")
    validation = made.part == PARTS.index("val")
    target = made.target.copy()
    target[validation, 0] = 0
    cell = cell_of(made)
    cell.scores[:, 0] = np.linspace(-3, 3, len(cell.rows))
    chosen = decide(replace(made, target=target), cell.rows, cell.scores)
    assert chosen.any(1).all()
    assert not chosen[chosen[:, 0], 1:].any()
