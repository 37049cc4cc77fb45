"""Looking after the modules that a run stored: list, check, and give to or take from peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftu.errors import PeftuError
from peftu.execute.people import check_user
from peftu.execute.stored import chosen, opened_modules, opened_store, stored_systems
from peftu.files import sha256_of
from peftu.peft_io import WEIGHTS, import_module, loaders
from peftu.run_folder import MODULES, empty_folder
from peftu.store import EVERYONE, AdapterStore, Collection, Status, is_store
from peftu.system import System


def listed(run: Path) -> list[dict[str, Any]]:
    """Returns one plain dict for each method and seed whose modules a run keeps; users are counted, not named.

    Raises:
        PeftuError: the run did not finish or has no modules.
    """
    with opened_store(run) as store:
        return [
            {
                "method": kind.label,
                "seed": kind.seed,
                "base": System.parse(kind.label).base or kind.base,
                "modules": (modules := len(store.keys(kind))),
                "parameters": kind.width,
                "bytes": store.row_bytes(kind) * modules,
            }
            for kind in store.collections()
        ]


def verified(run: Path) -> int:
    """Returns how many of a run's modules are whole.

    Raises:
        PeftuError: one is not.
    """
    with opened_store(run) as store:
        return store.verify()


def collected(run: Path) -> int:
    """Returns how many deleted modules of a run's store are now gone to the byte; small shards are put together.

    Raises:
        PeftuError: there is no store, or a shard is damaged.
    """
    run = Path(run)
    with AdapterStore(run if is_store(run) else run / MODULES) as store:
        return store.gc()


def history(run: Path, user: str) -> list[dict[str, Any]]:
    """Returns one plain dict for each version of a user's module under each method and seed, newest first.

    Raises:
        PeftuError: the run did not finish or has no modules, or none of them is the user's.
    """
    check_user(user)
    with opened_store(run) as store:
        lines = [
            {
                "method": kind.label,
                "seed": kind.seed,
                "version": version.number,
                "status": version.status,
                "created": datetime.fromtimestamp(version.created, UTC).isoformat(timespec="seconds"),
                "train_rows": version.train_rows,
                "checksum": version.checksum,
                "provenance": version.provenance,
            }
            for kind in store.collections()
            for version in store.versions(kind, user)
        ]
    if not lines:
        raise PeftuError(f"{run}: the asked user has no module — 'peftu store ls' counts those there are")
    return lines


def rolled_back(
    run: Path, user: str, version: int | None = None, method: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Returns which version of a user's module answers from now on.

    Raises:
        PeftuError: no such run, method, seed, user or version.
    """
    with _modules_with(run, user, method, seed) as (store, kind):
        return {"method": kind.label, "seed": kind.seed, "version": store.rollback(kind, user, version)}


def marked(
    run: Path, user: str, version: int, status: Status, method: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Returns the status that a version of a user's module has now.

    Raises:
        PeftuError: no such run, method, seed, user or version.
    """
    with _modules_with(run, user, method, seed) as (store, kind):
        store.mark(kind, user, version, status)
        return {"method": kind.label, "seed": kind.seed, "version": version, "status": status}


@contextmanager
def _modules_with(
    run: Path, user: str, method: str | None, seed: int | None
) -> Iterator[tuple[AdapterStore, Collection]]:
    """Opens a run's store, and yields it with the collection that is asked for."""
    check_user(user)
    with opened_store(run) as store:
        yield store, chosen(stored_systems(store), method, seed)["collection"]


def exported(
    run: Path, user: str, out: Path, method: str | None = None, seed: int | None = None, base: str | None = None
) -> dict[str, Any]:
    """Returns where a user's module now stands as a folder for peft, who can load it, and what they must know.

    Raises:
        PeftuError: no such run, method, seed or user, or a kind of module that peft does not have.
    """
    empty_folder(out)
    fitted, _ = opened_modules(run, method, seed, base)
    fitted.export(user if fitted.personal else EVERYONE, out)
    loads, notes = loaders(fitted.base, fitted.region, fitted.layout)
    return {"folder": str(out), "method": fitted.label, "loads": loads, "notes": notes}


def imported(
    run: Path, folder: Path, user: str, method: str | None = None, seed: int | None = None, base: str | None = None
) -> dict[str, Any]:
    """Returns what a folder that peft wrote became: this user's newest module in a run's store.

    Raises:
        PeftuError: no such run, method or seed, or a folder whose module is of another kind, shape or base.
    """
    check_user(user)
    fitted, stored = opened_modules(run, method, seed, base)
    if not fitted.personal:
        raise PeftuError(f"{run}: {fitted.label} is one module for everyone — choose with --method")
    row = import_module(folder, fitted.base, fitted.prompt, fitted.region, fitted.layout)
    stored.put(user, row, 0, {"source": "import", "data": f"sha256:{sha256_of(Path(folder) / WEIGHTS)}"})
    return {"method": fitted.label, "seed": fitted.seed, "parameters": len(row)}
