"""A second device that is none: its tensors lie on the processor, say that they do not, and mix with no others.

torch's `meta` device lends its name, so that whatever asks for a device is met here. What a GPU refuses is refused:
operations over tensors of two devices (but for numbers without axes, and index tensors, which torch moves by itself),
and reading a tensor as numpy's without copying it first.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

AWAY = torch.device("meta")
ATEN = torch.ops.aten
MOVES = (ATEN._to_copy.default, ATEN.copy_.default, ATEN._local_scalar_dense.default)
INDEXING = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)


class Away(Tensor):
    """A tensor of the second device, which lies in ``inner``."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type["Away"], inner: Tensor) -> "Away":
        made: Away = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=AWAY,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy — copy it to the processor first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Returns what an operation gives, computed on the processor, on the device that a GPU would give it on."""
    tensors: list[Tensor] = []

    def lies(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.inner if isinstance(tensor, Away) else tensor

    plain_args, plain_kwargs = _mapped(args, lies), {name: _mapped(value, lies) for name, value in kwargs.items()}
    _check_alike(func, tensors)
    if (asked := kwargs.get("device")) is not None:
        away, plain_kwargs["device"] = torch.device(asked) == AWAY, torch.device("cpu")
    else:
        away = any(isinstance(tensor, Away) for tensor in (tensors[:1] if func is ATEN.copy_.default else tensors))
    out = func(*plain_args, **plain_kwargs)
    return return_and_correct_aliasing(func, args, kwargs, _mapped(out, Away)) if away else out


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns a value of an operation's with its tensors changed; faster than torch's own trees of values."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_mapped(part, change) for part in value) if type(value) in (list, tuple) else value


def _check_alike(func: Any, tensors: list[Tensor]) -> None:
    if func in MOVES:
        return
    if func in INDEXING and isinstance(tensors[0], Away):
        tensors = tensors[:1]
    if len({isinstance(tensor, Away) for tensor in tensors if tensor.ndim}) > 1:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found two")


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Called(TorchFunctionMode):
    """What makes tensors out of Python values does so where no dispatch mode sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _indices(args[1]), *args[2:])
        return func(*args, **kwargs)


def _indices(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_indices, key))
    return torch.tensor(key) if isinstance(key, list) else key


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Yields the device, which is there as long as the block."""
    with _Dispatched(), _Called():
        yield AWAY
