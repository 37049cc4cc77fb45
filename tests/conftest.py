"""Fixtures for every test: the shared raw data where there is some, and a cache of each test's own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peftu.report.charts import drawing as drawing_module

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compute on the processor, whatever the machine has
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Returns a function: the folder of a task's real raw files, or a skip where it is not there."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no real files of '{name}' beside the repository (../shared/data/{name})")
        return SHARED / name

    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_process_draws() -> Iterator[None]:
    """One process draws the charts of every test: each start takes most of a second."""
    with drawing_module.drawing():
        yield


@pytest.fixture(autouse=True, scope="module")
def _blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Charts are drawn for tests that are marked to look at them; for others, a blank picture stands for each."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("pictures") is None:
            patch.setattr(drawing_module._Drawer, "draw", lambda *_: "<svg ></svg>")
        yield


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache for each test; tests of real weights keep the real one."""
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "cache"))
