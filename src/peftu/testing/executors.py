"""`check_executor`: every promise of `Executor`, checked on made-up users and a tiny base."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import psutil
from pydantic import BaseModel

from peftu.cells.cache import Cells
from peftu.cells.fill import SCORES
from peftu.cells.plan import Planner
from peftu.cells.spec import CellSpec, Reading
from peftu.config import HardwareSpec, MethodSpec, RunSpec, SplitSpec, TrainSpec
from peftu.data.problem import Problem
from peftu.data.shards import part_of
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.executors.executor import Executor, Failure, Filled, Outcome, Task
from peftu.executors.local import InProcess
from peftu.executors.schedule import Driver
from peftu.lab.progress import Silent
from peftu.methods.method import MethodCard
from peftu.plan import Job, plan
from peftu.testing.bases import save_tiny

CLOSE = 1e-5
SECONDS = 30  # that processes have to end


class Failing(BaseModel, frozen=True):
    """A method that cannot be fitted: for the user's sake, for a bug, or because its process dies."""

    how: Literal["input", "error", "died"]
    card: ClassVar[MethodCard] = MethodCard(
        name="failing",
        summary="Fails.",
        scope="none",
        trained=False,
        uses_others_labels=False,
        needs_base="no",
        source="peftu",
    )

    def fit(self, problem: Problem, features: Any, seed: int) -> Any:
        """Fails."""
        if self.how == "died":
            os.kill(os.getpid(), signal.SIGKILL)
        raise PeftuError("mend me") if self.how == "input" else ZeroDivisionError("a bug")

    def restore(self, tensors: Any, about: dict[str, Any], features: Any) -> Any:
        """Fails."""
        raise NotImplementedError


def check_executor(factory: Callable[[], Executor]) -> None:
    """Checks what every executor promises.

    It fills the cells that are filled in this process, with the same scores; a task that fails comes back with why, and
    so does one whose worker dies, where there are workers; the next task is filled all the same; closed, even twice
    and with tasks in flight, it leaves no process.

    Args:
        factory: makes the executor; its workers must read this machine's temporary folder, where the base lies.

    Raises:
        AssertionError: a promise is broken; the message names it.
    """
    with TemporaryDirectory() as home, no_process_left():
        base = Path(home, "llama")
        save_tiny("llama", base)
        specs = [spec for users, seed in ((2, 0), (5, 1)) for spec in _cells(base, users, seed)]
        wanted = _scores(InProcess(Silent()), specs, Path(home, "here"))
        executor = factory()
        try:
            _hold(executor.slots >= 1, "it has no slot")
            _same(_scores(executor, specs, Path(home, "there")), wanted)
            for how in ("input", "error", "died") if executor.elsewhere else ("input", "error"):
                _check_failing(executor, how, specs[0], Path(home, how))
            executor.submit(Task(specs[0], {}, _folder(Path(home, "in flight"))))
        finally:
            executor.close()
            executor.close()


def _cells(base: Path, users: int, seed: int) -> list[CellSpec]:
    """Returns cells of several kinds, for two halves of made-up users; some need another."""
    methods = ("user-majority", "zero-shot", "lora[rank=1]", "lora[rank=1,warm_start=global]")
    asked = tuple(MethodSpec.parse(method) for method in methods)
    jobs = plan(RunSpec(task="any", methods=asked, base=str(base), train={"epochs": 1}))
    table = synthetic_table(users, items=10, seed=seed)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), seed))
    planner = Planner(problem, seed, Reading(64), lambda _: ("tiny", HardwareSpec(device="cpu", dtype="float32")))
    middle = users // 2
    planner.shards = [part_of(problem, part) for part in (problem.users[:middle], problem.users[middle:])]
    return [spec for job in jobs for spec in planner.cells(job)]


def _scores(executor: Executor, specs: list[CellSpec], folder: Path) -> dict[str, pl.DataFrame]:
    """Returns the scores of each cell, by name, after an executor has filled them into a folder.

    Raises:
        AssertionError: one could not be filled.
    """
    fillings = Driver(Cells(folder), executor).fill(specs)
    for spec in specs:
        failure = fillings[spec.name].failure
        _hold(failure is None, f"a cell of {spec.job.label} was not filled: {failure}")
    return {spec.name: pl.read_parquet(folder / spec.name / SCORES) for spec in specs}


def _same(scores: dict[str, pl.DataFrame], wanted: dict[str, pl.DataFrame]) -> None:
    for name, frame in wanted.items():
        keys = ["user_id", "item_id"]
        _hold(scores[name].select(keys).equals(frame.select(keys)), "rows of a cell are others than in this process")
        here, there = (np.array(part["scores"].to_list(), dtype=np.float64) for part in (frame, scores[name]))
        _hold(bool(np.abs(here - there).max() <= CLOSE), f"scores differ by {np.abs(here - there).max()}")


def _check_failing(executor: Executor, how: Literal["input", "error", "died"], spec: CellSpec, home: Path) -> None:
    """Checks what comes of a task that fails, and that the next one is filled."""
    job = Job(MethodSpec(name="failing"), Failing(how=how), None, None, TrainSpec())
    outcome = _outcome(executor, Task(CellSpec(job, spec.seed, spec.problem, spec.reading), {}, _folder(home / "bad")))
    _hold(isinstance(outcome, Failure) and outcome.kind == how, f"a task that fails by '{how}' comes back as {outcome}")
    assert isinstance(outcome, Failure)  # noqa: S101
    _hold(bool(outcome.message) and "\n" not in outcome.message, f"a failure by '{how}' is not told in one line")
    if how == "input":
        _hold("mend me" in outcome.message, "what a PeftuError says is lost")
    if how == "error":
        _hold("ZeroDivisionError" in outcome.trace, "the traceback of a bug is lost")
    good = _outcome(executor, Task(spec, {}, _folder(home / "good")))
    _hold(isinstance(good, Filled), f"after a task that failed by '{how}' another one comes back as {good}")
    _hold((home / "good" / SCORES).is_file(), "a filled task's folder holds no scores")


def _outcome(executor: Executor, task: Task) -> Outcome:
    executor.submit(task)
    ended, outcome = executor.next()
    _hold(ended == task, "another task comes back than was submitted")
    return outcome


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@contextmanager
def no_process_left() -> Iterator[None]:
    """Checks that every process that was started below this one meanwhile has ended."""
    resource_tracker.ensure_running()  # one a process, which outlives every pool
    before = set(psutil.Process().children(recursive=True))
    yield
    started = [process for process in psutil.Process().children(recursive=True) if process not in before]
    _, left = psutil.wait_procs(started, timeout=SECONDS)
    _hold(not left, f"closed, it leaves {len(left)} processes: {', '.join(process.name() for process in left)}")


def _hold(promise: bool, broken: str) -> None:
    if not promise:
        raise AssertionError(broken)
