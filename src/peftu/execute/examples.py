"""Labelled texts that people are enrolled with, kept beside what was fitted, so that later ones are added to them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peftu.config import SplitSpec
from peftu.data.problem import Text
from peftu.data.sources import cache_dir, writing_to
from peftu.data.splits import make_problem, make_split
from peftu.data.table import FORMAT, UserTable
from peftu.errors import PeftuError
from peftu.files import owner_only, write_atomic
from peftu.fitted.fitted import Example
from peftu.results import RECORD, RunRecord
from peftu.run_folder import EXAMPLES
from peftu.store.seal import KEY_FILE, given_seal

DOMAIN = b"peftu-examples-1\0"  # of the hash that names a user's file: a key stands in no path
PLAIN, SEALED = ".json", ".sealed"


class KeptExamples:
    """Labelled texts by user, a file each; encrypted where the environment names a key file, as a store of modules is.

    Args:
        place: folder of a run, or one that `Fitted.save` made.
    """

    def __init__(self, place: Path) -> None:
        self.folder = place / EXAMPLES

    def of(self, user: str) -> list[Example] | None:
        """Returns a user's labelled texts; None: none were ever kept.

        Raises:
            PeftuError: they are damaged, or encrypted with another key.
        """
        path = next((path for path in self._paths(user) if path.is_file()), None)
        if path is None:
            return None
        content, seal = path.read_bytes(), given_seal()
        if path.suffix == SEALED and seal is None:
            raise PeftuError(f"{path}: is encrypted — name its key file in {KEY_FILE}")
        try:
            kept = json.loads(seal.open(content) if seal and path.suffix == SEALED else content)
            if kept["user"] != user:
                raise ValueError("it is another user's")
            return [(Text(text, context), tuple(labels)) for text, context, labels in kept["examples"]]
        except (ValueError, KeyError, TypeError):
            raise PeftuError(f"{path}: is damaged, or encrypted with another key — restore it, or enrol anew") from None

    def put(self, user: str, examples: Iterable[Example]) -> None:
        """Takes a user's labelled texts in place of those there were."""
        rows = [[*_text(text), [labels] if isinstance(labels, str) else list(labels)] for text, labels in examples]
        content, seal = json.dumps({"user": user, "examples": rows}).encode(), given_seal()
        path, other = self._paths(user)[:: 1 if seal is None else -1]
        with writing_to(self.folder):
            self.folder.mkdir(exist_ok=True)
            owner_only(self.folder)
            write_atomic(path, content if seal is None else seal.close(content), private=True)
            other.unlink(missing_ok=True)

    def drop(self, user: str) -> int:
        """Returns how many labelled texts of a user are gone now; those that cannot be read count as one."""
        try:
            count = len(self.of(user) or ())
        except PeftuError:
            count = 1
        for path in self._paths(user):
            path.unlink(missing_ok=True)
        return count

    def _paths(self, user: str) -> tuple[Path, Path]:
        name = hashlib.sha256(DOMAIN + user.encode()).hexdigest()
        return self.folder / f"{name}{PLAIN}", self.folder / f"{name}{SEALED}"


def added(earlier: Sequence[Example], later: Sequence[Example]) -> list[Example]:
    """Returns both; of a text that was labelled twice, what was said last."""
    return list({_text(text): (_text(text), labels) for text, labels in (*earlier, *later)}.values())


def trained_on(run: Path, user: str, seed: int) -> list[Example] | None:
    """Returns the labelled texts that a run trained a user's part of its methods on, and chose it by.

    None: it is no run, does not know the user, or the table it was made from is no longer in peftu's cache.
    """
    if not (run / RECORD).exists():
        return None
    record = RunRecord.read(run)
    table = _table(record)
    if table is None:
        return None
    split = make_split(table, SplitSpec(**record.spec["split"]), seed)
    problem = make_problem(table, table.card, split)
    if split.hash != record.hashes.splits.get(str(seed)) or user not in problem.users:
        return None
    number, labels = problem.users.index(user), problem.card.labels
    rows = [row for part in ("train", "val") for row in problem.rows(part, number)]
    given: list[Any] = [
        (problem.answers[row],)
        if problem.answers
        else tuple(labels[place] for place in problem.target[row].nonzero()[0])
        for row in rows
    ]
    return [(problem.texts[problem.text[row]], said) for row, said in zip(rows, given, strict=True)]


def _table(record: RunRecord) -> UserTable | None:
    """Returns the table that a run was made from, if it is in the cache; nothing is fetched or built."""
    for kind in ("tables", "imported"):
        for path in sorted((cache_dir() / kind).glob(f"{record.task.name}/*.parquet")):
            try:
                about = json.loads((pq.read_schema(path).metadata or {})[FORMAT.encode()])
                if about["hash"] == record.hashes.data:
                    return UserTable.read(path)
            except (OSError, ValueError, KeyError, pa.ArrowException, PeftuError):  # another's, or damaged
                continue
    return None


def _text(text: Text | str) -> Text:
    return Text(text) if isinstance(text, str) else text
