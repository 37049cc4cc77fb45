"""Run folders that an earlier peftu wrote still open, render and answer as they did.

``tests/golden/folders`` has each folder as it was written, without its report and with its base's path made relative,
and beside it what `answer` gave. ``python tests/integration/test_golden_folders.py NAME …`` writes new ones; those of
an earlier format are never written again.
"""

import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import Comparison, arithmetic, place, run_without_report

from peftu.base.model import load_base
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.execute.answer import answer
from peftu.judge import read_judgement
from peftu.report.html import render_folders
from peftu.results import load_run
from peftu.run_folder import MODULES
from peftu.store import AdapterStore

pytestmark = pytest.mark.pictures

torch.set_num_threads(1)

FOLDERS = Path(__file__).resolve().parents[1] / "golden" / "folders"
SMALL = {"region": RegionSpec(depth=1, span="answer")}
WRITTEN = {
    "labels": Comparison(
        "single", "user-majority,mixed-head@./bert,global[rank=1],lora[rank=1],user-embedding", settings=SMALL
    ),
    "several": Comparison("multi", "lora[rank=1]", settings=SMALL),
    "text": Comparison("text", "lora[rank=1]", settings={**SMALL, "max_answer_tokens": 8}),
}
TEXTS = [Text("Note 3: cats and rain."), Text("Nothing but soup.", "And you?")]
USERS = ("user-0", "user-2")
BASE = "./llama"


def answered(folder: Path) -> list[dict[str, Any]]:
    """Returns what each method's modules answer for some users."""
    with AdapterStore(folder / MODULES) as store:
        labels = sorted(c.label for c in store.collections() if not c.label.endswith("(shared)"))
    return [
        {"method": label, "user": user, "answer": answer(folder, user, TEXTS, label)}
        for label in labels
        for user in USERS
    ]


def write(name: str, home: Path) -> None:
    """Writes a folder, and beside it what its modules answer."""
    folder = FOLDERS / name
    run_without_report(WRITTEN[name].spec(), folder)
    with closing(sqlite3.connect(folder / MODULES / "index.sqlite", isolation_level=None)) as index:
        index.execute("UPDATE collections SET base = ?", (BASE,))
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        index.execute("PRAGMA journal_mode=DELETE")
        index.execute("VACUUM")
    copy = shutil.copytree(folder, home / name)
    made = {"transformers": version("transformers"), "arithmetic": arithmetic(), "answers": answered(copy)}
    (FOLDERS / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("golden")
    with place(folder):
        yield folder


@pytest.fixture(params=WRITTEN)
def old(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of an old folder, and what its modules answered."""
    made = json.loads((FOLDERS / f"{request.param}.json").read_text(encoding="utf-8"))
    return shutil.copytree(FOLDERS / request.param, tmp_path / "old"), made


def test_an_old_folder_is_read_and_drawn(old: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = old
    run = load_run(folder)
    assert read_judgement(folder)
    assert set(run.predictions()["method"]) == {result.method for result in run.record.methods}
    assert run.user_scores().height
    page = render_folders([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(result.method.split("[")[0] in page for result in run.record.methods)


def test_an_old_folder_answers_as_it_did(old: tuple[Path, dict[str, Any]]) -> None:
    folder, made = old
    fingerprints = load_run(folder).record.hashes.bases
    if load_base(BASE).fingerprint != fingerprints[BASE] and version("transformers") != made["transformers"]:
        pytest.skip("this release of transformers saves the tiny base otherwise")
    same = 1e-6 if made["arithmetic"] == arithmetic() else 1e-3
    now = answered(folder)
    assert len(now) == len(made["answers"]) > 0
    for is_now, was in zip(now, made["answers"], strict=True):
        for row_now, row_was in zip(is_now["answer"]["answers"], was["answer"]["answers"], strict=True):
            chances = row_was.pop("probabilities", {})
            assert row_now.pop("probabilities", {}) == pytest.approx(chances, rel=same, abs=same)
        assert is_now == was


def test_no_committed_file_has_an_absolute_path() -> None:
    files = [path for path in FOLDERS.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not re.search(rb"/(tmp|home|root|work|Users)/", path.read_bytes()), path.name


def main(names: list[str]) -> None:
    """Writes these folders."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, place(Path(folder)):
        for name in names:
            write(name, Path(folder))
        os.chdir(here)


if __name__ == "__main__":
    main(sys.argv[1:])
