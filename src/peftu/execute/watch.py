"""What is told of a run under way: its progress, its log, its trackers."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from peftu.cells.cache import StoredCell
from peftu.cells.spec import CellSpec
from peftu.data.problem import Problem
from peftu.execute.train_log import StreamedLog, units_of
from peftu.executors.schedule import Driver
from peftu.lab.progress import Reporter
from peftu.trackers.tracker import CellNews
from peftu.trackers.tracking import Tracking


class Watch:
    """Passes on every cell as it is there.

    Args:
        problems: seed -> rows of that split.
        folder: of the run, for its log; None: there is none until it is whole.
        reporter: hears how far it is.
        tracking: its trackers.

    Attributes:
        there: cells that were there before.
    """

    def __init__(
        self, problems: Mapping[int, Problem], folder: Path | None, reporter: Reporter, tracking: Tracking
    ) -> None:
        self._numbers = {
            seed: {user: place for place, user in enumerate(problem.users, 1)} for seed, problem in problems.items()
        }
        self._reporter, self._tracking = reporter, tracking
        self._log = StreamedLog(folder, reporter)
        self._driver: Driver | None = None
        self._filled: Callable[[int, int], None] = lambda *_: None
        self.there = 0

    def begin(self, driver: Driver) -> None:
        """Starts to show progress over the cells that a driver has yet to fill."""
        missing = driver.left
        if missing:
            self._driver = driver
            self._filled = self._reporter.cells(self.there, len(missing), sum(len(spec.users) for spec in missing))

    def cell(self, spec: CellSpec, cell: StoredCell, before: bool) -> None:
        """Passes on a cell."""
        self.there += before
        self._log.add(spec, self._units(spec, cell))
        self._tracking.cell(lambda: self._news(spec, cell, before))
        if self._driver is not None:
            self._filled(len(spec.users), len(self._driver.left))

    def close(self) -> None:
        """Ends the log."""
        self._log.close()

    def _units(self, spec: CellSpec, cell: StoredCell) -> Iterator[dict[str, Any]]:
        return units_of(spec.job, spec, cell.folder, self._numbers[spec.seed])

    def _news(self, spec: CellSpec, cell: StoredCell, before: bool) -> CellNews:
        about = cell.about
        return CellNews(
            method=spec.job.label,
            base=spec.job.base,
            seed=spec.seed,
            part=spec.part,
            users=len(spec.users),
            before=before,
            seconds=about["seconds"],
            peak_rss_bytes=about["peak_rss_bytes"],
            ms_per_answer=about.get("ms_per_answer"),
            log=list(self._units(spec, cell)),
        )
