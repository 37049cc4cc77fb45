"""Numbers in a byte each: blocks of neighbours share a scale, and what is read back is packed to the same bytes again.

A module in int8 is another module, of numbers nearby: it has a checksum of its own. Blocks are of rows and not of
tensors, for a store knows no layout; they are smaller than almost any tensor, so that a large one does not coarsen
another.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK = 64  # numbers that share a scale
_LARGEST = 127
_SPARE = np.uint32(0xFF)  # low bits of a scale that are zero, so that 127 times a scale is exact in float32
_MOST = (np.finfo(np.float32).max / np.float32(_LARGEST)).view(np.uint32) & ~_SPARE  # of a scale, as bits

Floats = npt.NDArray[np.float32]


def packed_size(width: int) -> int:
    """Returns the bytes of so many numbers: 4 for each block's scale, and one for each number."""
    return 4 * -(-width // BLOCK) + width


def pack(row: Floats) -> bytes:
    """Returns [width] finite numbers packed: scales, then whole numbers from -127 to 127."""
    blocks = np.zeros((-(-len(row) // BLOCK), BLOCK), dtype=np.float32)
    blocks.reshape(-1)[: len(row)] = row
    scales = np.abs(blocks).max(1) / np.float32(_LARGEST)
    scales = np.minimum((scales.view(np.uint32) + _SPARE) & ~_SPARE, _MOST).view(np.float32)
    whole = np.rint(np.divide(blocks, scales[:, None], out=np.zeros_like(blocks), where=scales[:, None] > 0))
    whole = np.clip(whole, -_LARGEST, _LARGEST)
    numbers = whole.astype(np.int8).reshape(-1)[: len(row)]
    return bytes(scales.tobytes()) + bytes(numbers.tobytes())


def unpack(cell: bytes | memoryview, into: Floats) -> None:
    """Fills [width] numbers with what was packed."""
    count = -(-len(into) // BLOCK)
    scales = np.frombuffer(cell, dtype=np.float32, count=count)
    whole = np.frombuffer(cell, dtype=np.int8, offset=4 * count)
    into[:] = whole * np.repeat(scales, BLOCK)[: len(into)]


def rounded(rows: Tensor) -> Tensor:
    """Returns [rows, width] float32 numbers as they are when they have been packed."""
    kept = torch.empty(rows.shape)
    for row, into in zip(rows.float().numpy(), kept.numpy(), strict=True):
        unpack(pack(row), into)
    return kept
