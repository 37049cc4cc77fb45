"""JSON with an object an item that holds all of its judgements, as LeWiDi, HateXplain and other data sets have it."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from peftu.data.readers.columns import NAMES
from peftu.data.readers.file import FIRST, File
from peftu.data.readers.json_text import KEY, records_of
from peftu.data.readers.judgements import Judgements, as_cell, is_answer
from peftu.data.readers.source import Source
from peftu.errors import PeftuError

GIVEN, GIVERS = "annotations", "annotators"
USER, LABEL = "annotator", "annotation"
BETWEEN = ","  # stands between names, and between several labels of one annotator
TOKENS = "tokens"  # in the name of a text that is kept as a list of words
MOST_FILES = 50
HIDDEN = {GIVEN, GIVERS, "soft_label"}  # the last counts the judgements
NONE = "items without a judgement"


class Items:
    """Reads a row a judgement from {annotator: label}, [{annotator, label}], or names and labels with commas."""

    name = "items"
    title = "JSON with judgements in each item"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether the items, or those of a JSON file in a folder, hold judgements in one of these ways."""
        return any(map(_seems_to_fit, _candidates(file)))

    def open(self, file: File) -> Source:
        """Returns its rows; items that nobody judged are left out.

        Raises:
            PeftuError: judgements are of another form.
        """
        judgements = Judgements(file.path)
        members = _members(file)
        roles: dict[str, str] = {}
        for number, member in enumerate(members, 1):
            where = f"file {number}, " if file.shape == "folder" else ""
            for place, (key, record) in enumerate(_records(member), 1):
                roles |= _read(f"{where}item {place}", key, record, judgements)
        others = len(file.files) - len(members) if file.shape == "folder" else 0
        notes = [f"{others:,} other files are not read"] if others else []
        return judgements.source("JSON, judgements in each item", roles=roles, notes=notes)


READER = Items()


def _members(file: File) -> list[File]:
    return [member for member in _candidates(file) if _fits(member)]


def _candidates(file: File) -> list[File]:
    if file.shape != "folder":
        return [file]
    paths = [path for name, path in file.files.items() if name.endswith((".json", ".jsonl"))]
    members = [File(file.path, path, file.reading) for path in paths[: MOST_FILES + 1]]
    few = len(members) <= MOST_FILES
    return [member for member in members if few and member.begin.strip()]


def _seems_to_fit(file: File) -> bool:
    """Returns whether a file is of this form; a damaged one is for its own reader to tell."""
    try:
        return _fits(file)
    except PeftuError:
        return False


def _fits(file: File) -> bool:
    """Returns whether the first items are of this form."""
    if file.shape == "object" and isinstance(file.document, dict):
        return any(map(_form, islice(file.document.values(), FIRST)))
    # Lists of judgements in records without keys are the reader's 'nested'.
    formed = any(_form(record) and not isinstance(record[_form(record)], list) for record in file.first)
    return file.shape in ("array", "lines") and formed


def _records(file: File) -> Iterator[tuple[str | None, Any]]:
    """Yields the items with the keys that they stand under, if any."""
    if file.shape == "object":
        yield from file.document.items()
    else:
        yield from ((None, record) for record in records_of(file))


def _form(record: Any) -> str:
    """Returns the field that holds an item's judgements; '' if none does."""
    if not isinstance(record, dict):
        return ""
    given, givers = record.get(GIVEN), record.get(GIVERS)
    if isinstance(given, dict) and all(map(is_answer, given.values())) and (given or isinstance(givers, str)):
        return GIVEN
    if isinstance(given, str) and isinstance(givers, str):
        return GIVEN
    return next((name for name, value in record.items() if _is_list(value)), "")


def _is_list(value: Any) -> bool:
    listed = isinstance(value, list) and bool(value) and all(isinstance(judgement, dict) for judgement in value)
    return listed and all(_called(judgement, "user") and _called(judgement, "label") for judgement in value)


def _called(record: dict[str, Any], role: str) -> str:
    """Returns the key whose name fits a role, the likeliest first."""
    return next((name for name in NAMES[role] if name in record), "")


def _read(place: str, key: str | None, record: Any, judgements: Judgements) -> dict[str, str]:
    """Takes in an item; returns what its columns are."""
    if not isinstance(record, dict):
        judgements.wrong(place, "is no object with judgements — write it like the others")
        return {}
    field = _form(record)
    about, roles = _about(record, {field, *HIDDEN})
    if key is not None:
        about, roles = {KEY: key, **about}, {"item": KEY, **roles}
    if not field:
        if record.get(GIVEN) or record.get(GIVERS):
            judgements.wrong(place, f"'{GIVEN}' are no labels by annotator — write it like the others")
        else:
            judgements.left_out[NONE] += 1
        return {}
    value = record[field]
    if isinstance(value, list):
        user, label = _called(value[0], "user"), _called(value[0], "label")
        rows = [
            {name: each if is_answer(each) else as_cell(each) for name, each in judgement.items()}
            for judgement in value
        ]
        for number, judgement in enumerate(value, 1):
            if isinstance(judgement.get(user, {}), list | dict) or not is_answer(judgement.get(label, {})):
                judgements.wrong(f"{place}, judgement {number}", "has no plain user and label — mend it")
    else:
        user, label = USER, LABEL
        rows = _pairs(place, value, record.get(GIVERS), judgements)
    if not rows:
        judgements.left_out[NONE] += 1
    for number, row in enumerate(rows, 1):
        outer = {f"item.{name}" if name in row else name: cell for name, cell in about.items()}
        judgements.add(f"{place}, judgement {number}", outer | row)
    named = {role: f"item.{name}" if rows and name in rows[0] else name for role, name in roles.items()}
    return named | {"user": user, "label": label}


def _pairs(place: str, given: Any, givers: Any, judgements: Judgements) -> list[dict[str, Any]]:
    """Returns a row for each annotator of {name: label}, or of names and labels with commas between them."""
    if isinstance(given, str):
        users, labels = [givers.split(BETWEEN) if givers else [], given.split(BETWEEN) if given else []]
        if len(users) != len(labels):
            judgements.wrong(place, f"{len(users)} annotators but {len(labels)} annotations — name one for each")
            return []
        given = {user.strip(): label.strip() for user, label in zip(users, labels, strict=True)}
    rows = []
    for user, label in given.items():
        several = isinstance(label, str) and BETWEEN in label
        rows.append({USER: user, LABEL: [part.strip() for part in label.split(BETWEEN)] if several else label})
    return rows


def _about(record: dict[str, Any], hidden: set[str]) -> tuple[dict[str, str | None], dict[str, str]]:
    """Returns what an item says besides judgements, objects one level deep, and which of it is the text."""
    cells: dict[str, str | None] = {}
    roles: dict[str, str] = {}
    for name, value in record.items():
        if name in hidden:
            continue
        if isinstance(value, list):
            if TOKENS in name and all(isinstance(word, str) for word in value):
                cells[name], roles["text"] = " ".join(value), name
        elif isinstance(value, dict):
            inner = {
                part if part not in record and part not in cells else f"{name}.{part}": as_cell(cell)
                for part, cell in value.items()
                if not isinstance(cell, list | dict)
            }
            cells |= inner
            if name == "text" and 0 < len(inner) <= 2:  # the last is judged, the one before it is what it answers
                *before, roles["text"] = inner
                roles |= {"context": before[0]} if before else {}
        else:
            cells[name] = as_cell(value)
    return cells, roles
