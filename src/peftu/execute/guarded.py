"""Methods that fall back for users whose validation rows do not support their module: ``lora+guard``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from peftu.asked import SUFFIX, plain
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.fitted.folder import load, save
from peftu.fitted.guarded import GuardedFitted
from peftu.judge.guard import guard
from peftu.lab.lab import Lab
from peftu.plan import Job
from peftu.results import REFERENCES, MethodCost


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


@dataclass(frozen=True)
class GuardedSystem:
    """A guarded job at one seed.

    Attributes:
        place: of the job.
        inner: place of the job that it guards.
        fallback: place of the job that answers for the others.
        kept: users for whom the guarded job answers.
        predictions: of both, each user's by whichever answers for them.
        cost: of both.
    """

    place: int
    inner: int
    fallback: int
    kept: tuple[str, ...]
    predictions: pl.DataFrame
    cost: MethodCost


def guarded_system(
    place: int,
    needed: Guard,
    jobs: Sequence[Job],
    predictions: Mapping[int, pl.DataFrame],
    costs: Mapping[int, MethodCost],
    card: TaskCard,
) -> GuardedSystem:
    """Returns a guarded job at one seed, made of the jobs that it needs; what it answers is chosen on validation rows.

    Args:
        place: of the guarded job.
        needed: the jobs that it needs.
        jobs: all of the run.
        predictions: place -> its predictions at this seed.
        costs: place -> what it cost at this seed.
        card: the task.
    """
    names = {jobs[other].system: other for other in needed.fallbacks}
    fallbacks = {name: predictions[other] for name, other in names.items()}
    frame, guarded, kept = guard(predictions[needed.inner], fallbacks, card, jobs[place].label)
    inner, fallback = costs[needed.inner], costs[names[guarded.fallback]]
    notes = {**inner.notes, "fallback": guarded.fallback.label, "users": guarded.users, "kept": guarded.kept}
    seconds = (inner.seconds_per_user or 0.0) + (fallback.seconds_per_user or 0.0)
    cost = inner.model_copy(update={"seconds_per_user": seconds, "notes": notes})
    return GuardedSystem(place, needed.inner, names[guarded.fallback], kept, frame, cost)


def keep_guarded(system: GuardedSystem, job: Job, folder: Path, inner: Path, fallback: Path, lab: Lab) -> None:
    """Leaves a guard around two kept methods in a folder beside theirs."""
    around = load(inner, lab, with_base=False), load(fallback, lab, with_base=False)
    first = around[0]
    fitted = GuardedFitted(job, first.task, first.seed, lab, first.prompt, *around, system.kept)
    save(fitted, folder, beside={"inner": inner.name, "fallback": fallback.name}, place=system.place)
