"""A task's table by name: options checked, raw files found, built once."""

import contextlib
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from peftu.data.sources import cache_dir, raw_files
from peftu.data.table import FORMAT, UserTable
from peftu.data.task import Task, tasks
from peftu.errors import PeftuError
from peftu.registry import did_you_mean


def load_task(
    name: str, raw: Path | None = None, options: dict[str, Any] | None = None, *, allow_changed: bool = False
) -> UserTable:
    """Returns a task's user table; built once and kept in the cache until its files, options or reader change.

    Args:
        name: a registered task.
        raw: folder with the raw files; None: the cache, filled from the publisher or the package index.
        options: the task's own options, such as {"group": "g1"}.
        allow_changed: take raw files whose sha256 is not the card's.

    Raises:
        PeftuError: unknown task or option, raw files missing or changed, or a row is wrong.
    """
    cls = tasks.get(name)
    complete = task_options(cls, options or {})
    folder, digests = raw_files(cls.card, raw, complete, allow_changed=allow_changed)
    path = cache_dir() / "tables" / name / f"{_key(cls, complete, digests)}.parquet"
    if path.is_file():
        with contextlib.suppress(PeftuError):  # a damaged table is built again
            return UserTable.read(path)
    table = UserTable.build(cls.card, cls().rows(folder, **complete), complete, digests)
    table.write(path)
    return table


def option_choices(cls: type[Task]) -> dict[str, dict[str, Any]]:
    """Returns each option of a task: its default and, where they are few, the values it takes."""
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in inspect.signature(cls.rows).parameters.items():
        if name not in ("self", "raw") and parameter.kind is not parameter.VAR_KEYWORD:
            choices = list(get_args(parameter.annotation)) if get_origin(parameter.annotation) is Literal else None
            found[name] = {"default": parameter.default, "choices": choices}
    return found


def task_options(cls: type[Task], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the task's options, complete with defaults.

    Raises:
        PeftuError: an unknown option or value.
    """
    known = option_choices(cls)
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known) if known else " — it has none"
            raise PeftuError(f"task '{cls.card.name}': unknown option '{name}'{hint}")
        choices = known[name]["choices"]
        if choices and value not in choices:
            raise PeftuError(f"task '{cls.card.name}': {name}={value!r}{did_you_mean(str(value), map(str, choices))}")
    return {name: given.get(name, about["default"]) for name, about in known.items()}


def _key(cls: type[Task], options: dict[str, Any], digests: dict[str, str]) -> str:
    """Returns what names the built table: anything that could change a row is in it, the reader's code too."""
    try:
        reader = inspect.getsource(inspect.getmodule(cls) or cls)
    except (OSError, TypeError):
        reader = ""
    parts = [FORMAT, cls.card.model_dump_json(), reader, options, digests]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
