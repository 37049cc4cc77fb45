"""Exports of doccano: a file for each user, in a zip archive or a folder."""

from pathlib import PurePosixPath
from typing import Any

from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.file import File
from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, is_answer
from peftu.data.readers.source import Source
from peftu.errors import PeftuError

TEXTS, LABELS = ("text", "data"), ("label", "cats")  # the second of each in older versions, in projects of intents
COMMENTS = {"Comments", "comments"}
SUFFIXES = (".jsonl", ".json", ".csv")
EVERYONE = "all"  # the file that does not tell users apart
PARTS = ("train", "test", "dev", "val", "valid", "validation")
BETWEEN = "#"  # stands between the labels of a CSV cell
LOST = (
    "a doccano file that does not say who labelled what — in the project's settings do not share annotations across "
    "all users, export again, and pass the zip file that holds a file for each user"
)


class Doccano:
    """Reads a row an example that a user labelled; who that is stands in the file's name."""

    name = "doccano"
    title = "a doccano export"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether all of its files hold examples with a key, a text and labels, and are called after users."""
        if file.shape not in ("folder", "lines", "array", "delimited"):
            return False
        names = [PurePosixPath(name) for name in file.files]
        if file.shape == "folder":
            fit = all(name.suffix in SUFFIXES and name.stem not in PARTS for name in names)
            return fit and len({name.parent for name in names}) == 1 and all(map(_fits, _members(file)))
        bare = file.keys() - COMMENTS <= {"id", *TEXTS, *LABELS}
        return _fits(file) and bare and (bool(names) or file.path.stem == EVERYONE or bool(file.keys() & COMMENTS))

    def open(self, file: File) -> Source:
        """Returns its rows; examples without a label are not judged.

        Raises:
            PeftuError: the file is everybody's together, or one user's whose name is not known.
        """
        users = [PurePosixPath(name).stem for name in file.files]
        if not set(users) - {EVERYONE}:
            raise PeftuError(f"{file.path}: {LOST}")
        judgements = Judgements(file.path)
        notes = []
        for number, (user, member) in enumerate(zip(users, _members(file), strict=True), 1):
            if user == EVERYONE:
                judgements.left_out["files that do not tell users apart"] += 1
            elif member.begin.strip():
                notes += _read(member, f"file {number}", user, judgements)
        roles = {"user": "user", "item": "id", "text": "text"}
        return judgements.source("doccano, a file a user", roles=roles, questions=("label",), notes=sorted(set(notes)))


READER = Doccano()


def _members(file: File) -> list[File]:
    paths = file.files.values() if file.shape == "folder" else [file.data]
    return [File(file.path, path, file.reading) for path in paths]


def _fits(file: File) -> bool:
    """Returns whether a file's first rows have the keys of examples; that of a user who labelled nothing is empty."""
    if not file.begin.strip():
        return True
    if file.shape == "delimited":
        return _has_keys(set(file.header))
    lists = all(isinstance(_either(record, LABELS), list) for record in file.first)
    return bool(file.first) and lists and all(_has_keys(set(record)) for record in file.first)


def _has_keys(keys: set[str]) -> bool:
    return "id" in keys and not keys.isdisjoint(TEXTS) and not keys.isdisjoint(LABELS)


def _either(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if key in record), None)


def _read(member: File, where: str, user: str, judgements: Judgements) -> list[str]:
    """Takes in one user's examples; returns remarks."""
    notes: list[str] = []
    delimited = member.shape == "delimited"
    if delimited:
        frame, notes = read_delimited(member, tuple(dict.fromkeys(member.header)))
        rows: list[dict[str, Any]] = frame.to_dicts()
        notes = [*notes, f"'{BETWEEN}' stands between the labels of a cell"]
    else:
        rows = records_of(member)
    for number, row in enumerate(rows, 1):
        labels, place = _either(row, LABELS), f"{where}, row {number}"
        if delimited and isinstance(labels, str):
            labels = [label for label in labels.split(BETWEEN) if label]
        if not isinstance(labels, list) or not is_answer(labels):
            judgements.wrong(place, "label is no list of texts — parts of a text are no judgement of it")
        elif not labels:
            judgements.left_out["examples that a user gave no label"] += 1
        else:
            more = {
                key: as_cell(value) for key, value in row.items() if key not in (*TEXTS, *LABELS, *COMMENTS, "user")
            }
            judgements.add(place, more | {"user": user, "text": as_cell(_either(row, TEXTS)), "label": labels})
    return notes
