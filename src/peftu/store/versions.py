"""A user's versions: which one answers, what each was made of, and the way back to an earlier one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from peftu.errors import PeftuError
from peftu.outside import parse_json
from peftu.store.index import Index

Status = Literal["approved", "quarantined", "revoked"]
APPROVED, QUARANTINED, REVOKED = get_args(Status)
ANSWERING = "deleted IS NULL AND status = 'approved'"  # the newest such version of a user answers, and no other


@dataclass(frozen=True)
class Version:
    """One version of a user's module.

    Attributes:
        number: from 1 on, in the order they were added.
        status: ``approved`` versions may answer; a ``quarantined`` one waits for approval, a ``revoked`` one is kept.
        created: seconds since 1970.
        train_rows: rows it was trained on.
        checksum: sha256 of its numbers.
        provenance: what it was made of, as whoever added it gave it; empty where nothing is known.
    """

    number: int
    status: Status
    created: float
    train_rows: int
    checksum: str
    provenance: dict[str, Any]

    @staticmethod
    def of(number: int, status: Status, created: float, rows: int, mark: str, facts: str | None) -> "Version":
        """Returns a version as a row of the index has it."""
        return Version(number, status, created, rows, mark, parse_json(facts) if facts else {})


COLUMNS = "version, status, created, train_rows, checksum, facts"
JOINED = "modules LEFT JOIN provenance ON provenance.id = modules.provenance"


class Versions:
    """The versions of the modules in an index.

    Args:
        index: of the store.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def of(self, number: int, user: str) -> list[Version]:
        """Returns all versions of a user in a collection, newest first; none: the user is not known there."""
        query = f"SELECT {COLUMNS} FROM {JOINED} WHERE collection = ? AND user = ? AND deleted IS NULL"  # noqa: S608
        return [Version.of(*row) for row in self._index.sql(f"{query} ORDER BY version DESC", (number, user))]

    def provenance(self, facts: Mapping[str, object] | None) -> int | None:
        """Returns the number of what modules were made of, put down once however many they are."""
        if not facts:
            return None
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._index.sql("INSERT OR IGNORE INTO provenance (facts) VALUES (?)", (text,))
        return int(self._index.sql("SELECT id FROM provenance WHERE facts = ?", (text,)).fetchone()[0])

    def mark(self, number: int, user: str, version: int, status: Status) -> None:
        """Gives a version another status.

        Raises:
            PeftuError: there is no such version.
        """
        query = "UPDATE modules SET status = ? WHERE collection = ? AND user = ? AND version = ? AND deleted IS NULL"
        if not self._index.sql(query, (status, number, user, version)).rowcount:
            raise PeftuError(f"the user has no version {version} — 'peftu store show' lists those there are")

    def roll_back(self, number: int, user: str, version: int | None) -> int:
        """Returns the version that answers from now on; those after it are revoked.

        Raises:
            PeftuError: there is no such approved version, or none before the one that answers.
        """
        approved = [entry.number for entry in self.of(number, user) if entry.status == APPROVED]
        if version is None and len(approved) < 2:
            raise PeftuError("the user has no approved version before the one that answers — nothing was changed")
        target = approved[1] if version is None else version
        if target not in approved:
            mend = "'peftu store show' lists versions, 'peftu store mark' approves one"
            raise PeftuError(f"the user has no approved version {target} — {mend}")
        query = "UPDATE modules SET status = ? WHERE collection = ? AND user = ? AND version > ? AND deleted IS NULL"
        self._index.sql(f"{query} AND status != ?", (REVOKED, number, user, target, REVOKED))
        return target
