"""Fits a method at one seed, scores its validation and test rows, and measures what that took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from peftu.base.prompt import Prompt
from peftu.config import HardwareSpec
from peftu.data.problem import PARTS, Floats, Problem
from peftu.data.task import TaskCard
from peftu.fitted.fitted import Fitted
from peftu.fitted.kinds import FittedNow, fit
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.prompted import PromptedFitted
from peftu.fitted.rows import MemoryRows
from peftu.fitted.training import BYTES_PER_NUMBER, Modules, fit_everyone, fit_untrained
from peftu.lab.lab import Item, Lab, items_of, prompt_of
from peftu.lab.memo import Billed
from peftu.lab.progress import Reporter
from peftu.plan import Job
from peftu.train import UnitLog


@dataclass
class FitResult:
    """What one method at one seed gave.

    Attributes:
        rows: numbers of the problem's rows that were scored (validation and test).
        scores: [rows, labels] as training sees them (`Fitted.read`); of free answers [rows, 2] log-likelihood and
            number of tokens.
        fitted: to be asked about other texts, or kept; users whose training diverged are not in it.
        cost: of fit and score, with what they needed computed first (prefill, warm start).
        parameters: numbers a user has of their own.
        notes: choices made on validation data, counts.
        modules: trained rows by key, for the store.
        logs: how training went, a unit each.
        ms_per_answer: milliseconds to score one row in batches, what no user changes having been computed.
        written: row number -> the free answer that was written for it, where that was asked for.
    """

    rows: npt.NDArray[np.int64]
    scores: Floats
    fitted: Fitted
    cost: Billed
    notes: dict[str, Any] = field(default_factory=dict)
    modules: Modules | None = None
    logs: list[UnitLog] = field(default_factory=list)
    ms_per_answer: float = 0.0
    written: dict[int, str] = field(default_factory=dict)

    @property
    def logits(self) -> bool:
        """Returns whether scores are a logit a label where several may hold, and not log-probabilities."""
        return self.fitted.logits

    @property
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""
        return self.fitted.parameters

    @property
    def diverged(self) -> int:
        """Returns for how many users training diverged."""
        return 0 if self.modules is None else self.modules.diverged

    @property
    def bytes_per_user(self) -> int:
        """Returns the bytes that are stored of a user: all numbers of a module's row, those not learned too."""
        stored = self.parameters
        if isinstance(self.fitted, ModuleFitted) and self.fitted.of_users:
            stored += self.fitted.layout.width - self.fitted.module_parameters
        return BYTES_PER_NUMBER * stored


class Fits:
    """Fits the methods of a run, at each seed, with one lab; a cell each.

    Args:
        card: the task.
        problems: seed -> its problem.
        max_tokens: longest text in tokens.
        reporter: hears how far long work is.
        answer_tokens: longest free answer in tokens.
        writes: also write an answer for every test row, where answers are free text.
        lab: one that expects these texts already; None: a new one.
        hardware: where the bases of a new one compute, and in which numbers.
    """

    def __init__(
        self,
        card: TaskCard,
        problems: dict[int, Problem],
        max_tokens: int,
        reporter: Reporter,
        answer_tokens: int = 128,
        writes: bool = False,
        lab: Lab | None = None,
        hardware: HardwareSpec | None = None,
    ) -> None:
        self.card, self.problems = card, problems
        self.prompt: Prompt = prompt_of(card, max_tokens, answer_tokens)
        self.writes = writes and self.prompt.free
        items: list[Item] = []
        for problem in problems.values():
            items += items_of(problem) if self.prompt.free else [(text, None) for text in problem.texts]
        self.lab = lab or Lab(reporter, items, hardware)

    @property
    def users(self) -> int:
        """Returns how many users there are at most."""
        return max(len(problem.users) for problem in self.problems.values())

    def fit(self, job: Job, seed: int) -> Fitted:
        """Returns a fitted job at a seed; labels are named by what the validation rows say."""
        problem = self.problems[seed]
        fitted, modules = fit(problem, job, seed, self.lab, self.prompt)
        if not self.prompt.exclusive:
            rows, users, items = self._scored(seed)
            fitted.thresholds = thresholds_of(problem, rows, fitted.written(fitted.read(users, items)))
        return _learned(fitted, modules)

    def _scored(self, seed: int) -> tuple[npt.NDArray[np.int64], list[str], list[Item]]:
        """Returns the validation and test rows, and whose and what each is."""
        problem = self.problems[seed]
        rows = np.flatnonzero(problem.part > 0)
        every = items_of(problem)
        return rows, [problem.users[number] for number in problem.user[rows]], [every[row] for row in rows]

    def run(self, job: Job, seed: int) -> FitResult:
        """Returns what a job gives at a seed."""
        return self._run(job, seed, lambda: fit(self.problems[seed], job, seed, self.lab, self.prompt))

    def without(self, job: Job, seed: int) -> FitResult:
        """Returns what a job that trains modules gives for users of whom none could be trained: they have its start."""

        def untrained() -> tuple[ModuleFitted, None]:
            fitted, _ = fit_untrained(self.problems[seed], job, seed, self.lab, self.prompt)
            if job.start is not None:
                start = fit_everyone(self.problems[seed], job.start, seed, self.lab, self.prompt)
                users = self.problems[seed].users
                fitted.common = start.trained.rows[0]
                fitted.rows = MemoryRows(users, start.trained.rows.expand(len(users), -1), [0] * len(users))
            return fitted, None

        result = self._run(job, seed, untrained)
        assert isinstance(result.fitted, ModuleFitted)  # noqa: S101
        result.fitted.rows = MemoryRows((), torch.zeros(0, result.fitted.layout.width), ())  # none of it is theirs
        return result

    def _run(self, job: Job, seed: int, make: Callable[[], FittedNow]) -> FitResult:
        problem = self.problems[seed]
        rows, users, items = self._scored(seed)
        with self.lab.memo.alone() as cost:
            fitted, modules = make()
            self._warm(fitted)
            start = time.perf_counter()
            if isinstance(fitted, PromptedFitted):
                scores, fitted.notes = fitted.measured(users, items)
            else:
                scores = fitted.read(users, items)
            answering = time.perf_counter() - start
            written = self._written(fitted, problem, rows, users)
        fitted.thresholds = thresholds_of(problem, rows, fitted.written(scores))
        return FitResult(
            rows,
            scores,
            _learned(fitted, modules),
            cost,
            notes=fitted.notes,
            modules=modules,
            logs=modules.trained.logs if modules is not None else [],
            ms_per_answer=1000 * answering / max(len(rows), 1),
            written=written,
        )

    def _warm(self, fitted: Fitted) -> None:
        """Has what no user changes computed before answers are timed."""
        if isinstance(fitted, ModuleFitted):
            self.lab.context(fitted.base.name, self.prompt, fitted.region)

    def _written(
        self, fitted: Fitted, problem: Problem, rows: npt.NDArray[np.int64], users: list[str]
    ) -> dict[int, str]:
        """Returns the answers written for the test rows among these, where answers are free and were asked for."""
        if not self.writes:
            return {}
        tested = np.flatnonzero(problem.part[rows] == PARTS.index("test"))
        texts = [problem.texts[text] for text in problem.text[rows[tested]]]
        written = fitted.write([users[place] for place in tested], texts)
        return dict(zip(rows[tested].tolist(), written, strict=True))


def _learned(fitted: Fitted, modules: Modules | None) -> Fitted:
    """Returns what was fitted without users whose training diverged: their start is not kept as theirs."""
    if modules is not None and isinstance(fitted, ModuleFitted):
        fitted.rows = modules.learned.rows
    return fitted


def thresholds_of(problem: Problem, rows: npt.NDArray[np.int64], scores: Floats) -> Floats | None:
    """Returns [labels] what labels are named by, chosen on the scored validation rows; None: the scores say.

    Args:
        problem: a task after its split.
        rows: [rows] numbers of its rows.
        scores: [rows, labels] log-probabilities.
    """
    if not problem.card.answers.labelled:
        return None
    validation = np.isfinite(scores).all(1) & (problem.part[rows] == PARTS.index("val"))
    return problem.card.answers.thresholds(scores[validation], problem.target[rows[validation]] > 0)
