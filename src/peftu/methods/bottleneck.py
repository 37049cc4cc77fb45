"""Bottleneck adapters: a small network beside the frozen one.

After attention and MLP (Houlsby et al. 2019, arXiv 1902.00751) or after the MLP alone (Pfeiffer et al. 2021, arXiv
2005.00247); beside the MLP instead of after it (He et al. 2022, arXiv 2110.04366).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class Houlsby(Module):
    """y + up(f(down(y))) after the self-attention's output map and after the MLP; `up` starts at zero.

    `down` is [G, r, d] with bias [G, r], `up` [G, d, r] with bias [G, d]; r is the width over ``reduction``.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="adapter-houlsby",
        summary="Bottleneck networks after attention and MLP for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 1902.00751",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-4, "epochs": 8}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"reduction": (128, 64, 32, 16, 8)}

    reduction: int = Field(16, ge=1, description="The base's width over the bottleneck's.")
    activation: Literal["relu", "gelu", "silu"] = "silu"

    def hosts(self, site: "Site") -> bool:
        """Returns whether an adapter stands at a site."""
        return site.role == "mlp" or (site.role == "o" and not site.cross)

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns both maps of an adapter, each with its bias."""
        if not self.hosts(site):
            return {}
        width, narrow = site.d_out, max(1, site.d_out // self.reduction)
        down, up = TensorSpec((narrow, width), width**-0.5), TensorSpec((width, narrow))
        return {"down": down, "down_bias": TensorSpec((narrow,)), "up": up, "up_bias": TensorSpec((width,))}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus what each user's adapter makes of it."""
        return y + self.adapted(y, p)

    def adapted(self, x: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns up(f(down(x)))."""
        from torch.nn import functional

        w = {name: tensor.to(x.dtype) for name, tensor in p.items()}
        narrow = getattr(functional, self.activation)(w["down_bias"][:, None].baddbmm(x, w["down"].mT))
        return w["up_bias"][:, None].baddbmm(narrow, w["up"].mT)


class Pfeiffer(Houlsby):
    """y + up(f(down(y))) after the MLP only, or y + up(f(down(x))) of the MLP's input x."""

    card: ClassVar[MethodCard] = MethodCard(
        name="adapter-pfeiffer",
        summary="A bottleneck network after, or beside, each MLP for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2005.00247",
    )

    activation: Literal["relu", "gelu", "silu"] = "relu"
    parallel: bool = Field(False, description="Beside the MLP, from its input, instead of after it.")

    def hosts(self, site: "Site") -> bool:
        """Returns whether an adapter stands at a site."""
        return site.role == "mlp"

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus what each user's adapter makes of it, or of the MLP's input."""
        return y + self.adapted(x if self.parallel else y, p)
