"""A whole run: data, split, the cells that are missing, judgement, and one folder that is put in place whole."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peftu.base.hardware import resolved
from peftu.cells.cache import Cells
from peftu.cells.fits import Fits
from peftu.cells.plan import Planner
from peftu.cells.spec import BaseIdentity, CellSpec, Reading
from peftu.config import RunSpec
from peftu.data.load import load_task
from peftu.data.problem import Problem
from peftu.data.splits import Split, make_problem, make_split
from peftu.data.table import UserTable
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.execute.assemble import system_of
from peftu.execute.estimate import Estimate, check, estimate, missing
from peftu.execute.folder import OURS, Made, written
from peftu.execute.guarded import find_guards
from peftu.execute.probe import Probe
from peftu.execute.watch import Watch
from peftu.executors.executor import executors
from peftu.executors.schedule import Driver, Filling
from peftu.lab.cost import measured
from peftu.lab.progress import Reporter, Silent
from peftu.metrics import metrics, metrics_of
from peftu.plan import Job, check_kind, plan, without_settings
from peftu.report.html import render_folders
from peftu.results import REPORT, Failed, RunCell, RunRecord
from peftu.run_folder import check_folder, check_unused, claimed, free_folder, is_kept
from peftu.trackers.tracker import Tracker
from peftu.trackers.tracking import Tracking

IfExists = Literal["resume", "overwrite", "error"]


@dataclass(frozen=True)
class How:
    """How a run is carried out; nothing in it changes a number.

    Attributes:
        if_exists: what becomes of a run in the folder: 'resume' goes on with the same one, 'overwrite' puts this one
            in its place once it is whole, 'error' leaves it.
        executor: what fills cells.
        workers: how many work at once; 0: as the executor thinks best.
        address: of a cluster; None: here.
        gpus: that each of Ray's workers takes, in parts of one where several share it; None: one where bases compute on
            GPUs.
        cells: folder of the cells, shared by runs; None: in peftu's cache.
        max_minutes: after which no cell is begun; None: no end.
        track: what follows the run, each as 'NAME:FOLDER' or a tracker.
    """

    if_exists: IfExists = "resume"
    executor: str = "local"
    workers: int = 1
    address: str | None = None
    gpus: float | None = None
    cells: Path | None = None
    max_minutes: float | None = None
    track: Sequence[str | Tracker] = ()


@dataclass
class Planned:
    """A run before any work.

    Attributes:
        spec: what to compare.
        table: the task's data.
        jobs: its methods, guarded ones among them.
        problems: seed -> rows of that split.
        splits: seed -> split.
        fits: knows the bases.
        wanted: place of a job, seed -> its cells; nothing for guarded jobs.
    """

    spec: RunSpec
    table: UserTable
    jobs: list[Job]
    problems: dict[int, Problem]
    splits: dict[int, Split]
    fits: Fits
    wanted: dict[tuple[int, int], list[CellSpec]] = field(default_factory=dict)


def run(
    spec: RunSpec,
    out: Path | None = None,
    raw: Path | None = None,
    passed: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    how: How | None = None,
    table: UserTable | None = None,
) -> tuple[Path, RunRecord]:
    """Returns the folder and the record of a finished run: predictions, scores, modules, log and report.

    Cells that are there already, of this or any other run, are not filled again: a run that was stopped goes on, and
    another method costs that method.

    Args:
        spec: what to compare.
        out: the run folder; None: ``runs/<task>-<id>``, or the next free one beside it.
        raw: folder with the task's raw files; None: the cache or the publisher.
        passed: what the user asked for, kept in the record beside what it came to.
        reporter: hears about stages.
        how: where and in what order.
        table: the task's table, where it is at hand; None: it is loaded by the task's name.

    Raises:
        PeftuError: anything the user can mend; nothing half-written is left to be read as whole. A report that cannot
            be drawn is none: the reporter is told.
        OutOfTimeError: the time is over; what was filled stays, and the same run goes on with it.
    """
    reporter, how = reporter or Silent(), how or How()
    tracking = Tracking(how.track, reporter)
    default = Path("runs") / f"{spec.task}-{spec.run_id}"
    if out is not None:
        check_folder(out, OURS)
        if how.if_exists == "error":
            check_unused(out, "pass --if-exists overwrite to put this one in its place")
    planned = planned_run(spec, raw, reporter, table)
    finished = out or default
    record = _there(planned, finished) if how.if_exists == "resume" else None
    if record is not None and not record.failed:
        reporter.note(f"{finished}: holds this very run, whole — nothing is left to do")
        if not (finished / REPORT).is_file():  # it was stopped while that was drawn
            render_folders([finished], finished / REPORT)
        return finished, record
    if out is None and how.if_exists != "overwrite" and record is None:
        finished = free_folder(default)
    elif how.if_exists == "resume" and record is None:
        check_unused(finished, "it is another one; pass --if-exists overwrite to put this one in its place")
    check_folder(finished, OURS)
    log = None if is_kept(finished) else finished
    with claimed(finished), tracking.following(spec):
        watch = Watch(planned.problems, log, reporter, tracking)
        record = _carried_out(planned, finished, default if out is None else out, passed, reporter, how, watch)
        tracking.finished(record.methods)
    return finished, record


def planned_run(spec: RunSpec, raw: Path | None, reporter: Reporter, table: UserTable | None) -> Planned:
    """Returns all that a run will do.

    Raises:
        PeftuError: data, split, methods or bases that do not fit.
    """
    jobs = plan(spec)
    guards = find_guards(jobs)
    table = table or load_task(spec.task, raw, spec.task_options)
    check_kind(jobs, table.card)
    if table.card.kind in spec.metric:
        table = dataclasses.replace(table, card=_judged_by(table.card, spec.metric[table.card.kind]))
    splits = {seed: make_split(table, spec.split, seed) for seed in spec.seeds}
    problems = {seed: make_problem(table, table.card, split) for seed, split in splits.items()}
    hardware = spec.hardware
    fits = Fits(
        table.card, problems, spec.max_tokens, reporter, spec.max_answer_tokens, spec.generate, hardware=hardware
    )
    check([job for place, job in enumerate(jobs) if place not in guards], fits)
    planned = Planned(spec, table, jobs, problems, splits, fits)
    reading = Reading(spec.max_tokens, spec.max_answer_tokens, spec.generate)

    def identity(name: str) -> BaseIdentity:
        base = fits.lab.base(name)
        return base.fingerprint, base.hardware

    for seed, problem in problems.items():
        planner = Planner(problem, seed, reading, identity)
        for place, job in enumerate(jobs):
            if place not in guards:
                planned.wanted[place, seed] = planner.cells(job)
    return planned


def _there(planned: Planned, folder: Path) -> RunRecord | None:
    """Returns the record of a folder that holds this very run: the same description, of the same cells.

    Where some could not be filled, they are tried again, and what comes of it takes the place of the folder.
    """
    if not is_kept(folder):
        return None
    try:
        record = RunRecord.read(folder)
    except PeftuError:
        return None
    failed = {failed.system for failed in record.failed}
    names = {cell.name for cell in record.cells if cell.system not in failed}
    wanted = {
        spec.name
        for (place, _), specs in planned.wanted.items()
        for spec in specs
        if planned.jobs[place].system not in failed
    }
    return record if record.run == planned.spec.run_id and names == wanted else None


def _carried_out(
    planned: Planned, out: Path, before: Path, passed: dict[str, Any] | None, reporter: Reporter, how: How, watch: Watch
) -> RunRecord:
    cells = Cells(how.cells)
    wanted = [spec for specs in planned.wanted.values() for spec in specs]
    _announce(planned, estimate(missing(wanted, cells), planned.fits, Probe(planned.fits)), reporter)
    with measured() as total:
        fillings = _filled(planned, cells, reporter, how, watch)
        made = _made(planned, fillings, reporter)
    try:
        record = written(made, out, before, passed, reporter, total)
    except FileNotFoundError as error:
        if str(cells.folder) not in str(error):
            raise
        raise PeftuError(
            f"{cells.folder}: a cell was taken away meanwhile — the same command fills it again and goes on"
        ) from None
    with contextlib.suppress(PeftuError):  # cells that can only be read stay
        cells.trim({cell.name for cell in record.cells})
    return record


def _filled(planned: Planned, cells: Cells, reporter: Reporter, how: How, watch: Watch) -> dict[str, Filling]:
    """Returns what became of every cell; those of the same texts are filled one after another.

    Raises:
        OutOfTimeError: the time is over.
    """
    deadline = None if how.max_minutes is None else time.monotonic() + 60 * how.max_minutes
    device = resolved(planned.spec.hardware).device
    options: dict[str, Any] = {"device": device, "address": how.address, "gpus": how.gpus}
    specs = [spec for specs in planned.wanted.values() for spec in specs]
    whole = [spec for spec in specs if not spec.divisible]
    reading: dict[str, int] = {}
    parts = sorted((s for s in specs if s.divisible), key=lambda spec: reading.setdefault(spec.texts, len(reading)))
    with contextlib.ExitStack() as held:
        held.callback(watch.close)
        executor = executors.get(how.executor)(reporter, how.workers, planned.fits.lab.loaded, **options)
        held.callback(executor.close)
        driver = Driver(cells, executor, watch.cell, deadline)
        driver.want([*whole, *parts])
        if watch.there:
            reporter.note(f"{watch.there} of {len(driver.fillings)} cells were there already")
        watch.begin(driver)
        return driver.fill([*whole, *parts])


def _made(planned: Planned, fillings: dict[str, Filling], reporter: Reporter) -> Made:
    """Returns everything that goes into the run's folder.

    Raises:
        PeftuError: not a single method could be fitted.
    """
    made = Made(planned.spec, planned.table, planned.jobs, planned.problems, planned.splits, planned.fits.lab)
    for (place, seed), specs in planned.wanted.items():
        job = planned.jobs[place]
        filled = [fillings[spec.name] for spec in specs]
        failure = next((filling.failure for filling in filled if filling.failure), None)
        if sum(filling.broken for filling in filled) == len(planned.problems[seed].users):  # not for any user's sake
            failure = failure or filled[-1].cause
        if failure is None:
            made.systems[place, seed] = system_of(job, seed, planned.problems[seed], specs, fillings)
            made.cells += [
                RunCell(method=job.label, base=job.base, seed=seed, users=len(spec.users), name=spec.name)
                for spec in specs
            ]
            continue
        made.failed.append(Failed(method=job.label, base=job.base, seed=seed, why=failure.message))
        reporter.note(f"{job.full_label}, seed {seed}: failed: {failure.message}")
        if failure.trace:
            reporter.note(failure.trace)
    missing = {(failed.method, failed.base, failed.seed): failed.why for failed in made.failed}
    for place, guard in find_guards(planned.jobs).items():
        job, inner = planned.jobs[place], planned.jobs[guard.inner]
        for seed in planned.spec.seeds:
            if why := missing.get((inner.label, inner.base, seed)):
                made.failed.append(Failed(method=job.label, base=job.base, seed=seed, why=why))
    if not made.systems:
        traces = [filling.failure.trace for filling in fillings.values() if filling.failure and filling.failure.trace]
        if traces:  # a bug keeps its traceback
            raise RuntimeError(traces[0])
        raise PeftuError(made.failed[0].why)
    made.drop_failed()
    return made


def _judged_by(card: TaskCard, name: str) -> TaskCard:
    """Returns the card with another main metric.

    Raises:
        PeftuError: tasks of this kind have no such number for each user.
    """
    metric = metrics.get(name)
    if metric.of == "items" or card.kind not in metric.kinds:
        able = ", ".join(known.name for known in metrics_of(card.kind, "rows", "labels"))
        raise PeftuError(f"run: metric: {name} is not a number a user has on a task of kind {card.kind} — use {able}")
    return card.model_copy(update={"main_metric": metric.name})


def _announce(planned: Planned, work: Estimate, reporter: Reporter) -> None:
    """Says what is about to be done, once nothing is in the way of it."""
    split = planned.splits[planned.spec.seeds[0]]
    counts = split.counts()
    rows = " / ".join(f"{counts[part]:,} {part}" for part in counts)
    texts = len(planned.fits.lab.texts)
    reporter.note(f"{planned.table.card.title}: {len(split.users)} users, {texts:,} texts, {rows} rows")
    for reason, users in split.excluded.items():
        reporter.note(f"left out: {users} users ({reason})")
    if work.seconds >= 1:
        reporter.note(
            f"about {_duration(work.seconds)} of work: {work.users:,} users, {work.steps:,} steps, "
            f"{work.memory_bytes / 1e9:,.1f} GB of memory, {work.module_bytes / 1e6:,.1f} MB of modules"
        )
    if without := ", ".join(without_settings(planned.spec, planned.jobs)):
        reporter.note(f"preset {planned.spec.preset} has no settings for {without}: defaults are used")


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
