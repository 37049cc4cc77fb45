"""Where a personal module may act, resolved against a model's depth."""

from dataclasses import dataclass
from typing import Literal

from peftu.config import RegionSpec
from peftu.errors import PeftuError


@dataclass(frozen=True)
class Region:
    """The top ``depth`` layers of each stack, on all positions, on the answer span or on what is left of it at its end.

    The answer span is what follows the text: a decoder's answer marker (end of turn, assistant) and the answer; an
    encoder-decoder's decoder. ``last`` leaves out all of the marker but the token that the answer is read from.
    Everything below the region, and outside its span, is the same for every user and epoch: it is computed once a
    text (`FrozenBase.prefill`).
    """

    depth: int
    span: Literal["all", "answer", "last"]

    @classmethod
    def resolve(cls, spec: RegionSpec, layers: int) -> "Region":
        """Returns the region of a model with this many layers (of its deepest stack).

        Raises:
            PeftuError: the depth is larger than the model.
        """
        if spec.depth is not None and spec.depth > layers:
            raise PeftuError(f"region: depth {spec.depth} is more than the base's {layers} layers — use depth=full")
        return cls(depth=spec.depth or layers, span=spec.span)

    def __str__(self) -> str:
        return f"depth={self.depth},span={self.span}"

    @property
    def answering(self) -> bool:
        """Returns whether the text itself is outside, so that it is read once for all users."""
        return self.span != "all"

    def floor(self, layers: int) -> int:
        """Returns the number of the first layer inside the region, for a stack with this many layers."""
        return max(0, layers - self.depth)
