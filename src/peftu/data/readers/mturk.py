"""Results of a batch on Amazon Mechanical Turk, as its requester page gives them."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from peftu.data.readers.columns import NAMES
from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.file import File
from peftu.data.readers.judgements import as_cell
from peftu.data.readers.left_out import says, without
from peftu.data.readers.source import RowProblem, RowsError, Source
from peftu.data.readers.times import AS_MTURK, spelled_out, written_as
from peftu.outside import parse_json

USER, ITEM, TIME, STATUS, REJECT = "WorkerId", "HITId", "SubmitTime", "AssignmentStatus", "Reject"
INPUT, ANSWER = "Input.", "Answer."
FORM = "Answer.taskAnswers"  # all answers of a page made of crowd elements, as JSON
MARKS = ("true", "false")


class MechanicalTurk:
    """Reads a row an assignment; columns of true and false under one name become one column of labels."""

    name = "mturk"
    title = "a batch of Amazon Mechanical Turk"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it has the columns of assignments, and some of answers."""
        answers = any(column.startswith(ANSWER) for column in file.header)
        return file.shape == "delimited" and answers and {USER, ITEM, STATUS} <= set(file.header)

    def open(self, file: File) -> Source:
        """Returns its rows; rejected assignments are left out.

        Raises:
            PeftuError: the cells of a form are no JSON.
        """
        there = [column for column in (USER, ITEM, "AssignmentId", TIME, STATUS, REJECT) if column in file.header]
        inputs = [column for column in file.header if column.startswith(INPUT)]
        answers = [column for column in file.header if column.startswith(ANSWER)]
        frame, notes = read_delimited(file, [*there, *inputs, *answers])
        rejected = says(STATUS, "rejected")
        if REJECT in there:
            rejected |= pl.col(REJECT).str.strip_chars() != ""
        kept = without(frame, {"rejected assignments": rejected})
        given = kept.frame.select(answers)
        if FORM in answers:
            given = pl.concat([given.drop(FORM), _form(file, given[FORM], kept.places)], how="horizontal")
        questions = _questions(given)
        frame = kept.frame.select(column for column in (*there, *inputs) if column not in (TIME, REJECT))
        roles = {"user": USER, "item": ITEM, "text": _likely(inputs, "text"), "context": _likely(inputs, "context")}
        roles["item"] = _likely(inputs, "item") or ITEM
        roles["text"] = inputs[0] if len(inputs) == 1 else roles["text"]
        if TIME in there:
            times = written_as(spelled_out(kept.frame[TIME]), [AS_MTURK])
            frame = frame.with_columns(times)
            if not times.null_count():
                roles["time"] = TIME
        frame = frame.with_columns(questions)
        if len(questions) == 1:
            roles["label"] = questions[0].name
        return Source.of_frame(
            file.path,
            "a batch of Amazon Mechanical Turk",
            frame,
            roles={role: column for role, column in roles.items() if column},
            questions=[question.name for question in questions] if len(questions) > 1 else (),
            notes=notes,
            left_out=kept.counts,
            places=kept.places,
        )


READER = MechanicalTurk()


def _likely(columns: Sequence[str], role: str) -> str:
    """Returns the input that is called like a role; '' where there is none."""
    plain = {column.removeprefix(INPUT).lower(): column for column in columns}
    return next((plain[name] for name in NAMES[role] if name in plain), "")


def _form(file: File, cells: pl.Series, places: Sequence[str]) -> pl.DataFrame:
    """Returns a column for each answer in cells as [{"mood": {"label": "glad"}, "parts": {"a": true}}]."""
    rows: list[dict[str, str | None]] = []
    problems: list[RowProblem] = []
    for number, cell in enumerate(cells, 1):
        try:
            value = parse_json(cell) if cell else {}
        except ValueError:
            value = None
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        rows.append(_flat(value, ANSWER) if isinstance(value, dict) else {})
        if not isinstance(value, dict):
            problems.append((number, f"{FORM} is no JSON object of answers — download the batch again"))
    if problems:
        raise RowsError(file.path, problems, places=places)
    columns = dict.fromkeys(column for row in rows for column in row)
    return pl.DataFrame([pl.Series(column, [row.get(column) for row in rows], pl.String) for column in columns])


def _flat(answers: dict[str, Any], prefix: str) -> dict[str, str | None]:
    flat: dict[str, str | None] = {}
    for name, value in answers.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = as_cell(value)
    return flat


def _questions(answers: pl.DataFrame) -> list[pl.Series]:
    """Returns a column for each question; one that is marked by value is a list of those marked, or the one marked."""
    marked: dict[str, list[str]] = {}
    questions = {}
    for column in answers.columns:
        values = answers[column].str.strip_chars().str.to_lowercase().replace("", None)
        question, dot, _ = column.rpartition(".")
        if dot and question != ANSWER.rstrip(".") and values.is_in(MARKS).all():
            marked.setdefault(question, []).append(column)
            questions[question] = pl.Series(question, [], pl.String)  # keeps its place
        else:
            questions[column] = answers[column]
    for question, columns in marked.items():
        names = [
            pl.when(pl.col(column).str.strip_chars().str.to_lowercase() == MARKS[0]).then(
                pl.lit(column.removeprefix(f"{question}."))
            )
            for column in columns
        ]
        lists = answers.select(pl.concat_list(names).list.drop_nulls().alias(question)).to_series()
        single = lists.list.len().max() == 1
        questions[question] = lists.list.first() if single else lists
    return list(questions.values())
