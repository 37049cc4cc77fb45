"""The log of how modules were trained: a line of JSON each, in which users are numbered, never named."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from peftu.cells.fill import LOG
from peftu.cells.spec import CellSpec
from peftu.lab.progress import Reporter
from peftu.plan import Job

TRAIN_LOG = "train_log.jsonl"


def units_of(job: Job, spec: CellSpec, folder: Path, number: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yields how each unit of a cell was trained.

    Args:
        job: whose cell it is.
        spec: the cell.
        folder: where it lies.
        number: user -> number, in the order of the split's users, from 1 on.
    """
    read = (folder / LOG).read_text(encoding="utf-8").splitlines()
    shared = job.card.scope != "user" or spec.part == "everyone"
    users = [None] * len(read) if shared else [number[user] for user in spec.users]
    for user, line in zip(users, read, strict=False):
        yield {"method": job.label, "base": job.base, "seed": spec.seed, "user": user, **json.loads(line)}


class StreamedLog:
    """The log of a run under way, to be followed as cells come in; it gives way to the finished run's.

    Args:
        folder: of the run; None: nothing is written.
        reporter: hears of a disk that is full: the run goes on without.
    """

    def __init__(self, folder: Path | None, reporter: Reporter) -> None:
        self._reporter = reporter
        self._file: TextIO | None = None
        self._shared = set[tuple[str, str | None, int]]()
        if folder is not None:
            try:
                self._file = (folder / TRAIN_LOG).open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                self._drop(error)

    def add(self, spec: CellSpec, units: Iterator[dict[str, Any]]) -> None:
        """Appends a cell's units; what several cells share stands there once."""
        if self._file is None or spec.part == "everyone":
            return
        key = spec.job.label, spec.job.base, spec.seed
        try:
            for unit in units:
                if unit["user"] is None and key in self._shared:
                    break
                self._file.write(f"{json.dumps(unit)}\n")
            self._shared.add(key)
        except OSError as error:
            self._drop(error)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _drop(self, error: OSError) -> None:
        self._file = None
        self._reporter.note(f"{TRAIN_LOG}: {error.strerror} — it is written when the run ends")
