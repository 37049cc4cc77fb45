"""Reading a pickled data frame without pandas and without running anything that stands in the pickle."""

import lzma
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peftu.errors import PeftuError

Array = npt.NDArray[Any]


def read_pickled_frame(path: Path) -> dict[str, Array]:
    """Returns the columns of an xz-compressed pickle of a pandas DataFrame, by name.

    Only the eleven names that such a pickle needs can be resolved; the pandas ones resolve to inert stand-ins.

    Raises:
        PeftuError: the file is truncated, or is a pickle of something else.
    """
    try:
        with lzma.open(path) as stream:
            frame = _FrameUnpickler(stream).load()
        blocks, (columns, _) = frame.state["_mgr"].arguments
        names = columns.arguments[1]["data"]
        by_name: dict[str, Array] = {}
        for values, places, _ in (block.arguments for block in blocks):
            numbers = range(*places.indices(len(names))) if isinstance(places, slice) else places
            by_name |= {str(names[number]): values[row] for row, number in enumerate(numbers)}
        return by_name
    except (lzma.LZMAError, EOFError, pickle.UnpicklingError, AttributeError, LookupError, TypeError, ValueError):
        raise PeftuError(f"{path}: is truncated or no pickled data frame of the known layout — get it again") from None


class _StandIn:
    """Keeps what a pickle would have passed to a pandas object."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _from_buffer(buffer: bytes, dtype: Any, shape: tuple[int, ...], order: Any) -> Array:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _empty_array(kind: type[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    return np.ndarray.__new__(kind, shape, dtype)


_KNOWN: dict[tuple[str, str], Any] = {
    ("pandas.core.frame", "DataFrame"): _StandIn,
    ("pandas.core.internals.managers", "BlockManager"): _StandIn,
    ("pandas._libs.internals", "_unpickle_block"): _StandIn,
    ("pandas.core.indexes.base", "_new_Index"): _StandIn,
    ("pandas.core.indexes.base", "Index"): _StandIn,
    ("pandas.core.indexes.range", "RangeIndex"): _StandIn,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "slice"): slice,
}


class _FrameUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return _KNOWN[module, name]
