"""The receipt of a deletion: what still holds a user's key, labels or traces of them, and how much of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from peftu.base.cache import REGIONS
from peftu.data.sources import cache_dir
from peftu.errors import PeftuError
from peftu.execute.train_log import TRAIN_LOG
from peftu.fitted.folder import ABOUT, load
from peftu.results import PREDICTIONS, RECORD, USER_SCORES, RunRecord
from peftu.run_folder import FITTED

Remainder = dict[str, Any]  # file, what, and count: None where it cannot be told


def remains(run: Path, user: str) -> list[Remainder]:
    """Returns what a deletion leaves of a user in a run and in peftu's cache.

    Args:
        run: folder of a run, finished or not, or one that `Fitted.save` made.
        user: the user's key.
    """
    record = _record(run)
    single = load(run, with_base=False) if (run / ABOUT).exists() else None
    remainders = list(_in_run(run, user, record))
    judged = any(Path(remainder["file"]).name == PREDICTIONS for remainder in remainders)
    task = record.task if record is not None else None if single is None else single.task
    tables = list(_in_tables(user, None if task is None else task.name))
    shared = [method.label for method in record.methods if method.uses_others_labels] if record and judged else []
    if single is not None and single.job.card.uses_others_labels:
        shared = [single.label]
    remainders += [
        _remainder(run / FITTED, f"{label} was fitted with the user's labels, too", None) for label in shared
    ]
    regions = cache_dir() / REGIONS
    if (judged or tables) and (files := sum(1 for _ in regions.glob("*.safetensors"))):
        remainders.append(_remainder(regions, "files that bases computed of texts, perhaps the user's", files))
    return remainders + tables


def lines(done: dict[str, Any], named: Callable[[str], str] = str) -> list[str]:
    """Returns a line for each thing that a deletion leaves, and before them what a killed run had left.

    Args:
        done: the receipt.
        named: what a file is called.
    """
    killed = [f"folders of killed runs removed: {done['left_behind']}"] if done["left_behind"] else []
    counts = ["" if remainder["count"] is None else f"{remainder['count']:,} " for remainder in done["remains"]]
    left = [
        f"remains: {named(remainder['file'])}: {count}{remainder['what']}"
        for remainder, count in zip(done["remains"], counts, strict=True)
    ]
    return killed + left


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
