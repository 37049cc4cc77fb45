"""Cells filled on this machine: in this process, or in worker processes beside it."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from peftu.base.hardware import gpu_count
from peftu.base.model import FrozenBase
from peftu.cells.fill import Filler
from peftu.environment import cores
from peftu.errors import PeftuError
from peftu.executors.executor import DIED, Executor, Failure, Outcome, Task, attempt
from peftu.lab.progress import Reporter

_FILLER: Filler | None = None  # a worker process's own


class InProcess:
    """One task at a time, here."""

    slots, elsewhere = 1, False

    def __init__(self, reporter: Reporter, bases: dict[str, FrozenBase] | None = None) -> None:
        self._filler, self._tasks = Filler(reporter, bases), list[Task]()

    def submit(self, task: Task) -> None:
        """Takes a task."""
        self._tasks.append(task)

    def next(self) -> tuple[Task, Outcome]:
        """Returns the outcome of the first task."""
        task = self._tasks.pop(0)
        return task, attempt(self._filler, task)

    def close(self) -> None:
        """Lets go of what was not begun."""
        self._tasks.clear()


class Workers:
    """Processes beside this one, each with bases of its own; what is read of texts is shared through the disk cache.

    A pool of one process for each slot: when a process dies, it is known what it was at, and a new one takes over.

    Args:
        workers: how many.
        device: where bases compute; of several GPUs, processes take one after the other.
    """

    elsewhere = True

    def __init__(self, workers: int, device: str = "cpu") -> None:
        self.slots, self._gpus = workers, gpu_count() if device == "cuda" else 0
        self._threads = max(1, cores() // workers)
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers
        self._flying: dict[Future[Outcome], tuple[int, Task]] = {}

    def submit(self, task: Task) -> None:
        """Hands a task to a process that has none."""
        busy = {slot for slot, _ in self._flying.values()}
        slot = next(slot for slot in range(self.slots) if slot not in busy)
        pool = self._pools[slot] or self._begin(slot)
        try:
            future = pool.submit(_work, task)
        except BrokenProcessPool:  # it died while it had nothing to do
            pool = self._begin(slot)
            future = pool.submit(_work, task)
        self._pools[slot] = pool
        self._flying[future] = (slot, task)

    def _begin(self, slot: int) -> ProcessPoolExecutor:
        gpu = slot % self._gpus if self._gpus else None
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin_worker, (self._threads, gpu))

    def next(self) -> tuple[Task, Outcome]:
        """Returns a task that has ended."""
        done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
        future = next(iter(done))
        slot, task = self._flying.pop(future)
        try:
            return task, future.result()
        except BrokenProcessPool:
            self._pools[slot] = None
            return task, Failure("died", DIED)
        except Exception as error:  # noqa: BLE001  (the task could not be handed over)
            return task, Failure("error", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Ends all processes."""
        for pool in filter(None, self._pools):
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
        self._flying.clear()


def local(
    reporter: Reporter,
    workers: int = 1,
    bases: dict[str, FrozenBase] | None = None,
    device: str = "cpu",
    **options: Any,
) -> Executor:
    """Returns an executor of this machine.

    Args:
        reporter: hears of work in this process.
        workers: how many processes work at once; 1: this one; 0: one a core, or a GPU where bases compute on those.
        bases: those loaded in this process, by name.
        device: where bases compute.
        options: there are none.

    Raises:
        PeftuError: an option that only other executors have.
    """
    if unknown := [name for name, value in options.items() if value is not None]:
        raise PeftuError(f"--{unknown[0]}: is for --executor ray — leave it out")
    workers = workers or (cores() if device in ("cpu", "mps") else gpu_count() if device == "cuda" else 1)
    return InProcess(reporter, bases) if workers == 1 else Workers(workers, device)


def _begin_worker(threads: int, gpu: int | None) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    global _FILLER
    _FILLER = Filler()


def _end_with_driver() -> None:
    """Ends this process when its driver has been killed: nobody else would."""
    driver = multiprocessing.parent_process()
    assert driver is not None  # noqa: S101
    driver.join()
    os._exit(1)


def _work(task: Task) -> Outcome:
    assert _FILLER is not None  # noqa: S101
    return attempt(_FILLER, task)
