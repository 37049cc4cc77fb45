"""Proof that a cached folder of weights is whole: a file written last, before the folder gets its name."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from peftu.files import sha256_of

MARKER = "peftu-weights.json"


class FileMark(BaseModel):
    """Size and digest of one file."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int


class Marker(BaseModel):
    """What a folder was made from, by what, and what is in it."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    sources: dict[str, str]
    made_with: dict[str, str]
    files: dict[str, FileMark]


def write_marker(folder: Path, recipe: str, sources: dict[str, str], made_with: dict[str, str]) -> Marker:
    """Returns the marker after writing it into a folder whose files are complete.

    Args:
        folder: holds the files, and nothing else.
        recipe: digest of what the files are made from and how.
        sources: name of each source -> its sha256.
        made_with: package -> version.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): FileMark(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in paths
    }
    marker = Marker(recipe=recipe, sources=sources, made_with=made_with, files=files)
    (folder / MARKER).write_text(marker.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return marker


def read_marker(folder: Path) -> Marker | None:
    """Returns the marker of a folder, or None where there is none that can be read."""
    try:
        return Marker.model_validate_json((folder / MARKER).read_bytes())
    except (OSError, ValidationError):
        return None


def is_whole(folder: Path, recipe: str) -> bool:
    """Returns whether a folder was made by this recipe and each file still has its size (no hashing: it is quick)."""
    marker = read_marker(folder)
    if marker is None or marker.recipe != recipe:
        return False
    paths = ((folder / name, mark.bytes) for name, mark in marker.files.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)
