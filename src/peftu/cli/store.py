"""``peftu store``: look after the modules that a run keeps."""

from pathlib import Path
from typing import Annotated, Any

import typer

from peftu.cli.console import emit
from peftu.cli.options import CellsFolder, Json, Method, MovedBase, Seed, User

store = typer.Typer(no_args_is_help=True, help="List, check, delete, export and import the modules that a run keeps.")

Run = Annotated[Path, typer.Argument(help="A finished run folder.")]


@store.command("ls")
def list_modules(run: Run, json: Json = False) -> None:
    """List a run's methods and seeds, with the number and size of their modules."""
    from peftu.cli.tables import tables
    from peftu.execute.exchange import listed

    rows = listed(run)
    emit(rows, json, *tables(rows))


@store.command()
def verify(run: Run, json: Json = False) -> None:
    """Check every module against its checksum."""
    from peftu.execute.exchange import verified

    whole = verified(run)
    emit({"whole": whole}, json, f"{whole:,} modules are whole")


@store.command()
def rm(run: Run, user: User, cells: CellsFolder = None, json: Json = False) -> None:
    """Delete a user as 'peftu forget' does, and count the modules; the bytes are gone when the command ends."""
    from peftu.execute.people import forgotten

    modules = forgotten(run, user, cells)["modules"]
    emit({"deleted": modules}, json, f"{modules} modules deleted")


@store.command("export")
def export_module(
    run: Run,
    user: User,
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
    method: Method = None,
    seed: Seed = None,
    base: MovedBase = None,
    json: Json = False,
) -> None:
    """Write a user's module as a folder that the peft library loads."""
    from peftu.execute.exchange import exported

    facts: dict[str, Any] = exported(run, user, out, method, seed, base)
    emit(facts, json, f"{facts['folder']}: {facts['method']}, loaded by {', '.join(facts['loads'])}", *facts["notes"])


@store.command("import")
def import_module(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="A folder that peft, or 'store export', wrote.")],
    user: User,
    method: Method = None,
    seed: Seed = None,
    base: MovedBase = None,
    json: Json = False,
) -> None:
    """Take a module from a folder of the peft library as a user's newest."""
    from peftu.execute.exchange import imported

    result = imported(run, folder, user, method, seed, base)
    emit(result, json, f"{result['method']}, seed {result['seed']}: {result['parameters']:,} numbers taken")
