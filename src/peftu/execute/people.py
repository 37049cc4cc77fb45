"""The people of a run: read from a file, enrolled in a method, forgotten by every method."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftu.cells.cache import Cells
from peftu.config import HardwareSpec
from peftu.data.problem import Text
from peftu.data.reading import read_csv
from peftu.errors import PeftuError, UnknownUserError
from peftu.execute.examples import KeptExamples
from peftu.execute.receipt import forget_regions, remains
from peftu.execute.stored import folders, opened
from peftu.execute.unlisted import unlisted
from peftu.fitted.fitted import Example, Fitted, TaskAnswers
from peftu.fitted.folder import keep, load
from peftu.lab.lab import Lab
from peftu.outside import is_plain, plain_file, shown
from peftu.registry import did_you_mean
from peftu.results import load_run
from peftu.run_folder import MODULES, claimed, left_behind
from peftu.store import EVERYONE, AdapterStore, is_store

SEPARATOR = ";"  # between several labels in a cell


def user_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields each row of a CSV file, as it is read, as column -> cell; no cell of these columns is empty.

    Raises:
        PeftuError: the file is missing, damaged or has no rows, a column is missing, or a cell is empty.
    """
    mend = f"pass a CSV file with columns {', '.join(columns)}"
    if not plain_file(path).is_file():
        raise PeftuError(f"{path}: no such file — {mend}")
    number = 0
    for number, row in enumerate(read_csv(path), 1):
        for column in columns:
            if column not in row:  # the columns there are go unnamed: without a header they are somebody's row
                raise PeftuError(f"{path}: has no column '{column}' — {mend}")
            if not row[column]:
                raise PeftuError(f"{path}: row {number}: '{column}' is empty — fill it in, or drop the row")
        yield row
    if not number:
        raise PeftuError(f"{path}: has no rows — {mend}")


def text_of(row: dict[str, str]) -> Text:
    """Returns the text of a row, with its context where it has one."""
    return Text(row["text"], row.get("context") or None)


def enrolled(
    run: Path,
    file: Path,
    method: str | None = None,
    seed: int | None = None,
    base: str | None = None,
    hardware: HardwareSpec | None = None,
) -> dict[str, Any]:
    """Returns how many users of a file are now known to a method that a run fitted, and by how many labelled texts.

    Every row is checked before anybody is enrolled. Who is known already is enrolled anew, from the file alone.

    Args:
        run: a finished run folder.
        file: CSV with columns user, text, label and perhaps context; several labels stand with ';' between them.
        method: as in the run's table; needed when the run trained several personal ones.
        seed: which seed's; the first by default.
        base: where the base is now, if it has moved.
        hardware: where it computes, and in which numbers; of what is unset, as it was fitted.

    Raises:
        PeftuError: no such run, method or seed, a row that cannot be used, or a method that answers everybody alike.
    """
    fitted = opened(run, method, seed, base, Lab(hardware=hardware))
    people: dict[str, list[Example]] = {}
    for number, row in enumerate(user_rows(file, ("user", "text", "label")), 1):
        if not is_plain(row["user"]):
            raise PeftuError(f"{file}: row {number}: 'user' holds a control character — rename the user")
        labels = _labels(row["label"], fitted.task, f"{file}: row {number}")
        people.setdefault(row["user"], []).append((text_of(row), labels))
    kept = KeptExamples(run)
    for place, (user, examples) in enumerate(people.items()):
        try:
            fitted.enrol(user, examples)
            kept.put(user, examples)
        except PeftuError as error:
            raise PeftuError(
                f"{error} ({place} of {len(people)} users are enrolled)" if place else str(error)
            ) from None
    counts = {"users": len(people), "texts": sum(map(len, people.values()))}
    return {"method": fitted.label, "seed": fitted.seed, **counts, "notes": fitted.remarks}


def forgotten(run: Path, user: str, cells: Path | None = None) -> dict[str, Any]:
    """Returns how many methods and seeds a user was deleted from, how much of what went, and what remains.

    Bytes are gone, those that a killed run or deletion left too: modules, cells, labelled texts, rows of the run's
    tables, and cached regions of texts that only this user has. No base is needed for it. What all users share was
    fitted with the user's rows, and stays.

    Args:
        run: folder of a run, finished or not, or one that `Fitted.save` made.
        user: the user's key.
        cells: folder of the cells, of this and other runs; those that were made with the user's rows go.
            None: in peftu's cache.

    Raises:
        UnknownUserError: nothing in it knows the user.
        PeftuError: no such run, or it cannot be deleted from.
    """
    check_user(user)
    run = Path(run)
    kept, left = folders(run), left_behind(run)
    if not kept and not is_store(run / MODULES) and not left:
        load_run(run)  # says what is wrong with it
    knowing = [folder for folder in kept if _at_rest(folder).knows(user)]
    modules = holding = 0
    if is_store(run / MODULES):
        with AdapterStore(run / MODULES) as store:
            holding = sum(bool(store.versions(kind, user)) for kind in store.collections())
            modules = store.erase(user)  # in every collection, with earlier versions
    removed, examples = Cells(cells).forget(user), KeptExamples(run).drop(user)
    if left:
        with claimed(run):
            for folder in left:
                shutil.rmtree(folder)
    for folder in knowing:
        fitted = _at_rest(folder)
        if fitted.knows(user):
            fitted.forget(user)
        else:  # the row in the store is gone; what was kept of it goes, too
            keep(fitted)
    regions = forget_regions(run, user)
    gone = unlisted(run, user)
    if not any((knowing, modules, removed, examples, left, gone.rows)):
        raise UnknownUserError(f"{run}: no method knows the asked user — nothing was deleted")
    counts = {"methods": len(knowing) if kept else holding, "modules": modules, "examples": examples, "cells": removed}
    counts |= {"rows": gone.rows, "regions": regions}
    return {**counts, "left_behind": len(left), "remains": remains(run, user, gone)}


def check_user(user: str) -> None:
    """Checks that a key is a user's, not that of the modules that all share.

    Raises:
        PeftuError: it is not.
    """
    if user == EVERYONE:
        raise PeftuError("--user: is empty — pass a user's key; what all users share is not one user's to change")


def _at_rest(folder: Path) -> Fitted:
    return load(folder, with_base=False)


def _labels(cell: str, task: TaskAnswers, where: str) -> tuple[str, ...]:
    """Returns the labels in a cell; of free answers, the answer."""
    if not task.answers.labelled:
        return (cell,)
    several = not task.answers.exclusive and cell not in task.labels
    labels = tuple(label.strip() for label in cell.split(SEPARATOR)) if several else (cell,)
    for label in labels:
        if label not in task.labels:
            raise PeftuError(f"{where}: unknown label '{shown(label)}'{did_you_mean(label, task.labels)}")
    return labels
