"""JSON records of a text and a list of judgements: ``{"text": …, "annotations": [{"user": …, "label": …}]}``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftu.data.readers.columns import NAMES, plain_name
from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import Judgements, as_cell, as_key, is_answer
from peftu.data.readers.source import Source

if TYPE_CHECKING:
    from peftu.data.readers.file import File


class Nested:
    """Reads a row a judgement; what stands beside the list is repeated."""

    name = "nested"
    title = "JSON records with a list of judgements each"
    plain = False

    def claims(self, file: "File") -> bool:
        """Returns whether records have a text and one list of objects that each name a user."""
        return _lists_key(file) is not None and any(_named(record, "text") for record in file.first)

    def open(self, file: "File") -> Source:
        """Returns its rows; of two columns of one name the judgement's keeps it, but for the text's."""
        key = _lists_key(file) or "annotations"
        judgements = Judgements(file.path)
        records = records_of(file)
        each = [judgement for record in records for judgement in _objects(record, key)]
        user = next((name for judgement in each if (name := _named(judgement, "user"))), "user")
        inner = {name for judgement in each for name in judgement}
        for number, record in enumerate(records, 1):
            held = record.get(key, [])
            outer = {
                f"record.{name}" if name in inner and not _is(name, "text") else name: as_cell(value)
                for name, value in record.items()
                if name != key
            }
            for place, judgement in enumerate(held if isinstance(held, list) else [held], 1):
                where = f"record {number}, judgement {place}"
                if not isinstance(judgement, dict):
                    judgements.wrong(where, "is no object with a user and a label — write one")
                else:
                    cells = {
                        f"{key}.{name}" if _is(name, "text") else name: value if is_answer(value) else None
                        for name, value in judgement.items()
                    }
                    judgements.add(where, outer | cells | {user: as_key(judgement.get(user))})
        return judgements.source(f"JSON records, each with a list '{key}'", roles={"user": user})


READER = Nested()


def _objects(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    held = record.get(key)
    return [judgement for judgement in held if isinstance(judgement, dict)] if isinstance(held, list) else []


def _named(record: Mapping[str, Any], role: str) -> str | None:
    """Returns the key that has a usual name of a role."""
    return next((key for key in record if _is(key, role)), None)


def _is(key: str, role: str) -> bool:
    return plain_name(key) in NAMES[role]


def _lists_key(file: "File") -> str | None:
    """Returns the key of the lists of judgements, where there is one."""
    keys = dict.fromkeys(key for record in file.first for key in record)
    lists = {key: [judgement for record in file.first for judgement in _objects(record, key)] for key in keys}
    fit = [
        key
        for key, each in lists.items()
        if each and all(_named(judgement, "user") and len(judgement) > 1 for judgement in each)
    ]
    return fit[0] if len(fit) == 1 else None
