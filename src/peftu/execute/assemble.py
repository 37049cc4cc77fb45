"""What a run's cells hold, put together: predictions, costs and logs of a system, and what it fitted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from peftu.cells.cache import StoredCell
from peftu.cells.fill import FITTED, SCORES
from peftu.cells.fits import thresholds_of
from peftu.cells.frames import SCHEMA, unscored_frame
from peftu.cells.spec import CellSpec
from peftu.data.problem import Floats, Problem
from peftu.execute.train_log import units_of
from peftu.executors.schedule import Filling
from peftu.fitted.folder import gather
from peftu.plan import Job
from peftu.results import MethodCost

Columns = pl.DataFrame


@dataclass
class SystemCells:
    """One job at one seed, of which all cells are there.

    Attributes:
        job: the method.
        seed: of the split and the fit.
        problem: all users' rows.
        pieces: its cells; None beside a user who could not even be scored.
        needs: the cells that went into them.
        broken: users for whom the method could not be fitted.
    """

    job: Job
    seed: int
    problem: Problem
    pieces: list[tuple[CellSpec, StoredCell | None]]
    needs: list[StoredCell] = field(default_factory=list)
    broken: int = 0

    @property
    def abouts(self) -> list[dict[str, Any]]:
        """Returns what each cell says of itself."""
        return [cell.about for _, cell in self.pieces if cell is not None]

    @property
    def diverged(self) -> int:
        """Returns for how many users training diverged."""
        return sum(about["diverged"] for about in self.abouts)

    @property
    def notes(self) -> dict[str, Any]:
        """Returns choices and counts, those of users over all cells."""
        notes = dict(self.abouts[0]["notes"])
        for key, users in (("diverged", self.diverged), ("failed", self.broken)):
            if users:
                notes[key] = f"{users} users, scored by {self.job.untrained} and not stored"
        return notes

    def scores(self) -> pl.DataFrame:
        """Returns the scores of all validation and test rows, in the order of the problem's rows."""
        number = {user: place for place, user in enumerate(self.problem.users)}
        frames = []
        for spec, cell in self.pieces:
            users = np.array([number[user] for user in spec.users])
            rows = np.flatnonzero((self.problem.part > 0) & np.isin(self.problem.user, users))
            frame = unscored_frame(spec.problem) if cell is None else pl.read_parquet(cell.folder / SCORES, glob=False)
            frames.append(frame.with_columns(row=pl.Series(rows, dtype=pl.Int64)))
        return pl.concat(frames).sort("row").drop("row")

    def predictions(self) -> tuple[pl.DataFrame, Floats | None]:
        """Returns the schema of ``predictions.parquet``, and [labels] what labels are named by, where several hold."""
        frame, answers = self.scores(), self.problem.card.answers
        thresholds = None
        if answers.labelled:
            labels = np.array(self.problem.card.labels, dtype=object)
            scored = frame["scores"].is_not_null().to_numpy()
            scores = np.full((len(frame), len(labels)), np.nan, np.float32)
            scores[scored] = np.array(frame.filter(scored)["scores"].to_list(), np.float32).reshape(-1, len(labels))
            thresholds = thresholds_of(self.problem, np.flatnonzero(self.problem.part > 0), scores)
            chosen = answers.decide(scores, thresholds)
            named = [labels[row].tolist() if ok else None for row, ok in zip(chosen, scored.tolist(), strict=True)]
            frame = frame.with_columns(predicted=pl.Series(named, dtype=SCHEMA["predicted"]))
        leading = (
            pl.lit(self.job.label).alias("method"),
            pl.lit(self.job.base, pl.String).alias("base"),
            pl.lit(self.seed, pl.Int64).alias("seed"),
        )
        return frame.select(*leading, *SCHEMA), thresholds

    def cost(self) -> MethodCost:
        """Returns what it cost; what cells share counts once."""
        abouts = [*self.abouts, *(need.about for need in self.needs)]
        shared = {key: seconds for about in abouts for key, seconds in about["shared_seconds"].items()}
        seconds = sum(about["seconds"] for about in abouts) + sum(shared.values())
        answers = sum(about["answers"] for about in self.abouts)
        answering = sum(about["ms_per_answer"] * about["answers"] for about in self.abouts)
        last = self.abouts[-1]
        return MethodCost(
            parameters_per_user=last["parameters"],
            bytes_per_user=last["bytes_per_user"],
            seconds_per_user=seconds / len(self.problem.users),
            peak_rss_bytes=max(about["peak_rss_bytes"] for about in abouts),
            ms_per_answer=answering / max(answers, 1),
            notes=self.notes,
        )

    def log(self) -> Iterator[str]:
        """Yields how each unit's training went; users are numbered in the order of their sorted keys, never named."""
        number = {user: place for place, user in enumerate(self.problem.users, 1)}
        units: list[dict[str, Any]] = []
        for spec, cell in self.pieces if self.job.card.scope == "user" else self.pieces[:1]:
            if cell is not None:
                units += units_of(self.job, spec, cell.folder, number)
        for unit in sorted(units, key=lambda unit: unit["user"] or 0):
            yield json.dumps(unit)

    def keep(
        self, folder: Path, modules: Path, place: int, thresholds: Floats | None, provenance: Mapping[str, object]
    ) -> bool:
        """Returns whether what it fitted is now in a folder, and its module rows in a store."""
        fitted = [cell.folder / FITTED for _, cell in self.pieces if cell is not None]
        return gather(fitted, folder, modules, self.job, place, thresholds, self.notes, provenance)


def cuts_of(systems: Sequence[SystemCells]) -> tuple[dict[str, int], dict[str, int], dict[str, tuple[int, int]]]:
    """Returns base -> texts whose end was cut, texts shortened beside it, and free answers cut of how many."""
    judged: dict[str, int] = {}
    beside: dict[str, int] = {}
    answers: dict[str, tuple[int, int]] = {}
    for system in systems:
        totals: dict[str, list[int]] = {}
        for about in system.abouts:
            for base, (end, context) in about["cuts"].items():
                cut = about["answers_cut"].get(base, 0)
                parts = (end, context, cut, about["items"])
                totals[base] = [a + b for a, b in zip(totals.get(base, [0, 0, 0, 0]), parts, strict=True)]
        for base, (end, context, cut, items) in totals.items():
            judged[base] = max(judged.get(base, 0), end)
            beside[base] = max(beside.get(base, 0), context)
            answers[base] = max(answers.get(base, (0, items)), (cut, items))
    return judged, beside, answers


def system_of(
    job: Job, seed: int, problem: Problem, specs: Sequence[CellSpec], fillings: Mapping[str, Filling]
) -> SystemCells:
    """Returns a job at a seed, given its cells, all of which were filled."""
    pieces = [piece for spec in specs for piece in fillings[spec.name].pieces]
    names = dict.fromkeys(need.name for spec in specs for need in spec.needs)
    needs = [cast(StoredCell, cell) for name in names if name in fillings for _, cell in fillings[name].pieces]
    return SystemCells(job, seed, problem, pieces, needs, sum(fillings[spec.name].broken for spec in specs))
