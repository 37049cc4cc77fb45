"""A run's modules in a byte a number, or elsewhere, and what that changes on the run's own validation rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from peftu.data.load import load_task
from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError
from peftu.execute.stored import TRAINED, opened, opened_store, systems
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.rows import StoredRows
from peftu.results import Run, load_run
from peftu.store import is_store, rounded
from peftu.system import System


class _Rounded(StoredRows):
    """Rows of a store as they would be in int8."""

    def get(self, keys: Sequence[str]) -> Tensor:
        """Returns [keys, width] rows, rounded; raises where a key has none."""
        return rounded(super().get(keys))


def packed(
    run: Path,
    int8: bool = False,
    shards: str | None = None,
    dry_run: bool = False,
    base: str | None = None,
    raw: Path | None = None,
) -> dict[str, Any]:
    """Returns how many modules were written anew, and for each method and seed what int8 changes.

    Args:
        run: a finished run folder, or a store by itself, of which nothing can be told beforehand.
        int8: keep numbers in a byte each; there is no way back.
        shards: the URL under which shards are to lie, or 'here'.
        dry_run: tell, and change nothing.
        base: where the base is now, if it has moved.
        raw: folder of the task's raw files.

    Raises:
        PeftuError: no such run, its validation rows are not at hand, or shards cannot be written there.
    """
    costs = _costs(run, base, raw) if int8 and not is_store(run) else []
    if dry_run:
        return {"written": 0, "costs": costs}
    with opened_store(run) as store:
        return {"written": store.pack(int8, shards), "costs": costs}


def _costs(folder: Path, base: str | None, raw: Path | None) -> list[dict[str, Any]]:
    run = load_run(folder)
    record = run.record
    options = {name: value for name, value in record.spec.get("task_options", {}).items() if value is not None}
    table = load_task(record.task.name, raw, options)
    if table.hash != record.hashes.data:
        raise PeftuError(f"{folder}: {record.task.name} has other rows now — pass --raw with the files of the run")
    costs = []
    for kept in systems(folder):
        if kept["kind"] not in TRAINED:
            continue
        fitted = opened(folder, kept["label"], kept["seed"], base)
        if isinstance(fitted, ModuleFitted) and isinstance(fitted.rows, StoredRows):
            costs.append(_cost(fitted, fitted.rows, _validation(run, fitted, table.frame)))
    return costs


def _validation(run: Run, fitted: ModuleFitted, rows: pl.DataFrame) -> pl.DataFrame:
    """Returns user_id, text, context and target of the validation rows that a method was scored on."""
    scored = run.predictions().filter(
        System.parse(fitted.label).rows, pl.col("seed") == fitted.seed, pl.col("part") == "val"
    )
    keys = ["user_id", "item_id"]
    return scored.filter(pl.col("scores").is_not_null()).select(keys).join(rows, on=keys, maintain_order="left")


def _cost(fitted: ModuleFitted, stored: StoredRows, rows: pl.DataFrame) -> dict[str, Any]:
    """Returns by how much answers to validation rows change."""
    before = _scores(fitted, rows)
    fitted.rows = _Rounded(stored.folder, stored.collection)
    after = _scores(fitted, rows)
    fitted.rows = stored
    cost: dict[str, Any] = {"method": fitted.label, "seed": fitted.seed, "rows": len(rows)}
    if fitted.task.answers.labelled:
        apart = np.abs(np.exp(before) - np.exp(after))
        changed = (fitted.decide(before) != fitted.decide(after)).any(1)
        return {**cost, "largest_difference": float(apart.max(initial=0)), "changed_decisions": int(changed.sum())}
    apart = np.abs(before[:, 0] - after[:, 0]) / np.maximum(before[:, 1], 1)
    return {**cost, "largest_difference": float(apart.max(initial=0)), "changed_decisions": None}


def _scores(fitted: ModuleFitted, rows: pl.DataFrame) -> Floats:
    texts = [Text(*row) for row in rows.select("text", "context").iter_rows()]
    answers = () if fitted.task.answers.labelled else rows["target"].list.first().to_list()
    return fitted.scores(rows["user_id"].to_list(), texts, answers)
