"""Help says what is written."""

import inspect
from typing import Any

import pytest
import typer
from terminal import peftu

from peftu.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {}).items()
    return [(path, command), *(entry for name, sub in below for entry in commands(sub, (*path, name)))]


ALL = commands(typer.main.get_command(app))  # as declared: the command line itself shows another tree of them


def words(text: str) -> str:
    """Returns the words of a text, without boxes and line ends."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_help_text_appears_whole(path: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    said = peftu(*path, "--help")
    assert (said.code, said.err) == (0, "")
    shown = words(said.out)
    parts = [command, *command.params, *getattr(command, "commands", {}).values()]
    for part in parts:
        if written := getattr(part, "help", None):
            assert words(inspect.cleandoc(written).partition("\f")[0]) in shown


def test_there_is_a_text_with_brackets_to_show() -> None:
    said = [param.help for _, command in ALL for param in command.params if getattr(param, "help", None)]
    assert any("name[key=value,…]@base" in text for text in said)
