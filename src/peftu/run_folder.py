"""Which folder a run goes into, so that nothing an earlier run made is lost, and the command that made it."""

import itertools
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import locked, owner_only
from peftu.results import RECORD

MODULES = "modules"  # the folder of a run's stored modules
FITTED = "fitted"  # the folder of what a run fitted, a folder each
EXAMPLES = "examples"  # the folder of labelled texts that people were enrolled with since


def command_line() -> str | None:
    """Returns the command that this process runs, quoted so that a shell reads the same words; None: it is another."""
    program, *words = sys.argv
    path = Path(program)
    if path.name == "__main__.py" and path.parent.name == "peftu":
        return shlex.join(["python", "-m", "peftu", *words])
    return shlex.join(["peftu", *words]) if path.stem == "peftu" else None


def is_kept(folder: Path) -> bool:
    """Returns whether a folder holds a finished run, or the modules of one that did not finish."""
    return (folder / RECORD).exists() or (folder / MODULES / "index.sqlite").exists()


def check_folder(folder: Path, ours: re.Pattern[str]) -> None:
    """Checks that a folder may be filled, and emptied first: nothing in it is foreign.

    Args:
        folder: may be missing.
        ours: the paths within, and within its modules, that may go.

    Raises:
        PeftuError: it is a file, or holds other things.
    """
    if folder.exists() and not folder.is_dir():
        raise PeftuError(f"{folder}: is a file — pass a folder with --out")
    inside = [str(path.relative_to(folder)) for path in (*folder.glob("*"), *(folder / MODULES).glob("*"))]
    foreign = sorted(name for name in inside if not ours.fullmatch(name))
    if foreign:
        raise PeftuError(f"{folder}: holds '{foreign[0]}', which no run made — pass a new or empty folder with --out")


def check_unused(folder: Path, mend: str) -> None:
    """Checks that a folder holds no run.

    Raises:
        PeftuError: it does; the message ends in how to mend it.
    """
    if is_kept(folder):
        held = "a finished run" if (folder / RECORD).exists() else "modules of a run that did not finish"
        raise PeftuError(f"{folder}: holds {held} — {mend}, or another --out")


@contextmanager
def claimed(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Makes a folder and keeps other runs out of it while the block runs.

    Args:
        folder: of the run.
        patience: seconds to wait for whoever is at work in it.

    Raises:
        PeftuError: another run is at work in it, or it cannot be made or written to.
    """
    with writing_to(folder), tempfile.TemporaryFile(dir=folder):
        held = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + patience
        while not (mine := locked(held, wait=False)) and time.monotonic() < end:
            time.sleep(0.01)
        if not mine:
            raise PeftuError(f"{folder}: another run is at work in it — wait for it, or pass another --out")
        yield
    finally:
        with suppress(OSError):  # it holds something
            folder.rmdir()
        os.close(held)


@contextmanager
def put_in_place(folder: Path) -> Iterator[Path]:
    """Yields a folder beside this one to put a run together in; it takes this one's place when the block ends well.

    Until then what was there stays as it was, and after it nothing of that is left, nor of earlier ones that were
    killed at this. Only one process may be at it: see `claimed`.
    """
    folder = folder.absolute()
    parent = folder.parent
    new = parent / f".{folder.name}.{uuid.uuid4().hex}.part"
    old = parent / f".{folder.name}.{uuid.uuid4().hex}.old"
    try:
        with writing_to(new):
            owner_only(new)
            yield new
        with writing_to(parent):
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        for left in left_behind(folder):
            shutil.rmtree(left, ignore_errors=True)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def left_behind(folder: Path) -> list[Path]:
    """Returns what lies beside a run's folder of runs that were killed as they were put in place, or still are."""
    folder = folder.absolute()
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{32}}\.(part|old)")
    return [path for path in folder.parent.glob(".*") if pattern.fullmatch(path.name)]


def free_folder(folder: Path) -> Path:
    """Returns the folder or, where it holds a run, the first of folder-2, folder-3, … that holds none."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not is_kept(path))


def chosen_folder(out: Path | None, default: Path, replace: bool) -> Path:
    """Returns the folder asked for; where none was, the default, or the next free one beside it."""
    return out or (default if replace else free_folder(default))


def empty_folder(folder: Path) -> Path:
    """Returns the folder, which is missing or empty.

    Raises:
        PeftuError: it is a file, or holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PeftuError(f"{folder}: is not empty — pass a new or empty folder")
    return folder
