"""The receipt of a deletion: what still holds a user's key, labels or traces of them, and how much of it."""

from pathlib import Path
from typing import Any

import polars as pl

from peftu.base.cache import REGIONS, RegionCache
from peftu.data.problem import Text
from peftu.data.sources import cache_dir
from peftu.errors import PeftuError
from peftu.execute.train_log import TRAIN_LOG
from peftu.execute.unlisted import Unlisted
from peftu.results import PREDICTIONS, RECORD, USER_SCORES, RunRecord

Remainder = dict[str, Any]  # file, what, and count: None where it cannot be told


def remains(run: Path, user: str, gone: Unlisted) -> list[Remainder]:
    """Returns what a deletion leaves of a user in a run and in peftu's cache.

    Args:
        run: folder of a run, finished or not.
        user: the user's key.
        gone: what went from the run's tables.
    """
    record = _record(run)
    remainders = [
        _remainder(run / name, "rows of the user, which no record lists", rows)
        for name in (PREDICTIONS, USER_SCORES)
        if (rows := _rows(run / name, user))
    ]
    if gone.rows and record is not None:
        if gone.log_kept:
            remainders.append(_remainder(run / TRAIN_LOG, "lines of training, numbered, not named", None))
        remainders += [
            _remainder(
                run / "fitted", f"{method.label} was fitted with the user's labels, too: run again without them", None
            )
            for method in record.methods
            if method.uses_others_labels
        ]
    tables = tables_with(run, user)
    regions = cache_dir() / REGIONS
    if gone.rows and not tables and (files := sum(1 for _ in regions.glob("*.safetensors"))):
        remainders.append(_remainder(regions, "files that bases computed of texts, perhaps the user's", files))
    return remainders + [
        _remainder(path, "rows with the user's texts and labels", rows) for path, rows in tables.items()
    ]


def tables_with(run: Path, user: str) -> dict[Path, int]:
    """Returns the tables in peftu's cache that have rows of a user, and how many.

    They are of the run's task, or of any where the run does not say which it was.
    """
    record = _record(run)
    task = "*" if record is None else record.task.name
    paths = (path for kind in ("imported", "tables") for path in sorted((cache_dir() / kind).glob(f"{task}/*.parquet")))
    return {path: rows for path in paths if (rows := _rows(path, user))}


def forget_regions(run: Path, user: str) -> int:
    """Returns how many files of the cache went that bases computed of texts or answers which only this user has.

    Which these are is read in the task's tables.
    """
    own: set[Text | str] = set()
    for path in tables_with(run, user):
        own |= _own(path, user)
    return RegionCache().forget(own) if own else 0


def _own(path: Path, user: str) -> set[Text | str]:
    """Returns the texts with their contexts, and what was answered to any, that stand in rows of one user alone."""
    frame = pl.read_parquet(path, columns=["user_id", "text", "context", "target"], glob=False)
    mine, others = frame.filter(pl.col("user_id") == user), frame.filter(pl.col("user_id") != user)
    texts = mine.join(others, on=["text", "context"], how="anti", nulls_equal=True).select("text", "context")
    answers = set(mine["target"].explode()) - set(others["target"].explode())
    return {Text(*row) for row in texts.iter_rows()} | {answer for answer in answers if answer is not None}


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
