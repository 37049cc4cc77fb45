"""Batched scoring of users × texts with modules from a bank."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.packed import sent
from peftu.data.problem import Floats
from peftu.errors import PeftuError
from peftu.memory import tried

READ_BYTES = 256 << 20  # activations of one read, and its modules
Read = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # which modules, and which of each one's texts


@torch.no_grad()
def score(
    base: FrozenBase,
    context: Context,
    texts: npt.NDArray[np.integer],
    layout: Layout | None = None,
    rows: Tensor | None = None,
    units: npt.NDArray[np.integer] | None = None,
    progress: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Floats:
    """Returns [pairs, columns] float32 readings of the context's rows, each read with its unit's module.

    A pair that occurs twice is read once. Without ``layout`` the base itself answers.

    Args:
        base: the frozen base.
        context: its prefill of the texts.
        texts: [pairs] row numbers of the context.
        layout: of the modules.
        rows: [modules, width] module rows.
        units: [pairs] which module reads the pair.
        progress: told the number of distinct pairs done.
        say: told of memory that ran out; from there on half as much is read at a time.

    Raises:
        PeftuError: there is not enough memory for one pair.
    """
    units = np.zeros_like(texts) if units is None else units
    pairs, back = np.unique(np.stack([units, texts], 1), axis=0, return_inverse=True)
    modules, start, size = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    out = np.empty((len(pairs), context.prompt.columns), dtype=np.float32)
    on = None if layout is None or rows is None else layout.on(rows)

    def read(members: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> int:
        real = step[None] < size[members, None]
        picked = start[members, None] + np.minimum(step[None], size[members, None] - 1)
        binding = None
        if layout is not None and rows is not None:
            numbers = torch.from_numpy(modules[members])
            module_rows = sent(rows.index_select(0, sent(numbers, rows.device)), base.device)
            binding = layout.bind(layout.views(module_rows), len(members), None if on is None else on[numbers])
        text = torch.from_numpy(pairs[picked.ravel(), 1])
        scores = base.readout(context, text, binding).cpu().numpy().reshape(*picked.shape, -1)
        out[picked[real]] = scores[real]
        return int(real.sum())

    reads = _plan(size, read_rows(base, context, layout), module_rows(layout))[::-1]
    while reads:
        members, step = reads[-1]
        done = tried(partial(read, members, step))
        if done is not None:
            progress(done)
            reads.pop()
        elif len(members) * len(step) == 1:
            raise PeftuError("reading: out of memory with one text at a time — lower max_tokens or the region's depth")
        else:
            say(f"reading: out of memory with {len(members) * len(step)} texts at once — going on with half as many")
            reads = [half for whole in reads for half in _halves(*whole)]
    return out[back.ravel()]


def read_rows(base: FrozenBase, context: Context, layout: Layout | None) -> int:
    """Returns how many rows one read takes within `READ_BYTES`."""
    tokens = context.span_tokens + (layout.added_tokens if layout is not None else 0)
    numbers = max(1, tokens) * base.family.width * 16 + base.earlier_numbers(context)  # of one layer at a time
    return int(max(8, min(4096, READ_BYTES // (numbers * base.dtype.itemsize))))


def module_rows(layout: Layout | None) -> int:
    """Returns how many modules one read takes within `READ_BYTES`."""
    return max(1, READ_BYTES // (4 * (layout.width if layout is not None else 1)))


def _plan(size: npt.NDArray[np.int64], most: int, most_modules: int) -> list[Read]:
    """Returns reads within ``most`` pairs and modules; modules with like many texts go together."""
    plan = []
    order = np.argsort(size, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        end = min(len(order), first + most_modules)
        while last < end and (last + 1 - first) * min(int(size[order[last]]), most) <= most:
            last += 1
        members = order[first:last]
        longest = int(size[members].max())
        width = max(1, most // len(members))
        plan += [(members, np.arange(low, min(low + width, longest))) for low in range(0, longest, width)]
        first = last
    return plan


def _halves(members: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> list[Read]:
    """Returns a read as two: of half the modules each or, where it is of one, of half its texts."""
    if len(members) > 1:
        return [(half, step) for half in np.array_split(members, 2)]
    return [(members, half) for half in np.array_split(step, 2) if len(half)]
