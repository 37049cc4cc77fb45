"""All analyses of one run put together, and the file they are kept in."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.files import write_atomic
from peftu.judge.answer import answer
from peftu.judge.board import Board
from peftu.judge.calibration import reliability
from peftu.judge.ceilings import ceilings
from peftu.judge.clusters import intervals
from peftu.judge.compare import comparisons, corrected, corrected_pairs, detectable, gains_over_references
from peftu.judge.findings import Findings
from peftu.judge.groups import by_label, by_people
from peftu.judge.helped import helped, worst_served
from peftu.judge.pareto import pareto
from peftu.judge.ranks import critical_difference, standings
from peftu.judge.shapes import JUDGEMENT, Group, Guarded, Judgement, MethodMetrics, MetricInfo
from peftu.judge.shifts import shifts
from peftu.judge.trends import trends
from peftu.judge.votes import votes
from peftu.metrics import Metric, metrics, metrics_of
from peftu.metrics.generation import with_overlaps
from peftu.metrics.items import items_of_rows
from peftu.metrics.rows import scored_rows
from peftu.outside import parse_json
from peftu.results import MethodResult, Score
from peftu.stats import RESAMPLES, bootstrap, user_matrix
from peftu.system import System


@dataclass(frozen=True)
class Evidence:
    """What a judgement is made from.

    Attributes:
        predictions: the frame described by ``peftu.metrics.PREDICTIONS``.
        card: the task.
        scores: the frame that ``peftu.metrics.user_scores`` made of the predictions.
        results: the leaderboard that ``peftu.results.summarise`` made of the scores.
        judgements: user_id, item_id, target of every judgement of the task, trained on or not; text and context where
            there are texts, meta where users are described. None: those that stand in the predictions.
        resamples: bootstrap draws of users.
    """

    predictions: pl.DataFrame
    card: TaskCard
    scores: pl.DataFrame
    results: Sequence[MethodResult]
    judgements: pl.DataFrame | None = None
    resamples: int = RESAMPLES


def judge(evidence: Evidence) -> Judgement:
    """Returns every analysis that the evidence allows; what it does not allow is empty or null.

    Raises:
        PeftuError: the predictions cannot be scored, or the card's main metric was not computed for its kind.
    """
    card, scores = evidence.card, evidence.scores
    board = Board(scores, metrics.get(card.main_metric), evidence.resamples)
    rows = scored_rows(evidence.predictions, card)
    if not card.answers.labelled:
        rows = with_overlaps(rows)
    gains = gains_over_references(board, rows)
    items = items_of_rows(rows, card)
    known = [metric for metric in metrics_of(card.kind, "rows", "labels") if metric.name in scores.columns]
    of_items = [metric for metric in metrics_of(card.kind, "items") if metric.name in items.columns]
    voted = votes(_judgements(evidence), card) if card.answers.labelled else None
    limits, closed = ceilings(board, _tests(rows), voted, card) if voted else ((), ())
    tests = scores.group_by("user_id").agg(pl.col("n_test").max())
    return Judgement(
        metric=_info(board.metric),
        metrics=tuple(_info(metric) for metric in (*known, *of_items)),
        users=len(board.matrix.users),
        one_item_users=tests.filter(pl.col("n_test") == 1).height,
        references=board.references,
        scores=_all_metrics(board, known, items, of_items),
        intervals=intervals(board, rows),
        gains=gains,
        comparisons=comparisons(board, gains),
        detectable=detectable(gains),
        standings=standings(board),
        critical_difference=critical_difference(board),
        ceilings=limits,
        closed=closed,
        helped=helped(board, rows),
        worst=worst_served(board),
        trends=trends(board, voted),
        groups=(*by_label(board, rows, card), *_people(board, evidence.judgements)),
        shifts=shifts(voted, card.labels, board.matrix.users) if voted else (),
        guards=tuple(map(_guarded, (result for result in evidence.results if "kept" in result.notes))),
        reliability=reliability(rows, card),
        pareto=pareto(evidence.results, higher_is_better=board.metric.higher_is_better),
        answer=answer(Findings(evidence.results, gains, card.kind)),
    )


def write_judgement(judgement: Judgement, folder: Path) -> Path:
    """Returns the path of ``judgement.json`` in a run folder, written whole or not at all."""
    text = json.dumps(judgement.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return write_atomic(Path(folder) / JUDGEMENT, text + "\n")


def read_judgement(folder: Path) -> Judgement | None:
    """Returns the judgement kept in a run folder; None for a run made before there were any.

    Tests are corrected as they are today, whatever wrote them: two methods are told apart everywhere or nowhere.

    Raises:
        PeftuError: the file is cut off or comes from a newer version.
    """
    path = Path(folder) / JUDGEMENT
    if not path.is_file():
        return None
    try:
        kept = Judgement.model_validate(parse_json(path.read_bytes(), finite=True))
    except ValueError:  # pydantic's is one
        again = f"peftu leaderboard {shlex.quote(str(folder))}"
        raise PeftuError(f"{path}: is damaged or of a newer peftu — judge again: {again}") from None
    gains = corrected(kept.gains)
    return kept.model_copy(update={"gains": gains, "comparisons": corrected_pairs(kept.comparisons, gains)})


def judgement_schema() -> dict[str, Any]:
    """Returns the JSON schema of the judgement; ``schemas/judgement-v1.json`` is its committed copy."""
    return Judgement.model_json_schema(mode="serialization")


def _judgements(evidence: Evidence) -> pl.DataFrame:
    """Returns every judgement that is known, once."""
    if evidence.judgements is not None:
        return evidence.judgements
    return evidence.predictions.select("user_id", "item_id", "target").unique(["user_id", "item_id"])


def _tests(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns seed, user_id, item_id and target of every test row, once, sorted."""
    keys = ["seed", "user_id", "item_id"]
    return rows.select(*keys, "target").unique(keys).sort(keys)


def _guarded(result: MethodResult) -> Guarded:
    notes = result.notes
    return Guarded(system=result.system, fallback=notes["fallback"], users=notes["users"], kept=notes["kept"])


def _people(board: Board, judgements: pl.DataFrame | None) -> tuple[Group, ...]:
    if judgements is None or "meta" not in judgements.columns:
        return ()
    return by_people(board, judgements.select("user_id", "meta"))


def _info(metric: Metric) -> MetricInfo:
    return MetricInfo(
        name=metric.name,
        title=metric.title,
        unit="item" if metric.of == "items" else "user",
        percent=metric.percent,
        higher_is_better=metric.higher_is_better,
    )


def _all_metrics(
    board: Board, known: Sequence[Metric], items: pl.DataFrame, of_items: Sequence[Metric]
) -> tuple[MethodMetrics, ...]:
    """Returns every metric of every method: over users, and over items for those that are of items."""
    of_systems: dict[System, dict[str, tuple[Score, int]]] = {system: {} for system in board.systems}
    for frame, chosen in ((board.scores, known), (items.rename({"item_id": "user_id"}), of_items)):
        for metric in chosen:
            matrix = user_matrix(frame, metric.name)
            estimates = bootstrap(matrix.values, resamples=board.resamples, bounds=metric.bounds)
            for system, estimate in zip(matrix.systems, estimates, strict=True):
                of_systems[system][metric.name] = (Score.of(estimate), estimate.users)
    return tuple(
        MethodMetrics(
            system=system,
            scores={name: score for name, (score, _) in of_metrics.items()},
            counts={name: users for name, (_, users) in of_metrics.items()},
        )
        for system, of_metrics in of_systems.items()
    )
