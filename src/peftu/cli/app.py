"""The commands. Heavy rooms are imported inside the command that needs them, so that help is instant."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from peftu import __version__
from peftu.cli.console import (
    OUT_OF_TIME,
    check_arguments,
    emit,
    need_torch,
    say_anything,
    stderr,
    stopped_by_signals,
)
from peftu.cli.data import data
from peftu.cli.judging import about, leaderboard, score
from peftu.cli.options import (
    Address,
    Base,
    CellsFolder,
    Config,
    Device,
    Dtype,
    Epochs,
    ExecutorName,
    Gpus,
    IfExists,
    Json,
    Lr,
    MaxItems,
    MaxMinutes,
    MinItems,
    Out,
    PresetName,
    Quantize,
    Quiet,
    Raw,
    Regime,
    Region,
    Seeds,
    Setting,
    Shrink,
    TaskOption,
    Track,
    Users,
    WarmStart,
    Workers,
)
from peftu.cli.people import enrol, forget, predict
from peftu.cli.progress import progress
from peftu.cli.serving import serve
from peftu.cli.store import store
from peftu.errors import PeftuError

UsageError: Any = typer.BadParameter.__base__  # of the click that this release of typer uses

app = typer.Typer(
    name="peftu",
    help="One small module per person on a frozen language model: train, judge, keep and ask them together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data, name="data")
app.add_typer(store, name="store")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        emit({"version": __version__}, False, f"peftu {__version__}")
        raise typer.Exit


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="Show one task's whole card.")] = None, json: Json = False
) -> None:
    """List the tasks, or show one."""
    from peftu.cli.tables import tables
    from peftu.data import commands

    result: Any = commands.describe_task(name) if name else commands.describe_tasks()
    emit(result, json, *tables(result if name else _columns(result, "name", "title", "labels", "verified")))


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Show one method.")] = None, json: Json = False) -> None:
    """List the ways to personalise, or show one with its knobs."""
    from peftu.asked import plain
    from peftu.cli.tables import tables
    from peftu.config import MethodSpec
    from peftu.methods.describe import describe_method, describe_methods

    result: Any = describe_method(plain(MethodSpec.parse(name)).name) if name else describe_methods()
    emit(result, json, *tables(result if name else _columns(result, "name", "summary", "scope", "loads")))


@app.command()
def bases(
    name: Annotated[str | None, typer.Argument(help="Show one base.")] = None,
    types: Annotated[bool, typer.Option("--types", help="List the model types that are read.")] = False,
    json: Json = False,
) -> None:
    """List the base models peftu knows, and whether their weights are at hand."""
    from peftu.base.cards import bases as known
    from peftu.base.cards import describe_bases
    from peftu.cli.tables import tables

    result: Any
    if types and name:
        raise PeftuError("bases: a name and --types do not go together — leave one out")
    if types:
        from peftu.base.families.known import describe_types

        result = describe_types()
        emit(result, json, *tables(_columns(result, "type", "kind", "spans", "prompts", "quantize")))
    elif name:
        card = known.get(name)
        result = next(base for base in describe_bases() if base["name"] == card.name)
        emit(result, json, *tables(result))
    else:
        result = describe_bases()
        emit(result, json, *tables(_columns(result, "name", "family", "parameters", "licence", "cached")))


def _columns(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine has, what is missing, and how to mend it."""
    from rich.table import Table

    from peftu.doctor import as_rows, examine

    examination = examine()
    grid = Table(show_header=False, box=None)
    for key, value in as_rows(examination):
        grid.add_row(key, value)
    emit(examination, json, grid)


@app.command()
def run(
    task: str,
    method: Annotated[str, typer.Option(help="Method, as name, name@base or name[key=value,…]@base.")],
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    raw: Raw = None,
    option: TaskOption = None,
    regime: Regime = None,
    region: Region = None,
    users: Users = None,
    min_items: MinItems = None,
    max_items: MaxItems = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    lr: Lr = None,
    warm_start: WarmStart = None,
    shrink: Shrink = None,
    setting: Setting = None,
    config: Config = None,
    preset: PresetName = None,
    out: Out = None,
    if_exists: IfExists = "resume",
    executor: ExecutorName = "local",
    workers: Workers = 1,
    address: Address = None,
    gpus: Gpus = None,
    cells: CellsFolder = None,
    max_minutes: MaxMinutes = None,
    track: Track = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train and judge one method on a task."""
    _execute(dict(locals(), methods=method))


@app.command()
def compare(
    task: str,
    methods: Annotated[
        str | None, typer.Option(help="Methods, with commas between them; default by the kind of task.")
    ] = None,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    raw: Raw = None,
    option: TaskOption = None,
    regime: Regime = None,
    region: Region = None,
    users: Users = None,
    min_items: MinItems = None,
    max_items: MaxItems = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    lr: Lr = None,
    warm_start: WarmStart = None,
    shrink: Shrink = None,
    setting: Setting = None,
    config: Config = None,
    preset: PresetName = None,
    out: Out = None,
    if_exists: IfExists = "resume",
    executor: ExecutorName = "local",
    workers: Workers = 1,
    address: Address = None,
    gpus: Gpus = None,
    cells: CellsFolder = None,
    max_minutes: MaxMinutes = None,
    track: Track = None,
    quiet: Quiet = False,
    baselines: Annotated[
        bool, typer.Option(help="Also run the majorities where no yardstick is among the methods.")
    ] = True,
    json: Json = False,
) -> None:
    """Train and judge several methods on the same users and splits: one leaderboard, one report."""
    _execute(dict(locals()))


def _execute(flags: dict[str, Any]) -> None:
    """Runs what `run` and `compare` ask for, and prints table, verdict and the report's path."""
    need_torch()
    from peftu.cli.spec import run_spec
    from peftu.execute.run import How
    from peftu.execute.run import run as execute
    from peftu.executors.schedule import OutOfTimeError
    from peftu.judge import read_judgement
    from peftu.report.terminal import summary
    from peftu.results import REPORT

    spec = run_spec(flags)
    quiet, flags["track"] = flags.pop("quiet"), flags["track"] or ()
    how = How(**{name: flags.pop(name) for name in How.__dataclass_fields__})
    passed = {
        key: str(value) if isinstance(value, Path) else value for key, value in flags.items() if value is not None
    }
    try:
        with stopped_by_signals(), progress(quiet) as shown:
            out, record = execute(spec, flags["out"], flags["raw"], passed, shown, how)
    except (KeyboardInterrupt, OutOfTimeError) as stop:
        why = f"out of time: {stop}" if isinstance(stop, OutOfTimeError) else "interrupted"
        stderr.print(f"{why}: what was filled is kept — the same command goes on with it", soft_wrap=True)
        sys.exit(OUT_OF_TIME if isinstance(stop, OutOfTimeError) else getattr(stop, "code", 130))
    drawn = (out / REPORT).is_file()  # what kept it from being drawn was said
    where = f"\nreport: {out / REPORT}" if drawn else f"\nrun: {out}"
    table = summary(record, read_judgement(out))
    emit(record.cli_json(out) | ({} if drawn else {"report": None}), flags["json"], table, where)
    if record.failed:
        for failed in record.failed:
            stderr.print(f"failed: {failed.method}, seed {failed.seed}: {failed.why}", style="red", soft_wrap=True)
        sys.exit(1)


@app.command()
def tune(
    task: str,
    methods: Annotated[str, typer.Option(help="Methods that train modules, with commas between them.")],
    out: Annotated[Path, typer.Option(help="The preset to write; trials are kept beside it.")] = Path("preset.json"),
    trials: Annotated[int, typer.Option(min=1, help="Choices of settings that each method may try.")] = 12,
    parameters: Annotated[int | None, typer.Option(min=1, help="Most numbers a user's module may have.")] = None,
    base: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    raw: Raw = None,
    option: TaskOption = None,
    regime: Regime = None,
    region: Region = None,
    users: Users = None,
    min_items: MinItems = None,
    max_items: MaxItems = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of seeds; they start at 10, where results start at 0.")
    ] = 1,
    setting: Setting = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Choose settings for each method on validation rows, and write them as a preset for run and compare."""
    need_torch()
    from peftu.cli.spec import run_spec
    from peftu.execute.tune import tune as search

    spec = run_spec({**locals(), "seeds": None})
    spec = spec.model_copy(update={"seeds": tuple(range(10, 10 + seeds))})
    try:
        with progress() as shown:
            preset = search(spec, out, trials, parameters, raw, shown)
    except KeyboardInterrupt:
        stderr.print("interrupted: the trials made are kept — start again to go on", soft_wrap=True)
        sys.exit(130)
    emit(preset.model_dump(mode="json", exclude_defaults=True), json, f"preset: {out}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    json: Json = False,
) -> None:
    """Draw one report over one or several runs; it opens without a network."""
    from peftu.report.html import render_folders

    path = render_folders(runs, out)
    emit({"report": str(path)}, json, f"report: {path}")


app.command()(score)
app.command()(leaderboard)
app.command()(about)
for command in (predict, enrol, forget, serve):
    app.command()(command)


def command_tree() -> Any:
    """Returns the commands, with help as it is written: typer would take 'name[key=value]' for markup, and drop it."""
    root = typer.main.get_command(app)
    commands: list[Any] = [root]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for part in (command, *command.params):
            if getattr(part, "help", None):
                part.help = escape(part.help)
    return root


def main() -> None:
    """Runs the command line; a mendable error is one line and exit code 2, a bug keeps its traceback."""
    # Read when torch is imported, which is later. Threads that spin while they wait made a run more than twice as
    # long on cores shared with other work; threads that sleep cost little on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    say_anything()
    try:
        check_arguments(sys.argv[1:])
        sys.exit(command_tree()(prog_name="peftu", standalone_mode=False) or 0)
    except PeftuError as error:
        message = str(error)
    except UsageError as error:
        if not error.format_message():  # help was printed for want of arguments
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else "peftu"
        message = f"{' '.join(error.format_message().split()).rstrip('.')} — see '{command} --help'"
    stderr.print(f"error: {message.replace(chr(10), ' ')}", style="red", soft_wrap=True)
    sys.exit(2)
