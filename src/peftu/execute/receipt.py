"""The receipt of a deletion: what still holds a user's key, labels or traces of them, and how much of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from peftu.base.cache import REGIONS
from peftu.data.sources import cache_dir
from peftu.errors import PeftuError
from peftu.execute.train_log import TRAIN_LOG
from peftu.results import PREDICTIONS, RECORD, USER_SCORES, RunRecord

Remainder = dict[str, Any]  # file, what, and count: None where it cannot be told


def remains(run: Path, user: str) -> list[Remainder]:
    """Returns what a deletion leaves of a user in a run and in peftu's cache.

    Args:
        run: folder of a run, finished or not.
        user: the user's key.
    """
    record = _record(run)
    remainders = list(_in_run(run, user, record))
    judged = any(Path(remainder["file"]).name == PREDICTIONS for remainder in remainders)
    tables = list(_in_tables(user, None if record is None else record.task.name))
    if record is not None and judged:
        for method in record.methods:
            if method.uses_others_labels:
                remainders.append(
                    _remainder(run / "fitted", f"{method.label} was fitted with the user's labels, too", None)
                )
    regions = cache_dir() / REGIONS
    if (judged or tables) and (files := sum(1 for _ in regions.glob("*.safetensors"))):
        remainders.append(_remainder(regions, "files that bases computed of texts, perhaps the user's", files))
    return remainders + tables


def _in_run(run: Path, user: str, record: RunRecord | None) -> Iterator[Remainder]:
    for name, what in ((PREDICTIONS, "rows with the user's labels and predictions"), (USER_SCORES, "rows of scores")):
        if rows := _rows(run / name, user):
            yield _remainder(run / name, what, rows)
    if lines := _log_lines(run, user):
        yield _remainder(run / TRAIN_LOG, "lines of training, numbered, not named", lines)


def _in_tables(user: str, task: str | None) -> Iterator[Remainder]:
    """Yields tables of the run's task, or of all where the run does not say which it was."""
    for kind in ("imported", "tables"):
        for path in sorted((cache_dir() / kind).glob(f"{task or '*'}/*.parquet")):
            if rows := _rows(path, user):
                yield _remainder(path, "rows with the user's texts and labels", rows)


def _remainder(file: Path, what: str, count: int | None) -> Remainder:
    return {"file": str(file), "what": what, "count": count}


def _record(run: Path) -> RunRecord | None:
    try:
        return RunRecord.read(run / RECORD)
    except PeftuError:
        return None


def _rows(path: Path, user: str) -> int:
    """Returns how many rows of a table are a user's; 0 where there is no such table."""
    try:
        return len(pl.scan_parquet(path, glob=False).filter(pl.col("user_id") == user).select("user_id").collect())
    except (OSError, pl.exceptions.PolarsError):
        return 0


def _log_lines(run: Path, user: str) -> int:
    """Returns how many lines of the training log are a user's, whose number is the place among the sorted keys."""
    try:
        scored = pl.read_parquet(run / USER_SCORES, columns=["user_id", "seed"], glob=False).unique().rows()
        lines = [json.loads(line) for line in (run / TRAIN_LOG).read_text(encoding="utf-8").splitlines()]
        numbers = {seed: sorted(key for key, other in scored if other == seed) for key, seed in scored if key == user}
        return sum(line["user"] == numbers[line["seed"]].index(user) + 1 for line in lines if line["seed"] in numbers)
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError):
        return 0
