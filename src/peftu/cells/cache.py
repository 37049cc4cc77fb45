"""Where cells lie: a folder each, named by what decides it, put in place whole by one rename.

``cell.json`` lists every other file with its sha256. A cell of which a file is missing or was altered counts as not
there. Parts that are being written lie in a folder of the process that commits them; those of dead processes are
removed by whoever comes next.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.sources import cache_dir, writing_to
from peftu.errors import PeftuError
from peftu.files import locked, only_one, sha256_of, write_atomic
from peftu.outside import parse_json

CELL, USERS = "cell.json", "users.parquet"
PARTS = ".parts"
LOCK = "lock"  # held while a cell is taken away
ATTEMPTS = 3  # at a place where a damaged cell was
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # a folder cannot be put where something is
MOST_BYTES = 50 << 30  # that all cells take before the longest unused give way


@dataclass(frozen=True)
class StoredCell:
    """A cell that is there, its files checked."""

    name: str
    folder: Path
    about: dict[str, Any]


class Cells:
    """A folder of cells; any number of processes may fill it.

    Args:
        folder: of the cells; None: in peftu's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_dir() / "cells"

    def find(self, name: str) -> StoredCell | None:
        """Returns a cell, if it is there and as it was committed; one that is not goes, to be filled again."""
        folder = self.folder / name
        if not folder.exists():
            return None
        about = _about(folder)
        if about is None:
            with contextlib.suppress(PeftuError):  # a folder that cannot be written says so when the cell is filled
                self._drop(name, lambda: _about(folder) is None)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)  # when it was last of use
        return StoredCell(name, folder, about)

    def has(self, name: str) -> bool:
        """Returns whether a cell seems to be there; only `find` reads its files."""
        return (self.folder / name / CELL).is_file()

    @contextlib.contextmanager
    def parts(self) -> Iterator[Path]:
        """Yields a folder for cells that are being filled; it goes at the end, as do those of processes that died.

        Raises:
            PeftuError: cells cannot be written here.
        """
        with self._writing():
            self._remove_dead()
            mine, held = _new_part(self._home)
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)
            os.close(held)

    def commit(self, name: str, part: Path, about: dict[str, Any]) -> StoredCell:
        """Returns a cell that is now in its place: a filled folder, and what it says of itself.

        Where another process has put it there meanwhile, that one stays.

        Raises:
            PeftuError: cells cannot be written here.
        """
        with self._writing():
            files = {str(path.relative_to(part)): sha256_of(path) for path in _files(part)}
            about = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **about, "files": files}
            write_atomic(part / CELL, json.dumps(about, ensure_ascii=False, allow_nan=False) + "\n")
            for _ in range(ATTEMPTS):
                if (kept := self.find(name)) is not None:
                    shutil.rmtree(part, ignore_errors=True)
                    return kept
                try:
                    part.rename(self.folder / name)
                except OSError as error:
                    if error.errno not in _TAKEN:
                        raise
                else:
                    return StoredCell(name, self.folder / name, about)
            raise PermissionError(errno.EPERM, "a damaged cell cannot be taken away", name)

    def drop(self, name: str) -> None:
        """Removes a cell, whole: nobody sees a part of it.

        Raises:
            PeftuError: cells cannot be written here.
        """
        self._drop(name, lambda: True)

    def _drop(self, name: str, wanted: Callable[[], bool]) -> None:
        """Removes a cell if that is still wanted once nobody else can: another may have put a good one there."""
        gone = self._home / f"{uuid.uuid4().hex}.gone"
        with self._writing(), only_one(self._home / LOCK):
            if wanted():
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @property
    def _home(self) -> Path:
        return self.folder / PARTS

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self.folder, "--cells"):
            self._home.mkdir(exist_ok=True)
            yield

    def _remove_dead(self) -> None:
        """Removes what processes that are no more were filling: each held a lock for as long as it lived."""
        for left in self._home.iterdir():
            with contextlib.suppress(OSError):
                if left.name != LOCK:
                    held = os.open(left, os.O_RDONLY)
                    try:
                        if locked(held, wait=False):
                            shutil.rmtree(left, ignore_errors=True)
                    finally:
                        os.close(held)

    def names(self) -> list[str]:
        """Returns the names of all cells, the longest unused first."""
        with contextlib.suppress(FileNotFoundError):
            used = []
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    if not path.name.startswith("."):
                        used.append((path.stat().st_mtime, path.name))
            return [name for _, name in sorted(used)]
        return []

    def forget(self, user: str) -> int:
        """Returns how many cells were removed because they were made with a user's rows, or cannot tell.

        Raises:
            PeftuError: cells cannot be written here.
        """
        if not self.folder.is_dir():
            return 0
        with self._writing():
            self._remove_dead()
        gone = 0
        for name in self.names():
            try:
                holds = user in pl.read_parquet(self.folder / name / USERS, glob=False)["user_id"]
            except (OSError, pl.exceptions.PolarsError):
                holds = True
            if holds and (self.folder / name).exists():
                self.drop(name)
                gone += 1
        return gone

    def trim(self, kept: Collection[str], most: int = MOST_BYTES) -> int:
        """Returns how many cells gave way, the longest unused first, so that all take no more bytes than this.

        Args:
            kept: names of cells that stay.
            most: bytes.
        """
        sizes = {name: _size(self.folder / name) for name in self.names()}
        over, gone = sum(sizes.values()) - most, 0
        for name, size in sizes.items():
            if over <= 0:
                break
            if name not in kept:
                self.drop(name)
                over, gone = over - size, gone + 1
        return gone


def _about(folder: Path) -> dict[str, Any] | None:
    """Returns what a cell says of itself, if its files are those that it lists, to the byte."""
    try:
        about = parse_json((folder / CELL).read_bytes(), halves=True)
        files = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
    except (OSError, ValueError):
        return None
    files.pop(CELL, None)
    return about if isinstance(about, dict) and about.get("files") == files else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    """Returns the bytes of a cell; 0: somebody took it away meanwhile."""
    try:
        return sum(path.stat().st_size for path in _files(folder))
    except OSError:
        return 0


def _new_part(home: Path) -> tuple[Path, int]:
    """Returns a new folder and what holds it until that is closed or the process dies."""
    while True:
        part = home / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):  # taken for a dead process's before it was held
            part.mkdir(mode=0o700, parents=True)
            held = os.open(part, os.O_RDONLY)
            locked(held, wait=True)
            if part.exists():
                return part, held
            os.close(held)
