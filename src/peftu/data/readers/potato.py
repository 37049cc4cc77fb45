"""Annotations of Potato: the tables of both versions, and the states of users that the second keeps."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.file import File
from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, as_key, is_answer
from peftu.data.readers.source import Source
from peftu.outside import parse_yaml

STATE, ANSWERS, SPANS = "user_state.json", "instance_id_to_label_to_value", "instance_id_to_span_to_value"
IN_FIRST, IN_SECOND = ":::", "."  # between schema and label in a table's columns
SPAN_COLUMNS = ("span_annotation:::", "._spans", "._room", "._room_id")
SCALE = re.compile(r"scale_(\d+)")
YES = ("true", "on", "yes")
REMARK = "free_response"  # what is typed beside a choice
BROKEN = "holds no answers by schema and label — export it again"
FORM = "answers of another form"
SPAN = "instances with marked parts of the text"
OWN = ("user_id", "instance_id", "text")
Schemas = dict[str, dict[str, Any]]  # schema -> label -> value
Row = tuple[str, dict[str, str | None], Schemas]  # where it stands, its own columns, its answers


class Potato:
    """Reads a row an instance that a user answered; each schema is a column."""

    name = "potato"
    title = "annotations of Potato"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it has users' states, or the columns that Potato's tables have."""
        if file.shape == "folder":
            return any(PurePosixPath(name).name == STATE for name in file.files)
        keys = file.keys()
        if file.shape == "delimited":
            first = {"user", "instance_id"} <= keys and any(IN_FIRST in key for key in keys)
            second = file.header[:2] == ("instance_id", "user_id") and any(IN_SECOND in key for key in keys)
            return first or second
        return {"user_id", "instance_id"} <= keys and ("label_annotations" in keys or {"labels", "spans"} <= keys)

    def open(self, file: File) -> Source:
        """Returns its rows; spans are no judgements of a text."""
        judgements = Judgements(file.path)
        read = {"folder": _states, "delimited": _table}.get(file.shape, _records)
        rows = list(read(file, judgements))
        columns = _columns([schemas for _, _, schemas in rows])
        for number, (place, keys, schemas) in enumerate(rows):
            values = [value for held in schemas.values() for value in held.values()]
            judgements.left_out[FORM] += sum(not is_answer(value) for value in values)
            answers = {name: given[number] for name, given in columns.items() if given[number] is not None}
            if str(keys["instance_id"]).endswith(".html"):
                judgements.left_out["pages of a survey"] += 1
            elif answers:
                judgements.add(place, keys | answers)
            else:
                judgements.left_out["instances without an answer"] += 1
        roles = {"user": "user_id", "item": "instance_id", "text": "text"}
        questions = tuple(column for column in columns if not column.endswith(f".{REMARK}"))
        return judgements.source("Potato", roles=roles, questions=questions)


READER = Potato()


def _table(file: File, judgements: Judgements) -> Iterator[Row]:
    """Yields the rows of a CSV or TSV file; a cell stands under schema and label."""
    frame, _ = read_delimited(file, tuple(dict.fromkeys(file.header)))
    first = "user" in file.header
    mark, who = (IN_FIRST, "user") if first else (IN_SECOND, "user_id")
    for number, cells in enumerate(frame.to_dicts(), 1):
        schemas: Schemas = {}
        for column, cell in cells.items():
            schema, found, label = column.partition(mark)
            if any(part in column for part in SPAN_COLUMNS):
                judgements.left_out[SPAN] += cell not in ("", "[]")
            elif found or not (first or column in OWN):
                schemas.setdefault(schema, {})[label] = cell
        yield f"row {number}", _own(cells, cells[who]), schemas


def _records(file: File, judgements: Judgements) -> Iterator[Row]:
    """Yields the rows of a JSONL file."""
    for number, record in enumerate(records_of(file), 1):
        schemas = _schemas(record.get("label_annotations", record.get("labels")))
        if schemas is None:
            judgements.wrong(f"row {number}", BROKEN)
        else:
            judgements.left_out[SPAN] += bool(record.get("span_annotations", record.get("spans")))
            yield f"row {number}", _own(record, record.get("user_id")), schemas


def _states(file: File, judgements: Judgements) -> Iterator[Row]:
    """Yields an answered instance of each user, with its text where the task's configuration says where that is."""
    texts = _texts(file)
    states = [name for name in file.files if PurePosixPath(name).name == STATE]
    for number, name in enumerate(states, 1):
        state = File(file.path, file.files[name], file.reading).document
        answers = state.get(ANSWERS) if isinstance(state, dict) else None
        if not isinstance(answers, dict):
            judgements.wrong(f"state {number}", BROKEN)
            continue
        spans = state.get(SPANS)
        judgements.left_out[SPAN] += sum(map(bool, spans.values())) if isinstance(spans, dict) else 0
        for place, (instance, held) in enumerate(answers.items(), 1):
            schemas = _schemas(held)
            where = f"state {number}, instance {place}"
            if schemas is None:
                judgements.wrong(where, BROKEN)
                continue
            keys = {"user_id": as_key(state.get("user_id", PurePosixPath(name).parent.name)), "instance_id": instance}
            yield where, keys | ({"text": texts.get(instance)} if texts else {}), schemas


def _own(row: Mapping[str, Any], user: Any) -> dict[str, str | None]:
    keys = {"user_id": as_key(user), "instance_id": as_key(row.get("instance_id"))}
    return keys | ({"text": as_cell(row["displayed_text"])} if "displayed_text" in row else {})


def _schemas(held: Any) -> Schemas | None:
    """Returns schema -> label -> value of an instance, which may be written as pairs; None where it is neither."""
    if isinstance(held, dict):
        held = {name: labels["labels"] if _is_wrapped(labels) else labels for name, labels in held.items()}
        return {name: labels if isinstance(labels, dict) else {"": labels} for name, labels in held.items()}
    schemas: Schemas = {}
    for pair in held if isinstance(held, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], dict):
            return None
        schema, label = pair[0].get("schema"), pair[0].get("name")
        if not isinstance(schema, str) or not isinstance(label, str):
            return None
        schemas.setdefault(schema, {})[label] = pair[1]
    return schemas


def _is_wrapped(labels: Any) -> bool:
    return isinstance(labels, dict) and isinstance(labels.get("labels"), dict)


def _columns(rows: list[Schemas]) -> dict[str, list[Any]]:
    """Returns column -> answers of all rows: the labels chosen of a schema, or what was typed or set under a label."""
    columns: dict[str, list[Any]] = {}
    for schema in dict.fromkeys(name for row in rows for name in row):
        given = [{label: value for label, value in row.get(schema, {}).items() if _is_given(value)} for row in rows]
        labels = list(dict.fromkeys(label for row in given for label in row))
        choices = [label for label in labels if label not in (REMARK, "")] or labels
        if len(choices) > 1 and _are_chosen(choices, given):
            scale = all(map(SCALE.fullmatch, choices))
            names = {label: label.removeprefix("scale_") if scale else label for label in choices}
            columns[schema] = [[names[label] for label in row if label in names] or None for row in given]
        else:
            named = {schema if len(choices) == 1 else f"{schema}.{label}": label for label in choices}
            columns |= {name: [row.get(label) for row in given] for name, label in named.items()}
        if REMARK in labels:
            columns[f"{schema}.{REMARK}"] = [row.get(REMARK) for row in given]
    return {column if column not in OWN else f"answer.{column}": answers for column, answers in columns.items()}


def _are_chosen(labels: list[str], rows: list[dict[str, Any]]) -> bool:
    """Returns whether labels are chosen (marked with a word for yes, their own name or number), not typed under."""
    values = [{as_cell(row[label]) for row in rows if label in row} for label in labels]
    marks = [str(next(iter(each))) for each in values]
    named = all(
        mark.lower() in YES or mark == label or mark.endswith(f"{IN_FIRST}{label}")
        for mark, label in zip(marks, labels, strict=True)
    )
    numbered = all(map(str.isdecimal, marks)) and len(set(marks)) == len(marks)
    return (named or numbered) and all(len(each) == 1 for each in values)


def _is_given(value: Any) -> bool:
    return is_answer(value) and value not in (None, False, "", "false", "False", [])


def _texts(file: File) -> dict[str, str | None]:
    """Returns instance -> text from the data files that a configuration in the folder names."""
    texts: dict[str, str | None] = {}
    for name, path in file.files.items():
        if PurePosixPath(name).suffix not in (".yaml", ".yml"):
            continue
        try:
            config = parse_yaml(path.read_text(encoding="utf-8"))
            keys, data = config["item_properties"], config["data_files"]
            key, text = str(keys["id_key"]), str(keys["text_key"])
        except (OSError, ValueError, TypeError, KeyError):  # no configuration of a task
            continue
        for wanted in data if isinstance(data, list) else [data]:
            wanted = PurePosixPath(str(wanted.get("path") if isinstance(wanted, dict) else wanted)).as_posix()
            found = [path for name, path in file.files.items() if f"/{name}".endswith(f"/{wanted}")]
            for row in _rows(File(file.path, found[0], file.reading)) if found else []:
                texts[str(row.get(key))] = as_cell(row.get(text))
    return texts


def _rows(data: File) -> list[dict[str, Any]]:
    if data.shape != "delimited":
        return records_of(data)
    return read_delimited(data, tuple(dict.fromkeys(data.header)))[0].to_dicts()
