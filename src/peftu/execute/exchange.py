"""Looking after the modules that a run stored: list, check, and give to or take from peft."""

from pathlib import Path
from typing import Any

from peftu.errors import PeftuError
from peftu.execute.people import check_user
from peftu.execute.stored import opened_modules, opened_store
from peftu.fitted.training import BYTES_PER_NUMBER
from peftu.peft_io import import_module, loaders
from peftu.run_folder import empty_folder
from peftu.store import EVERYONE
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
                "bytes": BYTES_PER_NUMBER * kind.width * modules,
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
    stored.put(user, row, 0)
    return {"method": fitted.label, "seed": fitted.seed, "parameters": len(row)}
