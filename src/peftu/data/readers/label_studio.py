"""Exports of Label Studio: JSON, JSON_MIN and CSV."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, as_key, is_answer
from peftu.data.readers.source import Source
from peftu.outside import parse_json

if TYPE_CHECKING:
    from peftu.data.readers.file import File

FLAT = {"annotator", "annotation_id", "lead_time"}  # columns of every JSON_MIN and CSV
KEPT_BOOKS = (*FLAT - {"annotator"}, "created_at", "updated_at", "was_cancelled", "agreement")
OWN = ("id", "completed_by", "updated_at")
ANSWERS = ("choices", "rating", "number", "taxonomy", "text", "selected", "datetime")  # what a result's value may hold
CANCELLED, REGIONS = "annotations that were cancelled", "answers about a part of the text, or of another form"


class LabelStudio:
    """Reads a row an annotation; each control of the labelling interface is a column."""

    name = "label-studio"
    title = "a Label Studio export"
    plain = False

    def claims(self, file: "File") -> bool:
        """Returns whether it has a task's data beside results, or the columns that the short exports have."""
        if file.keys() >= FLAT:
            return True
        tasks = [task for task in file.first if isinstance(task.get("data"), dict) and _annotations(task) is not None]
        return bool(tasks) and all(
            isinstance(each, dict) and "result" in each for task in tasks for each in _annotations(task) or []
        )

    def open(self, file: "File") -> Source:
        """Returns its rows without what was cancelled; predictions are no judgements."""
        return _flat(file) if file.keys() >= FLAT else _tasks(file)


READER = LabelStudio()


def _annotations(task: Mapping[str, Any]) -> list[Any] | None:
    annotations = task.get("annotations", task.get("completions"))  # the second until 2021
    return annotations if isinstance(annotations, list) else None


def _tasks(file: "File") -> Source:
    judgements = Judgements(file.path)
    tasks = records_of(file)
    fields = {key for task in tasks if isinstance(task.get("data"), dict) for key in task["data"]}
    questions: dict[str, None] = {}
    truths = 0
    for number, task in enumerate(tasks, 1):
        annotations = _annotations(task)
        if not isinstance(task.get("data"), dict) or annotations is None:
            judgements.wrong(f"task {number}", "holds no data, or no list of annotations — export it again as JSON")
            continue
        data = {f"data.{key}" if key in OWN else key: value for key, value in task["data"].items()}
        for what in ("predictions", "drafts"):
            judgements.left_out[what] += len(task[what]) if isinstance(task.get(what), list) else 0
        for place, annotation in ((f"task {number}, annotation {n}", each) for n, each in enumerate(annotations, 1)):
            if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
                judgements.wrong(place, "has no list of results — export it again as JSON")
            elif annotation.get("was_cancelled") or annotation.get("skipped"):
                judgements.left_out[CANCELLED] += 1
            else:
                answers = _answers(annotation["result"], judgements)
                answers = {
                    f"answer.{name}" if name in fields or name in OWN else name: answers[name] for name in answers
                }
                questions |= dict.fromkeys(answers)
                truths += annotation.get("ground_truth") is True
                keys = {"id": task.get("id"), "completed_by": _user(annotation.get("completed_by"))}
                time = {"updated_at": annotation.get("updated_at") or annotation.get("created_at")}
                judgements.add(place, {key: as_cell(value) for key, value in (data | keys | time).items()} | answers)
    notes = [f"{truths:,} annotations are marked as ground truth; they count as their annotators'"] if truths else []
    roles = {"user": "completed_by", "item": "id", "time": "updated_at"}
    text = {"text": next(iter(fields))} if len(fields) == 1 else {}
    return judgements.source("Label Studio JSON", roles=roles | text, questions=tuple(questions), notes=notes)


def _user(completed_by: Any) -> str | None:
    if isinstance(completed_by, dict):
        return as_key(completed_by.get("id")) or as_key(completed_by.get("email"))
    return as_key(completed_by)


def _answers(results: list[Any], judgements: Judgements) -> dict[str, list[Any]]:
    """Returns control -> what was answered with it, of the controls that speak of the whole text."""
    answers: dict[str, list[Any]] = {}
    for result in results:
        values = list(_values(result.get("value"))) if isinstance(result, dict) else []
        name = result.get("from_name") if isinstance(result, dict) else None
        if values and isinstance(name, str) and name:
            answers.setdefault(name, []).extend(values)
        else:
            judgements.left_out[REGIONS] += 1
    return answers


def _values(value: Any) -> Iterator[Any]:
    """Yields the labels in a result's value, none of one about a region; a path in a taxonomy is one label."""
    if not isinstance(value, dict) or len(value) != 1:
        return
    ((key, held),) = value.items()
    if key == "taxonomy" and isinstance(held, list):
        held = ["/".join(path) if _is_path(path) else path for path in held]
    if key in ANSWERS and is_answer(held):
        yield from held if isinstance(held, list) else [held]


def _is_path(path: Any) -> bool:
    return isinstance(path, list) and all(isinstance(step, str) for step in path)


def _flat(file: "File") -> Source:
    """Returns the rows of JSON_MIN or CSV, where nothing says which column is a control."""
    judgements = Judgements(file.path)
    notes: list[str] = []
    if file.shape == "delimited":
        frame, notes = read_delimited(file, tuple(dict.fromkeys(file.header)))
        rows: list[dict[str, Any]] = frame.to_dicts()
    else:
        rows = records_of(file)
    for number, row in enumerate(rows, 1):
        if str(row.get("was_cancelled")).lower() in ("true", "1"):
            judgements.left_out[CANCELLED] += 1
            continue
        time = {"updated_at": as_cell(row.get("updated_at") or row.get("created_at"))}
        kept = {key: _cell(value) for key, value in row.items() if key not in KEPT_BOOKS}
        judgements.add(f"row {number}", kept | {"annotator": _user(row.get("annotator"))} | time)
    read_as = "Label Studio CSV" if file.shape == "delimited" else "Label Studio JSON_MIN"
    return judgements.source(read_as, roles={"user": "annotator", "time": "updated_at"}, notes=notes)


def _cell(value: Any) -> Any:
    """Returns a cell's labels where it holds results, as text or JSON; None of results about parts; else the cell."""
    held = value
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            held = parse_json(value)
        except ValueError:
            return value
    results = held if isinstance(held, list) else [held]
    labels = [list(_values(each)) for each in results if isinstance(each, dict)]
    if labels and len(labels) == len(results) and all(labels):
        return [label for each in labels for label in each]
    if labels or not is_answer(value):
        return None
    return value if isinstance(value, list) else as_cell(value)
