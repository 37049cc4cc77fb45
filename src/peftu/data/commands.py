"""What ``peftu tasks`` and ``peftu data`` do: plain functions that return what ``--json`` prints."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from peftu.config import Regime, SplitSpec, validated
from peftu.data.agreement import statistics
from peftu.data.audit import audit_report
from peftu.data.differences import user_differences
from peftu.data.load import load_task, option_choices, raw_folder, task_options
from peftu.data.sources import needed_files, new_file, raw_files
from peftu.data.splits import make_split
from peftu.data.task import tasks
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

Result = dict[str, Any]
SHORT = ("name", "title", "kind", "labels", "language", "main_metric", "licence", "verified", "superseded_by")


def describe_tasks() -> list[Result]:
    """Returns the name and the main facts of every known task."""
    return [tasks.get(name).card.model_dump(mode="json", include=set(SHORT)) for name in tasks.names()]


def describe_task(name: str) -> Result:
    """Returns a task's whole card, and its options with their defaults and choices.

    Raises:
        PeftuError: nothing has that name.
    """
    cls = tasks.get(name)
    return {**cls.card.model_dump(mode="json"), "options": option_choices(cls)}


def fetch(task: str, raw: Path | None = None, options: dict[str, Any] | None = None) -> Result:
    """Returns where a task's raw files are, after fetching them to the cache, or checking those in ``raw``.

    Raises:
        PeftuError: a file is missing, changed or not to be had.
    """
    cls = tasks.get(task)
    complete = task_options(cls, options or {})
    folder, digests = raw_files(cls.card, raw_folder(cls, raw), complete)
    files = [
        {"name": file.name, "bytes": (folder / file.name).stat().st_size, "sha256": digests[file.name]}
        | {"pinned": file.sha256 is not None}
        for file in needed_files(cls.card, complete)
        if file.name in digests
    ]
    return {"task": task, "folder": str(folder), "licence": cls.card.licence, "files": files}


def build(task: str, raw: Path | None = None, options: dict[str, Any] | None = None, out: Path | None = None) -> Result:
    """Returns the hash and size of a task's user table, after building it; a copy goes to ``out``.

    Raises:
        PeftuError: see ``load_task``.
    """
    if out is not None:
        out = new_file(out / f"{task}.parquet" if out.is_dir() else out)
    table = load_task(task, raw, options)
    if out is not None:
        table.write(out)
    users, texts = (table.frame[name].n_unique() for name in ("user_id", "item_id"))
    size = {"users": users, "texts": texts, "annotations": table.frame.height}
    built = {"options": table.options, "hash": table.hash, **size, "notes": table.notes, "sources": table.sources}
    return {"task": task, **built, "table": str(out) if out else None}


def stats(task: str, raw: Path | None = None, options: dict[str, Any] | None = None) -> Result:
    """Returns a task's size, spread and agreement, and how each user differs; see `statistics`, `user_differences`.

    Raises:
        PeftuError: see ``load_task``.
    """
    table = load_task(task, raw, options)
    about = {"task": task, "options": table.options, "hash": table.hash, **statistics(table)}
    return {**about, "user_differences": user_differences(table)}


def audit_task(
    task: str,
    raw: Path | None = None,
    options: dict[str, Any] | None = None,
    regime: str = "within-user",
    seed: int = 0,
    **split_spec: Any,
) -> Result:
    """Returns a task's split with its leakage report, and the findings of the audit.

    Raises:
        PeftuError: an unknown regime; see also ``load_task``.
    """
    if regime not in get_args(Regime):
        raise PeftuError(f"unknown regime '{regime}'{did_you_mean(regime, get_args(Regime))}")
    table = load_task(task, raw, options)
    split = make_split(table, validated(SplitSpec, {"regime": regime, **split_spec}, "split"), seed)
    findings, details = audit_report(table, split)
    return {
        "task": task,
        "options": table.options,
        "regime": regime,
        "seed": seed,
        "split": split.hash,
        "users": len(split.users),
        "rows": split.counts(),
        "excluded": split.excluded,
        "notes": split.notes,
        "leakage": split.leakage,
        "findings": [asdict(finding) for finding in findings],
        **details,
    }
