"""The receipt of a deletion: what still holds a user's key, labels or traces of them, and how much of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from peftu.base.cache import REGIONS, RegionCache
from peftu.data.problem import Text
from peftu.data.sources import cache_dir
from peftu.errors import PeftuError
from peftu.execute.train_log import TRAIN_LOG
from peftu.execute.unlisted import Unlisted
from peftu.fitted.fitted import Fitted
from peftu.fitted.folder import ABOUT, load
from peftu.results import PREDICTIONS, RECORD, USER_SCORES, RunRecord
from peftu.run_folder import FITTED

Remainder = dict[str, Any]  # file, what, and count: None where it cannot be told


def remains(run: Path, user: str, gone: Unlisted) -> list[Remainder]:
    """Returns what a deletion leaves of a user in a run and in peftu's cache.

    Args:
        run: folder of a run, finished or not, or one that `Fitted.save` made.
        user: the user's key.
        gone: what went from the run's tables.
    """
    record, single = _record(run), _single(run)
    remainders = [
        _remainder(run / name, "rows of the user, which no record lists", rows)
        for name in (PREDICTIONS, USER_SCORES)
        if (rows := _rows(run / name, user))
    ]
    if gone.rows and record is not None and gone.log_kept:
        remainders.append(_remainder(run / TRAIN_LOG, "lines of training, numbered, not named", None))
    shared = [method.label for method in record.methods if method.uses_others_labels] if gone.rows and record else []
    if single is not None and single.job.uses_others_labels:
        shared = [single.label]
    fitted = "was fitted with the user's labels, too: run again without them"
    remainders += [_remainder(run / FITTED, f"{label} {fitted}", None) for label in shared]
    tables = tables_with(run, user)
    regions = cache_dir() / REGIONS
    if gone.rows and not tables and (files := sum(1 for _ in regions.glob("*.safetensors"))):
        remainders.append(_remainder(regions, "files that bases computed of texts, perhaps the user's", files))
    return remainders + [
        _remainder(path, "rows with the user's texts and labels", rows) for path, rows in tables.items()
    ]


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
    drawn = ["the report is gone, too: 'peftu report' draws it without them"] if done["rows"] else []
    return killed + drawn + left


def tables_with(run: Path, user: str) -> dict[Path, int]:
    """Returns the tables in peftu's cache that have rows of a user, and how many.

    They are of the run's task, or of any where the run does not say which it was.
    """
    record, single = _record(run), _single(run)
    task = record.task.name if record is not None else "*" if single is None else single.task.name
    paths = (path for kind in ("imported", "tables") for path in sorted((cache_dir() / kind).glob(f"{task}/*.parquet")))
    return {path: rows for path in paths if (rows := _rows(path, user))}


def _single(run: Path) -> Fitted | None:
    """Returns the fitted method that a folder is of, where it is no run's."""
    return load(run, with_base=False) if (run / ABOUT).exists() else None


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
