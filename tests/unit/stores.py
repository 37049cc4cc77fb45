"""A store of two users, for tests."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftu.store import AdapterStore, Collection, recipe

WIDTH = 5
MADE: dict[str, Any] = {"method": "lora", "knobs": {}, "region": {}, "prompt": {}, "labels": []}
KIND = Collection("lora@base", 0, "base", "sha256:0", WIDTH, recipe(**MADE))
OTHER = Collection("lora@base", 1, "base", "sha256:0", WIDTH, recipe(**MADE))
ANNA, BEN = "anna <anna@example.org>", "../../ben"


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def save_two(folder: Path) -> Path:
    """Returns the folder of a new store with two users in one shard."""
    with AdapterStore(folder / "modules", create=True) as store:
        store.add(KIND, [ANNA, BEN], rows(2), [7, 8])
    return folder / "modules"


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
