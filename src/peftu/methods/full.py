"""Full fine-tuning: every linear map of the region changes freely; the upper bound that small modules aim at."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.module import Module

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class Full(Module):
    """y + x Wᵀ at every linear map, `W` [G, d_out, d_in] the change of its weights."""

    card: ClassVar[MethodCard] = MethodCard(
        name="full",
        summary="A change of all weights of the region's linear maps for each user: an upper bound.",
        scope="user",
        trained=True,
        uses_others_labels=False,
        needs_base="yes",
        source="fine-tuning",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-4, "epochs": 4}

    max_users: int = Field(2, ge=1, description="Refuse to train more: a user takes as much as the region's weights.")

    def inside(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns the change of each linear map."""
        return {"W": TensorSpec((site.d_out, site.d_in))} if site.kind == "linear" else {}

    def change(self, site: "Site", x: "Tensor", y: "Tensor", p: Mapping[str, "Tensor"]) -> "Tensor":
        """Returns y plus what each user's change of the weights makes of x."""
        return y.baddbmm(x, p["W"].to(x.dtype).mT)
