"""Where cells lie: a folder each, named by what decides it, put in place whole by one rename.

``cell.json`` lists every other file with its sha256. A cell of which a file is missing or was altered counts as not
there. Parts that are being written lie in a folder of the process that commits them; those of dead processes are
removed by whoever comes next.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from peftu.data.sources import cache_dir, writing_to
from peftu.files import locked, sha256_of, write_atomic
from peftu.outside import parse_json

CELL, USERS = "cell.json", "users.parquet"
PARTS = ".parts"
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
        about = _about(folder)
        if about is None or not _whole(folder, about):
            if folder.exists():
                self.drop(name)
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
        home = self.folder / PARTS
        with writing_to(home):
            for left in home.iterdir():
                _remove_if_dead(left)
            mine = home / uuid.uuid4().hex
            mine.mkdir()
            held = os.open(mine, os.O_RDONLY)
            locked(held, wait=True)
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
        with writing_to(self.folder):
            files = {str(path.relative_to(part)): sha256_of(path) for path in _files(part)}
            about = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **about, "files": files}
            write_atomic(part / CELL, json.dumps(about, ensure_ascii=False, allow_nan=False) + "\n")
            try:
                part.rename(self.folder / name)
            except OSError:
                kept = self.find(name)
                if kept is None:
                    raise
                shutil.rmtree(part, ignore_errors=True)
                return kept
        return StoredCell(name, self.folder / name, about)

    def drop(self, name: str) -> None:
        """Removes a cell, whole: nobody sees a part of it."""
        gone = self.folder / PARTS / f"{uuid.uuid4().hex}.gone"
        with writing_to(self.folder / PARTS):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

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
        """Returns how many cells were removed because they were made with a user's rows."""
        gone = 0
        for name in self.names():
            path = self.folder / name / USERS
            with contextlib.suppress(OSError, pl.exceptions.PolarsError):
                if (pl.read_parquet(path, glob=False)["user_id"] == user).any():
                    self.drop(name)
                    gone += 1
        return gone

    def trim(self, kept: Collection[str], most: int = MOST_BYTES) -> int:
        """Returns how many cells gave way, the longest unused first, so that all take no more bytes than this.

        Args:
            kept: names of cells that stay.
            most: bytes.
        """
        sizes = {name: sum(path.stat().st_size for path in _files(self.folder / name)) for name in self.names()}
        over, gone = sum(sizes.values()) - most, 0
        for name, size in sizes.items():
            if over <= 0:
                break
            if name not in kept:
                self.drop(name)
                over, gone = over - size, gone + 1
        return gone


def _about(folder: Path) -> dict[str, Any] | None:
    try:
        about = parse_json((folder / CELL).read_bytes(), halves=True)
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and isinstance(about.get("files"), dict) else None


def _whole(folder: Path, about: dict[str, Any]) -> bool:
    """Returns whether a cell's files are those that it lists, to the byte."""
    try:
        present = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
    except OSError:
        return False
    present.pop(CELL, None)
    return bool(present == about["files"])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove_if_dead(part: Path) -> None:
    """Removes a folder of parts whose process is no more: it held a lock for as long as it lived."""
    try:
        held = os.open(part, os.O_RDONLY)
    except OSError:
        return
    try:
        if locked(held, wait=False):
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(held)
