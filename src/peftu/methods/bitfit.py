"""BitFit: only biases change (Ben Zaken et al. 2022, arXiv 2106.10199)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class BitFit(Module):
    """y + b at every linear map; where the base has no bias there, `b` is one."""

    card: ClassVar[MethodCard] = MethodCard(
        name="bitfit",
        summary="A change of every linear map's bias for each user.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="arXiv 2106.10199",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "epochs": 8}

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns one vector a linear map."""
        return {"b": TensorSpec((site.d_out,))} if site.kind == "linear" else {}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y with each user's bias added."""
        return y + p["b"].to(y.dtype)[:, None]
