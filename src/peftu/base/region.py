"""Where a personal module may act, resolved against a model's depth."""

from dataclasses import dataclass
from typing import Literal

from peftu.config import RegionSpec
from peftu.errors import PeftuError


@dataclass(frozen=True)
class Region:
    """The top ``depth`` layers of each stack, on all positions or on the answer span only.

    Everything below the region, and outside its span, is the same for every user and epoch: it is computed once a
    text (`FrozenBase.prefill`).
    """

    depth: int
    span: Literal["all", "answer"]

    @classmethod
    def resolve(cls, spec: RegionSpec, layers: int) -> "Region":
        """Returns the region of a model with this many layers (of its deepest stack).

        Raises:
            PeftuError: the depth is larger than the model.
        """
        if spec.depth is not None and spec.depth > layers:
            raise PeftuError(f"region: depth {spec.depth} is more than the base's {layers} layers — use depth=full")
        return cls(depth=spec.depth or layers, span=spec.span)

    def floor(self, layers: int) -> int:
        """Returns the number of the first layer inside the region, for a stack with this many layers."""
        return max(0, layers - self.depth)
