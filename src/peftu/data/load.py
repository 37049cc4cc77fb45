"""A task's table by name: options checked, raw files found, built once."""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from peftu.data import markup, reading
from peftu.data.sources import cache_dir, needed_files, raw_files
from peftu.data.table import FORMAT, UserTable
from peftu.data.task import Task, TaskCard, card_of, tasks
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

MIN_EXAMPLES = "min_examples"  # every task has this option, be it in its own reader or here


def load_task(
    name: str, raw: Path | None = None, options: dict[str, Any] | None = None, *, allow_changed: bool = False
) -> UserTable:
    """Returns a task's user table; built once and kept in the cache until its files, options or reader change.

    Args:
        name: a registered task.
        raw: folder with the raw files; None: the cache, filled from the publisher or the package index.
        options: the task's own options, such as {"group": "g1"}; 'preset': the card's name for several of them;
            'min_examples': leave out users with fewer rows.
        allow_changed: take raw files whose sha256 is not the card's.

    Raises:
        PeftuError: unknown task or option, raw files missing or changed, or a row is wrong.
    """
    cls = tasks.get(name)
    complete = task_options(cls, options or {})
    folder, digests = raw_files(cls.card, raw_folder(cls, raw), complete, allow_changed=allow_changed)
    if hasattr(cls, "table"):
        return read_table(cls, folder, complete, digests)
    path = cache_dir() / "tables" / name / f"{_key(cls, complete, digests)}.parquet"
    if path.is_file():
        with contextlib.suppress(PeftuError):  # a damaged table is built again
            return UserTable.read(path)
    table = read_table(cls, folder, complete, digests)
    table.write(path)
    return table


def read_table(cls: type[Task], folder: Path, options: dict[str, Any], digests: dict[str, str]) -> UserTable:
    """Returns the table of a folder of raw files.

    Args:
        cls: the task.
        folder: its raw files.
        options: as ``task_options`` returns them.
        digests: sha256 of each file that is there, by name.

    Raises:
        PeftuError: a file cannot be read, or a row is wrong.
    """
    least = 1
    row_options = dict(options)
    if MIN_EXAMPLES not in option_choices(cls):
        least = row_options.pop(MIN_EXAMPLES, 1)
    if (ready := getattr(cls, "table", None)) is not None:
        table: UserTable = ready(folder)
    else:
        with _other_layout_told(cls.card, digests):
            table = UserTable.build(card_of(cls, row_options), cls().rows(folder, **row_options), options, digests)
    missing = [file.name for file in needed_files(cls.card, options) if file.name not in digests]
    if missing:
        table.notes[f"raw files that are not in the folder ({', '.join(missing)})"] = len(missing)
    return table.with_examples(least) if least > 1 else table


@contextlib.contextmanager
def _other_layout_told(card: TaskCard, digests: dict[str, str]) -> Iterator[None]:
    """Turns what a reader stumbles over into one line, unless every file is the one that it was written for.

    Raises:
        PeftuError: a value is missing or of another kind in files that are not known to be the publisher's.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if all(digests[file.name] == file.sha256 for file in card.files if file.name in digests):
            raise
        named = ", ".join(digests)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise PeftuError(
            f"{card.name}: {named}: not laid out as the publisher does ({why}) — get it again from {card.homepage}"
        ) from error


def raw_folder(cls: type[Task], raw: Path | None) -> Path | None:
    """Returns the folder of raw files that was given, else the task's own, if it has one."""
    return raw if raw is not None else getattr(cls, "folder", None)


def option_choices(cls: type[Task]) -> dict[str, dict[str, Any]]:
    """Returns each option of a task: its default and, where they are few, the values it takes."""
    options: dict[str, dict[str, Any]] = {}
    for name, parameter in inspect.signature(cls.rows).parameters.items():
        if name not in ("self", "raw") and parameter.kind is not parameter.VAR_KEYWORD:
            choices = list(get_args(parameter.annotation)) if get_origin(parameter.annotation) is Literal else None
            options[name] = {"default": parameter.default, "choices": choices}
    return options


def task_options(cls: type[Task], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the task's options, complete with defaults; a preset becomes the values that it stands for.

    Raises:
        PeftuError: an unknown option, value or preset.
    """
    known = option_choices(cls)
    given = {**_preset(cls, given), **{key: value for key, value in given.items() if key != "preset"}}
    for key, value in given.items():
        if key not in known and key != MIN_EXAMPLES:
            hint = did_you_mean(key, known) if known else " — it has none"
            raise PeftuError(f"task '{cls.card.name}': unknown option '{key}'{hint}")
        wrong = _wrong_value(value, known.get(key, {"default": 1, "choices": None}))
        if wrong:
            raise PeftuError(f"task '{cls.card.name}': {key}={value!r}{wrong}")
    complete = {key: given.get(key, about["default"]) for key, about in known.items()}
    if given.get(MIN_EXAMPLES, 1) > 1:
        complete[MIN_EXAMPLES] = given[MIN_EXAMPLES]
    return complete


def _wrong_value(value: Any, about: dict[str, Any]) -> str:
    """Returns what is wrong with an option's value and how to mend it, or ''."""
    choices, number = about["choices"], isinstance(about["default"], int)
    if choices and value not in choices:
        return did_you_mean(str(value), map(str, choices))
    if type(value) is not type(about["default"]):
        return f" — give {'a whole number' if number else 'text'}"
    return " — give a number above 0" if number and value < 1 else ""


def _preset(cls: type[Task], given: dict[str, Any]) -> dict[str, Any]:
    if "preset" not in given:
        return {}
    presets = cls.card.presets
    if given["preset"] not in presets:
        hint = did_you_mean(str(given["preset"]), presets) if presets else " — it has none"
        raise PeftuError(f"task '{cls.card.name}': unknown preset '{given['preset']}'{hint}")
    return presets[given["preset"]]


def _key(cls: type[Task], options: dict[str, Any], digests: dict[str, str]) -> str:
    """Returns what names the built table: anything that could change a row is in it, the readers' code too."""
    code = []
    for reader in (inspect.getmodule(cls) or cls, reading, markup):
        with contextlib.suppress(OSError, TypeError):
            code.append(inspect.getsource(reader))
    card = card_of(cls, {name: options[name] for name in option_choices(cls)})
    parts = [FORMAT, card.model_dump_json(), code, options, digests]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
