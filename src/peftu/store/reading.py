"""Modules read by their places: from many shards at once, straight to where they are to be, each checked."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
from torch import Tensor

from peftu.errors import PeftuError
from peftu.store.int8 import Floats
from peftu.store.shards import Shards, stretches

READERS = 4  # threads: the disk is asked for several modules at a time, and checksums take more than one core


class Place(NamedTuple):
    """Where a module is, and what it is."""

    shard: str
    row: int
    checksum: str


class _Stretch(NamedTuple):
    """Neighbouring rows of a shard."""

    shard: str
    first: int
    targets: list[list[int]]  # of each row, the places that want it


def fill(shards: Shards, rows: Tensor, places: Sequence[Place], label: str) -> None:
    """Fills [places, width] with the numbers at each place; no more than these are in memory.

    Raises:
        GoneError: a shard is not where the place says.
        PeftuError: a module was altered, or is of numbers that are not finite.
    """
    array = rows.numpy()

    def several(stretches: Sequence[_Stretch]) -> None:
        for shard, of_shard in groupby(stretches, key=lambda stretch: stretch.shard):
            with shards.opened(shard) as matrix:
                for _, first, targets in of_shard:
                    shards.fill(matrix, first, [array[target] for target, *_ in targets])
                    for row, (target, *same) in enumerate(targets, first):
                        _check(array[target], places[target].checksum, f"{shards.where(shard)}: row {row}", label)
                        array[same] = array[target]

    stretches = _stretches(places, array.itemsize * array.shape[1])
    part = -(-len(stretches) // READERS)
    if part < 2:
        several(stretches)
        return
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(several, (stretches[first : first + part] for first in range(0, len(stretches), part))):
            pass  # raises what one of them raised


def _check(module: Floats, mark: str, where: str, label: str) -> None:
    """Checks the numbers of a module.

    Raises:
        PeftuError: they are not those of its checksum, or not finite.
    """
    if hashlib.sha256(module.data).hexdigest() != mark:
        raise PeftuError(f"{where} does not match its checksum — restore or retrain")
    if not np.isfinite(module).all():
        raise PeftuError(
            f"{where} of {label} has numbers that are not finite — delete that user's modules and train again"
        )


def _stretches(places: Sequence[Place], size: int) -> list[_Stretch]:
    """Returns the rows of all places, each once, of this size each; those of a shard stand together."""
    wanted: dict[str, dict[int, list[int]]] = {}
    for target, (shard, row, _) in enumerate(places):
        wanted.setdefault(shard, {}).setdefault(row, []).append(target)
    return [
        _Stretch(shard, first, [targets[row] for row in range(first, last)])
        for shard, targets in wanted.items()
        for first, last in stretches(sorted(targets), size)
    ]
