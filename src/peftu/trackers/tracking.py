"""All trackers of a run: one that breaks is noted and left out, and the run goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from peftu.config import RunSpec
from peftu.lab.progress import Reporter
from peftu.results import MethodResult
from peftu.trackers.tracker import CellNews, Tracker, tracker_of


class Tracking:
    """Any number of trackers.

    Args:
        asked: each as 'NAME:WHERE', or a tracker.
        reporter: hears of those that break.

    Raises:
        PeftuError: no such tracker, or its package is missing.
    """

    def __init__(self, asked: Sequence[str | Tracker], reporter: Reporter) -> None:
        self._trackers = [tracker_of(tracker) if isinstance(tracker, str) else tracker for tracker in asked]
        self._reporter = reporter

    @contextmanager
    def following(self, run: RunSpec) -> Iterator[None]:
        """Follows a run while the block runs; where that ends in an error or a signal, trackers hear that it stopped.

        Raises:
            PeftuError: a tracker has no place to log to.
        """
        begun = list[Tracker]()
        try:
            for tracker in self._trackers:
                tracker.started(run)
                begun.append(tracker)
            yield
        except BaseException:
            self._trackers = begun
            self._each(lambda tracker: tracker.stopped())
            raise

    def cell(self, cell: Callable[[], CellNews]) -> None:
        """Passes on a cell; it is read only where somebody listens."""
        if self._trackers:
            news = cell()
            self._each(lambda tracker: tracker.cell(news))

    def finished(self, leaderboard: Sequence[MethodResult]) -> None:
        """Passes on what the run came to."""
        self._each(lambda tracker: tracker.finished(leaderboard))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001  (whatever a tracker's library does, the run is worth more)
                self._trackers.remove(tracker)
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self._reporter.note(f"{type(tracker).__name__} follows this run no more: {why}")
