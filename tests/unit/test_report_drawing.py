"""Charts are drawn by another process: one a report, and its end is one line."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from peftu.report.blocks import DrawingError
from peftu.report.charts import drawing
from peftu.report.charts.drawing import draw

pytestmark = pytest.mark.pictures

SPEC: dict[str, Any] = {
    "data": {"values": [{"a": "x", "b": 1}, {"a": "y", "b": 2}]},
    "mark": "bar",
    "encoding": {"y": {"field": "a", "type": "nominal"}, "x": {"field": "b", "type": "quantitative"}},
}


def named(label: str) -> dict[str, Any]:
    return {**SPEC, "data": {"values": [{"a": label, "b": 1}, {"a": "y", "b": 2}]}}


@pytest.fixture(autouse=True)
def _no_process_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_open", [])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Collects the processes that draw."""
    processes: list[subprocess.Popen[str]] = []
    plain = drawing._start
    monkeypatch.setattr(drawing, "_start", lambda: processes.append(plain()) or processes[-1])
    return processes


def test_one_process_draws_all_and_ends(started: list[subprocess.Popen[str]]) -> None:
    with drawing.drawing():
        # each of these characters broke the drawing off
        charts = [draw(named(label)) for label in ("plain", "\x00", "\x1b[31m", "\uffff", "\ud800", "a\u202eb")]
        assert len(started) == 1
    assert all(chart.startswith("<svg") for chart in charts)
    assert r"\x1b[31m" in charts[2]
    assert "\u202e" not in charts[-1]
    assert started[0].poll() is not None


def test_a_crash_and_a_refusal_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DrawingError, match="could not be drawn") as caught:
        draw({"mark": {"nothing": "of the kind"}, "encoding": 5})
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(drawing, "shown", lambda text: text)  # a character that gets through
    with drawing.drawing():
        with pytest.raises(DrawingError, match="broke off"):
            draw(named("\x1b"))
        assert draw(SPEC).startswith("<svg"), "another process draws what comes next"


def test_without_the_library_it_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda _: None)
    with pytest.raises(ImportError):
        draw(SPEC)
