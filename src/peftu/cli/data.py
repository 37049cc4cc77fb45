"""``peftu data``: fetch, build, look at and audit a task's data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from peftu.cli.console import emit
from peftu.config import assignments

data = typer.Typer(no_args_is_help=True, help="Fetch, build, look at and audit a task's data.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Raw = Annotated[Path | None, typer.Option(help="Folder with the task's raw files; otherwise the cache or publisher.")]
TaskOption = Annotated[list[str] | None, typer.Option("--option", help="A task's option, as group=g1.")]


@data.command()
def fetch(task: str, raw: Raw = None, option: TaskOption = None, json: Json = False) -> None:
    """Get a task's raw files, checked by sha256."""
    from peftu.data import commands

    _show(commands.fetch(task, raw, task_options(option)), json)


@data.command()
def build(
    task: str,
    raw: Raw = None,
    option: TaskOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this Parquet file.")] = None,
    json: Json = False,
) -> None:
    """Build a task's user table."""
    from peftu.data import commands

    _show(commands.build(task, raw, task_options(option), out), json)


@data.command()
def stats(task: str, raw: Raw = None, option: TaskOption = None, json: Json = False) -> None:
    """Users, texts, judgements, agreement."""
    from peftu.data import commands

    _show(commands.stats(task, raw, task_options(option)), json)


@data.command()
def audit(
    task: str,
    raw: Raw = None,
    option: TaskOption = None,
    regime: Annotated[str, typer.Option(help="within-user or unseen-text.")] = "within-user",
    seed: int = 0,
    json: Json = False,
) -> None:
    """What leaks between the parts of a split, and what is odd about users and labels."""
    from peftu.data import commands

    _show(commands.audit_task(task, raw, task_options(option), regime, seed), json)


def task_options(given: list[str] | None) -> dict[str, Any]:
    """Returns a task's options from 'key=value' arguments."""
    return assignments(",".join(given or []), "--option")


def _show(result: dict[str, Any], as_json: bool) -> None:
    from peftu.data.commands import tables

    emit(result, as_json, *([] if as_json else tables(result)))
