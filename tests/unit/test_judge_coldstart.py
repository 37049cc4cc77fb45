"""Cold-start curves over the rows that all runs have."""

from pathlib import Path

import numpy as np
import pytest
from boards import predictions

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge import read_judgement
from peftu.judge.coldstart import cold_start
from peftu.judge.folder import FolderContents, write_board
from peftu.results import Hashes, finish_folder, load_run

CARD = TaskCard(
    name="made-up", version="1", title="Made up", description="d", user="a person", kind="single",
    labels=("no", "yes"), instruction="?", main_metric="accuracy", language="en", licence="CC0", citation="none",
    homepage="none", files=(),
)  # fmt: skip


def run(folder: Path, k: int, *, data: str = "sha256:d") -> Path:
    """Writes a run in which a method is right more often after more items; the first k items are not tested."""
    gold = np.zeros((10, 30), dtype=np.int64)
    gold[:, ::2] = 1
    right = np.arange(30)[None, :] % 10 < 5 + k
    frame = predictions({"lora": np.repeat(right, 10, axis=0)}, gold)
    frame = frame.filter(~frame["item_id"].is_in([f"i{n}" for n in range(k)]))
    hashes = Hashes(data=data, splits={"0": f"sha256:{k}"})
    record, _, _ = write_board(FolderContents(frame, CARD, "unseen-user", hashes, {"split": {"k": k}}), folder)
    finish_folder(folder, record)
    return folder


def test_a_curve_rises_over_the_same_rows(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"k{k}", k) for k in (5, 0, 2)]
    record, _, judgement = cold_start(folders, tmp_path / "curve")
    [curve] = judgement.cold_start
    rows = np.arange(5, 30)
    expected = [(rows % 10 < 5 + k).mean() for k in (0, 2, 5)]
    assert [point.k for point in curve.points] == [0, 2, 5]
    assert [point.score.mean for point in curve.points] == pytest.approx(expected)
    assert not any(point.all for point in curve.points)
    assert read_judgement(tmp_path / "curve") == judgement
    assert load_run(tmp_path / "curve").record == record


def test_runs_that_make_no_curve(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a", 0), run(tmp_path / "b", 1, data="sha256:e")
    with pytest.raises(PeftuError, match="name two or more"):
        cold_start([one], tmp_path / "curve")
    with pytest.raises(PeftuError, match="from different data"):
        cold_start([one, other], tmp_path / "curve")
