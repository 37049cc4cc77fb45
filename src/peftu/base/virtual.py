"""Virtual tokens: states that a module puts in front of a text's tokens, or keys and values in front of a layer's own.

Each row has them or not, by its user's switch; a row without is read as if there were none, whatever its neighbours
have. While an answer is generated with a cache, virtual states are run once, with the first tokens, and virtual keys
and values are given to every call.

Shape letters: g groups, b rows, n virtual tokens, t tokens, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from peftu.base.packed import sent
from peftu.base.sites import Binding


@dataclass(frozen=True)
class Switched:
    """Which rows of a batch have their n virtual tokens.

    Attributes:
        count: n.
        counts: [b] how many each row has, n or 0; on the processor.
        per_row: the same where the rows are run.
    """

    count: int
    counts: Tensor
    per_row: Tensor

    @cached_property
    def every(self) -> bool:
        """Returns whether all rows have them."""
        return bool(self.counts.all())


@dataclass(frozen=True)
class VirtualStates(Switched):
    """States [b, n, d] that enter at the region's floor, in front of a row's tokens."""

    states: Tensor

    def in_front(self, h_btd: Tensor) -> Tensor:
        """Returns [b, n + t, d]; a row that has none starts at once, and what stands in its last n places is void."""
        joined = torch.cat([self.states.to(h_btd.dtype), h_btd], 1)
        if self.every:
            return joined
        place = torch.arange(joined.shape[1], device=joined.device) + (self.count - self.per_row)[:, None]
        return joined.gather(1, place.clamp(max=joined.shape[1] - 1)[..., None].expand_as(joined))

    def in_front_of(self, h_btd: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns [b, m, d] as `in_front`, and the rows' lengths with virtual tokens [b], of which m is the largest.

        The longest row may be one that has none: then the last columns are void in every row. The processor has the
        lengths.
        """
        lengths = lengths + self.counts
        return self.in_front(h_btd)[:, : int(lengths.max())], lengths

    def last(self, h_btd: Tensor) -> Tensor:
        """Returns [b, d] each row's last state that is not void, of rows that were equally long before `in_front`."""
        ends = h_btd.shape[1] - 1 - (self.count - self.per_row)
        return h_btd[torch.arange(len(h_btd), device=h_btd.device), ends]


@dataclass(frozen=True)
class Prefix(Switched):
    """Keys and values [b, n, heads × head width] that stand in front of one layer's own."""

    keys: Tensor
    values: Tensor

    def in_heads(self, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns keys and values [b, heads, n, head width]."""
        shape = (*self.keys.shape[:2], heads, -1)
        keys, values = (x.to(dtype).reshape(shape).transpose(1, 2) for x in (self.keys, self.values))
        return keys, values

    def join(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a layer's own keys and values [b, heads, t, head width] with the virtual ones in front."""
        keys, values = self.in_heads(key.shape[1], key.dtype)
        return torch.cat([keys, key], 2), torch.cat([values, value], 2)

    def seen(self, mask: Tensor | None, key: Tensor) -> Tensor | None:
        """Returns the mask of a layer with its own keys [b, heads, t, head width], the virtual ones among them.

        Args:
            mask: boolean [b or 1, 1, queries or 1, earlier + t], or None: all may be looked at.
            key: the layer's own keys.
        """
        if mask is None and not self.every:
            mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=key.device)
        return None if mask is None else self.masked(mask, mask.shape[-1] - key.shape[2])

    def masked(self, mask: Tensor, earlier: int = 0) -> Tensor:
        """Returns [b, 1, queries or 1, earlier + n + t] the mask [b or 1, 1, queries or 1, earlier + t] with n more."""
        shape = (len(self.per_row), 1, mask.shape[2])
        seen = (self.per_row > 0)[:, None, None, None].expand(*shape, self.count)
        mask = mask.expand(*shape, -1)
        return torch.cat([mask[..., :earlier], seen, mask[..., earlier:]], -1)


@dataclass(frozen=True)
class Prefixes(Switched):
    """The prefixes of the region's layers, by layer number."""

    layers: Mapping[int, Prefix]

    def get(self, layer: int) -> Prefix | None:
        """Returns a layer's prefix, if it has one."""
        return self.layers.get(layer)


def virtual_states(binding: Binding | None, rows: int) -> VirtualStates | None:
    """Returns the virtual states of a batch of rows; None where no row has any, and nothing is to be done."""
    switched = _switched(binding, rows, "tokens")
    if binding is None or switched is None:
        return None
    (site,) = (site for site in binding.sites.values() if site.kind == "tokens")
    return VirtualStates(switched.count, switched.counts, switched.per_row, _by_row(binding.virtual(site), rows))


def virtual_prefixes(binding: Binding | None, rows: int) -> Prefixes | None:
    """Returns the virtual keys and values of a batch of rows; None where no row has any, and nothing is to be done."""
    switched = _switched(binding, rows, "kv")
    if binding is None or switched is None:
        return None
    which, layers = (switched.count, switched.counts, switched.per_row), {}
    for site in binding.sites.values():
        if site.kind == "kv":
            keys, values = (_by_row(x, rows) for x in binding.virtual(site).unbind(1))
            layers[site.layer] = Prefix(*which, keys, values)
    return Prefixes(*which, layers)


def _switched(binding: Binding | None, rows: int, kind: str) -> Switched | None:
    site = next((s for s in binding.sites.values() if s.kind == kind), None) if binding is not None else None
    if binding is None or site is None or binding.on is None or not bool(binding.on.any()):
        return None
    virtual = binding.virtual(site)
    counts = _by_row(binding.on, rows) * virtual.shape[-2]
    return Switched(virtual.shape[-2], counts, sent(counts, virtual.device))


def _by_row(x: Tensor, rows: int) -> Tensor:
    """Returns [b, ...] each group's [g, ...] repeated for its rows."""
    return x[:, None].expand(-1, rows // len(x), *x.shape[1:]).reshape(rows, *x.shape[1:])
