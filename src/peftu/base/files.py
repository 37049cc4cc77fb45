"""The files of a base's folder, read as data: a file that is not whole, or not a file, is one line."""

import json
import re
from pathlib import Path
from typing import Any

from peftu.errors import PeftuError
from peftu.outside import is_endless, parse_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block)\.\d+\.")  # in the path of what belongs to a model's layers


def check_plain(folder: Path) -> None:
    """Checks that a folder holds files and folders only: reading a pipe or a device might never end.

    Raises:
        PeftuError: it holds something else, or cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise PeftuError(f"base {folder}: cannot be read ({error.strerror}) — pass another, or allow it") from None
    for path in filter(is_endless, paths):
        raise PeftuError(f"base {folder}: {path.name} is not a plain file — take it out")


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
        PeftuError: it cannot be read, is not JSON in UTF-8, or is nested beyond reason.
    """
    if path.exists() and not path.is_file():
        raise PeftuError(f"base: {path} is not a plain file — get the folder again")
    try:
        return parse_json(path.read_text(encoding="utf-8"), halves=True)
    except OSError as error:
        raise PeftuError(f"base: {path} cannot be read ({error.strerror}) — get the folder again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
    except ValueError:
        why = "it is nested too deep, or a number in it is too long"
    raise PeftuError(f"base: {path} is not whole JSON ({why}) — get the folder again")


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        PeftuError: it cannot be read, or holds something else.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise PeftuError(f"base: {path} holds no JSON object — get the folder again")
    return values


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files that transformers reads a model from; none where there are none.

    Raises:
        PeftuError: the index names a file that is missing or outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise PeftuError(f"base: {folder / INDEX} has no weight_map — get the folder again")
    names = sorted(set(map(str, places.values())))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise PeftuError(f"base {folder}: {INDEX} names '{name}', which is not in the folder — get it again")
    return [folder / name for name in names]
