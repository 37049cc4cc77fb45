"""MLflow: one MLflow run for each start of a run, in a local folder or wherever a URI points."""

import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftu.config import RunSpec
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.results import MethodResult
from peftu.trackers.tracker import CellNews, board_numbers, need_package

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "peftu"
LONGEST = 500  # characters of a parameter that every store takes


class MLflow:
    """Logs 'number/method/seed' over users and 'board/number/method' at the end, in the experiment 'peftu'.

    MLflow's own reports of its use are switched off, unless the process had imported it before.

    Args:
        where: a folder, or a tracking URI.

    Raises:
        PeftuError: MLflow is not installed.
    """

    def __init__(self, where: str) -> None:
        need_package("mlflow", "mlflow")
        self.where = where
        self._users: Counter[str] = Counter()
        self._client: MlflowClient | None = None
        self._run = ""

    def started(self, run: RunSpec) -> None:
        """Begins an MLflow run.

        Raises:
            PeftuError: there is no such place, or it cannot be written.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is what was wanted
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = self.where
        if not re.match(r"[a-zA-Z][\w+.-]+:", uri):  # two letters at least: C:\ is a folder
            folder = Path(self.where).absolute()
            with writing_to(folder):
                uri = folder.as_uri()
        try:
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
            begun = self._client.create_run(number, run_name=f"{run.task}-{run.run_id}")
        except MlflowException as error:
            why = str(error).partition("\n")[0]
            raise PeftuError(f"track: mlflow:{self.where}: {why} — pass a folder, as mlflow:mlruns") from None
        self._run = begun.info.run_id
        parameters = {
            "run": run.run_id,
            "task": run.task,
            "methods": ",".join(map(str, run.methods)),
            "base": run.base,
            "regime": run.split.regime,
            "seeds": ",".join(map(str, run.seeds)),
            "preset": run.preset,
        }
        for key, value in parameters.items():
            self._client.log_param(self._run, key, str(value)[:LONGEST])

    def cell(self, cell: CellNews) -> None:
        """Logs a cell at the number of users that its method and seed have by now."""
        self._users[cell.system] += cell.users
        numbers = {f"{key}/{_plain(cell.system)}": number for key, number in cell.numbers().items()}
        self._log(numbers, self._users[cell.system])

    def finished(self, leaderboard: Sequence[MethodResult]) -> None:
        """Logs the leaderboard and ends the MLflow run."""
        for result in leaderboard:
            label = _plain(result.label)
            self._log({f"board/{_plain(key)}/{label}": number for key, number in board_numbers(result).items()}, 0)
        self._end("FINISHED")

    def stopped(self) -> None:
        """Ends the MLflow run as killed."""
        self._end("KILLED")

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        if self._client is not None:
            from mlflow.entities import Metric

            now = int(1000 * time.time())
            self._client.log_batch(self._run, [Metric(key, number, now, step) for key, number in numbers.items()])

    def _end(self, status: str) -> None:
        if self._client is not None and self._run:
            self._client.set_terminated(self._run, status)


def _plain(name: str) -> str:
    """Returns a name with nothing but what MLflow takes in a key, and no folder in it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
