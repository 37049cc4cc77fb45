"""What a tracker is, and how one is asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean
from typing import Any, Protocol

from peftu.config import RunSpec
from peftu.errors import PeftuError
from peftu.registry import Registry
from peftu.results import MethodResult


@dataclass(frozen=True)
class CellNews:
    """A cell that is there: one method at one seed for some users.

    Attributes:
        method: with its knobs.
        base: that it runs on; None: none.
        seed: of split and training.
        part: 'scores'; 'everyone': what is trained on all users first; 'without': users it could not be fitted for.
        users: how many.
        before: it was there before this run.
        seconds: that it took, without what other cells use, too.
        peak_rss_bytes: most memory of the process while it was filled.
        ms_per_answer: to score one text; None: none was scored.
        log: how each module's training went, a mapping each; users are numbered by 'user', never named.
    """

    method: str
    base: str | None
    seed: int
    part: str
    users: int
    before: bool
    seconds: float
    peak_rss_bytes: int
    ms_per_answer: float | None
    log: Sequence[Mapping[str, Any]]

    @property
    def system(self) -> str:
        """Returns 'method@base, seed N', and the part where it is not the scores."""
        label = f"{self.method}@{self.base}" if self.base else self.method
        return f"{label}, seed {self.seed}" + ("" if self.part == "scores" else f", {self.part}")

    def numbers(self) -> dict[str, float]:
        """Returns what can be drawn: costs, losses and epochs averaged over modules, and the number that diverged."""
        costs = {
            "seconds_per_user": self.seconds / max(1, self.users),
            "peak_rss_bytes": self.peak_rss_bytes,
            "ms_per_answer": self.ms_per_answer,
        }
        training: dict[str, float] = {}
        for key in ("start_loss", "best_loss", "best_epoch"):
            if values := [line[key] for line in self.log if line.get(key) is not None]:
                training[key] = fmean(values)
        if self.log:
            training["diverged"] = sum(bool(line.get("diverged")) for line in self.log)
        return _finite({**costs, **training})


def board_numbers(result: MethodResult) -> dict[str, float]:
    """Returns the numbers of one line of the leaderboard, by field; intervals and gains as 'ci_low', 'gain_NAME'."""
    fields = ("mean", "helped", "unchanged", "hurt", "seconds_per_user", "bytes_per_user", "ms_per_answer")
    numbers = {field: getattr(result, field) for field in fields}
    numbers |= {"macro_f1": result.macro_f1.mean} | {f"gain_{name}": gain.mean for name, gain in result.gain.items()}
    if result.ci is not None:
        numbers |= {"ci_low": result.ci[0], "ci_high": result.ci[1]}
    return _finite(numbers)


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in numbers.items() if value is not None and math.isfinite(value)}


class Tracker(Protocol):
    """Hears how a run goes. What it raises ends its tracking, never the run."""

    def started(self, run: RunSpec) -> None:
        """Hears what is run.

        Raises:
            PeftuError: there is no place to log to; the run does not begin.
        """
        ...

    def cell(self, cell: CellNews) -> None:
        """Hears of a cell that is there."""
        ...

    def finished(self, leaderboard: Sequence[MethodResult]) -> None:
        """Hears what the run came to."""
        ...

    def stopped(self) -> None:
        """Hears that the run ended before it was whole; the same run may go on later."""
        ...


class TrackerFactory(Protocol):
    """Makes a tracker."""

    def __call__(self, where: str) -> Tracker:
        """Returns a tracker; nothing is written before `Tracker.started`.

        Args:
            where: folder, or what else stands behind the name in 'NAME:WHERE'.

        Raises:
            PeftuError: its package is missing.
        """
        ...


trackers: Registry[TrackerFactory] = Registry(
    "tracker",
    {"tensorboard": "peftu.trackers.tensorboard:TensorBoard", "mlflow": "peftu.trackers.mlflow:MLflow"},
)


def tracker_of(text: str) -> Tracker:
    """Returns the tracker of 'NAME:WHERE'.

    Raises:
        PeftuError: no such tracker, no place, or its package is missing.
    """
    name, _, where = text.partition(":")
    if not where:
        raise PeftuError(f"track: '{text}' is not of the form NAME:FOLDER — as tensorboard:logs")
    return trackers.get(name)(where)


def need_package(package: str, extra: str) -> None:
    """Checks that a tracker's package is installed, without importing it.

    Raises:
        PeftuError: it is not.
    """
    if find_spec(package) is None:
        raise PeftuError(f"track: {extra} is not installed — pip install 'peftu[{extra}]'")
