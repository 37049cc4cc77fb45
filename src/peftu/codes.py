"""Layouts of joint methods: what everybody shares as one row, and each user's code as a row of their own.

A `CodeLayout` stands wherever a `Layout` does: to train codes with the rest frozen, to score, in a bank, in a store.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from peftu.bank import Bound, Layout
from peftu.base.sites import Site
from peftu.methods.joint import JointMethod
from peftu.methods.method import ModuleMethod, TensorSpec

Views = Mapping[str, Mapping[str, Tensor]]


class _Part:
    """Some tensors of a joint method, as if they were a method's own."""

    def __init__(self, method: JointMethod, tensors: Callable[[Site], dict[str, TensorSpec]]) -> None:
        self.card, self.tensors = method.card, tensors


class SharedLayout(Layout):
    """Which columns of the shared row belong to which tensor.

    Args:
        method: the joint method.
        sites: places in the base where it may act.

    Raises:
        PeftuError: the method acts at none of them.
    """

    def __init__(self, method: JointMethod, sites: Sequence[Site]) -> None:
        self.modules = Layout(method, sites)
        super().__init__(cast(ModuleMethod, _Part(method, method.shared)), sites)
        self.joint, self.all_sites = method, tuple(sites)
        self.code_width = method.code_width(sites)

    @property
    def added_tokens(self) -> int:
        """Returns how many virtual tokens a composed module runs through the base with every text."""
        return self.modules.added_tokens

    def compose(self, shared: Views, codes: Tensor, on: Tensor | None = None) -> Bound:
        """Returns the modules of G users, given views of the shared row and codes [G, width].

        Args:
            shared: views of the shared row.
            codes: [G, width].
            on: [G] bool, whether they are switched on, on the processor; None: the device is asked.
        """
        tensors = {
            name: self.joint.compose(site, tensors_at(shared, name), codes) for name, site in self.modules.sites.items()
        }
        return self.modules.bind(tensors, len(codes), on)


class CodeLayout(Layout):
    """The layout of codes: a row is a user's code, and what acts on the base is composed of it and the shared row.

    An empty slot of a bank, all zero, is the shared module.

    Args:
        layout: of the shared row.
        shared: [width] that row.
    """

    def __init__(self, layout: SharedLayout, shared: Tensor) -> None:
        first = layout.all_sites[0]  # a layout's columns are of some site
        only: Any = _Part(
            layout.joint, lambda site: {"code": TensorSpec((layout.code_width,))} if site is first else {}
        )
        super().__init__(only, layout.all_sites)
        self.shared_layout, self.shared, self.first = layout, shared, first.name

    @property
    def added_tokens(self) -> int:
        """Returns how many virtual tokens a composed module runs through the base with every text."""
        return self.shared_layout.added_tokens

    def on(self, rows: Tensor) -> Tensor | None:
        """Returns [G] bool: whether the shared module is switched on; None where it has no switch."""
        shared = self.shared_layout.on(self.shared[None])
        return None if shared is None else shared.expand(len(rows))

    def bind(self, views: Views, groups: int, on: Tensor | None = None) -> Bound:
        """Returns the composed modules of G users, bound to a batch of G equal groups of rows."""
        codes = views[self.first]["code"]
        return self.shared_layout.compose(self.shared_layout.views(self.shared.to(codes)[None]), codes, on)


def tensors_at(shared: Views, site: str) -> dict[str, Tensor]:
    """Returns a site's shared tensors [*shape], given views with a leading axis of one."""
    return {name: view[0] for name, view in shared.get(site, {}).items()}
