"""What a joint method is: tensors that everybody shares, and a code of each user's own, trained together.

A user's module is composed of both. A code of zeros stands for the shared module itself: what a user is read with of
whom nothing is known but that they are here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from peftu.methods.method import ModuleMethod, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


@runtime_checkable
class JointMethod(ModuleMethod, Protocol):
    """A module method whose tensors are composed, for each user, of shared ones and of the user's code.

    Fresh shared tensors and codes of zeros must leave the base unchanged, bit for bit.
    """

    @property
    def code_lr(self) -> float:
        """Returns how many times faster codes learn than what is shared."""
        ...

    @property
    def code_decay(self) -> float:
        """Returns the strength with which codes are pulled to zero."""
        ...

    def code_width(self, sites: "Sequence[Site]") -> int:
        """Returns how many numbers a code has."""
        ...

    def shared(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns everybody's tensors at a site."""
        ...

    def compose(self, site: "Site", shared: "Mapping[str, Tensor]", code: "Tensor") -> "dict[str, Tensor]":
        """Returns the tensors [G, *shape] of `tensors` at a site, given shared tensors and codes [G, width]."""
        ...


@runtime_checkable
class EncodingMethod(JointMethod, Protocol):
    """A joint method whose codes are computed from a user's labelled examples, and not learned one by one."""

    def moments(self, embedded: "Tensor", target: "Tensor") -> "Tensor":
        """Returns [..., m] sums over examples, given their sentence vectors [..., n, d] and targets [..., n, labels].

        Sums of some examples and of others add up to the sums of all. An example of zeros adds nothing.
        """
        ...

    def encode(self, shared: "Mapping[str, Tensor]", moments: "Tensor") -> "Tensor":
        """Returns codes [G, width], given the head site's shared tensors and sums [G, m]; of no examples, zeros."""
        ...


@runtime_checkable
class PopulationMethod(JointMethod, Protocol):
    """A joint method whose codes come from one Gaussian, learned from all users.

    The shared tensors at the head site hold it: ``mean`` [c] and ``root`` [c, c], with covariance root · rootᵀ.
    """

    def blocks(self, sites: "Sequence[Site]") -> tuple[int, ...]:
        """Returns sizes of runs of a code's numbers that are alike: each has one variance until users tell more."""
        ...
