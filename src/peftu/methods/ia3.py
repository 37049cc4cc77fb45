"""(IA)³: keys, values and the feed-forward's inner activations rescaled (Liu et al. 2022, arXiv 2205.05638)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class Ia3(Module):
    """y · (1 + l) at keys and values, and x · (1 + l) before the feed-forward's second map.

    `l` is the change from one, so that zero is the base. Where queries, keys and values are one map, all of its output
    is rescaled, as in peft.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="ia3",
        summary="Keys, values and inner activations, each rescaled by a vector for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2205.05638",
        loads=("peft",),
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-2, "epochs": 8}

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the change of scale: `out` of keys and values, `in` of the second feed-forward map."""
        if site.role in ("k", "v", "qkv"):
            return {"out": TensorSpec((site.d_out,))}
        return {"in": TensorSpec((site.d_in,))} if site.role == "down" else {}

    def enter(self, site: "Site", x: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns x rescaled before the second feed-forward map."""
        return x + x * p["in"].to(x.dtype)[:, None] if "in" in p else x

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y rescaled at keys and values."""
        return y + y * p["out"].to(y.dtype)[:, None] if "out" in p else y
