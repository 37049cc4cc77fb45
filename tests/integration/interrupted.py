"""The command line in processes that start in a moment, and so can be killed often: forked where torch is loaded."""

import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    *("peftu.execute.run", "peftu.cli.app", "peftu.cells.fill", "peftu.testing.bases", "peftu.experiment"),
    *("peftu.methods.mixed", "peftu.base.families.decoder", "peftu.report.charts.rows", "peftu.report.sections.board"),
]
TASK = "synthetic-single"
TICK = 0.002  # seconds between two looks at a process that is to be killed


def command(home: Path, log: Path, arguments: list[str]) -> None:
    """Runs the command line in a process that has done nothing else: small shards, one thread, every fill logged."""
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(home)
    os.environ.update(PEFTU_CACHE=str(home / "cache"), OMP_NUM_THREADS="1", COLUMNS="80")
    import torch

    from peftu.cells.fill import Filler
    from peftu.cli import main
    from peftu.data import shards
    from peftu.data.synthetic import SyntheticTask
    from peftu.data.task import tasks
    from peftu.executors import local
    from peftu.report.charts import drawing

    torch.set_num_threads(1)
    shards.FEWEST, shards.MOST = 4, 8
    tasks.add(TASK, SyntheticTask)
    drawing._Drawer.draw = lambda *_: "<svg ></svg>"  # type: ignore[assignment, method-assign]
    fill = Filler.fill

    def logged(filler: Filler, spec: object, *rest: object) -> object:
        with log.open("a") as stream:
            stream.write(f"{spec.name}\n")  # type: ignore[attr-defined]
        return fill(filler, spec, *rest)  # type: ignore[arg-type]

    Filler.fill = logged  # type: ignore[assignment, method-assign]
    context = multiprocessing.get_context("forkserver")
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]  # it forked this process
    multiprocessing.get_context = lambda _: context  # type: ignore[assignment]  # workers start in a moment, too
    local._begin_worker = partial(begin_worker, str(home / "cache"))  # type: ignore[assignment]
    sys.argv = ["peftu", *arguments]
    main()


def begin_worker(cache: str, threads: int, gpu: int | None) -> None:
    """Begins a worker with the cache of its driver, whose environment a forked one lacks."""
    from peftu.executors import local

    os.environ["PEFTU_CACHE"] = cache
    local._begin_worker(threads, gpu)


@dataclass
class Attempts:
    """One command that is begun again and again.

    Attributes:
        home: folder in which it runs.
        cells: folder of its cells.
        arguments: of the command.
        begun: fills that each attempt has begun, in this process.
    """

    home: Path
    cells: Path
    arguments: list[str]
    begun: list[list[str]] = field(default_factory=list)

    @property
    def committed(self) -> dict[str, bytes]:
        """Returns the cells that are there, and what each says of itself."""
        return {path.parent.name: path.read_bytes() for path in self.cells.glob("[!.]*/cell.json")}

    @property
    def err(self) -> str:
        """Returns what the last attempt printed to stderr."""
        return self._log(len(self.begun) - 1).with_suffix(".err").read_text()

    def _log(self, attempt: int) -> Path:
        return self.cells.with_name(f"{self.cells.name}-{attempt}.fills")

    def attempt(self, until: Callable[[], bool], end: Callable[[BaseProcess], None], *more: str) -> int:
        """Returns the exit code of an attempt that is ended at a moment, or ends before."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        log = self._log(len(self.begun))
        arguments = [*self.arguments, "--cells", str(self.cells), *more]
        process = context.Process(target=command, args=(self.home, log, arguments))
        before = set(self.committed)
        process.start()
        while process.is_alive() and not until():
            process.join(TICK)
        if process.is_alive():
            end(process)
        process.join()
        self.begun.append(log.read_text().split() if log.exists() else [])
        assert not before & set(self.begun[-1]), "what is there was filled again"
        assert max(Counter(self.begun[-1]).values(), default=0) <= 1
        assert process.exitcode is not None
        return process.exitcode

    def moment(self, rng: random.Random) -> Callable[[], bool]:
        """Returns whether a random moment has come: so many cells more, and so many files of the next."""
        cells, files = len(self.committed) + rng.randrange(2), rng.randrange(3)
        looks = rng.randrange(1, 30)

        def come() -> bool:
            nonlocal looks
            if len(self.committed) < cells or len(self.half_filled()) < files:
                return False
            looks -= 1
            return looks <= 0

        return come

    def half_filled(self) -> list[str]:
        """Returns files of cells that are being filled; they may go while one looks."""
        return [name for _, _, names in os.walk(self.cells / ".parts") for name in names if "." in name]
