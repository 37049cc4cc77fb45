"""Contexts of one prompt put end to end: texts that were read at different times are answered in one batch."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from peftu.base.families.family import Context
from peftu.base.packed import Packed


def joined(first: Context, second: Context, shared: Collection[Any]) -> Context | None:
    """Returns a context of the first one's texts, then the second's; None: their prompts were cut in other places.

    Args:
        first: a context of texts, not of free answers.
        second: one with the same base, prompt and region.
        shared: entries of their states that are no text's own.
    """
    lengths = [
        {key: made.state[key] for key in shared if isinstance(made.state.get(key), int)} for made in (first, second)
    ]
    if lengths[0] != lengths[1]:
        return None
    state = {
        key: value if key in shared else _end_to_end(value, second.state[key], second.count)
        for key, value in first.state.items()
    }
    return replace(
        first,
        state=state,
        count=first.count + second.count,
        cut=first.cut + second.cut,
        beside_cut=first.beside_cut + second.beside_cut,
        tokens=first.tokens + second.tokens,
        span_tokens=max(first.span_tokens, second.span_tokens),
        longest=max(first.longest, second.longest),
    )


def size_of(context: Context) -> int:
    """Returns the bytes of a context's tensors."""
    return sum(tensor.nbytes for tensor in _tensors(context.state))


def _end_to_end(first: Any, second: Any, count: int) -> Any:
    """Returns two values of a state end to end; the second is of so many texts."""
    if isinstance(first, Packed):
        head = int(second.offsets[len(second.offsets) - 1 - count])  # what stands before all texts is there once
        offsets = second.offsets[-count:] - head + first.offsets[-1]
        return Packed(torch.cat([first.values, second.values[head:]]), torch.cat([first.offsets, offsets]))
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    if isinstance(first, dict):
        return {key: _end_to_end(value, second[key], count) for key, value in first.items()}
    return type(first)(_end_to_end(*parts, count) for parts in zip(first, second, strict=True))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Packed):
        yield value.values
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
