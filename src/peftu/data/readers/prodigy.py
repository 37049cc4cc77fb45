"""Annotations of Prodigy, as ``db-out`` writes them."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, as_key, is_answer
from peftu.data.readers.source import Source
from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.readers.file import File

HASHES = {"_input_hash", "_task_hash"}
WHO = ("_annotator_id", "_session_id")
BY_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")  # a session that nobody named is named by its start
SPANS = ("spans", "relations", "image", "audio", "video")
ANSWERS = ("accept", "reject", "ignore")
LOST = (
    "its sessions are named by their time, so who answered is lost — have annotators add ?session=NAME to the address"
)


class Prodigy:
    """Reads a row an answer: what was chosen among options, what was typed, or accept and reject of a label."""

    name = "prodigy"
    title = "annotations of Prodigy"
    plain = False

    def claims(self, file: "File") -> bool:
        """Returns whether it has answers with Prodigy's hashes or sessions."""
        keys = file.keys()
        return file.shape in ("lines", "array") and "answer" in keys and (keys >= HASHES or not keys.isdisjoint(WHO))

    def open(self, file: "File") -> Source:
        """Returns its rows without what was ignored, and choices without what was rejected."""
        judgements = Judgements(file.path)
        records = records_of(file)
        who = next((key for key in WHO if any(record.get(key) for record in records)), WHO[0])
        users = {record[who] for record in records if isinstance(record.get(who), str)}
        if users and all(map(BY_TIME.fullmatch, users)):
            raise PeftuError(f"{file.path}: {LOST}")
        label_names = {record["label"] for record in records if isinstance(record.get("label"), str)}
        several: set[str] = set()
        for number, record in enumerate(records, 1):
            place, answer = f"row {number}", record.get("answer")
            question = next((key for key in ("accept", "user_input") if key in record), "answer")
            if answer not in ANSWERS:
                judgements.wrong(place, "answer is not accept, reject or ignore — export it again with db-out")
            elif not is_answer(record[question]):
                judgements.wrong(place, "an answer is no text and no list of texts — export it again with db-out")
            elif answer == "ignore":
                judgements.left_out["answers that are ignore"] += 1
            elif question != "answer" and answer == "reject":
                judgements.left_out["choices that were rejected as a whole"] += 1
            elif question == "answer" and "label" not in record and any(record.get(key) for key in SPANS):
                judgements.left_out["answers about parts of a text, images or sounds"] += 1
            else:
                if _takes_several(record):
                    several.add(question)
                judgements.add(place, _row(record, who, question))
        # What is accepted of a text is one thing of several.
        context = {"context": "label"} if len(label_names) > 1 else {}
        roles = {"user": who, "text": "text" if "text" in set().union(*records) else "html", "time": "_timestamp"}
        questions = ("accept", "user_input", "answer")
        return judgements.source("Prodigy", roles=roles | context, questions=questions, several=tuple(several))


READER = Prodigy()


def _takes_several(record: Mapping[str, Any]) -> bool:
    config = record.get("config")
    return isinstance(config, dict) and config.get("choice_style") == "multiple"


def _row(record: Mapping[str, Any], who: str, question: str) -> dict[str, Any]:
    """Returns the cells of a row; of the answers only the one that says something."""
    columns = [key for key in record if key not in ("options", "config", "tokens", "accept", "user_input", "answer")]
    return {key: as_cell(record[key]) for key in columns if not isinstance(record[key], list | dict)} | {
        who: as_key(record.get(who)),
        question: record[question],
    }
