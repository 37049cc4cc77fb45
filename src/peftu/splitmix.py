"""SplitMix64 (Steele, Lea and Flood, 2014) for arrays without a sign and tensors with one."""

from collections.abc import Callable
from typing import Any

GOLDEN = 0x9E3779B97F4A7C15


def finalised(z: Any, word: Callable[[int], Any], shifted: Callable[[Any, int], Any]) -> Any:
    """Returns 64-bit integers scattered over all their bits; products wrap.

    Args:
        z: an array or a tensor.
        word: a constant as such an integer.
        shifted: shifts them to the right by so many bits, zeros coming in.
    """
    z = (z ^ shifted(z, 30)) * word(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * word(0x94D049BB133111EB)
    return z ^ shifted(z, 31)
