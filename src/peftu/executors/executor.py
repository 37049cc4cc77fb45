"""What an executor is: it takes tasks and gives their outcomes, in any order."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from peftu.base.model import FrozenBase
from peftu.cells.fill import About, Filler
from peftu.cells.spec import CellSpec
from peftu.data.sources import is_no_space
from peftu.errors import PeftuError
from peftu.lab.progress import Reporter
from peftu.registry import Registry

DIED = "its worker process ended: out of memory, killed, or it cannot start"


@dataclass(frozen=True)
class Task:
    """A cell to be filled.

    Attributes:
        spec: the cell.
        needs: name -> folder of the cells that it needs.
        part: an empty folder of this machine, which holds the cell's files once it is filled.
    """

    spec: CellSpec
    needs: Mapping[str, Path]
    part: Path


@dataclass(frozen=True)
class Filled:
    """A task that was done: what the cell says of itself."""

    about: About


@dataclass(frozen=True)
class Failure:
    """A task that was not done.

    Attributes:
        kind: 'input': something that the user can mend. 'error': a bug, or a machine at its end. 'died': the worker
            is no more. 'full': a disk is, so that no other cell can be filled either.
        message: one line.
        trace: the traceback of an error.
    """

    kind: Literal["input", "error", "died", "full"]
    message: str
    trace: str = ""


Outcome = Filled | Failure


class Executor(Protocol):
    """Fills cells somewhere. The driver submits as many tasks as there are slots, and asks for outcomes.

    Attributes:
        slots: tasks that may be in flight.
        elsewhere: a task that is submitted again may run in another process.
    """

    slots: int
    elsewhere: bool

    def submit(self, task: Task) -> None:
        """Begins a task, or takes it to be begun."""
        ...

    def next(self) -> tuple[Task, Outcome]:
        """Returns a task that has ended; waits for one where none has. Only called while tasks are in flight."""
        ...

    def close(self) -> None:
        """Stops whatever runs, at once."""
        ...


class ExecutorFactory(Protocol):
    """Makes an executor."""

    def __call__(
        self,
        reporter: Reporter,
        workers: int,
        bases: dict[str, FrozenBase] | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> Executor:
        """Returns an executor.

        Args:
            reporter: hears how far long work is, where the executor can tell.
            workers: how many work at once; 0: as the executor thinks best.
            bases: those loaded in this process, by name, for an executor that works in it.
            device: where bases compute: 'cpu', 'mps', 'cuda' or 'cuda:N'.
            options: the executor's own.

        Raises:
            PeftuError: it cannot work here.
        """
        ...


def attempt(filler: Filler, task: Task) -> Outcome:
    """Returns the outcome of a task in this process."""
    try:
        return Filled(filler.fill(task.spec, task.needs, task.part))
    except PeftuError as error:
        return Failure("input", str(error))
    except Exception as error:  # noqa: BLE001  (one cell's bug is recorded with its traceback; others go on)
        if is_no_space(error):
            return Failure("full", "no space left on disk")
        last = traceback.extract_tb(error.__traceback__)[-1]  # the error's own words may hold a user's key
        where = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
        return Failure("error", f"{where}: a bug — please report it with the traceback", traceback.format_exc())


executors: Registry[ExecutorFactory] = Registry(
    "executor", {"local": "peftu.executors.local:local", "ray": "peftu.executors.on_ray:on_ray"}
)
