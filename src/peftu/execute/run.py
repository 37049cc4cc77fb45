"""A whole run: data, split, every method at every seed, judgement, and one folder that is written whole."""

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from peftu.base.model import dtype_name
from peftu.config import RunSpec
from peftu.data.agreement import statistics
from peftu.data.load import load_task
from peftu.data.problem import Problem
from peftu.data.sources import writing_to
from peftu.data.splits import Split, make_problem, make_split
from peftu.data.table import UserTable
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.execute.cells import Cell, Fits
from peftu.execute.estimate import Estimate, estimate
from peftu.execute.frames import predictions_frame
from peftu.execute.guarded import find_guards, guarded_cells
from peftu.execute.stored import SHARED, shared_label
from peftu.fitted.folder import collection_of, folder_name, save
from peftu.fitted.guarded import GuardedFitted
from peftu.fitted.modules import ModuleFitted
from peftu.judge import JUDGEMENT, Evidence, judge, write_judgement
from peftu.lab.cost import measured
from peftu.lab.progress import Reporter, Silent
from peftu.metrics import metrics, metrics_of, user_scores
from peftu.plan import Job, check_kind, plan, without_settings
from peftu.report.blocks import DrawingError
from peftu.report.html import render
from peftu.report.view import RunView
from peftu.results import (
    PREDICTIONS,
    RECORD,
    REPORT,
    USER_SCORES,
    CostTotals,
    Hashes,
    MethodCost,
    MethodResult,
    RunRecord,
    TaskSummary,
    finish_folder,
    start_folder,
    summarise,
)
from peftu.run_folder import FITTED, MODULES, check_folder, command_line
from peftu.store import EVERYONE, AdapterStore, recipe
from peftu.system import System

TRAIN_LOG = "train_log.jsonl"
_FILES = "|".join(map(re.escape, (RECORD, REPORT, PREDICTIONS, USER_SCORES, JUDGEMENT, TRAIN_LOG, MODULES, FITTED)))
# What a run leaves in its folder; of a run that was killed, half-written files too.
OURS = re.compile(rf"{_FILES}|\.[\w.-]+\.tmp|{MODULES}/(shards|index\.sqlite(-wal|-shm|-journal)?)")


def run(
    spec: RunSpec,
    out: Path,
    raw: Path | None = None,
    passed: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    replace: bool = False,
    table: UserTable | None = None,
) -> RunRecord:
    """Returns the record of a finished run, whose folder holds predictions, scores, modules, log and report.

    Args:
        spec: what to compare.
        out: the run folder; until ``run.json`` is there it counts as unfinished.
        raw: folder with the task's raw files; None: the cache or the publisher.
        passed: what the user asked for, kept in the record beside what it came to.
        reporter: hears about stages.
        replace: take the place of an earlier run in the folder, once this one is trained and judged.
        table: the task's table, where it is at hand; None: it is loaded by the task's name.

    Raises:
        PeftuError: anything the user can mend; nothing half-written is left to be read as whole. A report that cannot
            be drawn is none: the reporter is told.
    """
    reporter = reporter or Silent()
    jobs = plan(spec)
    guards = find_guards(jobs)
    check_folder(out, OURS, replace)
    table = table or load_task(spec.task, raw, spec.task_options)
    check_kind(jobs, table.card)
    if table.card.kind in spec.metric:
        table = dataclasses.replace(table, card=_judged_by(table.card, spec.metric[table.card.kind]))
    splits = {seed: make_split(table, spec.split, seed) for seed in spec.seeds}
    problems = {seed: make_problem(table, table.card, split) for seed, split in splits.items()}
    fits = Fits(table.card, problems, spec.max_tokens, reporter, spec.max_answer_tokens, spec.generate)
    _announce(jobs, splits[spec.seeds[0]], table, fits, problems, reporter)
    kept = _defaults_kept(spec, jobs)
    for line in kept:
        reporter.note(line)
    _try_writing(out)
    cells: dict[tuple[int, int], Cell] = {}
    with measured() as total:
        frames = {}
        for number, job in enumerate(jobs):
            for seed in spec.seeds if number not in guards else ():
                cells[number, seed] = cell = fits.run(job, seed)
                frames[number, seed] = predictions_frame(job, seed, problems[seed], cell)
        guarded_cells(guards, jobs, frames, cells, table.card)
        predictions = pl.concat(frames[place] for place in sorted(frames))
        scores = user_scores(predictions, table.card, _train_counts(problems))
        results = _results(jobs, scores, table.card, _costs(jobs, cells, problems))
        judgement = judge(Evidence(predictions, table.card, scores, results, table.frame))
        folder = _fresh(out, replace)  # not before there is something to put in an earlier run's place
        with writing_to(folder):
            bases = _store_modules(folder / MODULES, jobs, cells, fits)
            _keep_fitted(folder, jobs, cells)
            predictions.write_parquet(folder / PREDICTIONS)
            scores.write_parquet(folder / USER_SCORES)
            write_judgement(judgement, folder)
            _write_log(folder / TRAIN_LOG, jobs, cells, problems)
    first = splits[spec.seeds[0]]
    record = RunRecord(
        run=spec.run_id,
        command=command_line(),
        spec_passed=passed or spec.model_dump(mode="json"),
        spec={**spec.model_dump(mode="json"), "jobs": [job.resolved() for job in jobs], "task_options": table.options},
        task=TaskSummary.of(table.card),
        regime=spec.split.regime,
        hashes=Hashes(data=table.hash, splits={str(s): split.hash for s, split in splits.items()}, bases=bases),
        dtypes={name: dtype_name(fits.lab.base(name).dtype) for name in bases},
        users=len(first.tested),
        excluded_users=first.excluded,
        truncated_texts={base: cuts.judged for base, cuts in fits.lab.cuts.items() if cuts.judged},
        shortened_texts={base: cuts.beside for base, cuts in fits.lab.cuts.items() if cuts.beside},
        statistics=statistics(table),
        leakage=dict(first.leakage),
        methods=results,
        cost=CostTotals(
            seconds=total.seconds, peak_rss_bytes=total.peak_rss_bytes, bytes=_size(folder / MODULES / "shards")
        ),
        warnings=(
            *(f"{rule}: {users} users" for rule, users in first.notes.items()),
            *(
                f"answers cut to {spec.max_answer_tokens} tokens of {base}: {cut} of {len(fits.lab.items)}"
                for base, cut in fits.lab.answers_cut.items()
                if cut
            ),
            *_diverged(jobs, cells),
            *kept,
        ),
    )
    record = finish_folder(folder, record)
    try:
        render([RunView(record, scores, judgement)], folder / REPORT)
    except DrawingError as error:  # the run is whole without it
        reporter.note(f"{error}; the run is kept: peftu report {out}")
    return record


def _judged_by(card: TaskCard, name: str) -> TaskCard:
    """Returns the card with another main metric.

    Raises:
        PeftuError: tasks of this kind have no such number for each user.
    """
    metric = metrics.get(name)
    if metric.of == "items" or card.kind not in metric.kinds:
        able = ", ".join(one.name for one in metrics_of(card.kind, "rows", "labels"))
        raise PeftuError(f"run: metric: {name} is not a number a user has on a task of kind {card.kind} — use {able}")
    return card.model_copy(update={"main_metric": metric.name})


def _results(
    jobs: Sequence[Job], scores: pl.DataFrame, card: TaskCard, costs: dict[System, MethodCost]
) -> tuple[MethodResult, ...]:
    """Returns the leaderboard; modules that start from everyone's, and guarded ones, have seen others' labels."""
    guards = find_guards(jobs)
    started = {(job.label, job.base) for place, job in enumerate(jobs) if job.start is not None or place in guards}
    results = summarise(scores, card, costs, {job.spec.name: job.card for job in jobs})
    return tuple(
        r.model_copy(update={"uses_others_labels": True}) if (r.method, r.base) in started else r for r in results
    )


def _announce(
    jobs: Sequence[Job],
    split: Split,
    table: UserTable,
    fits: Fits,
    problems: dict[int, Problem],
    reporter: Reporter,
) -> None:
    trained = [job for place, job in enumerate(jobs) if place not in find_guards(jobs)]
    guess: Estimate = estimate(trained, fits, problems)  # before a word is said: it finds wrong bases and regions
    counts = split.counts()
    rows = " / ".join(f"{counts[part]:,} {part}" for part in counts)
    reporter.note(f"{table.card.title}: {len(split.users)} users, {len(fits.lab.texts):,} texts, {rows} rows")
    for reason, users in split.excluded.items():
        reporter.note(f"left out: {users} users ({reason})")
    if guess.seconds >= 1:
        reporter.note(f"about {_duration(guess.seconds)} of work, {guess.module_bytes / 1e6:,.1f} MB of modules")


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _try_writing(out: Path) -> None:
    """Makes the folder and writes to it, so that a long run does not end at a folder it cannot write to.

    Raises:
        PeftuError: it cannot be made or written to.
    """
    with writing_to(out), tempfile.TemporaryFile(dir=out):
        pass


def _fresh(out: Path, replace: bool) -> Path:
    """Returns the folder, emptied of what an earlier run left and of nothing else."""
    check_folder(out, OURS, replace)
    with writing_to(out):
        start_folder(out)
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return out


def _store_modules(folder: Path, jobs: Sequence[Job], cells: dict[tuple[int, int], Cell], fits: Fits) -> dict[str, str]:
    """Commits every trained module to the run's store; returns base -> fingerprint for every base that was used."""
    used = {job.base: fits.lab.base(job.base) for job in jobs if job.base}
    fingerprints = {name: base.fingerprint for name, base in used.items()}
    if any(cell.modules for cell in cells.values()):
        with AdapterStore(folder, create=True) as store:
            for (number, _), cell in cells.items():
                job = jobs[number]
                if cell.modules is None or job.base is None or not (modules := cell.modules.learned).keys:
                    continue
                assert isinstance(cell.fitted, ModuleFitted)  # noqa: S101  (nothing else has modules)
                kind = collection_of(cell.fitted)
                if modules.shared is not None:
                    everybody = dataclasses.replace(
                        kind,
                        label=shared_label(kind.label),
                        width=len(modules.shared),
                        recipe=recipe(**{**kind.made, "part": SHARED}),
                    )
                    store.add(everybody, (EVERYONE,), modules.shared[None], (sum(modules.train_rows),))
                store.add(kind, modules.keys, modules.trained.rows, modules.train_rows)
    return fingerprints


def _keep_fitted(folder: Path, jobs: Sequence[Job], cells: dict[tuple[int, int], Cell]) -> None:
    """Keeps whatever was fitted, a folder each; module rows are in the run's store."""
    for (number, seed), cell in cells.items():
        fitted = cell.fitted
        if fitted is None or (cell.modules is not None and not cell.modules.learned.keys):
            continue
        beside = None
        if isinstance(fitted, GuardedFitted):
            beside = {
                role: folder_name(part.label, seed)
                for role, part in (("inner", fitted.inner), ("fallback", fitted.fallback))
            }
        where = folder / FITTED / folder_name(jobs[number].full_label, seed)
        save(fitted, where, folder / MODULES, beside, number)


def _diverged(jobs: Sequence[Job], cells: dict[tuple[int, int], Cell]) -> list[str]:
    """Returns a line for each method and seed whose training diverged for some users."""
    return [
        f"{jobs[number].label}, seed {seed}: training diverged for {cell.notes['diverged']}"
        for (number, seed), cell in cells.items()
        if "diverged" in cell.notes
    ]


def _defaults_kept(spec: RunSpec, jobs: Sequence[Job]) -> list[str]:
    """Returns a line on methods of which the run's preset knows nothing, if there are any."""
    without = ", ".join(without_settings(spec, jobs))
    return [f"preset {spec.preset} has no settings for {without}: defaults are used"] if without else []


def _train_counts(problems: dict[int, Problem]) -> pl.DataFrame:
    """Returns seed, user_id, n_train for every user; a user nothing is trained on has 0."""
    frames = []
    for seed, problem in problems.items():
        rows = np.bincount(problem.user[problem.rows("train")], minlength=len(problem.users)).astype(np.int64)
        users = pl.Series("user_id", problem.users, pl.String)
        frames.append(
            pl.DataFrame(
                {"seed": pl.repeat(seed, len(rows), dtype=pl.Int64, eager=True), "user_id": users, "n_train": rows}
            )
        )
    return pl.concat(frames)


def _costs(
    jobs: Sequence[Job], cells: dict[tuple[int, int], Cell], problems: dict[int, Problem]
) -> dict[System, MethodCost]:
    costs: dict[System, MethodCost] = {}
    for number, job in enumerate(jobs):
        own = {seed: cell for (n, seed), cell in cells.items() if n == number}
        last = next(reversed(own.values()))
        seconds = [cell.seconds / len(problems[seed].users) for seed, cell in own.items()]
        costs[System(job.label, job.base)] = MethodCost(
            parameters_per_user=last.parameters,
            bytes_per_user=last.bytes_per_user,
            seconds_per_user=sum(seconds) / len(seconds),
            peak_rss_bytes=max(cell.peak_rss_bytes for cell in own.values()),
            ms_per_answer=sum(cell.ms_per_answer for cell in own.values()) / len(own),
            notes=last.notes,
        )
    return costs


def _write_log(
    path: Path, jobs: Sequence[Job], cells: dict[tuple[int, int], Cell], problems: dict[int, Problem]
) -> None:
    """Writes how each unit's training went; users are numbered in the order of their sorted keys, never named."""
    lines = []
    for (number, seed), cell in cells.items():
        job = jobs[number]
        for unit, log in enumerate(cell.logs):
            who = {"user": unit + 1 if job.card.scope == "user" else None}
            lines.append(json.dumps({"method": job.label, "base": job.base, "seed": seed, **who, **vars(log)}))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _size(folder: Path) -> int | None:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else None
