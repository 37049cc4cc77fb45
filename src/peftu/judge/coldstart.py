"""Cold-start curves: the same test rows, answered after more and more of a user's own items."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from peftu.data.regimes import DEFAULT_K
from peftu.errors import PeftuError
from peftu.judge.board import Board
from peftu.judge.compare import gains_over_references
from peftu.judge.judgement import write_judgement
from peftu.judge.merge import card_of, merge, refuse_own_folder
from peftu.judge.shapes import Curve, CurvePoint, Judgement
from peftu.metrics import metrics, user_scores
from peftu.results import USER_MAJORITY, Run, RunRecord, Score, finish_folder, load_run
from peftu.stats import RESAMPLES
from peftu.system import System

UNSEEN_USER = "unseen-user"
_ROW = ["seed", "user_id", "item_id"]


def cold_start(
    folders: Sequence[Path], out: Path, command: str | None = None, replace: bool = False
) -> tuple[RunRecord, pl.DataFrame, Judgement]:
    """Returns the board of the run with most training items, its judgement with a curve over all runs.

    Runs are of regime unseen-user with one k each, or of another regime, which counts as 'all' of a user's items.

    Raises:
        PeftuError: fewer than two runs, runs on different data, or no test row that all have.
    """
    refuse_own_folder(folders, out)
    runs = sorted((load_run(folder) for folder in folders), key=_place)
    cold = curves(runs)
    record, scores, judgement = merge([runs[-1].folder], out, command, replace)
    judgement = judgement.model_copy(update={"cold_start": cold})
    write_judgement(judgement, out)
    return finish_folder(out, record), scores, judgement


def curves(runs: Sequence[Run]) -> tuple[Curve, ...]:
    """Returns each method's main metric after k training items, over the test rows that all runs have.

    Raises:
        PeftuError: as for ``cold_start``.
    """
    if len(runs) < 2:
        raise PeftuError("leaderboard: a cold-start curve needs runs with different k — name two or more")
    first = runs[0].record
    for run in runs[1:]:
        if run.record.hashes.data != first.hashes.data or run.record.task.labels != first.task.labels:
            raise PeftuError(f"leaderboard: {runs[0].folder} and {run.folder} were made from different data")
    card, metric = card_of(first), metrics.get(first.task.main_metric)
    frames = [run.predictions().filter(pl.col("part") == "test") for run in runs]
    common = frames[0].select(_ROW).unique()
    for frame in frames[1:]:
        common = common.join(frame.select(_ROW).unique(), on=_ROW, how="semi")
    if common.is_empty():
        raise PeftuError("leaderboard: the runs have no test row in common — use the same seeds and users")
    points: dict[System, list[CurvePoint]] = {}
    for run, frame in zip(runs, frames, strict=True):
        scores = user_scores(frame.join(common, on=_ROW, how="semi"), card)
        board, k = Board(scores, metric, RESAMPLES), _k(run.record)
        gains = {gain.system: gain for gain in gains_over_references(board) if gain.against.name == USER_MAJORITY}
        for system, estimate in zip(board.systems, board.estimates(board.matrix.values), strict=True):
            point = CurvePoint(
                k=_median_items(run, board.matrix.users) if k is None else k,
                all=k is None,
                users=estimate.users,
                score=Score.of(estimate),
                over_habit=gains.get(system),
            )
            points.setdefault(system, []).append(point)
    return tuple(Curve(system=system, points=tuple(curve)) for system, curve in points.items() if len(curve) > 1)


def _k(record: RunRecord) -> int | None:
    """Returns the training items of a tested user; None where they have all that are there."""
    if record.regime != UNSEEN_USER:
        return None
    k = record.spec.get("split", {}).get("k")
    return DEFAULT_K if k is None else int(k)


def _place(run: Run) -> float:
    k = _k(run.record)
    return float("inf") if k is None else k


def _median_items(run: Run, users: Sequence[str]) -> float:
    scores = run.user_scores()
    if "n_train" not in scores.columns:
        return 0.0
    return float(scores.filter(pl.col("user_id").is_in(users)).select(pl.col("n_train").median()).item() or 0.0)
