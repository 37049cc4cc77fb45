"""A fitted method as of one moment: whose module answers, which one it is, and nothing that changes under a batch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftu.fitted.fitted import Fitted
from peftu.fitted.folder import ABOUT
from peftu.fitted.guarded import GuardedFitted
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.rows import StoredRows
from peftu.serving.resident import ResidentRows, Residents
from peftu.store import EVERYONE

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Moment:
    """A fitted method that knows some users, and what each is answered by.

    Attributes:
        fitted: answers for those users.
        modules: user -> what answers, by content; a user who is not there is not known.
    """

    fitted: Fitted
    modules: dict[str, str]


def make_resident(fitted: Fitted, residents: Residents) -> Fitted:
    """Returns the fitted method, whose stored rows stay in memory once they are read."""
    for part in fitted.around.values():
        make_resident(part, residents)
    if isinstance(fitted, ModuleFitted) and isinstance(fitted.rows, StoredRows):
        fitted.rows = ResidentRows(fitted.rows, residents)
        _ = fitted.layout  # made once, and not for each moment
    return fitted


def moment(fitted: Fitted, users: Sequence[str]) -> Moment:
    """Returns a fitted method that answers those of the users whom it knows, as it is now and stays."""
    if isinstance(fitted, GuardedFitted):
        return _guarded(fitted, users)
    if not isinstance(fitted, ModuleFitted):
        known = set(users) - (fitted.unknown(users) if fitted.personal else set())
        return Moment(fitted, dict.fromkeys(known, f"state:{fitted.revision}"))
    if fitted.rows is None:
        return Moment(fitted, dict.fromkeys(users, f"base:{fitted.base.fingerprint}"))
    if not isinstance(fitted.rows, ResidentRows):
        raise TypeError("rows are not kept in a store")
    still = copy.copy(fitted)
    still.rows, names = fitted.rows.at_once(list(dict.fromkeys(users)) if fitted.of_users else [EVERYONE])
    names = names if fitted.of_users else dict.fromkeys(users, names[EVERYONE])
    if fitted.offset is None:
        return Moment(still, names)
    added = moment(fitted.offset, users).modules
    return Moment(still, {user: f"{name} {added[user]}" for user, name in names.items() if user in added})


def _guarded(guard: GuardedFitted, users: Sequence[str]) -> Moment:
    still = copy.copy(guard)
    sides = moment(guard.inner, users), moment(guard.fallback, users)
    still.inner, still.fallback = (side.fitted for side in sides)
    known = [user for user in users if all(user in side.modules for side in sides)]
    return Moment(still, {user: sides[user not in guard.kept].modules[user] for user in known})


def without_modules(fitted: Fitted) -> Fitted | None:
    """Returns the base as it is, told what a fitted method tells it; None where the method has no such base."""
    if isinstance(fitted, GuardedFitted):
        return without_modules(fitted.inner)
    if not isinstance(fitted, ModuleFitted):
        return None
    bare = ModuleFitted(fitted.job, fitted.task, fitted.seed, fitted.lab, fitted.prompt, fitted.region)
    bare.remarks = fitted.remarks
    return bare


def stamp(fitted: Fitted) -> Stamp:
    """Returns what changes when the state in a fitted method's folder does; of rows in a store, nothing."""
    parts = [stamp(part) for part in fitted.around.values()]
    return sum(parts, () if isinstance(fitted, ModuleFitted) else _stamp(fitted.folder))


def _stamp(folder: Path | None) -> Stamp:
    if folder is None:
        return ()
    about = (folder / ABOUT).stat()
    return ((about.st_ino, about.st_mtime_ns, about.st_size),)
