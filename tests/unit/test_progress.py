"""Whoever listens hears where long work is; standard output stays free."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from peftu.cli.console import Bars, bars, emit
from peftu.lab.progress import Reporter, Silent


def test_nobody_need_listen() -> None:
    silent: Reporter = Silent()
    silent.note("anything")
    silent.stage("work", 3)(2)


def test_a_stage_left_short_by_early_stops_is_filled_by_the_next() -> None:
    stream = io.StringIO()
    with Progress(console=Console(file=stream, width=100)) as progress:
        shown: Reporter = Bars(progress)
        told = shown.stage("first", 10)
        told(3)
        told(2)
        assert progress.tasks[0].completed == 5
        shown.stage("second", 0)
        shown.note("by the way")
        assert (progress.tasks[0].completed, progress.tasks[1].total) == (10, 1)
    assert "by the way" in stream.getvalue()


def test_names_with_brackets_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as shown:
        shown.stage("training lora[rank=4]", 2)(1)
        shown.note("Jokes [of volunteers]")
    said = capsys.readouterr()
    assert said.out == ""
    assert "lora[rank=4]" in said.err
    assert "Jokes [of volunteers]" in said.err


def test_json_is_one_value_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": "é"}, True, "for people")
    assert capsys.readouterr().out == '{"a": "é"}\n'
    emit({}, False, "lora[rank=4] for people")
    assert capsys.readouterr().out == "lora[rank=4] for people\n"
    with pytest.raises(ValueError, match="JSON"):
        emit({"a": float("nan")}, True)
