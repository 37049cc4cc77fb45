"""``peftu predict``, ``enrol`` and ``forget``: people and the methods that a run fitted."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peftu.cli.console import emit, need_torch, stderr
from peftu.cli.options import CellsFolder, Device, Dtype, Json, Method, MovedBase, Quantize, Seed, User
from peftu.config import HardwareSpec, validated
from peftu.errors import PeftuError
from peftu.outside import shown

if TYPE_CHECKING:
    import polars as pl

Run = Annotated[Path, typer.Argument(help="A finished run folder.")]


def predict(
    run: Run,
    user: Annotated[str | None, typer.Option(help="The user's key.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="What to judge; may be given several times.")] = None,
    context: Annotated[str | None, typer.Option(help="What the text answers.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="CSV with columns user, text and perhaps context; answers are CSV on stdout.")
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Answer --text for every known user, as CSV on stdout.")
    ] = False,
    method: Method = None,
    seed: Seed = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Free answers: 0 is the likeliest token each time, above it is drawn.")
    ] = 0.0,
    base: MovedBase = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    json: Json = False,
) -> None:
    """Answer for one user, for the pairs of a file or for everybody, from what a run fitted."""
    _check_asked(user, text, context, file, all_users, json)
    need_torch()
    from rich.table import Table

    from peftu.data.problem import Text
    from peftu.execute.answer import answer, answered_everyone, answered_file
    from peftu.execute.stored import opened
    from peftu.lab.lab import Lab

    hardware = hardware_spec(device, dtype, quantize)
    texts = [Text(words, context) for words in text or ()]
    if user is None:
        fitted = opened(run, method, seed, base, Lab(hardware=hardware))
        if file is not None:
            return _print_csv(answered_file(fitted, file, _remark, temperature))
        return _print_csv(answered_everyone(fitted, texts, _remark, temperature))
    reply = answer(run, user, texts, method, seed, temperature, base, hardware)
    for note in reply["notes"]:
        _remark(note)
    free = "answer" in reply["answers"][0]
    grid = Table("text", "answer") if free else Table("label", "probability", "text")
    for line in reply["answers"]:
        if free:
            grid.add_row(line["text"], line["answer"])
        else:
            chances = ", ".join(f"{line['probabilities'][label]:.3f}" for label in line["labels"])
            grid.add_row(", ".join(line["labels"]), chances, line["text"])
    emit(reply, json, grid, f"{reply['method']}, seed {reply['seed']}")
    return None


def enrol(
    run: Run,
    file: Annotated[
        Path, typer.Option(help="CSV with columns user, text, label and perhaps context; several labels as 'a;b'.")
    ],
    method: Method = None,
    seed: Seed = None,
    base: MovedBase = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    json: Json = False,
) -> None:
    """Take the users of a file into a method that a run fitted, known ones anew; all others stay as they are."""
    need_torch()
    from peftu.execute.people import enrolled

    done = enrolled(run, file, method, seed, base, hardware_spec(device, dtype, quantize))
    for note in done["notes"]:
        _remark(note)
    counts = f"{done['users']:,} users enrolled with {done['texts']:,} labelled texts"
    emit(done, json, f"{done['method']}, seed {done['seed']}: {counts}")


def forget(run: Run, user: User, cells: CellsFolder = None, json: Json = False) -> None:
    """Delete a user from all that a run kept, and all cells with the user; says what remains where."""
    need_torch()
    from peftu.execute.people import forgotten
    from peftu.execute.receipt import lines

    done = forgotten(run, user, cells)
    kinds = {
        "modules": "modules",
        "examples": "labelled texts",
        "cells": "cells",
        "rows": "rows of predictions and scores",
        "regions": "cached regions",
    }
    counts = "".join(f", {done[kind]:,} {what}" for kind, what in kinds.items() if done[kind])
    emit(done, json, f"deleted from {done['methods']} methods and seeds{counts}", *lines(done))


def hardware_spec(device: str | None, dtype: str | None, quantize: str | None) -> HardwareSpec:
    """Returns what was asked for; the rest stays unset, for that is as it was fitted."""
    given = {"device": device, "dtype": dtype, "quantize": quantize}
    return validated(HardwareSpec, {name: value for name, value in given.items() if value is not None}, "hardware")


def _check_asked(
    user: str | None, text: list[str] | None, context: str | None, file: Path | None, all_users: bool, json: bool
) -> None:
    """Checks that it is said, in one way, who is to answer what.

    Raises:
        PeftuError: it is not.
    """
    if file is not None:
        given = {"--user": user, "--text": text, "--context": context, "--all-users": all_users or None}
        for option, value in given.items():
            if value is not None:
                raise PeftuError(f"--file: has its own users and texts — leave {option} out")
    elif not text:
        raise PeftuError("--text: is missing — pass --user and --text, --all-users and --text, or --file")
    elif all_users and user is not None:
        raise PeftuError("--all-users: is everybody — leave --user out")
    elif not all_users and user is None:
        raise PeftuError("--user: is missing — pass a user's key, --all-users, or --file")
    if json and (file is not None or all_users):
        raise PeftuError("--json: answers to --file and --all-users are CSV — leave --json out")


def _remark(line: str) -> None:
    stderr.print(line, soft_wrap=True)


def _print_csv(frames: "Iterable[pl.DataFrame]") -> None:
    """Prints frames as one CSV file, each when it is there; on a terminal nothing in it is obeyed."""
    import polars as pl
    from polars import selectors

    from peftu.execute.people import SEPARATOR

    for place, frame in enumerate(frames):
        plain = frame.with_columns(selectors.by_dtype(pl.List(pl.String)).list.join(SEPARATOR))
        written = plain.write_csv(include_header=place == 0)
        sys.stdout.write(shown(written) if sys.stdout.isatty() else written)
