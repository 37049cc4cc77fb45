"""Modules of many users stacked along one axis: the same bank trains and serves.

A user's whole module is one row of a matrix; each tensor of each site is a view of some columns. So the optimiser,
clipping, snapshots, storage and moving users between machines are all operations on rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import cast

import torch
from torch import Tensor

from peftu.base.sites import Site
from peftu.data.stratify import hashed
from peftu.errors import PeftuError
from peftu.methods.method import EnteringMethod, ModuleMethod, TaughtMethod, VirtualMethod


@dataclass(frozen=True)
class Column:
    """The columns of one tensor of one site."""

    site: Site
    name: str
    start: int
    shape: tuple[int, ...]
    bound: float
    switch: bool
    primed: bool
    dropout: float

    @property
    def stop(self) -> int:
        """Returns the column after the last."""
        return self.start + prod(self.shape)


class Layout:
    """Which columns of a module's row belong to which tensor.

    Args:
        method: the module method.
        sites: places in the base where it may act, in a fixed order.

    Raises:
        PeftuError: the method acts at none of them.
    """

    def __init__(self, method: ModuleMethod, sites: Sequence[Site]) -> None:
        self.method = method
        self.columns: list[Column] = []
        width = 0
        for site in sites:
            for name, spec in method.tensors(site).items():
                how = (spec.bound, spec.switch, spec.primed, spec.dropout)
                self.columns.append(Column(site, name, width, spec.shape, *how))
                width = self.columns[-1].stop
        if not self.columns:
            roles = ", ".join(sorted({site.role for site in sites}))
            raise PeftuError(f"method {method.card.name}: no target lies in the region — this base has {roles}")
        self.width = width
        self.switches = [column.start for column in self.columns if column.switch]
        self.sites = {column.site.name: column.site for column in self.columns}

    @property
    def parameters(self) -> int:
        """Returns how many learned numbers a module has."""
        return self.width - len(self.switches)

    @property
    def added_tokens(self) -> int:
        """Returns how many virtual tokens a module runs through the base with every text."""
        return cast(VirtualMethod, self.method).tokens if "tokens" in self.sites else 0

    @property
    def primed(self) -> bool:
        """Returns whether fresh modules start from the base's own reading of the prompt."""
        return any(column.primed for column in self.columns)

    @cached_property
    def teacher(self) -> "Layout":
        """Returns the layout that fresh modules are trained in: this one, unless the method is taught by another."""
        if isinstance(self.method, TaughtMethod):
            return Layout(self.method.teacher, list(self.sites.values()))
        return self

    def finish(self, rows: Tensor) -> Tensor:
        """Returns [G, width] modules in this layout, given the `teacher`'s [G, its width]."""
        if self.teacher is self:
            return rows
        out = rows.new_zeros(len(rows), self.width)
        taught = self.teacher.views(rows)
        for site, tensors in self.views(out).items():
            for name, tensor in cast(TaughtMethod, self.method).finish(self.sites[site], taught[site]).items():
                tensors[name].copy_(tensor)
        return out

    def views(self, rows: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns site -> name -> [G, *shape] views of module rows [G, width]."""
        views: dict[str, dict[str, Tensor]] = {}
        for column in self.columns:
            view = rows[:, column.start : column.stop].view(len(rows), *column.shape)
            views.setdefault(column.site.name, {})[column.name] = view
        return views

    def on(self, rows: Tensor) -> Tensor | None:
        """Returns [G] bool, which of these modules [G, width] are switched on; on the processor, None without switches.

        All switches of a module are as its first.
        """
        return (rows[:, self.switches[0]] > 0).cpu() if self.switches else None

    def bind(self, views: Mapping[str, Mapping[str, Tensor]], groups: int, on: Tensor | None = None) -> "Bound":
        """Returns the modules with these `views` (or leaves like them), bound to a batch of G equal groups of rows.

        Args:
            views: of the modules.
            groups: G.
            on: what `on` says of them; None: the device is asked.
        """
        return Bound(self, views, groups, on)

    def fresh(self, keys: Sequence[str], seed: int, primer: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns [keys, width] new modules; each depends on the seed and its own key alone, and on the primer.

        Args:
            keys: of the units they are for.
            seed: the run's seed.
            primer: site -> what primed tensors start from [..., tokens, d]: its last tokens, over again if too few.
        """
        bounds = torch.cat([torch.full((prod(c.shape),), c.bound) for c in self.columns])
        rows = torch.empty(len(keys), self.width)
        for row, key in enumerate(keys):
            rows[row] = torch.rand(self.width, generator=torch.Generator().manual_seed(derived_seed(seed, key)))
        rows = (rows * 2 - 1) * bounds
        for column in self.columns if primer else ():
            if column.primed and primer and column.site.name in primer:
                given, count = primer[column.site.name].cpu(), column.shape[-2]
                start = given[..., torch.arange(-count, 0) % given.shape[-2], :]
                rows[:, column.start : column.stop] += start.flatten()
        return rows


def derived_seed(seed: int, *parts: str) -> int:
    """Returns a seed that depends on the run's seed and these parts only, the same on every machine."""
    return hashed(seed, *parts) >> 1


class Bound:
    """Modules of G users, ready to act on a batch of G equal groups of rows.

    Args:
        layout: of the modules.
        tensors: site -> name -> [G, *shape].
        groups: G.
        on: [G] bool, whose module is switched on, on the processor; None: the device is asked.
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Mapping[str, Mapping[str, Tensor]],
        groups: int,
        on: Tensor | None = None,
    ) -> None:
        self.method, self.sites, self.tensors, self.groups = layout.method, layout.sites, tensors, groups
        self._on = on
        self._entering = self.method if isinstance(self.method, EnteringMethod) else None
        self._switch = next((column for column in layout.columns if column.switch), None)
        self._virtual: dict[str, Tensor] = {}

    @property
    def enters(self) -> bool:
        """Returns whether the method changes what goes into linear maps, too."""
        return self._entering is not None

    def enter(self, site: Site, x: Tensor) -> Tensor:
        """Returns x changed by each group's module."""
        return x if self._entering is None else self._entering.enter(site, x, self.tensors[site.name])

    def apply(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Returns y changed by each group's module."""
        return self.method.apply(site, x, y, self.tensors[site.name])

    @cached_property
    def on(self) -> Tensor | None:
        """Returns [G] bool, whose module is switched on, on the processor; None without switches."""
        switch = self._switch
        if switch is None:
            return None
        return self._on if self._on is not None else (self.tensors[switch.site.name][switch.name] > 0).cpu()

    def virtual(self, site: Site) -> Tensor:
        """Returns each group's virtual tokens at a site, made once however often they are read."""
        if site.name not in self._virtual:
            method = cast(VirtualMethod, self.method)
            self._virtual[site.name] = method.virtual(site, self.tensors[site.name])
        return self._virtual[site.name]
