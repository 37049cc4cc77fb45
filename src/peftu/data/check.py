"""The check that every task must pass, of this package or of another."""

import re
from itertools import permutations
from pathlib import Path
from typing import Any

from peftu.data.load import raw_folder, read_table, task_options
from peftu.data.sources import raw_files
from peftu.data.table import UserTable
from peftu.data.task import SourceFile, Task, TaskCard
from peftu.data.texts import is_object
from peftu.errors import PeftuError

FILLED = (
    "name",
    "version",
    "title",
    "description",
    "user",
    "instruction",
    "main_metric",
    "language",
    "licence",
    "citation",
)


def check_task(cls: type[Task], raw: Path | None, options: dict[str, Any] | None = None) -> UserTable:
    """Returns the task's table after checking its card and its rows.

    The card must be filled and say where the files are; the rows must build a table, twice the same, that uses every
    label and gives some item to more than one user or some user more than one item.

    Args:
        cls: the task.
        raw: folder with its raw files; None: fetch them.
        options: the task's options.

    Raises:
        PeftuError: one line with the first thing that is wrong.
    """
    check_card(cls.card)
    complete = task_options(cls, options or {})
    folder, digests = raw_files(cls.card, raw_folder(cls, raw), complete)
    table = read_table(cls, folder, complete, digests)
    card = table.card
    check_card(card)
    if read_table(cls, folder, complete, digests).hash != table.hash:
        raise PeftuError(f"task '{card.name}': two readings give different rows — draw nothing at random in rows()")
    _check_meta(table)
    unused = set(card.labels) - set(table.frame["target"].explode().drop_nulls())
    if unused and card.answers.labelled:
        raise PeftuError(f"task '{card.name}': no row has label '{min(unused)}' — take it out of the card, or read it")
    return table


def _check_meta(table: UserTable) -> None:
    """Checks that ``meta`` holds JSON objects."""
    for text in table.frame["meta"].drop_nulls().unique().sort():
        if not is_object(text):
            raise PeftuError(f"task '{table.card.name}': meta {text[:40]!r} is no JSON object — see peftu.data.reading")


def check_card(card: TaskCard) -> None:
    """Checks that a card says all that a reader needs.

    Raises:
        PeftuError: one line with the first field that does not.
    """
    where = f"task '{card.name}': card"
    for field in FILLED:
        if not str(getattr(card, field)).strip():
            raise PeftuError(f"{where}.{field}: is empty — fill it in")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", card.name):
        raise PeftuError(f"{where}.name: use small letters, digits, '-' and '.' only")
    if not card.homepage.startswith("https://"):
        raise PeftuError(f"{where}.homepage: give an https address")
    words = [word.casefold() for word in card.verbalisations]
    if any(other.startswith(word) for word, other in permutations(words, 2)):
        raise PeftuError(f"{where}.words: one begins with another — choose words that differ at their start")
    if not card.files:
        raise PeftuError(f"{where}.files: is empty — name the raw files")
    for name, values in card.presets.items():
        if "preset" in values:
            raise PeftuError(f"{where}.presets: {name}: names a preset — give option values only")
    for file in card.files:
        _check_file(file, f"{where}.files: {file.name}")


def _check_file(file: SourceFile, where: str) -> None:
    if file.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise PeftuError(f"{where}: sha256 is not 64 hex digits")
    if file.url is not None and not file.url.startswith("https://"):
        raise PeftuError(f"{where}: url is not an https address")
    if file.package and not (re.fullmatch(r"[\w.-]+==[\w.]+", file.package) and file.member and file.sha256):
        raise PeftuError(f"{where}: a wheel needs package 'name==version', member and sha256")
