"""Whoever listens hears where long work is; standard output stays free."""

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress

from peftu.cli.console import emit
from peftu.cli.progress import LINES, Bars, Pace, progress
from peftu.lab.progress import Reporter, Silent


@pytest.fixture
def terminal() -> Iterator[tuple[Progress, io.StringIO]]:
    """Bars on something that takes itself for a terminal, and what is drawn there."""
    stream = io.StringIO()
    with Progress(console=Console(file=stream, width=100, force_terminal=True)) as bars:
        yield bars, stream


def test_nobody_need_listen() -> None:
    silent: Reporter = Silent()
    silent.note("anything")
    silent.stage("work", 3)(2)
    silent.cells(0, 2, 10)(5, 1)


def test_a_stage_left_short_by_early_stops_is_filled_by_the_next(terminal: tuple[Progress, io.StringIO]) -> None:
    bars, stream = terminal
    shown: Reporter = Bars(bars)
    advance = shown.stage("first", 10)
    advance(3)
    advance(2)
    assert bars.tasks[0].completed == 5
    shown.stage("second", 0)
    shown.note("by the way")
    assert (bars.tasks[0].completed, bars.tasks[1].total) == (10, 1)
    assert "by the way" in stream.getvalue()


def test_stages_stand_below_the_cells_and_go_with_theirs(terminal: tuple[Progress, io.StringIO]) -> None:
    bars, _ = terminal
    shown = Bars(bars)
    shown.stage("reading texts", 4)
    filled = shown.cells(1, 2, 20)
    assert [task.description for task in bars.tasks] == ["cells"]
    shown.stage("training lora[rank=4]", 8)
    shown.stage("writing answers", 3)
    assert [task.description for task in bars.tasks] == ["cells", "training lora[rank=4]", "writing answers"]
    assert (bars.tasks[0].completed, bars.tasks[1].completed) == (0, 8)
    filled(10, 1)
    (cells,) = bars.tasks
    assert (cells.completed, cells.total) == (10, 20)
    assert re.fullmatch(r"cells, [\d,]+ users an hour", cells.description)
    assert (cells.fields["pace"].done, cells.fields["pace"].cells) == (2, 3)


def test_the_pace_counts_what_was_filled_alone() -> None:
    now = iter([0.0, 360.0, 360.0, 460.0, 720.0, 720.0])
    pace = Pace(there=100, missing=3, users=30, clock=lambda: next(now))
    assert (pace.done, pace.cells, pace.users_an_hour, pace.left) == (100, 103, None, "-:--:--")
    pace.add(10, 2)
    assert (pace.done, pace.cells, pace.users_an_hour) == (101, 103, 100)
    assert pace.left == "0:12:00"
    assert pace.left == "0:10:20"  # 100 seconds later, in the middle of a cell
    pace.add(5, 3)  # a cell was divided
    assert (pace.done, pace.cells, pace.users_an_hour, str(pace)) == (102, 105, 75, "cells, 75 users an hour")
    assert pace.left == "0:12:00"


def test_what_is_no_terminal_gets_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress() as shown:
        shown.note("Jokes [of volunteers]")
        shown.stage("training lora[rank=4]", 2)(1)
        filled = shown.cells(2, 100, 200)
        for left in reversed(range(100)):
            filled(2, left)
    written = capsys.readouterr()
    assert written.out == ""
    first, *lines = written.err.splitlines()
    assert first == "Jokes [of volunteers]"
    assert len(lines) == LINES
    assert all(re.fullmatch(r"\d+ of 102 cells, [\d,]+ users an hour, \d+:\d\d:\d\d left", line) for line in lines)
    assert lines[-1].startswith("102 of 102 cells")


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as shown:
        shown.note("anything")
        shown.cells(0, 1, 1)(1, 0)
    assert capsys.readouterr() == ("", "")


def test_json_is_one_value_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": "é"}, True, "for people")
    assert capsys.readouterr().out == '{"a": "é"}\n'
    emit({}, False, "lora[rank=4] for people")
    assert capsys.readouterr().out == "lora[rank=4] for people\n"
    with pytest.raises(ValueError, match="JSON"):
        emit({"a": float("nan")}, True)
