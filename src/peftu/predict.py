"""Batched scoring of users × texts with modules from a bank."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.data.problem import Floats

READ_BYTES = 256 << 20  # activations of one read


@torch.no_grad()
def score(
    base: FrozenBase,
    context: Context,
    texts: npt.NDArray[np.integer],
    layout: Layout | None = None,
    rows: Tensor | None = None,
    units: npt.NDArray[np.integer] | None = None,
    progress: Callable[[int], None] = lambda _: None,
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
    """
    units = np.zeros_like(texts) if units is None else units
    pairs, back = np.unique(np.stack([units, texts], 1), axis=0, return_inverse=True)
    modules, start, size = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    out = np.empty((len(pairs), context.prompt.columns), dtype=np.float32)
    for members, slab in _plan(size, read_rows(base, context, layout)):
        step = np.arange(slab.start, min(slab.stop, int(size[members].max())))
        real = step[None] < size[members, None]
        picked = start[members, None] + np.minimum(step[None], size[members, None] - 1)
        binding = None
        if layout is not None and rows is not None:
            module_rows = rows[torch.from_numpy(modules[members])].to(base.device)
            binding = layout.bind(layout.views(module_rows), len(members))
        text = torch.from_numpy(pairs[picked.ravel(), 1]).to(base.device)
        scores = base.readout(context, text, binding).cpu().numpy().reshape(*picked.shape, -1)
        out[picked[real]] = scores[real]
        progress(int(real.sum()))
    return out[back.ravel()]


def read_rows(base: FrozenBase, context: Context, layout: Layout | None) -> int:
    """Returns how many rows one read takes within `READ_BYTES`."""
    tokens = context.span_tokens + (layout.added_tokens if layout is not None else 0)
    numbers = max(1, tokens) * base.family.width * 16 + base.earlier_numbers(context)  # of one layer at a time
    return int(max(8, min(4096, READ_BYTES // (numbers * base.dtype.itemsize))))


def _plan(size: npt.NDArray[np.int64], most: int) -> list[tuple[npt.NDArray[np.int64], slice]]:
    """Returns reads: which modules, and which slab of their texts; modules with like many texts go together."""
    plan = []
    order = np.argsort(size, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * min(int(size[order[last]]), most) <= most:
            last += 1
        members = order[first:last]
        longest = int(size[members].max())
        width = max(1, most // len(members))
        plan += [(members, slice(low, low + width)) for low in range(0, longest, width)]
        first = last
    return plan
