"""Trackers hear of every cell and of the leaderboard, and draw it with the real libraries; no user key among it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import peftu
from peftu.config import RunSpec
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.execute.train_log import TRAIN_LOG
from peftu.executors.schedule import OutOfTimeError
from peftu.lab.progress import Silent
from peftu.results import MethodResult
from peftu.run import Run
from peftu.testing.bases import save_tiny
from peftu.trackers import tracker as module
from peftu.trackers.tracker import CellNews

torch.set_num_threads(1)

METHODS = ["user-majority", "global[rank=1]", "lora[rank=1]"]
USERS = 4


class Kept:
    """Keeps what it hears, and the run's log as it was then."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / TRAIN_LOG
        self.heard: list[str] = []
        self.cells: list[CellNews] = []
        self.logs: list[list[dict[str, Any]]] = []
        self.board: list[str] = []

    def started(self, run: RunSpec) -> None:
        self.heard.append("started")

    def cell(self, cell: CellNews) -> None:
        self.heard.append("cell")
        self.cells.append(cell)
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.logs.append([json.loads(line) for line in lines])

    def finished(self, leaderboard: Sequence[MethodResult]) -> None:
        self.heard.append("finished")
        self.board = [result.label for result in leaderboard]

    def stopped(self) -> None:
        self.heard.append("stopped")


class Broken(Kept):
    def cell(self, cell: CellNews) -> None:
        raise ValueError("the disk\nis gone")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells that tests share where nothing depends on who fills them."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that compares the methods, into the folder 'run'."""
    save_tiny("llama", tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    table = synthetic_table()

    def compare(**settings: Any) -> Run:
        given = {"out": "run", "users": USERS, "epochs": 1, "region": "depth=1,span=last", **settings}
        return peftu.compare(table, METHODS, base="./llama", baselines=False, **given)

    return compare


def test_cells_are_heard_of_as_they_come_and_the_log_grows_with_them(compared: Any, tmp_path: Path) -> None:
    broken, kept, notes = Broken(tmp_path / "run"), Kept(tmp_path / "run"), Notes()
    run = compared(track=[broken, kept], reporter=notes)
    assert broken.heard == ["started"]  # a tracker that breaks is left out
    assert [note for note in notes.notes if "Broken" in note] == [
        "Broken follows this run no more: ValueError: the disk"
    ]
    assert kept.heard == ["started", *["cell"] * len(kept.cells), "finished"]
    assert kept.board == [result.label for result in run.record.methods]
    assert {cell.part for cell in kept.cells} == {"scores", "everyone"}
    assert all(cell.users == USERS and not cell.before and cell.numbers() for cell in kept.cells)
    lengths = [len(lines) for lines in kept.logs]
    assert lengths == sorted(lengths)
    final = [json.loads(line) for line in (tmp_path / "run" / TRAIN_LOG).read_text().splitlines()]
    assert len({*lengths}) > 1
    assert sorted(map(json.dumps, kept.logs[-1])) == sorted(map(json.dumps, final))
    assert {line["user"] for line in final} == {None, *range(1, USERS + 1)}

    again = Kept(tmp_path / "run")
    compared(track=[again], if_exists="overwrite", seeds=2)
    assert [cell.before for cell in again.cells if cell.seed == 0] == [True] * len(kept.cells)
    assert all(lines == final for lines in again.logs)  # the finished run stays as it was until it is replaced


def test_a_run_that_stops_leaves_its_log_and_trackers_know(compared: Any, cells: Path, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    with pytest.raises(OutOfTimeError):
        compared(track=[kept], max_minutes=0)
    assert kept.heard == ["started", "stopped"]
    assert (tmp_path / "run" / TRAIN_LOG).read_text() == ""
    assert compared(cells=cells).path.name == "run"


def names_users(folder: Path) -> bool:
    """Returns whether a made-up user's key stands in a file below a folder, or in its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return any(re.search(rb"user-\d", path.read_bytes() + str(path.relative_to(folder)).encode()) for path in files)


def test_tensorboard_reads_what_was_drawn(compared: Any, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second start takes the place of the first
        run = compared(track="tensorboard:logs", if_exists="overwrite", cells=cells)
    (folder,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"best_loss/lora[rank=1]@./llama, seed 0", "seconds_per_user/user-majority, seed 0"} <= tags
    assert "seconds_per_user/global[rank=1]@./llama, seed 0, everyone" in tags
    for result in run.record.methods:
        assert events.Scalars(f"board mean/{result.label}")[-1].value == pytest.approx(result.mean)
    assert [event.step for event in events.Scalars("best_loss/lora[rank=1]@./llama, seed 0")] == [USERS]
    assert not names_users(tmp_path / "logs")


def test_mlflow_reads_what_was_logged(compared: Any, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    run = compared(track=["mlflow:tracked"], cells=cells)
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "tracked").as_uri())
    (experiment,) = [e for e in client.search_experiments() if e.name == "peftu"]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["run"] == run.record.run
    assert logged.data.params["methods"] == ",".join(METHODS)
    means = {key.split("/")[-1]: value for key, value in logged.data.metrics.items() if key.startswith("board/mean/")}
    assert sorted(means.values()) == pytest.approx(sorted(result.mean for result in run.record.methods))
    (loss,) = [key for key in logged.data.metrics if key.startswith("best_loss/lora")]
    assert [metric.step for metric in client.get_metric_history(logged.info.run_id, loss)] == [USERS]

    with pytest.raises(OutOfTimeError):
        compared(track="mlflow:tracked", max_minutes=0, seeds=2, out="other")
    assert not names_users(tmp_path / "tracked")
    statuses = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    assert sorted(statuses) == ["FINISHED", "KILLED"]


@pytest.mark.parametrize(
    ("track", "complaint"),
    [
        ("tensorboard", "is not of the form NAME:FOLDER"),
        ("wandb:logs", "unknown tracker 'wandb'"),
        ("tensorboard:llama/config.json", "cannot be written"),
        ("mlflow:llama/config.json", "cannot be written"),
        ("mlflow:nowhere://here", "pass a folder, as mlflow:mlruns"),
    ],
)
def test_a_tracker_without_a_place_is_refused_before_any_work(compared: Any, track: str, complaint: str) -> None:
    pytest.importorskip(track.partition(":")[0].replace("wandb", "json"))
    kept = Kept(Path("run"))
    with pytest.raises(PeftuError, match=complaint):
        compared(track=[kept, track])
    assert kept.cells == []


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(PeftuError, match=rf"{name} is not installed — pip install 'peftu\[{name}\]'"):
        module.tracker_of(f"{name}:logs")
