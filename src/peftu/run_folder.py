"""Which folder a run goes into, so that nothing an earlier run made is lost, and the command that made it."""

import itertools
import shlex
import sys
from pathlib import Path

from peftu.errors import PeftuError
from peftu.results import RECORD


def command_line() -> str | None:
    """Returns the command that this process runs, quoted so that a shell reads the same words; None: it is another."""
    program, *words = sys.argv
    path = Path(program)
    if path.name == "__main__.py" and path.parent.name == "peftu":
        return shlex.join(["python", "-m", "peftu", *words])
    return shlex.join(["peftu", *words]) if path.stem == "peftu" else None


def is_kept(folder: Path) -> bool:
    """Returns whether a folder holds a finished run, or the modules of one that did not finish."""
    return (folder / RECORD).exists() or (folder / "modules" / "index.sqlite").exists()


def refuse_kept(folder: Path) -> None:
    """Checks that nothing that a run made would be deleted without being asked.

    Raises:
        PeftuError: the folder holds a run.
    """
    if is_kept(folder):
        held = "a finished run" if (folder / RECORD).exists() else "modules of a run that did not finish"
        raise PeftuError(f"{folder}: holds {held} — pass --replace to put this one in its place, or another --out")


def free_folder(folder: Path) -> Path:
    """Returns the folder or, where it holds a run, the first of folder-2, folder-3, … that holds none."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not is_kept(path))
