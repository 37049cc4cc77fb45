"""How long a run will take and how much it will keep: the work of its missing cells, at rates measured on a part."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count, takewhile

import numpy as np
import psutil

from peftu.cells.cache import Cells
from peftu.cells.fits import Fits
from peftu.cells.spec import CellSpec
from peftu.codes import SharedLayout
from peftu.execute.probe import Measure, Sample, some_of
from peftu.fitted.offsets import FOLDS
from peftu.fitted.training import BYTES_PER_NUMBER, layout_of
from peftu.methods.method import SearchingMethod
from peftu.plan import Job, is_module, is_reference
from peftu.train import cohort_bytes

BEYOND_PATIENCE = 0.5  # share of the epochs beyond the patience that users run before they stop, as seen on tweeteval
READ_SHARE = 1 / 3  # of what a row costs in training, where it is only read
FEWEST = 4  # users that a method without modules is first measured with
PROBE_SECONDS = 3.0  # that all measuring may take
PROBE_SHARE = 0.05  # of the work that may be done to measure it

Clock = Callable[[], float]


@dataclass(frozen=True)
class Estimate:
    """Users and optimiser steps of missing cells, seconds of work, most memory, and bytes of stored modules."""

    users: int = 0
    steps: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    module_bytes: int = 0


def check(jobs: Sequence[Job], fits: Fits) -> None:
    """Checks, before any work, that the jobs' bases can be had and hold what the methods put into them.

    Raises:
        PeftuError: an unknown base, one that cannot write where answers are free text, a region that does not fit, or a
            module that the base cannot host.
    """
    for job in jobs:
        if job.base is not None:
            base = fits.lab.base(job.base)
            job.region_on(base)
            if fits.prompt.free:
                _ = base.writer
            if is_module(job.method):
                layout_of(job, fits.lab, fits.prompt, fits.users)


def missing(specs: Iterable[CellSpec], cells: Cells) -> list[CellSpec]:
    """Returns the cells that are not there, and those not there that they need, each once."""
    gone: dict[str, CellSpec] = {}

    def want(spec: CellSpec) -> None:
        if spec.name not in gone and not cells.has(spec.name):
            gone[spec.name] = spec
            for need in spec.needs:
                want(need)

    for spec in specs:
        want(spec)
    return list(gone.values())


def estimate(specs: Sequence[CellSpec], fits: Fits, measure: Measure, clock: Clock = time.perf_counter) -> Estimate:
    """Returns what it takes to fill cells.

    Args:
        specs: cells that are `missing`.
        fits: has the bases.
        measure: fills a part of a cell.
        clock: seconds, for how long measuring may go on.
    """
    groups: dict[tuple[str, str], list[CellSpec]] = {}
    for spec in specs:
        groups.setdefault((repr(spec.job.resolved()), spec.part), []).append(spec)
    seconds, grown = 0.0, 0
    texts_read: set[tuple[str | None, str, str]] = set()
    for group in groups.values():
        measured = _Measured(group)
        measured.take(measure, clock, PROBE_SECONDS / len(groups))
        if not measured.parts:  # too little to be measured
            continue
        seconds += measured.seconds()
        grown = max(grown, measured.memory_bytes(fits))
        for spec in group:
            key = (spec.job.base, "" if is_reference(spec.job.method) else repr(spec.job.region), spec.texts)
            if key not in texts_read:
                texts_read.add(key)
                seconds += measured.reading(spec)
    return Estimate(
        users=len({user for spec in specs for user in spec.users}),
        steps=round(sum(map(steps_of, specs))),
        seconds=seconds,
        memory_bytes=psutil.Process().memory_info().rss + grown,
        module_bytes=sum(_module_bytes(spec, fits) for spec in specs),
    )


def work_of(spec: CellSpec) -> float:
    """Returns the work in a cell: its rows; of a method that trains, how often each is trained on or read."""
    train, val, test = (_rows(spec, part) for part in ("train", "val", "test"))
    if is_reference(spec.job.method):
        return (train + val + test) * (1 + FOLDS if spec.part == "offset" else 1)
    held_out = 0 if spec.part == "everyone" else (val + test) * READ_SHARE
    if not _trains(spec):
        return held_out
    epochs = _epochs(spec.job)
    return train * epochs + val * (epochs + 1) * READ_SHARE + held_out


def steps_of(spec: CellSpec) -> float:
    """Returns the optimiser steps in a cell, of all users together."""
    if not _trains(spec):
        return 0.0
    problem, train = spec.problem, spec.job.train
    pooled = spec.part == "everyone" or spec.job.card.scope != "user"
    rows = [_rows(spec, "train")] if pooled else np.bincount(problem.user[problem.rows("train")])
    return float(np.ceil(np.asarray(rows) / train.batch).sum()) * _epochs(spec.job)


@dataclass(frozen=True)
class _Part:
    """A part of a cell, its work, and what it took."""

    spec: CellSpec
    work: float
    sample: Sample


class _Measured:
    """Ever larger parts of the largest cell of a group of one job's, and what each took.

    Args:
        group: the cells.
    """

    def __init__(self, group: Sequence[CellSpec]) -> None:
        self.group, self.spec = group, max(group, key=lambda spec: len(spec.users))
        self.work = sum(map(work_of, group))
        self.parts: list[_Part] = []

    def take(self, measure: Measure, clock: Clock, most: float) -> None:
        """Measures parts, until the next would take more than so many seconds or too much of the work.

        The first one only warms up: what is made once in a process is no rate.
        """
        start, all_users = clock(), len(self.spec.users)
        reference = is_reference(self.spec.job.method)
        fewest, larger = (max(FEWEST, all_users // 64), 2) if reference else (1, 4)
        sizes = takewhile(lambda users: users <= all_users, (fewest * larger**step for step in count()))
        for number, users in enumerate(chain([0], sizes)):
            spec = some_of(self.spec, users)
            work = work_of(spec)
            if number and (not work or work > PROBE_SHARE * self.work):
                break
            before = clock()
            try:
                sample = measure(spec)
            except Exception:  # noqa: BLE001  (the cell itself will meet it, and say what is wrong)
                break
            now = clock()
            if number:
                self.parts.append(_Part(spec, work, sample))
            if now - start + (larger if number else 1) * (now - before) > most and self.parts:
                break

    def seconds(self) -> float:
        """Returns the seconds of all cells of the group, without reading."""
        last, method = self.parts[-1], self.spec.job.method
        if not is_reference(method):
            return last.sample.seconds / last.work * self.work
        most = method.search_users if isinstance(method, SearchingMethod) else 0
        return sum(
            self._along(lambda part: (part.work, part.sample.seconds), work_of(spec))
            + self._along(lambda part: (len(part.spec.users), part.sample.searching), min(len(spec.users), most))
            for spec in self.group
        )

    def reading(self, spec: CellSpec) -> float:
        """Returns the seconds to read the texts of a cell."""
        return self._along(lambda part: (len(part.spec.problem.texts), part.sample.reading), len(spec.problem.texts))

    def memory_bytes(self, fits: Fits) -> int:
        """Returns by how many bytes the process grows in the largest cell."""
        grown = int(self._along(lambda part: (len(part.spec.users), part.sample.memory_bytes), len(self.spec.users)))
        base = self.spec.job.base
        return grown if base is None else min(grown, cohort_bytes(fits.lab.base(base).device))

    def _along(self, point: Callable[[_Part], tuple[float, float]], size: float) -> float:
        """Returns what a size comes to: on the line through the last two points, but no more than in proportion."""
        x, y = point(self.parts[-1])
        proportional = y * size / max(1, x)
        if len(self.parts) < 2:
            return proportional
        less, earlier = point(self.parts[-2])
        slope = max(0.0, y - earlier) / max(1, x - less)
        return min(proportional, y + slope * (size - x)) if size > x else proportional


def _epochs(job: Job) -> float:
    """Returns how many epochs a user trains for, by experience."""
    sure = min(job.train.epochs, job.train.patience)
    return sure + (job.train.epochs - sure) * BEYOND_PATIENCE


def _trains(spec: CellSpec) -> bool:
    """Returns whether a cell itself trains, and not a cell that it needs."""
    return is_module(spec.job.method) and (spec.part == "everyone" or spec.job.card.scope != "global")


def _rows(spec: CellSpec, part: str) -> int:
    """Returns how many rows a part has; what is trained on everyone sees a text once."""
    rows = spec.problem.rows(part)
    once = spec.part == "everyone" and part != "test" and spec.job.offset is None
    return len(np.unique(spec.problem.text[rows])) if once else len(rows)


def _module_bytes(spec: CellSpec, fits: Fits) -> int:
    if spec.part != "scores" or not is_module(spec.job.method):
        return 0
    users = len(spec.users)
    layout = layout_of(spec.job, fits.lab, fits.prompt, users)
    if isinstance(layout, SharedLayout):
        return BYTES_PER_NUMBER * (layout.width + users * layout.code_width)
    return BYTES_PER_NUMBER * layout.width * (1 if spec.job.card.scope == "global" else users)
