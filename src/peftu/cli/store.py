"""``peftu store``: look after the modules that a run keeps."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftu.cli.console import emit
from peftu.cli.options import CellsFolder, Json, Method, MovedBase, Raw, Seed, User
from peftu.errors import PeftuError

store = typer.Typer(no_args_is_help=True, help="Look after a run's modules: versions, deletion, exchange with peft.")

Run = Annotated[Path, typer.Argument(help="A finished run folder, or its modules alone.")]


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
    """Delete a user as 'peftu forget' does, count the modules, and say what remains where."""
    from peftu.execute.people import forgotten
    from peftu.execute.receipt import lines

    done = forgotten(run, user, cells)
    modules = done["modules"]
    emit({"deleted": modules, "remains": done["remains"]}, json, f"{modules} modules deleted", *lines(done))


@store.command()
def show(run: Run, user: User, json: Json = False) -> None:
    """List the versions of a user's modules: status, date, and what each was made of."""
    from peftu.cli.tables import tables
    from peftu.execute.exchange import history

    versions = history(run, user)
    emit(versions, json, *tables([{**version, "checksum": version["checksum"][:12]} for version in versions]))


@store.command()
def gc(run: Run, json: Json = False) -> None:
    """Remove the bytes of deleted modules and what killed processes left; put small shards together."""
    from peftu.execute.exchange import collected

    gone = collected(run)
    emit({"gone": gone}, json, f"{gone:,} deleted modules are gone")


@store.command()
def rollback(
    run: Run,
    user: User,
    version: Annotated[int | None, typer.Option(help="See 'peftu store show'; default the one before.")] = None,
    method: Method = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Have an earlier version of a user's module answer; later ones are revoked."""
    from peftu.execute.exchange import rolled_back

    done = rolled_back(run, user, version, method, seed)
    emit(done, json, f"{done['method']}, seed {done['seed']}: version {done['version']} answers")


@store.command()
def mark(
    run: Run,
    user: User,
    version: Annotated[int, typer.Option(help="See 'peftu store show'.")],
    status: Annotated[
        Literal["approved", "quarantined", "revoked"], typer.Option(help="Of approved versions the newest answers.")
    ],
    method: Method = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Approve, quarantine or revoke a version of a user's module."""
    from peftu.execute.exchange import marked

    done = marked(run, user, version, status, method, seed)
    emit(done, json, f"{done['method']}, seed {done['seed']}: version {version} is {status}")


@store.command()
def pack(
    run: Run,
    int8: Annotated[bool, typer.Option("--int8", help="Keep numbers in a byte each; there is no way back.")] = False,
    shards: Annotated[
        str | None, typer.Option(help="URL under which shards are to lie, as s3://bucket/folder, or 'here'.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what int8 costs, and change nothing.")] = False,
    base: MovedBase = None,
    raw: Raw = None,
    json: Json = False,
) -> None:
    """Keep a run's modules in fewer bytes, or elsewhere; says what int8 changes on the run's validation rows."""
    from peftu.cli.tables import tables
    from peftu.execute.packing import packed

    if not int8 and shards is None:
        raise PeftuError("pack: nothing is asked for — pass --int8, --shards, or both")
    done = packed(run, int8, shards, dry_run, base, raw)
    emit(done, json, *tables(done["costs"]), f"{done['written']:,} modules written anew")


@store.command()
def key(file: Annotated[Path, typer.Argument(help="A new file.")], json: Json = False) -> None:
    """Make a key: stores that are made while PEFTU_STORE_KEY names its file are encrypted, and need it from then on."""
    from peftu.store.seal import KEY_FILE, make_key

    path = make_key(file)
    emit({"file": str(path)}, json, f"{path}: a new key; export {KEY_FILE}={path}, and keep a copy of the file")


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
