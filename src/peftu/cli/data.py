"""``peftu data``: fetch, build, look at, audit, import and export a task's data."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftu.cli.console import emit, stderr
from peftu.cli.options import Encoding, Format, Json, LabelsFile, Member, Raw, Sheet, TaskOption
from peftu.config import assignments
from peftu.errors import PeftuError

data = typer.Typer(no_args_is_help=True, help="Fetch, build, look at, audit, import and export a task's data.")

REGIMES = "within-user, unseen-text, unseen-user, temporal or published."


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
    """Users, texts, judgements, agreement, and how much each user differs from the others."""
    from peftu.cli.tables import stats_tables
    from peftu.data import commands

    result = commands.stats(task, raw, task_options(option))
    emit(result, json, *([] if json else stats_tables(result)))


@data.command()
def audit(
    task: str,
    raw: Raw = None,
    option: TaskOption = None,
    regime: Annotated[str, typer.Option(help=REGIMES)] = "within-user",
    k: Annotated[int | None, typer.Option(min=0, help="Training items of an unseen user; regime unseen-user.")] = None,
    min_items: Annotated[int, typer.Option(min=3, help="Users with fewer items are left out and counted.")] = 10,
    seed: int = 0,
    json: Json = False,
) -> None:
    """What leaks between the parts of a split, and what is odd about users and labels."""
    from peftu.data import commands

    _show(commands.audit_task(task, raw, task_options(option), regime, seed, k=k, min_items=min_items), json)


@data.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file or folder as a tool wrote it, packed or not; - reads stdin.")],
    name: Annotated[str | None, typer.Option(help="Name of the new task; default: from the file's name.")] = None,
    user: Annotated[str | None, typer.Option(help="Column that says who judged.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text that was judged.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Column of the label; several mark one label each.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the text's key; default: made from the text.")] = None,
    context: Annotated[str | None, typer.Option(help="Column of what the text answers.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time of the judgement.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="single, ordinal, multi or text (free text); default: found.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="All labels in order, with commas; default: those found.")] = None,
    words: Annotated[str | None, typer.Option(help="What a model says for each label, in order, with commas.")] = None,
    instruction: Annotated[str | None, typer.Option(help="The question put before the text.")] = None,
    replace: Annotated[bool, typer.Option(help="Take the place of another import of that name.")] = False,
    labels_file: LabelsFile = None,
    conflicts: Annotated[
        Literal["error", "first", "last", "majority", "drop"],
        typer.Option(help="Of a user's answers on one text that differ: refuse, or which to keep."),
    ] = "error",
    missing: Annotated[
        Literal["error", "drop"], typer.Option(help="Of rows without a user, text or label: refuse, or leave out.")
    ] = "error",
    where: Annotated[
        str | None, typer.Option(help="Only rows so, as 'status = Approved' or \"stars > 2\" (SQL).")
    ] = None,
    time_format: Annotated[str | None, typer.Option(help="How times are written, as '%d/%m/%Y %H:%M'.")] = None,
    form: Format = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    member: Member = None,
    explode: Annotated[str | None, typer.Option(help="Columns of lists side by side, with commas: a row each.")] = None,
    wide_users: Annotated[str | None, typer.Option(help="Columns as 'label_*' that are a user's labels each.")] = None,
    wide_items: Annotated[str | None, typer.Option(help="Columns as 'Q*' that are an item's labels each.")] = None,
    texts: Annotated[Path | None, typer.Option(help="File with item and text of the --wide-items.")] = None,
    join: Annotated[list[Path] | None, typer.Option(help="Another table to put beside; each with an --on.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="Column of its keys, or HERE=THERE.")] = None,
    about: Annotated[list[str] | None, typer.Option(help="Column of what is known of users, as age: a group.")] = None,
    json: Json = False,
) -> None:
    """Make a task of your own table; columns that are not named here are found by their names."""
    from peftu.data.importer.importing import ImportOptions, import_file
    from peftu.data.importer.policy import Policy
    from peftu.data.importer.reshape import Reshaping, joins_of
    from peftu.data.labelling import label_set
    from peftu.data.readers.file import Reading
    from peftu.data.readers.source import RowsError

    columns = {"user": user, "text": text, "item": item, "context": context, "time": time}
    options = ImportOptions(
        name=name,
        columns=columns,
        labels=tuple(label or ()),
        kind=kind,
        label_set=label_set(labels, labels_file),
        words=_listed(words),
        instruction=instruction,
        replacing=replace,
        reading=Reading(form, encoding, sheet, member),
        policy=Policy(conflicts, missing),
        where=where,
        time_format=time_format,
        reshaping=Reshaping(_listed(explode), wide_users, wide_items, texts, joins_of(join or (), on or ())),
        about=tuple(about or ()),
    )
    try:
        result = import_file(file, options)
    except RowsError as error:
        for line in error.shown:
            stderr.print(line, markup=False, soft_wrap=True)
        raise
    _show(result, json)


@data.command()
def rm(
    task: Annotated[str, typer.Argument(help="Name of an imported task.")],
    json: Json = False,
) -> None:
    """Delete an imported task; its file of origin and runs made with it stay."""
    from peftu.data.imported import remove

    _show({"task": task, "deleted": str(remove(task))}, json)


@data.command()
def export(
    task: str,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    form: Annotated[str, typer.Option("--format", help="hf (datasets), croissant or parquet.")] = "parquet",
    raw: Raw = None,
    option: TaskOption = None,
    json: Json = False,
) -> None:
    """Write a task's table for other tools; mind the licence of its data."""
    from peftu.data.interchange import export as write
    from peftu.data.load import load_task

    _show(write(load_task(task, raw, task_options(option)), form, out), json)


def _listed(given: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(",") if part.strip()) if given else ()


def task_options(given: list[str] | None) -> dict[str, Any]:
    """Returns a task's options from 'key=value' arguments."""
    return assigned(given, "--option")


def assigned(given: list[str] | None, where: str, dotted: bool = False) -> dict[str, Any]:
    """Returns the values of an option that may be given several times, each time with one 'key=value' or several.

    Raises:
        PeftuError: one of them is empty or of another form, or a key stands twice.
    """
    result: dict[str, Any] = {}
    for part in given or []:
        values = assignments(part, where, dotted)
        if not values:
            raise PeftuError(f"{where}: is empty — write key=value, or leave it out")
        for key in values.keys() & result.keys():
            raise PeftuError(f"{where}: '{key}' stands twice — write it once")
        result |= values
    return result


def _show(result: dict[str, Any], as_json: bool) -> None:
    from peftu.cli.tables import tables

    emit(result, as_json, *([] if as_json else tables(result)))
