"""What work costs on this machine: a part of a cell, a few users' rows, is really filled, and timed."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from peftu.base.cache import RegionCache
from peftu.cells.fits import Fits
from peftu.cells.spec import CellSpec
from peftu.data.problem import PARTS, Problem
from peftu.data.shards import part_of, with_rows
from peftu.data.stratify import hashed
from peftu.fitted.offsets import fit_offset
from peftu.fitted.reference import ReferenceFitted
from peftu.fitted.training import fit_everyone
from peftu.lab.lab import Lab
from peftu.lab.memo import Billed
from peftu.lab.progress import Silent
from peftu.methods.method import SearchingMethod
from peftu.plan import Job, is_module, is_reference

HELD_OUT = 4  # rows of a user's validation part, and of their test part, that a part of a cell has
READING = ("context", "embedded")  # what a lab bills texts under that are read


@dataclass(frozen=True)
class Sample:
    """What a part of a cell took.

    Attributes:
        seconds: to fit and score, without reading and without the search.
        reading: seconds to read the texts.
        searching: seconds of a search whose rows do not grow with the users (`SearchingMethod`).
        memory_bytes: by which the process grew at most.
    """

    seconds: float
    reading: float = 0.0
    searching: float = 0.0
    memory_bytes: int = 0


Measure = Callable[[CellSpec], Sample]


def some_of(spec: CellSpec, users: int) -> CellSpec:
    """Returns a cell of so many of the users, drawn by hash; of a method that trains modules, of one step of each.

    Args:
        spec: the cell.
        users: how many; 0: one with a row of each part.
    """
    keys = sorted(spec.users, key=lambda key: hashed("probe", key))[: max(1, users)]
    problem = part_of(spec.problem, sorted(keys))
    if users and is_reference(spec.job.method):
        return dataclasses.replace(spec, problem=problem)
    trains = is_module(spec.job.method)
    most = dict(zip(PARTS, (spec.job.train.batch if trains else len(problem.part), HELD_OUT, HELD_OUT), strict=True))
    rows = [problem.rows(part, user)[: most[part] if users else 1] for part in PARTS for user in range(max(1, users))]
    problem = with_rows(problem, np.sort(np.concatenate(rows)))
    return dataclasses.replace(spec, problem=problem, job=_short(spec.job) if trains else spec.job)


class Probe:
    """Fills parts of cells, and keeps nothing of them.

    Args:
        fits: has the bases, and knows how texts are read.
    """

    def __init__(self, fits: Fits) -> None:
        self.fits = fits

    def __call__(self, spec: CellSpec) -> Sample:
        """Returns what a part of a cell takes, as `some_of` gives it.

        Raises:
            PeftuError: it cannot be fitted.
        """
        before = psutil.Process().memory_info().rss
        fits = self._fits(spec)
        if spec.part in ("everyone", "offset"):
            fit: Callable[..., object] = fit_everyone if spec.part == "everyone" else fit_offset
            with fits.lab.memo.alone() as cost:
                fit(spec.problem, spec.job, spec.seed, fits.lab, fits.prompt)
            return self._sample(cost, cost.seconds - _reading(cost), before)
        result = fits.run(spec.job, spec.seed)
        own = result.cost.own
        if isinstance(result.fitted, ReferenceFitted) and isinstance(spec.job.method, SearchingMethod):
            method = spec.job.method.settled(result.fitted.model)
            own = fits.run(dataclasses.replace(spec.job, method=method), spec.seed).cost.own
        sample = self._sample(result.cost, own, before)
        return dataclasses.replace(sample, searching=max(0.0, result.cost.own - own))

    def _sample(self, cost: Billed, seconds: float, before: int) -> Sample:
        return Sample(seconds, _reading(cost), memory_bytes=max(0, cost.peak_rss_bytes - before))

    def _fits(self, spec: CellSpec) -> Fits:
        problems: dict[int, Problem] = {spec.seed: spec.problem}
        reading = spec.reading
        fits = Fits(spec.problem.card, problems, reading.max_tokens, Silent(), reading.answer_tokens)
        lab: Lab = fits.lab
        lab.loaded, lab.regions = self.fits.lab.loaded, RegionCache(limit=0)
        return fits


def _reading(cost: Billed) -> float:
    return sum(seconds for key, seconds in cost.bill.items() if isinstance(key, tuple) and key[0] in READING)


def _short(job: Job) -> Job:
    """Returns a job that trains for one epoch."""
    start = None if job.start is None else _short(job.start)
    return dataclasses.replace(job, train=job.train.model_copy(update={"epochs": 1}), start=start)
