"""Records of Argilla 2, nested as ``to_json`` writes them or flat as ``to_datasets`` does."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, as_key, is_answer
from peftu.data.readers.parquet import read_parquet
from peftu.data.readers.source import Source

if TYPE_CHECKING:
    from peftu.data.readers.file import File

RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"
NOT_FIELDS = (RESPONSES, USERS, STATUS, ".suggestion", ".suggestion.score", ".suggestion.agent")
OWN = ("id", "user_id", "status", "_server_id")
LEFT_OUT = ("draft", "discarded", "pending", None)
FORM = "answers that are rankings or parts of the text"
NO_STATUS = "this export does not say which responses were drafts or discarded; records written by to_datasets do"


class Response(NamedTuple):
    """What one user answered to one question."""

    question: str
    value: Any
    user: Any
    status: Any = None


class Argilla:
    """Reads a row a user's response to a record; each question is a column."""

    name = "argilla"
    title = "records of Argilla 2"
    plain = False

    def claims(self, file: "File") -> bool:
        """Returns whether questions have responses with their users, or records have fields and responses."""
        return _is_flat(file) or any(
            isinstance(record.get("fields"), dict) and isinstance(record.get("responses"), dict)
            for record in file.first
        )

    def open(self, file: "File") -> Source:
        """Returns its submitted responses; suggestions are no judgements."""
        judgements = Judgements(file.path)
        flat, records = _is_flat(file), _records(file)
        has_status = any(key.endswith(STATUS) for record in records for key in record)
        responses = [list(_flat(record, has_status) if flat else _nested(record)) for record in records]
        has_status |= any(each.status for of_record in responses for each in of_record if each)
        questions = dict.fromkeys(each.question for of_record in responses for each in of_record if each)
        fields: dict[str, None] = {}
        for number, (record, of_record) in enumerate(zip(records, responses, strict=True), 1):
            place = f"record {number}"
            if None in of_record:
                judgements.wrong(place, "its responses, users and status do not fit together — export it again")
                continue
            kept = [each for each in of_record if each and _is_kept(each, place, judgements, has_status=has_status)]
            held = _fields(record, questions, flat=flat)
            fields |= dict.fromkeys(held)
            for answers in _by_user(kept):
                judgements.add(place, held | answers)
        fields.pop("id", None)
        text = {"text": next(iter(fields))} if len(fields) == 1 and not flat else {}
        return judgements.source(
            "Argilla records",
            roles={"user": "user_id", "item": "id"} | text,
            questions=tuple(questions),
            notes=[] if has_status else [NO_STATUS],
        )


READER = Argilla()


def _is_flat(file: "File") -> bool:
    keys = file.keys()
    return any(key.endswith(USERS) and key.removesuffix(".users") in keys for key in keys)


def _records(file: "File") -> list[dict[str, Any]]:
    return read_parquet(file).to_dicts() if file.shape == "binary" else records_of(file)


def _flat(record: Mapping[str, Any], has_status: bool) -> Iterator[Response | None]:
    """Yields a flat record's responses; None where its lists do not fit together."""
    for key, values in record.items():
        if not key.endswith(RESPONSES) or values is None:
            continue
        question = key.removesuffix(RESPONSES)
        users, status = record.get(question + USERS), record.get(question + STATUS)
        if not has_status and isinstance(users, list):
            status = [None] * len(users)
        lists = [values, users, status]
        if all(isinstance(each, list) for each in lists) and len({len(each) for each in lists}) == 1:
            yield from (Response(_column(question), *each) for each in zip(*lists, strict=True))
        else:
            yield None


def _nested(record: Mapping[str, Any]) -> Iterator[Response | None]:
    responses = record.get("responses")
    if not isinstance(responses, dict) or not isinstance(record.get("fields"), dict):
        yield None
        return
    for question, each in responses.items():
        for response in each if isinstance(each, list) else [each]:
            fits = isinstance(response, dict) and {"value", "user_id"} <= set(response)
            yield (
                Response(_column(question), response["value"], response["user_id"], response.get("status"))
                if fits
                else None
            )


def _is_kept(response: Response, place: str, judgements: Judgements, *, has_status: bool) -> bool:
    if has_status and response.status in LEFT_OUT:
        judgements.left_out[f"responses that are {response.status or 'without a status'}"] += 1
    elif has_status and response.status != "submitted":
        judgements.wrong(place, "a response has a status that is not known — export it again")
    elif not is_answer(response.value):
        judgements.left_out[FORM] += 1
    else:
        return True
    return False


def _by_user(responses: list[Response]) -> Iterator[dict[str, Any]]:
    """Yields the answers of each user, questions as keys; a second answer to a question begins a row of its own."""
    rows: list[dict[str, Any]] = []
    for response in responses:
        user = None if response.user == "None" else as_key(response.user)  # Argilla writes str(None)
        row = next((row for row in rows if row["user_id"] == user and response.question not in row), None)
        if row is None:
            rows.append(row := {"user_id": user})
        row[response.question] = response.value
    yield from rows


def _column(question: str) -> str:
    return f"answer.{question}" if question in OWN else question


def _fields(record: Mapping[str, Any], questions: Mapping[str, None], *, flat: bool) -> dict[str, str | None]:
    """Returns the record's key and fields; a field that is called like a question is another column."""
    fields = record if flat else record["fields"]
    names = {name: f"field.{name}" if name in (*questions, *OWN) else name for name in fields}
    if flat:
        names = {name: column for name, column in names.items() if not name.endswith(NOT_FIELDS) and name not in OWN}
    held = {column: as_cell(fields[name]) for name, column in names.items() if not _is_vector(fields[name])}
    return held | {"id": as_cell(record.get("id"))}


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, float) for number in value)
