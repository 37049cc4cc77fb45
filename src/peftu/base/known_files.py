"""Fingerprints of weights that lie in a folder, kept so that they are not hashed at every start.

Weights count as the same while each file's size, times and inode are. All else that a fingerprint is of (config,
tokenizer, pooling) is compared by content.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftu.base.identity import fingerprint, tensors_in_files
from peftu.data.sources import cache_dir
from peftu.files import write_atomic
from peftu.outside import parse_json

SETTLED_NS = 2_000_000_000  # a younger file may change once more within one tick of its file system's clock


def fingerprint_of_files(files: Sequence[Path], settings: str) -> str:
    """Returns a base's fingerprint, from the cache where its files are as they were.

    Args:
        files: safetensors files of one folder, at least one.
        settings: all that is not weights, see `peftu.base.identity.settings_of`.

    Raises:
        SafetensorError: a file is not whole.
    """
    folder = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()
    place = cache_dir() / "fingerprints" / f"{folder}.json"
    state = _state(files, settings)
    kept = _kept(place)
    if kept.get("state") == state and isinstance(kept.get("fingerprint"), str):
        return str(kept["fingerprint"])
    made = fingerprint(tensors_in_files(files), settings)
    if _settled(files) and _state(files, settings) == state:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, json.dumps({"state": state, "fingerprint": made}))
    return made


def _state(files: Sequence[Path], settings: str) -> list[Any]:
    stats = [(path.name, path.stat()) for path in files]
    times = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for name, stat in stats]
    return [hashlib.sha256(settings.encode()).hexdigest(), times]


def _settled(files: Sequence[Path]) -> bool:
    stats = [path.stat() for path in files]
    return max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats) < time.time_ns() - SETTLED_NS


def _kept(place: Path) -> dict[str, Any]:
    try:
        read = parse_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
