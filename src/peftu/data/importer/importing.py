"""Anybody's table becomes a task: columns, labels and times are found, every wrong row is told, the result is kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from peftu.answers import KINDS, answers_of
from peftu.config import SplitSpec
from peftu.data.imported import LONGEST_NAME, check_name, keep
from peftu.data.importer.labels import Labels
from peftu.data.importer.policy import Policy
from peftu.data.importer.reshape import Reshaping, reshape
from peftu.data.importer.roles import Roles, find_roles
from peftu.data.importer.rows import to_rows
from peftu.data.importer.where import chosen, condition
from peftu.data.readers.columns import BY_NAME, NAMES, known_column
from peftu.data.readers.file import Reading
from peftu.data.readers.reader import opened
from peftu.data.readers.source import RowsError, Source, one_line
from peftu.data.table import FORMAT, UserTable
from peftu.data.task import TaskCard
from peftu.data.texts import abridged, twins_notes
from peftu.errors import PeftuError
from peftu.files import sha256_of
from peftu.outside import is_plain, plain_file
from peftu.registry import did_you_mean

PLAIN = ("label", "labels", "annotation", "annotations", "answer", "category", "class", "target", "vote", "y")
FIRST_ROWS = 3
SHORT = 60
LISTED_LABELS = 12


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of a file; everything else is found.

    Attributes:
        name: of the task; None: from the file's name.
        columns: role -> column, for user, text, item, context and time.
        labels: label columns.
        kind: of the labels.
        label_set: the labels, in order.
        words: what a model says for each label.
        instruction: put before the text.
        replacing: take the place of another import of that name.
        reading: of the file.
        policy: what becomes of rows that lack something, and of conflicts.
        where: rows that are read, as 'column = value' or an SQL expression.
        time_format: of the time column, as ``strptime`` has it.
        reshaping: what makes one judgement a row of it.
        about: columns of what is known of the users.
    """

    name: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    kind: str | None = None
    label_set: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    instruction: str | None = None
    replacing: bool = False
    reading: Reading | None = None
    policy: Policy | None = None
    where: str | None = None
    time_format: str | None = None
    reshaping: Reshaping = field(default_factory=Reshaping)
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """A table that was read, and how.

    Attributes:
        table: with the card of the new task.
        read_as: the file's format in words.
        roles: which column was taken for what.
        notes: what was inferred and should be known.
    """

    table: UserTable
    read_as: str
    roles: Roles
    notes: list[str]


def import_file(path: Path, options: ImportOptions | None = None) -> dict[str, Any]:
    """Returns what was found in a file, after keeping it as a task that every command takes by name.

    Args:
        path: a file or folder of any layout that a reader knows, packed or not; '-' is standard input.
        options: what is known beforehand.

    Raises:
        PeftuError: the file, an option or rows are wrong (`RowsError` for rows); nothing is kept then.
    """
    options = options or ImportOptions()
    name = check_name(options.name or _slug(plain_file(path)))
    check_kind(options.kind)
    try:
        imported = _own_table(path, name) if _is_own_table(path) else _read(path, name, options)
    except RowsError:
        raise
    except PeftuError as error:
        raise PeftuError(one_line(str(error))) from None
    folder = keep(imported.table, replacing=options.replacing)
    return _described(imported, path, folder)


def _read(path: Path, name: str, options: ImportOptions) -> Imported:
    with opened(path, options.reading) as source:
        source = reshape(source, options.reshaping, options.columns)
        base = source.card
        kind = options.kind or source.kind or (base.kind if base else None)
        label_set = options.label_set or (base.labels if base and base.kind == kind else ())
        options = replace(options, name=name, kind=kind, label_set=label_set)
        roles = find_roles(source, options.columns, options.labels)
        about = tuple(known_column(source, column, "--about", NAMES) for column in options.about)
        roles = replace(roles, about=about)
        where = None if options.where is None else condition(options.where, source)
        extra = () if where is None else where.columns
        frame, notes = source.read(tuple(dict.fromkeys([*roles.columns, *extra])))
        if where is not None:
            frame, source = chosen(frame, source, where)
    files = [file for file in (path, *options.reshaping.files) if file.is_file()]
    sources = {file.name: sha256_of(file) for file in files}
    imported = table_of(frame, roles, options, source, sources)
    return replace(imported, read_as=source.read_as, notes=[*source.notes, *notes, *imported.notes])


def table_of(
    frame: pl.DataFrame,
    roles: Roles,
    options: ImportOptions,
    source: Source,
    sources: dict[str, str] | None = None,
) -> Imported:
    """Returns the table of a frame's rows under these roles.

    Args:
        frame: the rows, in the order in which messages count them.
        roles: which column is what.
        options: with the task's name.
        source: what the rows come from.
        sources: see ``UserTable``.

    Raises:
        PeftuError: a column cannot hold what it must; `RowsError`: rows are wrong.
    """
    try:
        rows = to_rows(frame, roles, options.kind, options.label_set, options.policy, options.time_format)
    except PeftuError as error:
        raise PeftuError(f"{source.path}: {error}") from None
    if rows.problems:
        raise RowsError(source.path, rows.problems, places=source.places)
    left_out = {**source.left_out, **rows.left_out}
    card = _card(str(options.name), rows.labels, rows.roles, options, source.card)
    if left_out and source.card is None:
        counted = "; ".join(f"{number:,} {what}" for what, number in left_out.items())
        card = card.model_copy(update={"description": f"{card.description} Left out: {counted}."})
    table = UserTable.of_frame(card, rows.frame, {}, sources, left_out)
    return Imported(table, "a frame", rows.roles, rows.notes)


def check_kind(kind: str | None) -> str | None:
    """Returns the kind of labels if there is such a one, or if it is to be found.

    Raises:
        PeftuError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise PeftuError(f"--kind: unknown kind '{kind}'{did_you_mean(kind, KINDS)}")
    return kind


def _is_own_table(path: Path) -> bool:
    try:
        return path.suffix == ".parquet" and FORMAT.encode() in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _own_table(path: Path, name: str) -> Imported:
    table = UserTable.read(path)
    card = table.card.model_copy(update={"name": name, "files": (), "presets": {}})
    table = UserTable.of_frame(card, table.frame, {}, {path.name: sha256_of(path)}, table.notes)  # checks every row
    return Imported(table, "a user table that peftu wrote", Roles({}, ()), [])


def _slug(path: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:LONGEST_NAME]
    if not slug:
        raise PeftuError(f"{path}: gives the task no name — pass --name")
    return slug


def _card(name: str, labels: Labels, roles: Roles, options: ImportOptions, base: TaskCard | None) -> TaskCard:
    words = _words(labels, options.words or (base.words if base and base.labels == labels.labels else ()))
    column = roles.labels[0].replace("_", " ") if len(roles.labels) == 1 else "label"
    fields = {
        "kind": labels.kind,
        "labels": labels.labels,
        "words": words,
        "instruction": options.instruction or (base.instruction if base else _instruction(labels, words, column)),
    }
    if base is not None:
        return base.model_copy(update={**fields, "name": name, "files": (), "presets": {}})
    return TaskCard(
        name=name,
        version="1",
        title=f"{name} (imported)",
        description=f"Imported by peftu data import; '{column}' is what a user says of a text.",
        user=f"Whoever the column '{roles.column['user']}' names.",
        main_metric=answers_of(labels.kind).metric,
        language="und",
        licence="not stated",
        citation="not stated",
        homepage="",
        files=(),
        **fields,
    )


def _words(labels: Labels, words: Sequence[str]) -> tuple[str, ...]:
    if not words:
        return ()
    if len(words) != len(labels.labels) or len({word.casefold() for word in words}) < len(words) or not all(words):
        listed = ", ".join(labels.labels)
        raise PeftuError(f"--words: give {len(labels.labels)} different words, one for each label in order: {listed}")
    if not all(map(is_plain, words)):
        raise PeftuError("--words: a word holds a control character — take it out")
    return tuple(words)


def _instruction(labels: Labels, words: Sequence[str], column: str) -> str:
    if not answers_of(labels.kind).labelled:
        return "What does this person write about the text?"
    answers = list(words or labels.labels)
    listed = ", ".join(answers[:-1]) + f" or {answers[-1]}" if len(answers) <= LISTED_LABELS else "one label"
    if not answers_of(labels.kind).exclusive:
        return f"Which of these does this person give the text: {', '.join(answers)}?"
    if column in PLAIN:
        return f"Which label does this person give the text? Answer {listed}."
    return f"How does this person judge the text for '{column}'? Answer {listed}."


def _described(imported: Imported, path: Path, folder: Path) -> dict[str, Any]:
    """Returns what ``--json`` prints; no user's key is in it."""
    frame, card, roles = imported.table.frame, imported.table.card, imported.roles
    sizes = frame.group_by("user_id").len()["len"]
    least = SplitSpec().min_items
    few = int((sizes < least).sum())
    notes = imported.notes + twins_notes(frame, card.labels)
    notes += [f"{what}: {number:,} left out" for what, number in imported.table.notes.items()]
    if few:
        notes.append(f"{few:,} of {len(sizes):,} users have fewer than {least} items; runs leave them out by default")
    columns = [*roles.column.items(), *(("label", column) for column in roles.labels)]
    return {
        "task": card.name,
        "file": str(path),
        "read_as": imported.read_as,
        "kind": card.kind,
        "labels": list(card.labels),
        "words": list(card.words),
        "instruction": card.instruction,
        "users": len(sizes),
        "texts": frame["item_id"].n_unique(),
        "annotations": frame.height,
        "hash": imported.table.hash,
        "folder": str(folder),
        "notes": notes,
        "columns": [
            {"role": role, "column": column, "taken": roles.taken.get(role, BY_NAME)} for role, column in columns
        ],
        "first_rows": _first_rows(frame),
    }


def _first_rows(frame: pl.DataFrame) -> list[dict[str, str]]:
    """Returns some rows of different users, who are numbered rather than named."""
    rows = frame.unique("user_id", keep="first", maintain_order=True).head(FIRST_ROWS)
    return [
        {
            "user": f"user {number}",
            "text": abridged(row["text"], SHORT),
            "label": abridged(", ".join(row["target"]), SHORT),
        }
        | ({"context": abridged(row["context"], SHORT)} if row["context"] else {})
        for number, row in enumerate(rows.iter_rows(named=True), 1)
    ]
