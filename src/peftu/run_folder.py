"""Which folder a run goes into, so that nothing an earlier run made is lost, and the command that made it."""

import itertools
import re
import shlex
import sys
from pathlib import Path

from peftu.errors import PeftuError
from peftu.results import RECORD

MODULES = "modules"  # the folder of a run's stored modules
FITTED = "fitted"  # the folder of what a run fitted, a folder each


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


def check_folder(folder: Path, ours: re.Pattern[str], replace: bool) -> None:
    """Checks that a folder may be filled, and emptied first: nothing in it is foreign, or a run that is to stay.

    Args:
        folder: may be missing.
        ours: the paths within, and within its modules, that may go.
        replace: a run may go, too.

    Raises:
        PeftuError: it is a file, or holds other things, or a run that is not to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise PeftuError(f"{folder}: is a file — pass a folder with --out")
    inside = [str(path.relative_to(folder)) for path in (*folder.glob("*"), *(folder / MODULES).glob("*"))]
    foreign = sorted(name for name in inside if not ours.fullmatch(name))
    if foreign:
        raise PeftuError(f"{folder}: holds '{foreign[0]}', which no run made — pass a new or empty folder with --out")
    if is_kept(folder) and not replace:
        held = "a finished run" if (folder / RECORD).exists() else "modules of a run that did not finish"
        raise PeftuError(f"{folder}: holds {held} — pass --replace to put this one in its place, or another --out")


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
