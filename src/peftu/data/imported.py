"""Imported tasks: a card and a table in the cache, found by name like any other task.

``cache_dir()/imported/NAME`` holds ``card.json`` and the table that the card names with its sha256. The card is
replaced last and at once, so a reader sees the old import or the new one, whole.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from peftu.data.sources import cache_dir, inside, writing_to
from peftu.data.table import UserTable
from peftu.data.task import Row, SourceFile, Task, TaskCard, tasks
from peftu.errors import PeftuError
from peftu.files import only_one, sha256_of, write_atomic
from peftu.registry import did_you_mean

CARD = "card.json"
LONGEST_NAME = 64
NAME = r"[a-z0-9][a-z0-9-]*"


class ImportedTask:
    """A task that ``peftu data import`` wrote; each has a subclass with its card and folder."""

    card: ClassVar[TaskCard]
    folder: ClassVar[Path]

    @classmethod
    def table(cls, folder: Path) -> UserTable:
        """Returns the whole table, checked against its hash; the latest where another process replaces it meanwhile."""
        card = cls.card
        while True:
            try:
                return replace(UserTable.read(inside(folder, card.files[0].name)), card=card)
            except PeftuError:
                latest = imports.find(card.name)
                if latest is None or latest.card.files == card.files:
                    raise
                card = latest.card

    def rows(self, raw: Path) -> Iterator[Row]:
        """Yields every judgement, in the table's order."""
        for row in self.table(raw).frame.iter_rows(named=True):
            yield Row(**{**row, "target": tuple(row["target"])})


class Imports:
    """Finds imported tasks in the cache; a `peftu.registry.Finder`."""

    def names(self) -> list[str]:
        """Returns the names of the imported tasks whose card is whole."""
        return sorted(path.parent.name for path in _home().glob(f"*/{CARD}") if _readable(path))

    def find(self, name: str) -> type[Task] | None:
        """Returns the imported task of that name, or None.

        Raises:
            PeftuError: its card is damaged.
        """
        if not re.fullmatch(NAME, name):
            return None
        folder = _home() / name
        try:
            text = (folder / CARD).read_text(encoding="utf-8")
            card = TaskCard.model_validate_json(text)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, OSError, UnicodeDecodeError):
            raise PeftuError(f"{folder / CARD}: is damaged — import '{name}' again with --replace") from None
        return type("Imported", (ImportedTask,), {"card": card, "folder": folder})


imports = Imports()


def check_name(name: str) -> str:
    """Returns the name if an import may have it.

    Raises:
        PeftuError: it has other characters, is too long, or is that of a task that comes with peftu.
    """
    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
        raise PeftuError(f"--name '{name}': use small letters, digits and '-' only, {LONGEST_NAME} characters at most")
    if tasks.is_own(name):
        raise PeftuError(f"--name '{name}': a task of that name comes with peftu — choose another name")
    return name


def keep(table: UserTable, *, replacing: bool = False) -> Path:
    """Returns the folder of an imported task, after writing its table and its card there.

    Args:
        table: with the card of the new task.
        replacing: take the place of another import of that name.

    Raises:
        PeftuError: other data was imported under that name, or the folder cannot be written.
    """
    name = check_name(table.card.name)
    with _alone(name):
        return _kept(table, name, replacing)


def _kept(table: UserTable, name: str, replacing: bool) -> Path:
    folder = _home() / name
    if not replacing and (folder / CARD).exists():
        earlier = imports.find(name)
        if earlier is not None and earlier.card.files[0].name != _file_name(table):
            raise PeftuError(f"--name '{name}': other data was imported under it — choose another, or pass --replace")
    path = table.write(folder / _file_name(table))
    file = SourceFile(name=path.name, sha256=sha256_of(path), bytes=path.stat().st_size)
    card = table.card.model_copy(update={"files": (file,)})
    with writing_to(folder):
        write_atomic(folder / CARD, card.model_dump_json(indent=2) + "\n")
        for old in folder.glob("*.parquet"):
            if old.name != path.name:
                old.unlink(missing_ok=True)
    return folder


def remove(name: str) -> Path:
    """Returns the folder that an imported task lay in, after deleting it.

    Raises:
        PeftuError: no import has that name, it comes with peftu, or the folder cannot be written.
    """
    if tasks.is_own(name):
        raise PeftuError(f"task '{name}' comes with peftu and is no import — only imports can be deleted")
    folder = _home() / name
    if not re.fullmatch(NAME, name) or not (folder / CARD).is_file():
        raise PeftuError(f"no imported task '{name}'{did_you_mean(name, imports.names())}")
    with writing_to(folder), _alone(name):
        (folder / CARD).unlink(missing_ok=True)  # first: from now on nobody finds the task
        for path in (*folder.glob("*.parquet"), *folder.glob("*.part")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there
            folder.rmdir()
    return folder


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Lets one process at a time write or delete the import of that name."""
    with writing_to(_home()), only_one(_home() / f".{name}.lock"):
        yield


def _home() -> Path:
    return cache_dir() / "imported"


def _file_name(table: UserTable) -> str:
    return f"table-{table.hash.removeprefix('sha256:')[:16]}.parquet"


def _readable(path: Path) -> bool:
    try:
        TaskCard.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError):
        return False
    return True
