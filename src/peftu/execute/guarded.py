"""Methods that fall back for users whose validation rows do not support their module: ``lora+guard``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from peftu.asked import SUFFIX, plain
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.execute.cells import Cell
from peftu.fitted.fitted import Fitted
from peftu.fitted.guarded import GuardedFitted
from peftu.judge.guard import guard
from peftu.plan import Job
from peftu.results import REFERENCES
from peftu.system import System

Place = tuple[int, int]  # number of the job, seed


@dataclass(frozen=True)
class Guard:
    """A guarded job: the place of the job it guards, and of those it may fall back to."""

    inner: int
    fallbacks: tuple[int, ...]


def find_guards(jobs: Sequence[Job]) -> dict[int, Guard]:
    """Returns the place of each guarded job with the jobs it needs.

    Raises:
        PeftuError: a method that everybody shares is guarded: it has no module to keep or to leave.
    """
    found = {}
    references = [place for name in REFERENCES for place, job in enumerate(jobs) if job.spec.name == name]
    for place, job in enumerate(jobs):
        if not job.spec.name.endswith(SUFFIX):
            continue
        if job.card.scope not in ("user", "both") or job.card.name in REFERENCES[:1]:
            raise PeftuError(f"method {job.spec.name}: has no module of its own user — guard a personal method")
        inner = plain(job.spec)
        [own] = [other for other, candidate in enumerate(jobs) if candidate.spec == inner]
        found[place] = Guard(own, tuple(other for other in references if other != own))
    return found


def guarded_cells(
    guards: dict[int, Guard],
    jobs: Sequence[Job],
    frames: dict[Place, pl.DataFrame],
    cells: dict[Place, Cell],
    card: TaskCard,
) -> None:
    """Adds the predictions and costs of guarded jobs, at every seed, to those of the jobs they need.

    A guarded method stores no modules of its own: they are those of the method it guards.
    """
    for place, one in guards.items():
        for seed in sorted({seed for _, seed in frames}):
            names = {System(jobs[other].label, jobs[other].base): other for other in one.fallbacks}
            fallbacks = {name: frames[other, seed] for name, other in names.items()}
            own = frames[one.inner, seed]
            frames[place, seed], said, kept = guard(own, fallbacks, card, jobs[place].label)
            inner, fallback = cells[one.inner, seed], cells[names[said.fallback], seed]
            notes = {**inner.notes, "fallback": said.fallback.label, "users": said.users, "kept": said.kept}
            cells[place, seed] = replace(
                inner,
                seconds=inner.seconds + fallback.seconds,
                notes=notes,
                modules=None,
                logs=[],
                fitted=_guarded(jobs[place], inner.fitted, fallback.fitted, kept),
            )


def _guarded(job: Job, inner: Fitted | None, fallback: Fitted | None, kept: Sequence[str]) -> GuardedFitted | None:
    """Returns the guard around two fitted methods."""
    if inner is None or fallback is None:
        return None
    return GuardedFitted(job, inner.task, inner.seed, inner.lab, inner.prompt, inner, fallback, kept)
