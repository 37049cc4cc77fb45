"""SplitMix64 (Steele, Lea and Flood, 2014) on 64-bit integers with a sign, for arrays and tensors alike."""

from collections.abc import Callable
from typing import Any, TypeVar

Numbers = TypeVar("Numbers")

GOLDEN, _FIRST, _SECOND = (
    number - (1 << 64) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def finalised(numbers: Numbers, shifted: Callable[[Any, int], Any]) -> Numbers:
    """Returns int64 numbers scattered over 64 bits; their products wrap.

    Args:
        numbers: an array or a tensor.
        shifted: shifts such numbers to the right by so many bits, zeros coming in.
    """
    z: Any = numbers
    z = (z ^ shifted(z, 30)) * _FIRST
    z = (z ^ shifted(z, 27)) * _SECOND
    mixed: Numbers = z ^ shifted(z, 31)
    return mixed
