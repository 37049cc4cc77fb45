"""A run's folder: predictions, user scores, judgement, log, modules, what was fitted, record and report."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from peftu.config import RunSpec
from peftu.data.agreement import statistics
from peftu.data.problem import Floats, Problem
from peftu.data.sources import writing_to
from peftu.data.splits import Split
from peftu.data.table import UserTable
from peftu.data.task import TaskCard
from peftu.execute.assemble import SystemCells, cuts_of
from peftu.execute.drift import drift
from peftu.execute.guarded import GuardedSystem, find_guards, guarded_system, keep_guarded
from peftu.execute.train_log import TRAIN_LOG
from peftu.files import private_file
from peftu.fitted.folder import folder_name
from peftu.judge import JUDGEMENT, Evidence, judge, write_judgement
from peftu.lab.cost import Measured
from peftu.lab.lab import Lab
from peftu.lab.progress import Reporter
from peftu.metrics import user_scores
from peftu.plan import Job, without_settings
from peftu.report.blocks import DrawingError
from peftu.report.html import render
from peftu.report.view import RunView
from peftu.results import (
    PREDICTIONS,
    RECORD,
    REPORT,
    USER_SCORES,
    CostTotals,
    Failed,
    Hashes,
    MethodCost,
    MethodResult,
    RunCell,
    RunRecord,
    TaskSummary,
    finish_folder,
    summarise,
)
from peftu.run_folder import EXAMPLES, FITTED, MODULES, command_line, put_in_place
from peftu.system import System

_FILES = "|".join(
    map(re.escape, (RECORD, REPORT, PREDICTIONS, USER_SCORES, JUDGEMENT, TRAIN_LOG, MODULES, FITTED, EXAMPLES))
)
# What a run leaves in its folder; of a run that was killed, half-written files too.
OURS = re.compile(rf"{_FILES}|\.[\w.-]+\.tmp|{MODULES}/(shards|index\.sqlite(-wal|-shm|-journal)?)")


@dataclass
class Made:
    """Everything that a run came to.

    Attributes:
        spec: what was compared.
        table: the task's data.
        jobs: its methods.
        problems: seed -> rows of that split.
        splits: seed -> split.
        lab: knows the bases.
        systems: place of a job, seed -> its cells.
        cells: those of all systems.
        failed: methods that could not be fitted.
    """

    spec: RunSpec
    table: UserTable
    jobs: Sequence[Job]
    problems: dict[int, Problem]
    splits: dict[int, Split]
    lab: Lab
    systems: dict[tuple[int, int], SystemCells] = field(default_factory=dict)
    cells: list[RunCell] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    @property
    def card(self) -> TaskCard:
        """Returns the task's card."""
        return self.table.card

    def drop_failed(self) -> None:
        """Leaves out methods that failed at any seed: beside others at all seeds, some say little."""
        failed = {(failure.method, failure.base) for failure in self.failed}
        self.systems = {
            key: system for key, system in self.systems.items() if (system.job.label, system.job.base) not in failed
        }


@dataclass
class _Judged:
    """Frames, costs and thresholds of all systems, guarded ones among them."""

    predictions: dict[tuple[int, int], pl.DataFrame] = field(default_factory=dict)
    costs: dict[tuple[int, int], MethodCost] = field(default_factory=dict)
    thresholds: dict[tuple[int, int], Floats | None] = field(default_factory=dict)
    guarded: dict[tuple[int, int], GuardedSystem] = field(default_factory=dict)


def written(
    made: Made, out: Path, before: Path, passed: dict[str, Any] | None, reporter: Reporter, total: Measured
) -> RunRecord:
    """Returns the record of a run whose folder is now in place, whole.

    Args:
        made: what the run came to.
        out: the folder; a run in it goes when this one is whole.
        before: where an earlier version of this run may be; what changed since is said.
        passed: what the user asked for.
        reporter: hears what could not be drawn.
        total: what filling cells took.

    Raises:
        PeftuError: the folder cannot be written.
    """
    judged = _judged(made)
    predictions = pl.concat(judged.predictions[place] for place in sorted(judged.predictions))
    scores = user_scores(predictions, made.card, _train_counts(made.problems))
    results = _results(made, scores, judged)
    changes = drift(before, predictions)
    for line in changes:
        reporter.note(line)
    judgement = judge(Evidence(predictions, made.card, scores, results, made.table.frame))
    with put_in_place(out) as folder, writing_to(folder):
        _keep(made, judged, folder)
        predictions.write_parquet(private_file(folder / PREDICTIONS))
        scores.write_parquet(private_file(folder / USER_SCORES))
        write_judgement(judgement, folder)
        lines = [line for system in made.systems.values() for line in system.log()]
        (folder / TRAIN_LOG).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        record = finish_folder(folder, _record(made, results, changes, passed, total, folder))
        try:
            render([RunView(record, scores, judgement)], folder / REPORT)
        except DrawingError as error:  # the run is whole without it
            reporter.note(f"{error}; the run is kept: peftu report {out}")
    return record


def _judged(made: Made) -> _Judged:
    judged = _Judged()
    for key, system in made.systems.items():
        judged.predictions[key], judged.thresholds[key] = system.predictions()
        judged.costs[key] = system.cost()
    for place, needed in find_guards(made.jobs).items():
        for seed in made.spec.seeds:
            here = {p: judged.predictions[p, s] for p, s in judged.predictions if s == seed}
            if needed.inner not in here or not set(needed.fallbacks) & set(here):
                continue
            present = type(needed)(needed.inner, tuple(p for p in needed.fallbacks if p in here))
            costs = {p: judged.costs[p, seed] for p in here}
            guarded = guarded_system(place, present, made.jobs, here, costs, made.card)
            judged.guarded[place, seed] = guarded
            judged.predictions[place, seed], judged.costs[place, seed] = guarded.predictions, guarded.cost
    return judged


def _keep(made: Made, judged: _Judged, folder: Path) -> None:
    """Keeps whatever was fitted, a folder each; module rows are in the run's store."""

    def home(place: int, seed: int) -> Path:
        return folder / FITTED / folder_name(made.jobs[place].full_label, seed)

    def made_of(seed: int) -> dict[str, object]:
        split = made.splits[seed]
        return {"source": "run", "data": made.table.hash, "split": split.hash, "regime": split.regime}

    kept = {
        (place, seed)
        for (place, seed), system in made.systems.items()
        if system.keep(home(place, seed), folder / MODULES, place, judged.thresholds[place, seed], made_of(seed))
    }
    for (place, seed), guarded in judged.guarded.items():
        if {(guarded.inner, seed), (guarded.fallback, seed)} <= kept:
            around = home(guarded.inner, seed), home(guarded.fallback, seed)
            keep_guarded(guarded, made.jobs[place], home(place, seed), *around, made.lab)


def _results(made: Made, scores: pl.DataFrame, judged: _Judged) -> tuple[MethodResult, ...]:
    """Returns the leaderboard; modules that start from everyone's, and guarded ones, have seen others' labels."""
    guards = find_guards(made.jobs)
    jobs = made.jobs
    seeing = {(job.label, job.base) for place, job in enumerate(jobs) if job.uses_others_labels or place in guards}
    costs: dict[System, MethodCost] = {}
    for place, job in enumerate(jobs):
        seeds = [cost for (p, _), cost in judged.costs.items() if p == place]
        if seeds:
            costs[job.system] = _averaged(seeds)
    results = summarise(scores, made.card, costs, {job.spec.name: job.card for job in jobs})
    return tuple(
        r.model_copy(update={"uses_others_labels": True}) if (r.method, r.base) in seeing else r for r in results
    )


def _averaged(seeds: Sequence[MethodCost]) -> MethodCost:
    """Returns the cost over seeds; what is not a time is the last one's."""
    return seeds[-1].model_copy(
        update={
            "seconds_per_user": sum(cost.seconds_per_user or 0.0 for cost in seeds) / len(seeds),
            "peak_rss_bytes": max(cost.peak_rss_bytes or 0 for cost in seeds),
            "ms_per_answer": sum(cost.ms_per_answer or 0.0 for cost in seeds) / len(seeds),
        }
    )


def _record(
    made: Made,
    results: tuple[MethodResult, ...],
    changes: Sequence[str],
    passed: dict[str, Any] | None,
    total: Measured,
    folder: Path,
) -> RunRecord:
    spec, table, jobs, first = made.spec, made.table, made.jobs, made.splits[made.spec.seeds[0]]
    judged_cut, beside_cut, answers_cut = cuts_of(list(made.systems.values()))
    bases = dict.fromkeys(job.base for job in jobs if job.base)
    without = ", ".join(without_settings(spec, jobs))
    devices = _devices(made)
    return RunRecord(
        run=spec.run_id,
        status="failed" if made.failed else "complete",
        command=command_line(),
        spec_passed=passed or spec.model_dump(mode="json"),
        spec={**spec.model_dump(mode="json"), "jobs": [job.resolved() for job in jobs], "task_options": table.options},
        task=TaskSummary.of(table.card),
        regime=spec.split.regime,
        hashes=Hashes(
            data=table.hash,
            splits={str(seed): split.hash for seed, split in made.splits.items()},
            bases={name: made.lab.base(name).fingerprint for name in bases},
        ),
        dtypes={name: made.lab.base(name).hardware.dtype for name in bases},
        quantized={name: how for name in bases if (how := made.lab.base(name).hardware.quantize) != "none"},
        devices=devices,
        users=len(first.tested),
        excluded_users=first.excluded,
        truncated_texts={base: texts for base, texts in judged_cut.items() if texts},
        shortened_texts={base: texts for base, texts in beside_cut.items() if texts},
        statistics=statistics(table),
        leakage=dict(first.leakage),
        methods=results,
        cells=tuple(made.cells),
        failed=tuple(made.failed),
        cost=CostTotals(
            seconds=total.seconds, peak_rss_bytes=total.peak_rss_bytes, bytes=_size(folder / MODULES / "shards")
        ),
        warnings=(
            *(f"{rule}: {users} users" for rule, users in first.notes.items()),
            *(
                f"answers cut to {spec.max_answer_tokens} tokens of {base}: {cut} of {items}"
                for base, (cut, items) in answers_cut.items()
                if cut
            ),
            *_untrained(made),
            *([f"bases computed on {' and on '.join(devices)}: rounding differs"] if len(devices) > 1 else []),
            *([f"preset {spec.preset} has no settings for {without}: defaults are used"] if without else []),
            *changes,
            *(f"{failed.method}, seed {failed.seed}: failed: {failed.why}" for failed in made.failed),
        ),
    )


def _devices(made: Made) -> tuple[str, ...]:
    """Returns what the bases of all cells computed on, each device once."""
    cells = [about for system in made.systems.values() for about in (*system.abouts, *(n.about for n in system.needs))]
    return tuple(sorted({device for about in cells if (device := about["environment"].get("device")) is not None}))


def _untrained(made: Made) -> list[str]:
    """Returns a line for each method and seed that some users have no module of."""
    reasons = {"diverged": "training diverged for", "failed": "could not be fitted for"}
    return [
        f"{system.job.label}, seed {seed}: {words} {system.notes[key]}"
        for (_, seed), system in made.systems.items()
        for key, words in reasons.items()
        if key in system.notes
    ]


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


def _size(folder: Path) -> int | None:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else None
