"""Run folders made without a model: scored files and merged leaderboards."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.sources import writing_to
from peftu.data.task import TaskCard
from peftu.files import private_file
from peftu.judge.judgement import Evidence, judge, write_judgement
from peftu.judge.shapes import JUDGEMENT, Judgement
from peftu.metrics import user_scores
from peftu.results import (
    PREDICTIONS,
    RECORD,
    REPORT,
    USER_SCORES,
    Hashes,
    MethodCost,
    MethodResult,
    RunRecord,
    TaskSummary,
    finish_folder,
    start_folder,
    summarise,
)
from peftu.run_folder import check_folder, check_unused
from peftu.system import System

_FILES = "|".join(map(re.escape, (RECORD, REPORT, PREDICTIONS, USER_SCORES, JUDGEMENT)))
OURS = re.compile(rf"{_FILES}|\.[\w.-]+\.tmp")  # and what was half-written when a process was killed


@dataclass(frozen=True)
class FolderContents:
    """What a folder is made from.

    Attributes:
        predictions, card: what is judged.
        regime: how the split was made.
        hashes: of data and splits.
        spec: what it was made of; kept in the record.
        judgements: every judgement that is known; see ``Evidence``.
        n_train: seed, user_id, n_train.
        costs: what each method cost.
        tags: fields of a method's result that scores do not tell.
        warnings: what a reader must know.
    """

    predictions: pl.DataFrame
    card: TaskCard
    regime: str
    hashes: Hashes
    spec: dict[str, Any]
    judgements: pl.DataFrame | None = None
    n_train: pl.DataFrame | None = None
    costs: Mapping[System, MethodCost] = field(default_factory=dict)
    tags: Mapping[System, dict[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def write_board(
    contents: FolderContents, out: Path, command: str | None = None, replace: bool = False
) -> tuple[RunRecord, pl.DataFrame, Judgement]:
    """Returns the record, user scores and judgement, after writing them and the predictions to a folder.

    Args:
        contents: what the folder is made from.
        out: the folder.
        command: what the user wrote; kept in the record.
        replace: take the place of an earlier board in the folder.

    Raises:
        PeftuError: the folder holds other things, or a board that is not to be replaced; or the predictions cannot be
            scored.
    """
    scores = user_scores(contents.predictions, contents.card, contents.n_train)
    results = [
        result.model_copy(update=contents.tags.get(result.system, {}))
        for result in summarise(scores, contents.card, contents.costs)
    ]
    evidence = Evidence(contents.predictions, contents.card, scores, results, contents.judgements)
    judgement = judge(evidence)
    check_folder(out, OURS)
    if not replace:
        check_unused(out, "pass --replace to put this one in its place")
    with writing_to(out):
        start_folder(out)
        contents.predictions.write_parquet(private_file(out / PREDICTIONS))
        scores.write_parquet(private_file(out / USER_SCORES))
        write_judgement(judgement, out)
        record = finish_folder(out, _record(contents, results, scores, judgement, command))
    return record, scores, judgement


def tests_hash(predictions: pl.DataFrame, seed: int) -> str:
    """Returns 'sha256:…' of the test rows of a seed: user, item and target, in key order."""
    keys = ["user_id", "item_id"]
    rows = predictions.filter(pl.col("part") == "test", pl.col("seed") == seed)
    rows = rows.select(*keys, pl.col("target").list.sort().list.join("\x1f")).unique(keys).sort(keys)
    digest = hashlib.sha256()
    for column in rows.iter_columns():
        digest.update("\x1e".join(column.to_list()).encode() + b"\x1d")
    return f"sha256:{digest.hexdigest()}"


def _record(
    contents: FolderContents,
    results: Sequence[MethodResult],
    scores: pl.DataFrame,
    judgement: Judgement,
    command: str | None,
) -> RunRecord:
    alone = judgement.one_item_users
    warnings = [*contents.warnings, *([f"{alone} users have one test row: they count, and widen"] if alone else [])]
    identity = f"{contents.spec}\n{contents.hashes.model_dump_json()}"
    return RunRecord(
        run=hashlib.sha256(identity.encode()).hexdigest()[:12],
        command=command,
        spec_passed=contents.spec,
        spec=contents.spec,
        task=TaskSummary.of(contents.card),
        regime=contents.regime,
        hashes=contents.hashes,
        users=scores["user_id"].n_unique(),
        methods=tuple(results),
        warnings=tuple(warnings),
    )
